//! What goes when, and how much a repository may have.

use std::time::Duration;

use serde::Deserialize;

use super::Pattern;
use crate::server::config::{Size, Span};

const DAY: Duration = Duration::from_secs(86400);

/// What goes when.
#[derive(Debug, Clone)]
pub struct Policy {
    /// What is younger is left, whatever it is: a push has so long from its first question to its manifest.
    pub grace: Duration,
    /// After so long without a byte an unfinished upload goes.
    pub uploads: Duration,
    /// After so long a manifest goes that no tag, index or subject leads to; never where it is none.
    pub untagged: Option<Duration>,
    /// Which tags go. The first rule that a tag fits decides.
    pub retention: Vec<Retention>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { grace: DAY, uploads: 7 * DAY, untagged: None, retention: Vec::new() }
    }
}

/// Which tags of which repositories go: those that are older, beyond the newest ones.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Retention {
    /// Of these repositories.
    #[serde(default = "Pattern::all")]
    pub repositories: Pattern,
    /// These tags.
    pub tags: Pattern,
    /// When they were not pushed for so long. Without it: as soon as there are more than `keep`.
    pub older_than: Option<Span>,
    /// But never the newest so many.
    #[serde(default)]
    pub keep: usize,
}

/// How many bytes a repository may have.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Quota {
    /// These repositories, each for itself. The first quota that a name fits is its own.
    pub repositories: Pattern,
    /// So much.
    pub size: Size,
}

/// The section `gc` of the configuration.
#[derive(Debug, Clone, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GcSettings {
    /// How long after a collection the next one begins; `0s`: never.
    pub every: Span,
    /// [`Policy::grace`].
    pub grace: Span,
    /// [`Policy::uploads`].
    pub uploads: Span,
    /// [`Policy::untagged`].
    pub untagged: Option<Span>,
    /// [`Policy::retention`].
    pub retention: Vec<Retention>,
}

impl Default for GcSettings {
    fn default() -> Self {
        let Policy { grace, uploads, untagged, retention } = Policy::default();
        let every = Span(Duration::from_secs(3600));
        Self { every, grace: Span(grace), uploads: Span(uploads), untagged: untagged.map(Span), retention }
    }
}

impl GcSettings {
    /// What goes when; none when nothing ever does.
    #[must_use]
    pub fn policy(&self) -> Option<Policy> {
        (!self.every.0.is_zero()).then(|| Policy {
            grace: self.grace.0,
            uploads: self.uploads.0,
            untagged: self.untagged.map(|span| span.0),
            retention: self.retention.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_is_read_and_its_absence_is_an_hour_and_a_day() {
        let read = |text: &str| serde_json::from_str::<GcSettings>(text).map(|settings| settings.policy());
        let policy = read("{}").unwrap().unwrap();
        assert_eq!((policy.grace, policy.untagged), (DAY, None));
        let text = r#"{"grace":"2h","untagged":"9d","retention":[{"tags":"ci-*","older-than":"7d","keep":3}]}"#;
        let policy = read(text).unwrap().unwrap();
        assert_eq!((policy.grace, policy.untagged), (DAY / 12, Some(9 * DAY)));
        assert!(policy.retention[0].repositories.matches("any/name") && policy.retention[0].keep == 3);
        assert!(read(r#"{"every":"0s"}"#).unwrap().is_none());
        for wrong in [r#"{"grace":"soon"}"#, r#"{"gracd":"1h"}"#, r#"{"retention":[{"older-than":"1d"}]}"#] {
            read(wrong).unwrap_err();
        }
    }
}
