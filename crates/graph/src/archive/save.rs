//! `save`: several images as one archive; layers that they share are in it once. A compressed layer whose bytes are kept is in it as
//! it came.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use serde_json::json;
use tar::{EntryType, Header};

use super::{DockerImage, IMAGE_NAME, INDEX, MANIFEST, OCI_LAYOUT, ORIGINS, REF_NAME, blob_path};
use crate::origin::{AT_ONCE, Entry, Found};
use crate::registration::Pins;
use crate::{Descriptor, Error, Graph, Image, Layer, Result, digest_of};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Graph {
    /// Writes images with these names (tags) as one archive. The same images give the same bytes. They stay while they are
    /// written, whoever removes them.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] when one was removed before; as [`Graph::layer_archive`]; the writer's.
    pub fn save(&self, images: &[(Arc<Image>, Vec<Reference>)], output: &mut dyn Write) -> Result<()> {
        let _pins = self.pin_layers(images)?;
        let described = images.iter().map(|(image, names)| self.describe(image, names)).collect::<Result<Vec<_>>>()?;
        let mut archive = Archive { output, written: HashSet::new() };
        archive.directory("blobs/")?;
        archive.directory("blobs/sha256/")?;
        archive.document(OCI_LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.document(INDEX, &index(&described))?;
        let docker: Vec<_> = described.iter().map(Described::docker).collect();
        archive.document(MANIFEST, &to_json(&docker))?;
        for one in &described {
            archive.blob(&one.image.id, &one.image.raw)?;
            archive.blob(&one.descriptor.digest, &one.manifest)?;
            // Again, rather than that all of them are held in memory.
            for document in self.originals(one.image).into_iter().flat_map(|original| original.documents) {
                archive.blob(&digest_of(&document), &document)?;
            }
        }
        for one in &described {
            for (layer, blob) in one.image.layers.iter().zip(&one.layers) {
                if archive.written.insert(blob.digest.clone()) {
                    self.save_layer(layer, blob, &mut archive)?;
                }
            }
        }
        archive.write(&[0; 1024])?;
        archive.output.flush().map_err(failed)
    }

    /// Writes a layer in one of its forms.
    fn save_layer(&self, layer: &Layer, blob: &Descriptor, archive: &mut Archive<'_>) -> Result<()> {
        archive.header(EntryType::Regular, &blob_path(&blob.digest), blob.size)?;
        let wrote = if blob.digest == layer.diff_id {
            self.layer_archive(layer, &mut archive.output)?
        } else {
            self.content().copy(&blob.digest, &mut archive.output)?
        };
        if wrote != blob.size {
            let what = format!("layer {}", blob.digest);
            return Err(Error::invalid(what, format!("{wrote} bytes, not {}", blob.size)));
        }
        archive.pad(blob.size)
    }

    fn pin_layers(&self, images: &[(Arc<Image>, Vec<Reference>)]) -> Result<Pins> {
        let layers = || images.iter().flat_map(|(image, _)| image.layers.iter().map(move |layer| (image, layer)));
        let pins = Pins::new(self, layers().map(|(_, layer)| layer.chain_id.clone()).collect());
        match layers().find(|(_, layer)| self.inner.layers.get(&layer.chain_id).is_none()) {
            Some((image, _)) => Err(Error::NoSuchImage(image.id.to_string())),
            None => Ok(pins),
        }
    }

    /// How an image is written: with the last manifest that it came by whose blobs are all kept, else with one of its own.
    fn describe<'a>(&self, image: &'a Image, names: &'a [Reference]) -> Result<Described<'a>> {
        let came = self.originals(image);
        let originals = came.iter().map(|found| found.origin.told()).collect();
        // A manifest may say anything: a blob is a layer when that was seen.
        let is_kept = |(blob, layer): &(&Descriptor, &Arc<Layer>)| {
            let keeps = self.inner.layers.keeps(&blob.digest, |other| other.diff_id == layer.diff_id);
            // Its digest is seen only while it is written: what was cut short is left out before.
            keeps && self.content().size(&blob.digest) == Some(blob.size)
        };
        let is_whole = |found: &&Found| {
            !found.layers.is_empty() && found.layers.iter().zip(&image.layers).all(|layer| is_kept(&layer))
        };
        if let Some(found) = came.iter().rev().find(is_whole) {
            let descriptor = found.origin.manifest.clone();
            let manifest = self.content().read(&descriptor.digest)?;
            return Ok(Described { image, names, layers: found.layers.clone(), manifest, descriptor, originals });
        }
        let layers = image.layers.iter().enumerate().map(|(index, layer)| {
            let mut kept = came.iter().rev().map(|found| (&found.layers[index], layer)).filter(is_kept);
            match kept.next() {
                Some((blob, _)) => Ok(blob.clone()),
                None => Ok(Descriptor {
                    media_type: OCI_LAYER.to_owned(),
                    digest: layer.diff_id.clone(),
                    size: self.layer_archive_size(layer)?,
                }),
            }
        });
        let layers = layers.collect::<Result<Vec<_>>>()?;
        let config =
            Descriptor { media_type: OCI_CONFIG.to_owned(), digest: image.id.clone(), size: image.raw.len() as u64 };
        let manifest =
            to_json(&json!({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}));
        let descriptor = Descriptor {
            media_type: OCI_MANIFEST.to_owned(),
            digest: digest_of(&manifest),
            size: manifest.len() as u64,
        };
        Ok(Described { image, names, layers, manifest, descriptor, originals })
    }

    /// What an image came as, last of all, as far as it is whole and says that it is of this image.
    fn originals(&self, image: &Image) -> Vec<Found> {
        let find = |digest: &Digest| self.content().read(digest).ok();
        let layers = image.layers.len();
        let read = |origin: &crate::Origin| {
            let index = origin.index.as_ref().map(|index| &index.digest);
            Found::read(index, &origin.manifest.digest, &image.id, layers, &find)
        };
        let skipped = image.origins.len().saturating_sub(AT_ONCE);
        image.origins[skipped..].iter().filter_map(read).collect()
    }
}

struct Described<'a> {
    image: &'a Image,
    names: &'a [Reference],
    /// The forms in which its layers are in the archive, lowest first.
    layers: Vec<Descriptor>,
    manifest: Vec<u8>,
    descriptor: Descriptor,
    /// What it came as.
    originals: Vec<String>,
}

