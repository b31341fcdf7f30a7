//! The `filters` query parameter in both of its forms: `{"label":["a=b"]}` and the older `{"label":{"a=b":true}}`.

use std::collections::{BTreeMap, BTreeSet};

use regex_lite::{Regex, RegexBuilder};
use serde_json::Value;

/// Parsed filters: name → accepted values; names are joined by and, values by or.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, BTreeSet<String>>);

/// Why filters were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FiltersError {
    /// Not JSON of either form.
    #[error("invalid filter: {0}")]
    Syntax(String),
    /// A name that the endpoint does not know.
    #[error("invalid filter '{0}'")]
    Unknown(String),
    /// A value that the filter does not take.
    #[error("invalid filter '{name}={value}'")]
    Value {
        /// The filter.
        name: String,
        /// What was given.
        value: String,
    },
    /// More, or larger, expressions than are looked for.
    #[error("invalid filter '{name}': {what}")]
    Excessive {
        /// The filter.
        name: String,
        /// What is too much, and what to do.
        what: String,
    },
}

/// So many expressions a filter takes.
const MOST_EXPRESSIONS: usize = 64;
/// No expression is longer.
const LONGEST_EXPRESSION: usize = 1024;
/// So many bytes the program of all expressions of a filter may have: each is tried at each place of each name.
const LARGEST_PROGRAM: usize = 256 << 10;
/// So deep groups are nested.
const DEEPEST_EXPRESSION: u32 = 32;

/// The values of a filter by name, understood once for all names that are looked at.
#[derive(Debug, Default)]
pub struct Matcher {
    /// Nothing is filtered.
    all: bool,
    parts: Vec<String>,
    exact: Vec<String>,
    expressions: Option<Regex>,
}

impl Matcher {
    /// Whether a value is `text`, a part of it, or a regular expression that matches in it. What is no expression matches
    /// only itself.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        self.all
            || self.parts.iter().any(|part| text.contains(part.as_str()))
            || self.exact.iter().any(|exact| exact == text)
            || self.expressions.as_ref().is_some_and(|expressions| expressions.is_match(text))
    }
}

fn compile(expression: &str) -> Option<Regex> {
    let mut builder = RegexBuilder::new(expression);
    builder.size_limit(LARGEST_PROGRAM).nest_limit(DEEPEST_EXPRESSION).build().ok()
}

impl Filters {
    /// Parses the parameter; an absent or empty one filters nothing.
    ///
    /// # Errors
    /// When it is not JSON of either form, or a name is not among `known`.
    pub fn parse(parameter: Option<&str>, known: &[&str]) -> Result<Self, FiltersError> {
        let text = parameter.unwrap_or_default();
        if text.is_empty() {
            return Ok(Self::default());
        }
        let syntax = |what: &str| FiltersError::Syntax(format!("{what} in {text:?}"));
        let Ok(Value::Object(object)) = serde_json::from_str(text) else {
            return Err(syntax("expected a JSON object"));
        };
        let mut parsed = BTreeMap::new();
        for (name, values) in object {
            if !known.contains(&name.as_str()) {
                return Err(FiltersError::Unknown(name));
            }
            let values = match values {
                Value::Array(list) => list
                    .into_iter()
                    .map(|value| match value {
                        Value::String(value) => Ok(value),
                        _ => Err(syntax("expected strings")),
                    })
                    .collect::<Result<_, _>>()?,
                Value::Object(map) => {
                    map.into_iter().filter(|(_, on)| on.as_bool() == Some(true)).map(|(value, _)| value).collect()
                }
                Value::Null => BTreeSet::new(),
                _ => return Err(syntax("expected a list or an object of values")),
            };
            parsed.insert(name, values);
        }
        Ok(Self(parsed))
    }

