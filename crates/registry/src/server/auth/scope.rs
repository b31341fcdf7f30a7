//! What tokens are asked for and grant: `repository:team/app:pull,push`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::super::Action;
use super::rules::ACTIONS;

/// The most scopes of one question, and the longest of them.
const COUNT_LIMIT: usize = 64;
const LENGTH_LIMIT: usize = 1024;
/// Everything, in the words of old clients.
const ALL: &str = "*";
const REPOSITORY: &str = "repository";

/// One resource and what may be done with it, as the `access` claim of tokens has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// `pull`, `push`, `delete`, `*`.
    pub actions: Vec<String>,
}

impl Grant {
    /// These actions with one repository.
    #[must_use]
    pub fn repository(name: &str, actions: &[Action]) -> Self {
        let actions = actions.iter().map(|action| action.as_str().to_owned()).collect();
        Self { kind: REPOSITORY.to_owned(), name: name.to_owned(), actions }
    }

    /// Whether it lets do that with the repository. Names are compared whole: a grant has no patterns.
    #[must_use]
    pub fn allows(&self, repository: &str, action: Action) -> bool {
        self.kind == REPOSITORY && self.name == repository && self.has(action)
    }

    /// Whether it lets see every repository's name.
    #[must_use]
    pub fn shows_catalog(&self) -> bool {
        self.kind == "registry" && self.name == "catalog" && self.actions.iter().any(|action| action == ALL)
    }

    /// The actions that it names and that are known.
    pub fn known_actions(&self) -> impl Iterator<Item = Action> {
        ACTIONS.into_iter().filter(|action| self.has(*action))
    }

    fn has(&self, action: Action) -> bool {
        self.actions.iter().any(|granted| granted == action.as_str() || granted == ALL)
    }

    /// Whether it is for a repository.
    #[must_use]
    pub fn is_for_repository(&self) -> bool {
        self.kind == REPOSITORY
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.kind, self.name, self.actions.join(","))
    }
}

/// The scopes of a question: parameters, each with any number of scopes between spaces. What does not follow the
/// grammar asks for nothing, as with other issuers: the token that comes of it opens nothing.
#[must_use]
pub fn parse<'a>(parameters: impl IntoIterator<Item = &'a str>) -> Vec<Grant> {
    let words = parameters.into_iter().flat_map(|parameter| parameter.split(' '));
    words.filter(|word| word.len() <= LENGTH_LIMIT).filter_map(one).take(COUNT_LIMIT).collect()
}

/// The name is between the first colon and the last: it may have a port in it.
fn one(text: &str) -> Option<Grant> {
    let (kind, rest) = text.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    // `repository(plugin)` is of a class that this registry does not tell from others.
    let kind = kind.split_once('(').map_or(kind, |(kind, _)| kind);
    if kind.is_empty() || name.is_empty() {
        return None;
    }
    let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
    Some(Grant { kind: kind.to_owned(), name: name.to_owned(), actions })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn scopes_are_read_from_one_parameter_or_several() {
        let found = parse(["repository:a/b:pull,push repository:h:5000/c:pull", "registry:catalog:*"]);
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["repository:a/b:pull,push", "repository:h:5000/c:pull", "registry:catalog:*"]);
        assert!(found[0].allows("a/b", Action::Push) && !found[0].allows("a/b", Action::Delete));
        assert!(found[2].shows_catalog() && !found[2].allows("catalog", Action::Pull));
    }

    #[test]
    fn empty_and_broken_scopes_ask_for_nothing() {
        for text in ["", " ", ":", "::", "repository", "repository:", "repository::pull", "repository:a", ":a:pull"] {
            assert_eq!(parse([text]), [], "{text:?}");
        }
        let [nothing] = &parse(["repository:a:"])[..] else { panic!("a scope without actions is one") };
        assert_eq!(nothing.known_actions().count(), 0);
    }

    #[test]
    fn a_grant_is_for_exactly_its_repository() {
        let grant = Grant::repository("team/app", &[Action::Pull]);
        for other in ["team/app/x", "team/ap", "Team/app", "team//app", "", "team/app ", "x/team/app", "*"] {
            assert!(!grant.allows(other, Action::Pull), "{other:?}");
        }
        for pattern in ["*", "**", "team/*"] {
            assert!(!Grant::repository(pattern, &[Action::Pull]).allows("team/app", Action::Pull));
        }
        let other_kind = Grant { kind: "Repository".to_owned(), ..grant };
        assert!(!other_kind.allows("team/app", Action::Pull));
    }

    proptest! {
        #[test]
        fn whatever_is_asked_for_never_panics_and_is_bounded(text in "([a-z:,*() ]{0,30} ?){0,9}") {
            prop_assert!(parse([text.as_str()]).len() <= COUNT_LIMIT);
        }
    }
}
