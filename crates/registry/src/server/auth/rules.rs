//! Who may do what with which repository: rules that allow; what no rule allows is forbidden.

use serde::{Deserialize, Deserializer};

use super::super::Action;

/// One rule of the configuration: these users may do this with these repositories.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Rule {
    /// Names, `*` for everybody who showed a password or token, `anonymous` for everybody.
    pub users: Vec<String>,
    /// Patterns: `*` is any part of one component, `**` any number of components, `{user}` the user's name.
    pub repositories: Vec<Pattern>,
    /// What they may do: `pull`, `push`, `delete`.
    #[serde(deserialize_with = "actions")]
    pub actions: Vec<Action>,
}

/// Repositories by pattern.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(String);

/// All rules.
#[derive(Debug, Clone, Default)]
pub struct Rules(Vec<Rule>);

/// The user of rules for those who show nothing.
const ANONYMOUS: &str = "anonymous";
const ANYBODY: &str = "*";
const USER: &str = "{user}";

/// What rules and tokens speak of.
pub const ACTIONS: [Action; 3] = [Action::Pull, Action::Push, Action::Delete];

impl Action {
    /// As rules and a token's scope say it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Mirror => "mirror",
        }
    }
}

fn actions<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Action>, D::Error> {
    let one = |word: String| {
        let found = ACTIONS.into_iter().find(|action| action.as_str() == word);
        found.ok_or_else(|| serde::de::Error::custom(format!("action {word:?}: want pull, push or delete")))
    };
    Vec::<String>::deserialize(from)?.into_iter().map(one).collect()
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let plain = text.replace(USER, "u");
        let is_component = |part: &str| {
            part == "**"
                || (!part.is_empty()
                    && !part.contains("**")
                    && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"*._-".contains(&b)))
        };
        if plain.split('/').all(is_component) {
            return Ok(Self(text));
        }
        Err(format!(
            "{text:?} is not a pattern of repositories: want lower-case components, * within one, ** for any number \
             of them, {USER} for the user's name"
        ))
    }
}

impl Pattern {
    fn covers(&self, user: Option<&str>, repository: &str) -> bool {
        let parts: Vec<&str> = repository.split('/').collect();
        let pattern: Vec<&str> = self.0.split('/').collect();
        covers(&pattern, &parts, user)
    }
}

fn covers(pattern: &[&str], parts: &[&str], user: Option<&str>) -> bool {
    match (pattern.split_first(), parts.split_first()) {
        (None, None) => true,
        (Some((&"**", rest)), _) => {
            covers(rest, parts, user) || parts.split_first().is_some_and(|(_, parts)| covers(pattern, parts, user))
        }
        (Some((first, pattern)), Some((part, parts))) => component(first, part, user) && covers(pattern, parts, user),
        _ => false,
    }
}

/// One component. A user's name is taken literally: one that is called `*` is no pattern.
fn component(pattern: &str, part: &str, user: Option<&str>) -> bool {
    if let Some((before, after)) = pattern.split_once(USER) {
        let Some(user) = user.filter(|user| !user.is_empty()) else { return false };
        return part.match_indices(user).any(|(at, _)| {
            component(before, &part[..at], Some(user)) && component(after, &part[at + user.len()..], Some(user))
        });
    }
    match pattern.split_once('*') {
        None => pattern == part,
        Some((before, after)) => part.strip_prefix(before).is_some_and(|rest| {
            rest.char_indices().map(|(at, _)| at).chain([rest.len()]).any(|at| component(after, &rest[at..], user))
        }),
    }
}

impl Rules {
    /// These rules; without any, whoever showed who they are may do everything. `anonymous_pull` lets everybody pull.
    #[must_use]
    pub fn new(mut rules: Vec<Rule>, anonymous_pull: bool) -> Self {
        let all = || vec![Pattern("**".to_owned())];
        if rules.is_empty() {
            let actions = ACTIONS.to_vec();
            rules.push(Rule { users: vec![ANYBODY.to_owned()], repositories: all(), actions });
        }
        if anonymous_pull {
            rules.push(Rule { users: vec![ANONYMOUS.to_owned()], repositories: all(), actions: vec![Action::Pull] });
        }
        Self(rules)
    }

