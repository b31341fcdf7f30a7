//! Images as files: the archives of `save` and `load`.
//!
//! What is written is an OCI image layout that is a Docker archive too (`manifest.json`), documents first. What is read is
//! either, and what Docker saved before there were digests.

mod crew;
mod intake;
mod legacy;
mod load;
mod save;
mod staging;

use gantry_api::reference::Digest;
use serde::{Deserialize, Serialize};

pub use load::{Loaded, Progress};

const OCI_LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";
const MANIFEST: &str = "manifest.json";

/// The whole name of an image, in an index.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// Its tag alone, or the whole name, as the writer likes.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// What the image of an entry came as: `INDEX/MANIFEST` or `MANIFEST`, digests, with spaces between. They are in the archive beside
/// the manifest that was made for it, and need not lead to layers that are.
const ORIGINS: &str = "gantry.image.origins";

/// An image of Docker's `manifest.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    /// Path of the configuration.
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    /// Paths of the layers, lowest first.
    #[serde(default)]
    layers: Vec<String>,
}

/// Where a layout keeps content.
fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
