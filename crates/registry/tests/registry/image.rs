//! Images for the fake registry: layers of noise, for nobody here unpacks them.

use gantry_api::reference::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// The digest of bytes.
pub fn digest(bytes: &[u8]) -> Digest {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::from_hex(&hex).unwrap()
}

#[derive(Debug, Clone)]
pub struct Image {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    pub manifest: Vec<u8>,
    oci: bool,
}

/// Noise that differs by `seed`.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl Image {
    pub fn oci(layers: usize) -> Self {
        Self::of("amd64", layers, true)
    }

    pub fn schema2(layers: usize) -> Self {
        Self::of("amd64", layers, false)
    }

    pub fn of(architecture: &str, count: usize, oci: bool) -> Self {
        let seed = architecture.bytes().map(u64::from).sum::<u64>() + u64::from(oci) * 1000;
        let layers: Vec<_> = (0..count).map(|index| noise(seed + index as u64 * 7, 300_000 + index)).collect();
        Self::with(architecture, layers, oci)
    }

    /// An image of one layer of so many bytes.
    pub fn sized(bytes: usize) -> Self {
        Self::with("amd64", vec![noise(bytes as u64, bytes)], true)
    }

    fn with(architecture: &str, layers: Vec<Vec<u8>>, oci: bool) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| digest(&[layer.as_slice(), b"plain"].concat())).collect();
        let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
        let config = json!({"architecture": architecture, "os": "linux", "config": {}, "rootfs": rootfs});
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = manifest(&config, &layers, oci);
        Self { config, layers, manifest, oci }
    }

    /// The same with other URLs of its blobs.
    pub fn with_urls(self, urls: &str) -> Self {
        let manifest = String::from_utf8(self.manifest).unwrap().replace("http://127.0.0.1:1/", urls);
        Self { manifest: manifest.into_bytes(), ..self }
    }

    /// The same as registries take it that look at the URLs.
    pub fn without_urls(self) -> Self {
        let mut manifest: serde_json::Value = serde_json::from_slice(&self.manifest).unwrap();
        let strip = |descriptor: &mut serde_json::Value| drop(descriptor.as_object_mut().unwrap().remove("urls"));
        strip(&mut manifest["config"]);
        manifest["layers"].as_array_mut().unwrap().iter_mut().for_each(strip);
        Self { manifest: serde_json::to_vec(&manifest).unwrap(), ..self }
    }

    /// Layers and configuration.
    pub fn blobs(&self) -> Vec<(Digest, Vec<u8>)> {
        self.layers.iter().chain([&self.config]).map(|blob| (digest(blob), blob.clone())).collect()
    }

    pub const fn media_type(&self) -> &'static str {
        if self.oci {
            "application/vnd.oci.image.manifest.v1+json"
        } else {
            "application/vnd.docker.distribution.manifest.v2+json"
        }
    }

    pub fn id(&self) -> Digest {
        digest(&self.config)
    }

    pub fn digest(&self) -> Digest {
        digest(&self.manifest)
    }

    pub fn blob_path(&self, repository: &str, layer: usize) -> String {
        format!("/v2/{repository}/blobs/{}", digest(&self.layers[layer]))
    }
}

fn manifest(config: &[u8], layers: &[Vec<u8>], oci: bool) -> Vec<u8> {
    let (kind, config_kind, layer_kind) = if oci {
        (
            "application/vnd.oci.image.manifest.v1+json",
            "application/vnd.oci.image.config.v1+json",
            "application/vnd.oci.image.layer.v1.tar+gzip",
        )
    } else {
        (
            "application/vnd.docker.distribution.manifest.v2+json",
            "application/vnd.docker.container.image.v1+json",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        )
    };
    // Foreign URLs that lead nowhere good: nothing may ask there.
    let describe = |kind: &str, bytes: &[u8]| json!({"mediaType": kind, "digest": digest(bytes), "size": bytes.len(), "urls": ["http://127.0.0.1:1/"]});
    let layers: Vec<_> = layers.iter().map(|layer| describe(layer_kind, layer)).collect();
    let manifest =
        json!({"schemaVersion": 2, "mediaType": kind, "config": describe(config_kind, config), "layers": layers});
    serde_json::to_vec_pretty(&manifest).unwrap()
}

/// An index of images by architecture, with an attestation that no platform wants.
pub fn index(images: &[(&str, &Image)], oci: bool) -> (Vec<u8>, &'static str) {
    let kind = if oci {
        "application/vnd.oci.image.index.v1+json"
    } else {
        "application/vnd.docker.distribution.manifest.list.v2+json"
    };
    let entry = |architecture: &str, image: &Image| {
        let platform =
            json!({"os": if architecture == "unknown" { "unknown" } else { "linux" }, "architecture": architecture});
        json!({"mediaType": image.media_type(), "digest": image.digest(), "size": image.manifest.len(), "platform": platform})
    };
    let mut manifests: Vec<_> = images.iter().map(|(architecture, image)| entry(architecture, image)).collect();
    manifests.insert(0, entry("unknown", images[0].1));
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
    (serde_json::to_vec(&index).unwrap(), kind)
}