impl Described<'_> {
    fn docker(&self) -> DockerImage {
        DockerImage {
            config: blob_path(&self.image.id),
            repo_tags: Some(self.names.iter().map(Reference::familiar).collect())
                .filter(|tags: &Vec<_>| !tags.is_empty()),
            layers: self.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
        }
    }

    /// One entry for each name, as containerd has it; one without a name for a nameless image.
    fn entries(&self) -> Vec<Entry> {
        let originals = (!self.originals.is_empty()).then(|| (ORIGINS.to_owned(), self.originals.join(" ")));
        let entry = |mut annotations: BTreeMap<String, String>| {
            annotations.extend(originals.clone());
            let annotations = Some(annotations).filter(|annotations| !annotations.is_empty());
            Entry { descriptor: self.descriptor.clone(), annotations, platform: None }
        };
        if self.names.is_empty() {
            return vec![entry(BTreeMap::new())];
        }
        let annotated = self.names.iter().map(|name| {
            entry(BTreeMap::from([
                (IMAGE_NAME.to_owned(), name.to_string()),
                (REF_NAME.to_owned(), name.tag().unwrap_or_default().to_owned()),
            ]))
        });
        annotated.collect()
    }
}

fn index(described: &[Described<'_>]) -> Vec<u8> {
    let manifests: Vec<_> = described.iter().flat_map(Described::entries).collect();
    to_json(&json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}))
}

fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data serialises")
}

/// The archive being written.
struct Archive<'a> {
    output: &'a mut dyn Write,
    /// Blobs that are in it.
    written: HashSet<Digest>,
}

impl Archive<'_> {
    fn header(&mut self, kind: EntryType, path: &str, size: u64) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path(path).map_err(failed)?;
        header.set_mode(if kind == EntryType::Directory { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.write(header.as_bytes())
    }

    fn directory(&mut self, path: &str) -> Result<()> {
        self.header(EntryType::Directory, path, 0)
    }

    fn document(&mut self, path: &str, bytes: &[u8]) -> Result<()> {
        let size = bytes.len() as u64;
        self.header(EntryType::Regular, path, size)?;
        self.write(bytes)?;
        self.pad(size)
    }

    fn blob(&mut self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self.written.insert(digest.clone()) { self.document(&blob_path(digest), bytes) } else { Ok(()) }
    }

    fn pad(&mut self, size: u64) -> Result<()> {
        let padding = usize::try_from(size.next_multiple_of(512) - size).unwrap_or(0);
        self.write(&[0; 512][..padding])
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(failed)
    }
}

fn failed(source: io::Error) -> Error {
    gantry_linux::Error::new("write", "image archive", source).into()
}
