//! `WWW-Authenticate`: what a registry wants to see before it answers.

use std::collections::HashMap;

use http::header::{HeaderMap, WWW_AUTHENTICATE};

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Lower case: `bearer`, `basic`.
    pub scheme: String,
    /// Keys in lower case.
    pub parameters: HashMap<String, String>,
}

impl Challenge {
    /// All challenges of an answer, in order.
    pub fn all(headers: &HeaderMap) -> Vec<Self> {
        headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).flat_map(parse).collect()
    }
}

/// `Scheme key=value, key="value", Scheme2 …`; what does not follow the grammar ends the reading.
fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let length = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b)).count();
        if length == 0 {
            return found;
        }
        let word = rest[..length].to_ascii_lowercase();
        rest = &rest[length..];
        let Some(value) = rest.trim_start().strip_prefix('=') else {
            found.push(Challenge { scheme: word, parameters: HashMap::new() });
            continue;
        };
        let (value, after) = match value.trim_start().strip_prefix('"') {
            Some(quoted) => quoted_string(quoted),
            None => {
                let value = value.trim_start();
                let end = value.find([',', ' ', '\t']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        rest = after;
        match found.last_mut() {
            // The first of two values counts, as everywhere in this crate.
            Some(challenge) => drop(challenge.parameters.entry(word).or_insert(value)),
            None => return found,
        }
    }
}

/// Up to the closing quote, and what follows it.
fn quoted_string(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_a_registry_sends_is_read_without_a_panic(text in r#"([a-zé]{0,6}[ =,"\\\t]{0,3}){0,12}"#) {
            for challenge in parse(&text) {
                prop_assert!(!challenge.scheme.is_empty());
            }
        }
    }

    #[test]
    fn bearer_and_basic_are_read_also_from_one_line() {
        let all = parse(
            r#"Bearer realm="https://a/t?x=1,2",service=reg, scope="repository:a/b:pull,push", Basic realm="x \"y\"""#,
        );
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].scheme, "bearer");
        assert_eq!(all[0].parameters["realm"], "https://a/t?x=1,2");
        assert_eq!(all[0].parameters["service"], "reg");
        assert_eq!(all[0].parameters["scope"], "repository:a/b:pull,push");
        assert_eq!(all[1].parameters["realm"], "x \"y\"");
    }

    #[test]
    fn nonsense_is_no_challenge_and_never_panics() {
        for text in ["", "=", "\"", "a=b", ",,,", "é", "Bearer realm=\"open", "Bearer realm=\"\\", "Bearer =x"] {
            let _ = parse(text);
        }
        assert!(parse("a=b").is_empty());
        assert_eq!(parse("Negotiate")[0].scheme, "negotiate");
    }
}
