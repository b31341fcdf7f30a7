//! Manifests and indexes: what they are, refused when they could be taken for two things.

use std::collections::BTreeMap;

use gantry_api::reference::{Digest, Reference};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Error, Platform, Result};

/// The largest document that is read: manifests, indexes, configurations.
pub const DOCUMENT_LIMIT: usize = 4 << 20;
/// The most layers of an image.
const LAYER_LIMIT: usize = 500;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const SCHEMA1: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
    "application/vnd.docker.distribution.manifest.v1+json",
];
/// What a configuration is that is pushed with a manifest made here.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// And a layer that was compressed here.
pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIGS: [&str; 2] = [OCI_CONFIG, "application/vnd.docker.container.image.v1+json"];

/// What is asked for, best first.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// Content by digest, as manifests describe it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// An entry of an index.
#[derive(Debug, Clone, Deserialize)]
pub struct Entry {
    #[serde(flatten)]
    pub descriptor: Descriptor,
    pub platform: Option<Platform>,
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A document, after its digest was verified. `urls` of descriptors are not even read: content comes from the registry.
#[derive(Debug)]
pub enum Parsed {
    Index(Vec<Entry>),
    Image { config: Descriptor, layers: Vec<Descriptor> },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<Vec<Entry>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    fs_layers: Option<IgnoredAny>,
}

/// The digest of bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    finish(Sha256::new_with_prefix(bytes))
}

/// The digest of what was hashed.
pub fn finish(hash: Sha256) -> Digest {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(64);
    for byte in hash.finalize() {
        write!(hex, "{byte:02x}").expect("a string takes everything");
    }
    Digest::from_hex(&hex).expect("64 hexadecimal digits")
}

impl Parsed {
    /// Reads a manifest or index that was sent as `content_type`. Returns it with its media type.
    pub fn read(raw: &[u8], content_type: &str, reference: &Reference) -> Result<(Self, String)> {
        let invalid = |reason: String| Error::invalid(format!("manifest of {}", reference.familiar()), reason);
        let schema1 = || Error::Schema1 { reference: reference.familiar() };
        let content_type = content_type.split(';').next().unwrap_or_default().trim();
        if SCHEMA1.contains(&content_type) {
            return Err(schema1());
        }
        let document: Raw = serde_json::from_slice(raw).map_err(|error| invalid(error.to_string()))?;
        if document.schema_version == Some(1) || document.fs_layers.is_some() {
            return Err(schema1());
        }
        if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some()) {
            return Err(invalid("it is an image and an index at once, which is refused".to_owned()));
        }
        let media_type = media_type(&document, content_type).map_err(invalid)?;
        let parsed = match (media_type.as_str(), document) {
            (OCI_INDEX | DOCKER_LIST, Raw { manifests: Some(manifests), .. }) => Self::Index(manifests),
            (OCI_MANIFEST | DOCKER_MANIFEST, Raw { config: Some(config), layers: Some(layers), .. }) => {
                Self::Image { config, layers }
            }
            (OCI_INDEX | DOCKER_LIST, _) => return Err(invalid("the index has no manifests".to_owned())),
            (OCI_MANIFEST | DOCKER_MANIFEST, _) => return Err(invalid("it has no config or no layers".to_owned())),
            (other, _) => return Err(invalid(format!("media type {other:?} is not one of an image"))),
        };
        parsed.check().map_err(invalid)?;
        Ok((parsed, media_type))
    }

    fn check(&self) -> std::result::Result<(), String> {
        let Self::Image { config, layers } = self else { return Ok(()) };
        if !CONFIGS.contains(&config.media_type.as_str()) {
            let kind: String = config.media_type.chars().take(100).collect();
            return Err(format!("its config is of type {kind:?}: this is not a container image"));
        }
        if layers.len() > LAYER_LIMIT {
            return Err(format!("it has {} layers, at most {LAYER_LIMIT} are mounted", layers.len()));
        }
        match layers.iter().find(|layer| !is_layer(&layer.media_type)) {
            Some(other) => {
                let kind: String = other.media_type.chars().take(100).collect();
                Err(format!("layer {} is of type {kind:?}, which cannot be unpacked", other.digest.short()))
            }
            None => Ok(()),
        }
    }
}

/// What the document says it is must be what the registry said, or one that says nothing.
fn media_type(document: &Raw, content_type: &str) -> std::result::Result<String, String> {
    let known = |kind: &&str| [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].contains(kind);
    let inside = document.media_type.as_deref().filter(|kind| !kind.is_empty());
    let outside = Some(content_type).filter(known);
    match (inside, outside) {
        (Some(inside), Some(outside)) if inside != outside => {
            Err(format!("it says that it is {inside:.100?}, and was sent as {outside:?}"))
        }
        (Some(kind), _) | (None, Some(kind)) => Ok(kind.to_owned()),
        (None, None) if document.manifests.is_some() => Ok(OCI_INDEX.to_owned()),
        (None, None) => Ok(OCI_MANIFEST.to_owned()),
    }
}

