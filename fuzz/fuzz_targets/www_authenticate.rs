//! `WWW-Authenticate` of any registry: what was read of it is words and values, and read again when it is written properly; the
//! first of two values counts.
#![no_main]

use challenge::Challenge;
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

// One file of the registry without its client: HTTP, TLS and DNS would take most of an hour to build with a sanitizer.
#[path = "../../crates/registry/src/challenge.rs"]
mod challenge;

fn read(lines: &[&[u8]]) -> Vec<Challenge> {
    let mut headers = HeaderMap::new();
    for line in lines {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(http::header::WWW_AUTHENTICATE, value);
        }
    }
    Challenge::all(&headers)
}

fn is_token(word: &str) -> bool {
    let symbol = |byte: u8| b"!#$%&'*+-.^_`|~".contains(&byte);
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || symbol(b))
}

fn written(challenges: &[Challenge]) -> String {
    let one = |challenge: &Challenge| {
        let mut parameters: Vec<_> = challenge.parameters.iter().collect();
        parameters.sort();
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let pairs: Vec<_> = parameters.iter().map(|(key, value)| format!("{key}=\"{}\"", quoted(value))).collect();
        format!("{} {}", challenge.scheme, pairs.join(", "))
    };
    challenges.iter().map(one).collect::<Vec<_>>().join(", ")
}

fuzz_target!(|text: &[u8]| {
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').take(8).collect();
    let challenges = read(&lines);
    // No more than was sent.
    assert!(challenges.iter().map(|challenge| challenge.scheme.len()).sum::<usize>() <= text.len());
    for challenge in &challenges {
        assert!(is_token(&challenge.scheme), "{challenge:?}");
        for (key, value) in &challenge.parameters {
            assert!(is_token(key), "{challenge:?}");
            assert!(!value.contains(['\n', '\r', '\0']), "{challenge:?}");
        }
    }
    let written = written(&challenges);
    assert_eq!(read(&[written.as_bytes()]), challenges, "{written}");
});
