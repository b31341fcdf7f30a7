//! Versions of the API: which are spoken, and how they compare.

use std::fmt;
use std::str::FromStr;

/// A version such as `1.44`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    /// Always 1 so far.
    pub major: u16,
    /// Counts up.
    pub minor: u16,
}

impl ApiVersion {
    /// The oldest that is accepted.
    pub const OLDEST: Self = Self { major: 1, minor: 24 };
    /// The newest, spoken where a request names none.
    pub const NEWEST: Self = Self { major: 1, minor: 56 };

    /// `1.minor`.
    #[must_use]
    pub const fn new(minor: u16) -> Self {
        Self { major: 1, minor }
    }

    /// Whether this is `1.minor` or later.
    #[must_use]
    pub fn at_least(self, minor: u16) -> bool {
        self >= Self::new(minor)
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Not of the form `1.44`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an API version: {0:?}")]
pub struct NotAVersion(String);

impl FromStr for ApiVersion {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok()).flatten();
        text.split_once('.')
            .and_then(|(major, minor)| Some(Self { major: digits(major)?, minor: digits(minor)? }))
            .ok_or_else(|| NotAVersion(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number_and_not_by_text() {
        assert!("1.100".parse::<ApiVersion>().unwrap() > ApiVersion::new(56));
        assert!("1.9".parse::<ApiVersion>().unwrap() < ApiVersion::OLDEST);
        for bad in ["", "1", "1.", ".4", "1.x", "-1.4", "1.+4", "1.4.4"] {
            assert!(bad.parse::<ApiVersion>().is_err(), "{bad}");
        }
    }
}
