//! A name of an image: what is read is what the distribution project's grammar has, and means the same when it is
//! written and read again, in its long form and in its short one.
#![no_main]

use std::sync::LazyLock;

use gantry_api::reference::{DEFAULT_DOMAIN, Digest, Reference, ReferenceError};
use libfuzzer_sys::fuzz_target;
use regex::Regex;

/// `domain/path[:tag][@digest]` with every part named, from the grammar as it is published. Of digests we know one kind.
static GRAMMAR: LazyLock<Regex> = LazyLock::new(|| {
    let label = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let host = format!(r"(?:{label}(?:\.{label})*|\[[a-fA-F0-9:]+\])");
    let component = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
    let tag = "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}";
    let text = format!(
        r"\A(?P<domain>{host}(?::[0-9]+)?)/(?P<path>{component}(?:/{component})*)(?::(?P<tag>{tag}))?(?:@(?P<digest>sha256:[0-9a-f]{{64}}))?\z"
    );
    Regex::new(&text).expect("the grammar is a regular expression")
});

fuzz_target!(|text: &str| {
    let read = Reference::parse(text);
    assert_eq!(read.as_ref().ok(), expected(text).as_ref(), "{text:?}: {read:?}");
    let Ok(read) = read else { return };
    assert!(read.repository().len() <= 255);
    for written in [read.to_string(), read.familiar()] {
        assert_eq!(Reference::parse(&written).as_ref(), Ok(&read), "{text:?} as {written:?}");
    }
    let tagged = read.clone().with_default_tag();
    assert!(tagged.tag().is_some() || tagged.digest().is_some());
    let digest = Digest::from_hex(&"0".repeat(64)).expect("64 digits");
    assert_eq!(read.with_digest(digest).repository(), read.repository());
    assert_eq!(read.with_tag("v1").expect("a tag").tag(), Some("v1"));
});

/// What the grammar says of a text that a person typed, and Docker's rules for short names.
fn expected(text: &str) -> Option<Reference> {
    if text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()) {
        return None;
    }
    let domain_like = |first: &str| {
        first == "localhost" || first.contains(['.', ':']) || first.chars().any(|c| c.is_ascii_uppercase())
    };
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest)) if domain_like(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let official = if domain == DEFAULT_DOMAIN && !rest.contains('/') { "library/" } else { "" };
    let whole = format!("{domain}/{official}{rest}");
    let parts = GRAMMAR.captures(&whole)?;
    let (path, domain) = (&parts["path"], &parts["domain"]);
    if path.len() + 1 + domain.len() > 255 {
        return None;
    }
    // By the other way in: from the parts.
    let bare: Result<Reference, ReferenceError> = format!("{domain}/{path}").parse();
    let bare = bare.unwrap_or_else(|error| panic!("{domain:?} {path:?}: {error}"));
    assert_eq!((bare.domain(), bare.path(), bare.tag(), bare.digest()), (domain, path, None, None));
    let tag = parts.name("tag").map(|tag| tag.as_str());
    let digest: Option<Digest> = parts.name("digest").map(|digest| digest.as_str().parse().expect("a digest"));
    match (tag, digest) {
        (None, None) => Some(bare),
        (Some(tag), None) => Some(bare.with_tag(tag).expect("a tag")),
        (None, Some(digest)) => Some(bare.with_digest(digest)),
        (Some(tag), Some(digest)) => {
            let both: Reference = format!("{domain}/{path}:{tag}@{digest}").parse().expect("both");
            assert_eq!((both.tag(), both.digest()), (Some(tag), Some(&digest)));
            Some(both)
        }
    }
}
