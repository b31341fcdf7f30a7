//! Manifests as they are pushed: read as far as a registry has to know them, refused when they could be taken for two things.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use super::failure::{Code, Failure, Result};
use super::names::Digest;

pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const KNOWN: [&str; 5] = [OCI_INDEX, OCI_MANIFEST, OCI_ARTIFACT, DOCKER_LIST, DOCKER_MANIFEST];
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+";

/// Content by digest, as manifests describe it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// Where else it is: such content need not be here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// What it is, of artifacts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// What else is said of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// A manifest, read.
#[derive(Debug, Clone)]
pub struct Document {
    /// What it is.
    pub media_type: String,
    /// Of what it consists; foreign layers are not among it.
    pub blobs: Vec<Descriptor>,
    /// The manifests that it lists.
    pub manifests: Vec<Descriptor>,
    /// What it is about.
    pub subject: Option<Descriptor>,
    /// What it is, of artifacts.
    pub artifact_type: Option<String>,
    /// What else it says.
    pub annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
    fs_layers: Option<IgnoredAny>,
}

/// Whether content of this type is a manifest.
pub fn is_manifest(media_type: &str) -> bool {
    KNOWN.contains(&media_type)
}

impl Document {
    /// Reads a manifest that was sent as `content_type`, whose parameters say nothing.
    ///
    /// # Errors
    /// `MANIFEST_INVALID` with the reason.
    pub fn read(bytes: &[u8], content_type: Option<&str>) -> Result<Self> {
        let invalid =
            |reason: String| Failure::new(Code::ManifestInvalid, format!("the manifest is refused: {reason}"));
        let outside =
            content_type.and_then(|kind| kind.split(';').next()).map(str::trim).filter(|kind| !kind.is_empty());
        if outside.is_some_and(|kind| kind.starts_with(SCHEMA1)) {
            return Err(invalid(schema1()));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(invalid(schema1()));
        }
        let media_type = media_type(&raw, outside).map_err(invalid)?;
        if raw.manifests.is_some() && (raw.config.is_some() || raw.layers.is_some() || raw.blobs.is_some()) {
            return Err(invalid("it is an image and an index at once".to_owned()));
        }
        Self::of(raw, media_type).map_err(invalid)
    }

    fn of(raw: Raw, media_type: String) -> std::result::Result<Self, String> {
        let index = matches!(media_type.as_str(), OCI_INDEX | DOCKER_LIST);
        let (blobs, config) = match (&*media_type, raw.config, raw.layers, &raw.manifests) {
            (OCI_INDEX | DOCKER_LIST, None, None, Some(_)) => (Vec::new(), None),
            (OCI_MANIFEST | DOCKER_MANIFEST, Some(config), Some(layers), None) => {
                let kind = config.media_type.clone();
                (std::iter::once(config).chain(layers).collect(), Some(kind))
            }
            (OCI_ARTIFACT, None, None, None) => (raw.blobs.unwrap_or_default(), None),
            _ if index => return Err("the index has no manifests".to_owned()),
            _ => return Err("it has no config or no layers".to_owned()),
        };
        let artifact_type = raw.artifact_type.filter(|kind| !kind.is_empty()).or(config);
        Ok(Self {
            media_type,
            blobs: blobs.into_iter().filter(|blob| blob.urls.is_empty()).collect(),
            manifests: raw.manifests.unwrap_or_default(),
            subject: raw.subject,
            artifact_type,
            annotations: raw.annotations,
        })
    }
}

fn schema1() -> String {
    "it is of schema 1, which no registry should take any more: build or convert the image as schema 2 or OCI"
        .to_owned()
}

/// What the document says it is must be what it was sent as, or one of both says nothing.
fn media_type(raw: &Raw, outside: Option<&str>) -> std::result::Result<String, String> {
    let inside = raw.media_type.as_deref().filter(|kind| !kind.is_empty());
    let kind = match (inside, outside) {
        (Some(inside), Some(outside)) if inside != outside => {
            return Err(format!("it says that it is {inside:.100?}, and was sent as {outside:.100?}"));
        }
        (Some(kind), _) | (None, Some(kind)) => kind,
        (None, None) if raw.manifests.is_some() => OCI_INDEX,
        (None, None) => OCI_MANIFEST,
    };
    if is_manifest(kind) {
        Ok(kind.to_owned())
    } else {
        Err(format!("media type {kind:.100?} is none of a manifest: want one of {}", KNOWN.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(kind: &str) -> String {
        format!(r#"{{"mediaType":"{kind}","digest":"sha256:{}","size":1}}"#, "a".repeat(64))
    }

    #[test]
    fn a_document_that_is_two_things_is_refused() {
        let config = descriptor("x");
        for text in [
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#.to_owned(),
            format!(r#"{{"manifests":[],"config":{config}}}"#),
            format!(r#"{{"mediaType":"{OCI_INDEX}","config":{config},"layers":[]}}"#),
            r#"{"layers":[],"layers":[]}"#.to_owned(),
            format!(r#"{{"mediaType":"{OCI_MANIFEST}","manifests":[]}}"#),
            "[]".to_owned(),
        ] {
            assert_eq!(Document::read(text.as_bytes(), None).unwrap_err().code, Code::ManifestInvalid, "{text}");
        }
        let image = format!(r#"{{"mediaType":"{OCI_MANIFEST}","config":{config},"layers":[]}}"#);
        assert!(Document::read(image.as_bytes(), Some(DOCKER_MANIFEST)).is_err());
        let read = Document::read(image.as_bytes(), Some(&format!("{OCI_MANIFEST}; charset=utf-8"))).unwrap();
        assert_eq!((read.artifact_type.as_deref(), read.blobs.len()), (Some("x"), 1));
    }

    #[test]
    fn schema_1_is_refused_by_name() {
        let kind = format!("{SCHEMA1}prettyjws");
        for (text, kind) in [(r#"{"schemaVersion":1,"fsLayers":[]}"#, None), ("{}", Some(kind.as_str()))] {
            let failure = Document::read(text.as_bytes(), kind).unwrap_err();
            assert!(failure.message.contains("schema 1"), "{}", failure.message);
        }
    }

    #[test]
    fn layers_that_are_elsewhere_need_not_be_here() {
        let (config, mut foreign) = (descriptor("x"), descriptor("y"));
        foreign.insert_str(1, r#""urls":["https://elsewhere.test/"],"#);
        let text = format!(r#"{{"config":{config},"layers":[{foreign},{}]}}"#, descriptor("z"));
        let read = Document::read(text.as_bytes(), Some(OCI_MANIFEST)).unwrap();
        let kinds: Vec<_> = read.blobs.iter().map(|blob| blob.media_type.as_str()).collect();
        assert_eq!(kinds, ["x", "z"]);
    }
}