    /// Adds a value.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.entry(name.into()).or_default().insert(value.into());
    }

    /// Whether nothing is filtered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values given for `name`.
    pub fn get(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.get(name).into_iter().flatten().map(String::as_str)
    }

    /// Whether `name` is not filtered on, or one of its values satisfies `accept`.
    pub fn any(&self, name: &str, accept: impl FnMut(&str) -> bool) -> bool {
        self.0.get(name).is_none_or(|values| values.is_empty() || values.iter().map(String::as_str).any(accept))
    }

    /// What finds the texts that the values of `name` mean.
    ///
    /// # Errors
    /// Where looking would take long: too many or too large expressions.
    pub fn matcher(&self, name: &str) -> Result<Matcher, FiltersError> {
        let too_much = |what: String| FiltersError::Excessive { name: name.to_owned(), what };
        let mut matcher = Matcher { all: self.get(name).next().is_none(), ..Matcher::default() };
        let mut expressions = Vec::new();
        for value in self.get(name) {
            if !value.contains(['\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$']) {
                matcher.parts.push(value.to_owned());
                continue;
            }
            if value.len() > LONGEST_EXPRESSION {
                return Err(too_much(format!(
                    "an expression of more than {LONGEST_EXPRESSION} bytes: give a shorter one"
                )));
            }
            if matcher.exact.len() == MOST_EXPRESSIONS {
                return Err(too_much(format!("more than {MOST_EXPRESSIONS} expressions: give fewer")));
            }
            matcher.exact.push(value.to_owned());
            if compile(value).is_some() {
                expressions.push(format!("(?:{value})"));
            }
        }
        if !expressions.is_empty() {
            let all = compile(&expressions.join("|"));
            let all = all
                .ok_or_else(|| too_much("the expressions are too large together: give fewer or simpler ones".into()))?;
            matcher.expressions = Some(all);
        }
        Ok(matcher)
    }

    /// Whether each `label` filter (`key` or `key=value`) holds for `labels`, and no `label!` does; labels are joined by
    /// and.
    #[must_use]
    pub fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &str| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|have| have == value),
            None => labels.contains_key(wanted),
        };
        self.get("label").all(has) && !self.get("label!").any(has)
    }

    /// A filter that is true or false, `None` where it is not given.
    ///
    /// # Errors
    /// When the value is neither.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, FiltersError> {
        let mut found = None;
        for value in self.get(name) {
            found = Some(match value {
                "1" | "true" | "t" | "True" | "TRUE" => true,
                "0" | "false" | "f" | "False" | "FALSE" => false,
                _ => return Err(FiltersError::Value { name: name.into(), value: value.into() }),
            });
        }
        Ok(found)
    }

    /// The newer JSON form.
    #[must_use]
    pub fn to_json(&self) -> String {
        Value::from_iter(
            self.0.iter().map(|(name, values)| (name.clone(), Value::from(values.iter().cloned().collect::<Vec<_>>()))),
        )
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_json_forms_mean_the_same() {
        let new = Filters::parse(Some(r#"{"label":["a=b","c"]}"#), &["label"]).unwrap();
        let old = Filters::parse(Some(r#"{"label":{"a=b":true,"c":true,"d":false}}"#), &["label"]).unwrap();
        assert_eq!(new, old);
        assert!(new.labels(&BTreeMap::from([("a".into(), "b".into()), ("c".into(), String::new())])));
        assert!(!new.labels(&BTreeMap::from([("a".into(), "x".into()), ("c".into(), String::new())])));
        assert_eq!(Filters::parse(Some(&new.to_json()), &["label"]).unwrap(), new);
    }

    #[test]
    fn names_are_parts_or_regular_expressions() {
        for (pattern, yes) in [
            ("web", true),
            ("eb1", true),
            ("x", false),
            ("^web", true),
            ("^eb", false),
            ("^web$", false),
            ("^web1$", true),
            ("1$", true),
            ("^(db|web)[0-9]+$", true),
            ("w.*1", true),
            ("db|web", true),
            ("[", false),
        ] {
            let mut filters = Filters::default();
            filters.add("name", pattern);
            let matcher = filters.matcher("name").unwrap();
            assert_eq!(matcher.matches("web1"), yes, "{pattern}");
            assert!(filters.matcher("id").unwrap().matches("web1"), "not filtered on");
            assert!(matcher.matches(pattern) || pattern != "[", "what is no expression is a name");
            filters.add("name", "^other$");
            let either = filters.matcher("name").unwrap();
            assert!(either.matches("other") && either.matches("web1") == yes, "{pattern} or another");
        }
    }

    #[test]
    fn expressions_that_would_keep_the_daemon_busy_are_refused_or_no_expressions() {
        let matcher = |values: Vec<String>| {
            let mut filters = Filters::default();
            values.into_iter().for_each(|value| filters.add("name", value));
            filters.matcher("name")
        };
        let refused = |values: Vec<String>, why: &str| {
            let error = matcher(values).unwrap_err();
            assert!(matches!(&error, FiltersError::Excessive { what, .. } if what.contains(why)), "{error}");
        };
        refused((0..65).map(|n| format!("^web{n}$")).collect(), "more than 64 expressions");
        refused(vec![format!("^{}$", "a".repeat(1024))], "more than 1024 bytes");
        refused((0..60).map(|n| format!("^a{{{}}}$", 500 + n)).collect(), "too large together");
        let vast = matcher(vec!["(a{1000}){1000}".into()]).unwrap();
        assert!(vast.matches("(a{1000}){1000}") && !vast.matches(&"a".repeat(1_000_000)));
        let deep = format!("{}a{}", "(".repeat(200), ")".repeat(200));
        assert!(!matcher(vec![deep]).unwrap().matches("a"));
        let names = matcher((0..1000).map(|n| format!("web{n}-")).collect()).unwrap();
        assert!(names.matches("web999-1") && !names.matches("web"), "plain names may be many");
        let list = matcher((0..64).map(|n| format!("^/project-web-{n}$")).collect()).unwrap();
        assert!(list.matches("/project-web-63") && !list.matches("project-web-63"));
    }

    #[test]
    fn an_unknown_name_and_a_broken_document_are_refused() {
        assert!(matches!(Filters::parse(Some(r#"{"x":["1"]}"#), &["label"]), Err(FiltersError::Unknown(_))));
        for bad in ["{", "[]", r#"{"label":"x"}"#, r#"{"label":[1]}"#] {
            assert!(matches!(Filters::parse(Some(bad), &["label"]), Err(FiltersError::Syntax(_))), "{bad}");
        }
    }
}