    /// Whether `user` (`None`: nobody said who they are) may do that.
    #[must_use]
    pub fn allow(&self, user: Option<&str>, repository: &str, action: Action) -> bool {
        let is_meant = |name: &String| match name.as_str() {
            ANONYMOUS => true,
            ANYBODY => user.is_some(),
            name => user == Some(name),
        };
        self.0.iter().any(|rule| {
            rule.actions.contains(&action)
                && rule.users.iter().any(is_meant)
                && rule.repositories.iter().any(|pattern| pattern.covers(user, repository))
        })
    }

    /// Whether somebody who shows nothing may do anything at all.
    #[must_use]
    pub fn knows_anonymous(&self) -> bool {
        self.0.iter().any(|rule| rule.users.iter().any(|name| name == ANONYMOUS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn patterns_cover_components_and_nothing_by_accident() {
        for (text, repository, expected) in [
            ("team/app", "team/app", true),
            ("team/app", "team/app2", false),
            ("team/app", "team/app/x", false),
            ("team/*", "team/app", true),
            ("team/*", "team/app/x", false),
            ("team/*", "team", false),
            ("team/*", "teamx/app", false),
            ("team/**", "team/app/x", true),
            ("team/**", "team", true),
            ("team/**", "teammate/app", false),
            ("**", "a/b/c", true),
            ("**/x", "a/b/x", true),
            ("**/x", "x", true),
            ("a-*-c/d", "a-b-c/d", true),
            ("a-*-c/d", "a-c/d", false),
            ("*", "a", true),
            ("{user}/**", "alice/x", true),
            ("{user}/**", "bob/x", false),
            ("home-{user}", "home-alice", true),
            ("home-{user}", "home-", false),
        ] {
            assert_eq!(pattern(text).covers(Some("alice"), repository), expected, "{text} {repository}");
        }
        for user in [None, Some(""), Some("*"), Some("**"), Some("{user}")] {
            assert!(!pattern("{user}/**").covers(user, "alice/x"), "{user:?}");
        }
        assert!(!pattern("{user}").covers(None, "u"));
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_name() {
        for bad in ["", "/", "a//b", "Team/x", "a**", "a/", "../x/%", "a b", "{users}"] {
            let error = Pattern::try_from(bad.to_owned()).unwrap_err();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
        }
    }

    #[test]
    fn rules_only_allow_and_nobody_is_not_a_user() {
        let rule = |users: &[&str], repositories: &[&str], actions: &[Action]| Rule {
            users: users.iter().map(|name| (*name).to_owned()).collect(),
            repositories: repositories.iter().map(|text| pattern(text)).collect(),
            actions: actions.to_vec(),
        };
        let rules = Rules::new(
            vec![
                rule(&["alice"], &["team/**"], &[Action::Pull, Action::Push]),
                rule(&["*"], &["shared/*"], &[Action::Pull]),
                rule(&["anonymous"], &["public/**"], &[Action::Pull]),
            ],
            false,
        );
        for (user, repository, action, expected) in [
            (Some("alice"), "team/x", Action::Push, true),
            (Some("alice"), "team/x", Action::Delete, false),
            (Some("bob"), "team/x", Action::Pull, false),
            (Some("bob"), "shared/x", Action::Pull, true),
            (Some("bob"), "shared/x", Action::Push, false),
            (None, "shared/x", Action::Pull, false),
            (None, "public/x", Action::Pull, true),
            (Some("bob"), "public/x", Action::Pull, true),
            (Some("*"), "team/x", Action::Pull, false),
            (Some("anonymous"), "team/x", Action::Pull, false),
        ] {
            assert_eq!(rules.allow(user, repository, action), expected, "{user:?} {repository} {action:?}");
        }
        let open = Rules::new(Vec::new(), true);
        assert!(open.allow(Some("bob"), "a/b", Action::Delete));
        assert!(open.allow(None, "a/b", Action::Pull) && !open.allow(None, "a/b", Action::Push));
        assert!(!Rules::new(Vec::new(), false).allow(None, "a/b", Action::Pull));
    }

    proptest! {
        #[test]
        fn a_pattern_without_stars_covers_exactly_itself(a in "[a-z]{1,4}(/[a-z]{1,4}){0,3}", b in "[a-z]{1,4}(/[a-z]{1,4}){0,3}") {
            prop_assert_eq!(pattern(&a).covers(None, &b), a == b);
            let pattern_covers_all = pattern("**").covers(None, &b);
            prop_assert!(pattern_covers_all);
        }
    }
}
