//! `load`: the images of an archive, Docker's or an OCI layout.

use std::io::Read;
use std::sync::Arc;

use gantry_api::json;
use gantry_api::reference::{Digest, Reference};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::intake::Intake;
use super::{DockerImage, IMAGE_NAME, INDEX, IndexEntry, MANIFEST, OCI_LAYOUT, REF_NAME, blob_path, legacy};
use crate::{Descriptor, Error, Graph, Image, Manifest, Registration, Result, digest_of};

/// Indexes inside indexes.
const NESTING: usize = 4;
/// Entries of all indexes of an archive: one may be named many times, and lead to others.
const ENTRIES: usize = 10_000;

/// How far into indexes one is, and how many of their entries were looked at.
#[derive(Default)]
struct Way {
    depth: usize,
    entries: usize,
}

/// An image that was loaded.
#[derive(Debug)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// The names that the archive gives it.
    pub names: Vec<Reference>,
    /// Names that were another image's before.
    pub taken: Vec<(Reference, Digest)>,
}

/// What happens while an archive is loaded.
#[derive(Debug)]
pub enum Progress<'a> {
    /// A layer is being unpacked: its diff id, and the bytes of its blob.
    Unpacking(&'a Digest, u64),
    /// It is unpacked.
    Unpacked(&'a Digest, u64),
}

type Report<'a> = &'a (dyn Fn(Progress<'_>) + Sync);

impl Graph {
    /// Loads every image of an archive (gzip, zstd or plain): one of `docker save`, or an OCI layout. Each image is there
    /// whole or not at all; those before a broken one stay.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no such archive, or names what is not in it; as [`Registration::unpack`].
    pub fn load(&self, input: &mut dyn Read, report: Report<'_>) -> Result<Vec<Loaded>> {
        let mut intake = Intake::read(self, input)?;
        if intake.has(MANIFEST) {
            return self.load_docker(&mut intake, report);
        }
        if intake.has(OCI_LAYOUT) || intake.has(INDEX) {
            let index: Index = parse(INDEX, &intake.document(INDEX)?)?;
            let mut loaded = Vec::new();
            self.load_index(&mut intake, index, &[], &mut Way::default(), report, &mut loaded)?;
            if loaded.is_empty() {
                return Err(Error::invalid("image archive", "no image in it is for this machine"));
            }
            return Ok(loaded);
        }
        let old = legacy::images(&intake)?;
        if old.is_empty() {
            let why = "neither manifest.json nor index.json is in it: a root file system is for `import`";
            return Err(Error::invalid("image archive", why));
        }
        let load = |image: legacy::OldImage| {
            let registration = self.register(image.config, None)?;
            self.finish(&mut intake, registration, image.names, &image.layers, report)
        };
        old.into_iter().map(load).collect()
    }

    fn load_docker(&self, intake: &mut Intake<'_>, report: Report<'_>) -> Result<Vec<Loaded>> {
        let images: Vec<DockerImage> = parse(MANIFEST, &intake.document(MANIFEST)?)?;
        let load = |image: DockerImage| {
            let names = image.repo_tags.unwrap_or_default();
            let names = names.iter().map(|name| reference(name)).collect::<Result<Vec<_>>>()?;
            let registration = self.register(intake.document(&image.config)?, None)?;
            if image.layers.len() != registration.len() {
                let why = format!("{} layers, its configuration has {}", image.layers.len(), registration.len());
                return Err(Error::invalid(format!("image {}", registration.id().short()), why));
            }
            self.finish(intake, registration, names, &image.layers, report)
        };
        images.into_iter().map(load).collect()
    }

    /// Every image of an index that is for this machine; `names` are those that the index itself has.
    fn load_index(
        &self,
        intake: &mut Intake<'_>,
        index: Index,
        names: &[Reference],
        way: &mut Way,
        report: Report<'_>,
        loaded: &mut Vec<Loaded>,
    ) -> Result<()> {
        for entry in index.manifests {
            way.entries += 1;
            if way.entries > ENTRIES {
                return Err(Error::invalid("image archive", format!("its indexes name more than {ENTRIES} images")));
            }
            let named = entry_name(&entry)?;
            let names: Vec<_> = names.iter().cloned().chain(named).collect();
            let raw = blob(intake, &entry.descriptor)?;
            if entry.platform.is_some_and(|platform| !is_ours(&platform.os, &platform.architecture)) {
                continue;
            }
            let kind: Index = parse("manifest", &raw)?;
            if kind.config.is_none() {
                if way.depth == NESTING {
                    return Err(Error::invalid("image archive", "indexes inside indexes inside indexes"));
                }
                way.depth += 1;
                self.load_index(intake, kind, &names, way, report, loaded)?;
                way.depth -= 1;
            } else {
                loaded.push(self.load_manifest(intake, entry.descriptor.media_type, raw, kind, names, report)?);
            }
        }
        Ok(())
    }

    fn load_manifest(
        &self,
        intake: &mut Intake<'_>,
        media_type: String,
        raw: Vec<u8>,
        manifest: Index,
        names: Vec<Reference>,
        report: Report<'_>,
    ) -> Result<Loaded> {
        let config = manifest.config.ok_or_else(|| Error::invalid("manifest", "it has no configuration"))?;
        let layers = manifest.layers;
        let registration =
            self.register(blob(intake, &config)?, Some(Manifest { raw, media_type, layers: layers.clone() }))?;
        let paths: Vec<_> = layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        self.finish(intake, registration, names, &paths, report)
    }

    /// Supplies the layers, lowest first, and makes the image visible.
    fn finish(
        &self,
        intake: &mut Intake<'_>,
        registration: Registration,
        names: Vec<Reference>,
        paths: &[String],
        report: Report<'_>,
    ) -> Result<Loaded> {
        for (index, path) in paths.iter().enumerate() {
            let diff_id = &registration.config().rootfs.diff_ids[index];
            if let Some(size) = intake.supply(&registration, index, path)? {
                report(Progress::Unpacking(diff_id, size));
                report(Progress::Unpacked(diff_id, size));
            }
        }
        let images = self.images();
        let taken = names.iter().filter_map(|name| {
            let before = images.by_name(name).filter(|before| before.id != *registration.id())?;
            Some((name.clone(), before.id.clone()))
        });
        let taken = taken.collect();
        Ok(Loaded { image: registration.commit(&names)?, names, taken })
    }
}

/// An index or a manifest: which one, its words tell.
#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<IndexEntry>,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    json::from_slice(bytes).map_err(|error| Error::invalid(format!("{what} of the image archive"), error))
}

/// A document by its descriptor, digest verified.
fn blob(intake: &Intake<'_>, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let bytes = intake.document(&blob_path(&descriptor.digest))?;
    let found = digest_of(&bytes);
    if found != descriptor.digest {
        return Err(Error::Digest { what: "document of the image archive", wanted: descriptor.digest.clone(), found });
    }
    Ok(bytes)
}

/// A name that an archive may give. Which digest an image has in a repository only its registry can say.
pub(super) fn reference(text: &str) -> Result<Reference> {
    let invalid = |why: String| Error::invalid(format!("name {text:?} in the image archive"), why);
    let name = Reference::parse(text).map_err(|error| invalid(error.to_string()))?;
    if name.digest().is_some() {
        return Err(invalid("it has a digest, which an archive does not give".to_owned()));
    }
    Ok(name)
}

/// The whole name; a tag alone names nothing.
fn entry_name(entry: &IndexEntry) -> Result<Option<Reference>> {
    let Some(annotations) = &entry.annotations else { return Ok(None) };
    match (annotations.get(IMAGE_NAME), annotations.get(REF_NAME)) {
        // containerd names what was pulled by digest so.
        (Some(name), _) | (None, Some(name)) if name.contains('@') => Ok(None),
        (Some(name), _) => reference(name).map(Some),
        (None, Some(name)) if name.contains([':', '/']) => reference(name).map(Some),
        _ => Ok(None),
    }
}

/// An image that does not say what it is for is taken.
fn is_ours(os: &str, architecture: &str) -> bool {
    matches!(os, "" | "linux") && (architecture.is_empty() || architecture == crate::import::machine())
}