/// The same kind of layer in OCI's words: a manifest has the words of one world.
pub fn to_oci(media_type: &str) -> &str {
    match media_type {
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => OCI_LAYER_GZIP,
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "application/vnd.oci.image.layer.v1.tar+zstd",
        other => other,
    }
}

fn is_layer(media_type: &str) -> bool {
    let oci = media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.tar")
        .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1.tar"));
    let docker = media_type
        .strip_prefix("application/vnd.docker.image.rootfs.diff.tar")
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff.tar"));
    match (oci, docker) {
        (Some(compression), _) => matches!(compression, "" | "+gzip" | "+zstd"),
        (_, Some(compression)) => matches!(compression, "" | ".gzip" | ".zstd"),
        _ => false,
    }
}

/// The entry that runs best on `platform`, the first of equals.
pub fn choose<'a>(entries: &'a [Entry], platform: &Platform) -> Result<&'a Descriptor> {
    let rated = entries.iter().filter_map(|entry| {
        let distance = match &entry.platform {
            Some(offered) => platform.distance(offered)?,
            // A list of one that does not say: its configuration will.
            None if entries.len() == 1 => 0,
            None => return None,
        };
        Some((distance, entry))
    });
    rated
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, entry)| &entry.descriptor)
        .ok_or_else(|| Error::NoPlatform { platform: platform.to_string() })
}

/// What is needed of an image's configuration before its layers come.
#[derive(Debug, Deserialize)]
pub struct Config {
    #[serde(flatten)]
    pub platform: Platform,
    rootfs: RootFs,
}

#[derive(Debug, Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads a configuration that must have `layers` layers.
    pub fn read(raw: &[u8], layers: usize) -> Result<Self> {
        let config: Self =
            serde_json::from_slice(raw).map_err(|error| Error::invalid("image configuration", error.to_string()))?;
        let diff_ids = config.rootfs.diff_ids.len();
        if diff_ids != layers {
            let reason = format!("it has {diff_ids} diff ids for the {layers} layers of the manifest");
            return Err(Error::invalid("image configuration", reason));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_a_registry_sends_is_read_without_a_panic(
            words in prop::collection::vec("config|layers|manifests|mediaType|[\\[\\]{}:,\"0-9]|null|\"[a-z]{0,5}\"", 0..30),
        ) {
            let text = format!("{{\"schemaVersion\":2,{}}}", words.concat());
            if let Ok((Parsed::Image { layers, .. }, _)) = read(&text, "") {
                prop_assert!(layers.len() <= LAYER_LIMIT);
            }
        }
    }

    fn read(text: &str, content_type: &str) -> Result<(Parsed, String)> {
        Parsed::read(text.as_bytes(), content_type, &"x.test/a:1".parse().unwrap())
    }

    fn descriptor(kind: &str) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{}","size":1}}"#, "a".repeat(64))
    }

    #[test]
    fn a_document_that_is_two_things_is_refused() {
        let config = descriptor(CONFIGS[0]);
        for text in [
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(),
            format!(r#"{{"schemaVersion":2,"manifests":[],"config":{config}}}"#),
            format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_INDEX}","config":{config},"layers":[]}}"#),
            r#"{"schemaVersion":2,"layers":[],"layers":[]}"#.to_owned(),
        ] {
            read(&text, OCI_MANIFEST).unwrap_err();
            read(&text, "application/json").unwrap_err();
        }
    }

    #[test]
    fn a_list_without_a_matching_entry_says_so_in_dockers_words() {
        let error = choose(&[], &"linux/arm64".parse().unwrap()).unwrap_err().to_string();
        assert_eq!(error, "no matching manifest for linux/arm64 in the manifest list entries");
    }

    #[test]
    fn artifacts_and_unknown_layers_are_refused_by_name() {
        let image = |config: &str, layer: &str| {
            let text = format!(r#"{{"config":{},"layers":[{}]}}"#, descriptor(config), descriptor(layer));
            read(&text, OCI_MANIFEST)
        };
        assert!(image(CONFIGS[1], "application/vnd.docker.image.rootfs.diff.tar.gzip").is_ok());
        assert!(image(CONFIGS[0], "application/vnd.oci.image.layer.v1.tar+zstd").is_ok());
        for (config, layer, says) in [
            ("application/vnd.cncf.helm.config.v1+json", "x", "helm"),
            (CONFIGS[0], "application/vnd.oci.image.layer.v1.tar+encrypted", "encrypted"),
        ] {
            let error = image(config, layer).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn schema_1_is_refused_with_its_remedy() {
        for (text, kind) in [(r#"{"schemaVersion":1,"fsLayers":[]}"#, ""), ("{}", SCHEMA1[0])] {
            let error = read(text, kind).unwrap_err();
            assert!(matches!(error, Error::Schema1 { .. }), "{error}");
        }
    }
}
