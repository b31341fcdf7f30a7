//! Patterns of names and tags: `*` is anything, `?` one character.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Matches everything.
    #[must_use]
    pub fn all() -> Self {
        Self("*".to_owned())
    }

    /// Whether it matches. Linear where it matters: only the last star is ever tried again.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut p, mut t, mut star) = (0, 0, None);
        while t < text.len() {
            match (pattern.get(p), star) {
                (Some(b'*'), _) => {
                    star = Some((p + 1, t));
                    p += 1;
                }
                (Some(wanted), _) if *wanted == b'?' || *wanted == text[t] => (p, t) = (p + 1, t + 1),
                (_, Some((after, from))) => {
                    star = Some((after, from + 1));
                    (p, t) = (after, from + 1);
                }
                _ => return false,
            }
        }
        pattern[p..].iter().all(|rest| *rest == b'*')
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("a pattern is not empty: * matches everything".to_owned());
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks_match() {
        for (pattern, text, matches) in [
            ("*", "", true),
            ("a/*", "a/b/c", true),
            ("a/*", "b/a/c", false),
            ("*-rc?", "1.0-rc1", true),
            ("*-rc?", "1.0-rc", false),
            ("*a*b*c", "xxaxxbxxbxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("ci-*", "ci-", true),
        ] {
            assert_eq!(pattern.parse::<Pattern>().unwrap().matches(text), matches, "{pattern} {text}");
        }
        assert!("".parse::<Pattern>().is_err());
    }
}
