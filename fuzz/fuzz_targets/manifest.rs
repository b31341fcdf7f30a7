//! What a registry sends: a media type, a newline, a document. It is one thing or refused; what was read of it is all that
//! is believed, and the entry that is chosen of an index is the best one.
#![no_main]

use gantry_api::platform::Platform;
use gantry_api::reference::Reference;
use libfuzzer_sys::fuzz_target;
use manifest::{Config, Descriptor, Entry, Parsed, choose};
use serde_json::{Value, json};

// The registry's file without its client: HTTP, TLS and DNS would take most of an hour to build with a sanitizer.
#[path = "../../crates/registry/src/manifest.rs"]
#[allow(dead_code, reason = "what asks the registry uses the rest")]
mod manifest;

/// What that file needs of the registry's error.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("invalid {what}: {reason}")]
    Invalid { what: String, reason: String },
    #[error("schema 1: {reference}")]
    Schema1 { reference: String },
    #[error("no entry for {platform}")]
    NoPlatform { platform: String },
}

type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), reason: reason.into() }
    }
}

const LAYER_LIMIT: usize = 500;

fuzz_target!(|text: &[u8]| {
    let mut parts = text.splitn(2, |byte| *byte == b'\n');
    let kind = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let document = parts.next().unwrap_or_default();
    let reference: Reference = "registry.test/image:1".parse().expect("a reference");
    for layers in 0..3 {
        let _ = Config::read(document, layers);
    }
    let Ok((parsed, media_type)) = Parsed::read(document, &kind, &reference) else { return };
    // The bytes say as much as we believe, whoever reads them. In what is not looked at half a surrogate may stand.
    let value: Value = serde_json::from_slice(document).unwrap_or_default();
    let has = |key: &str| value.get(key).is_some_and(|value| !value.is_null());
    let written = match &parsed {
        Parsed::Index(entries) => {
            assert!(!has("layers") && !has("config"), "an image too");
            assert!(media_type.contains("index") || media_type.contains("list"));
            choices(entries);
            let entries = entries.iter().map(|entry| {
                let mut value = written(&entry.descriptor);
                if let Some(Platform { os, architecture, variant }) = &entry.platform {
                    value["platform"] = json!({"os": os, "architecture": architecture, "variant": variant});
                }
                value
            });
            json!({"mediaType": media_type, "manifests": entries.collect::<Vec<_>>()})
        }
        Parsed::Image { config, layers } => {
            assert!(!has("manifests"), "an index too");
            assert!(layers.len() <= LAYER_LIMIT);
            let layers: Vec<_> = layers.iter().map(written).collect();
            json!({"mediaType": media_type, "config": written(config), "layers": layers})
        }
    };
    let written = serde_json::to_vec(&written).expect("plain data");
    let (again, again_type) = Parsed::read(&written, &media_type, &reference).expect("what was read is read again");
    assert_eq!((format!("{again:?}"), again_type), (format!("{parsed:?}"), media_type));
});

fn written(descriptor: &Descriptor) -> Value {
    json!({"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size})
}

/// The choice for several machines.
fn choices(entries: &[Entry]) {
    for wanted in ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/386", "linux/amd64/v3", "windows/amd64"] {
        let wanted: Platform = wanted.parse().expect("a platform");
        let distance = |entry: &Entry| entry.platform.as_ref().and_then(|p| wanted.distance(p));
        let best = entries.iter().filter_map(distance).min();
        match choose(entries, &wanted) {
            Ok(chosen) => {
                let of = entries.iter().filter(|entry| entry.descriptor == *chosen);
                let silent = entries.len() == 1 && entries[0].platform.is_none();
                assert!(silent || of.filter_map(distance).min() == best, "{wanted}");
            }
            Err(_) => assert_eq!(best, None, "{wanted}"),
        }
    }
    for offered in entries.iter().filter_map(|entry| entry.platform.as_ref()) {
        // A platform that can be written can be read, and runs where it is wanted.
        if let Ok(read) = offered.to_string().parse::<Platform>() {
            assert_eq!(read.to_string().parse(), Ok(read.clone()));
            assert!(read.distance(&read).is_none_or(|distance| distance == 0), "{read}");
        }
    }
}
