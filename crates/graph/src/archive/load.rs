//! `load`: the images of an archive, Docker's or an OCI layout.

use std::io::Read;
use std::sync::Arc;

use gantry_api::json;
use gantry_api::platform::Platform;
use gantry_api::reference::{Digest, Reference};
use serde::de::DeserializeOwned;

use super::intake::Intake;
use super::{DockerImage, IMAGE_NAME, INDEX, MANIFEST, OCI_LAYOUT, ORIGINS, REF_NAME, blob_path, legacy};
use crate::origin::{Entry, Find, Found, Ways, Words};
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
    /// Loads the images of an archive, compressed or not: one of `docker save`, or an OCI layout. Of an index that is the image
    /// for `platform`, or for this machine; with a `platform` no image for another one is taken. Each image is there whole or not
    /// at all; those before a broken one stay.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is no such archive, names what is not in it, or has no image for the platform; as
    /// [`Registration::unpack`].
    pub fn load(&self, input: &mut dyn Read, platform: Option<&Platform>, report: Report<'_>) -> Result<Vec<Loaded>> {
        let intake = Intake::read(self, input)?;
        let mut loading = Loading { graph: self, intake, platform, report, loaded: Vec::new() };
        loading.all()?;
        if loading.loaded.is_empty() && (platform.is_some() || !loading.intake.has(MANIFEST)) {
            let wanted = platform.map_or_else(|| "this machine".to_owned(), ToString::to_string);
            return Err(Error::invalid("image archive", format!("no image in it is for {wanted}")));
        }
        Ok(loading.loaded)
    }
}

/// An archive whose images are taken.
struct Loading<'a> {
    graph: &'a Graph,
    intake: Intake<'a>,
    platform: Option<&'a Platform>,
    report: Report<'a>,
    loaded: Vec<Loaded>,
}

impl Loading<'_> {
    fn all(&mut self) -> Result<()> {
        if self.intake.has(MANIFEST) {
            return self.docker();
        }
        if self.intake.has(OCI_LAYOUT) || self.intake.has(INDEX) {
            let index: Words = parse(INDEX, &self.intake.document(INDEX)?)?;
            return self.index(None, index, &[], &mut Way::default());
        }
        let old = legacy::images(&self.intake)?;
        if old.is_empty() {
            let why = "neither manifest.json nor index.json is in it: a root file system is for `import`";
            return Err(Error::invalid("image archive", why));
        }
        for image in old {
            let registration = self.graph.register(image.config, None)?;
            self.finish(registration, image.names, &image.layers)?;
        }
        Ok(())
    }

    fn docker(&mut self) -> Result<()> {
        let images: Vec<DockerImage> = parse(MANIFEST, &self.intake.document(MANIFEST)?)?;
        let find = |intake: &Intake<'_>, digest: &Digest| blob(intake, digest).ok();
        let ways = self.ways(&|digest| find(&self.intake, digest))?;
        for image in images {
            let names = image.repo_tags.unwrap_or_default();
            let names = names.iter().map(|name| reference(name)).collect::<Result<Vec<_>>>()?;
            let mut registration = self.graph.register(self.intake.document(&image.config)?, None)?;
            if image.layers.len() != registration.len() {
                let why = format!("{} layers, its configuration has {}", image.layers.len(), registration.len());
                return Err(Error::invalid(format!("image {}", registration.id().short()), why));
            }
            let came = ways.to(registration.id(), registration.len(), &|digest| find(&self.intake, digest));
            came.into_iter().for_each(|found| registration.came_as(found));
            self.finish(registration, names, &image.layers)?;
        }
        Ok(())
    }

    /// What the images of a Docker archive came as. Our own archives say it of each image; of others it is the indexes that their OCI
    /// layout names, and manifests of compressed layers. The manifests that writers make for the layout are nobody's origin.
    fn ways(&self, find: Find<'_>) -> Result<Ways> {
        if !self.intake.has(INDEX) {
            return Ok(Ways::default());
        }
        let index: Words = parse(INDEX, &self.intake.document(INDEX)?)?;
        let (mut roots, mut said) = (Vec::new(), Vec::new());
        for entry in index.manifests.into_iter().take(ENTRIES) {
            let words = find(&entry.descriptor.digest).and_then(|raw| json::from_slice::<Words>(&raw).ok());
            let words = words.unwrap_or_default();
            let is_compressed = |layer: &Descriptor| !layer.media_type.ends_with("tar");
            match entry.annotations.as_ref().and_then(|annotations| annotations.get(ORIGINS)) {
                Some(origins) => said.extend(words.config.map(|config| (config.digest, origins.clone()))),
                None if !words.manifests.is_empty() || words.layers.iter().any(is_compressed) => {
                    roots.push(entry.descriptor.digest);
                }
                None => {}
            }
        }
        let mut ways = Ways::from(&roots, ENTRIES, find);
        for (image, origins) in said {
            ways.said(&image, &origins, find);
        }
        Ok(ways)
    }

    /// The images of an index: of the archive's own (which has no digest) every one, of another the one that runs best.
    fn index(&mut self, digest: Option<&Digest>, index: Words, names: &[Reference], way: &mut Way) -> Result<()> {
        let best = if digest.is_some() { self.best(&index) } else { None };
        for (number, entry) in index.manifests.into_iter().enumerate() {
            way.entries += 1;
            if way.entries > ENTRIES {
                return Err(Error::invalid("image archive", format!("its indexes name more than {ENTRIES} images")));
            }
            let named = entry_name(&entry)?;
            let names: Vec<_> = names.iter().cloned().chain(named).collect();
            if let Some(offered) = entry.platform.as_ref().filter(|platform| is_said(platform))
                && (self.distance(offered).is_none() || best.is_some_and(|best| best != number))
            {
                continue;
            }
            let raw = blob(&self.intake, &entry.descriptor.digest)?;
            let words: Words = parse("manifest", &raw)?;
            if words.config.is_none() {
                if way.depth == NESTING {
                    return Err(Error::invalid("image archive", "indexes inside indexes inside indexes"));
                }
                way.depth += 1;
                self.index(Some(&entry.descriptor.digest), words, &names, way)?;
                way.depth -= 1;
            } else {
                self.manifest(digest, entry.descriptor.media_type, raw, words, names)?;
            }
        }
        Ok(())
    }

    /// How well an image for `offered` runs where one is wanted.
    fn distance(&self, offered: &Platform) -> Option<u32> {
        self.platform.unwrap_or(&Platform::host()).distance(offered)
    }

    /// The number of the entry that runs best, the first of equals.
    fn best(&self, index: &Words) -> Option<usize> {
        let said = index.manifests.iter().enumerate().filter_map(|(number, entry)| {
            Some((self.distance(entry.platform.as_ref().filter(|platform| is_said(platform))?)?, number))
        });
        said.min().map(|(_, number)| number)
    }

    fn manifest(
        &mut self,
        index: Option<&Digest>,
        media_type: String,
        raw: Vec<u8>,
        words: Words,
        names: Vec<Reference>,
    ) -> Result<()> {
        let config = words.config.ok_or_else(|| Error::invalid("manifest", "it has no configuration"))?;
        let paths: Vec<_> = words.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
        let manifest = digest_of(&raw);
        let config = blob(&self.intake, &config.digest)?;
        let find = |digest: &Digest| blob(&self.intake, digest).ok();
        let layers = words.layers.len();
        let found = index.and_then(|index| Found::read(Some(index), &manifest, &digest_of(&config), layers, &find));
        let registration = match found {
            Some(found) => {
                let mut registration = self.graph.register(config, None)?;
                registration.check_layers(layers)?;
                registration.came_as(found);
                registration
            }
            None => self.graph.register(config, Some(Manifest { raw, media_type, layers: words.layers }))?,
        };
        self.finish(registration, names, &paths)
    }

    /// Supplies the layers, lowest first, and makes the image visible, unless another platform is wanted.
    fn finish(&mut self, registration: Registration, names: Vec<Reference>, paths: &[String]) -> Result<()> {
        let config = registration.config();
        let offered = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
        };
        if self.platform.is_some_and(|wanted| wanted.distance(&offered).is_none()) {
            return Ok(());
        }
        for (index, path) in paths.iter().enumerate() {
            let diff_id = &registration.config().rootfs.diff_ids[index];
            let fresh = self.intake.supply(&registration, index, path)?;
            self.intake.keep(&registration, index, path, fresh.is_some())?;
            if let Some(size) = fresh {
                (self.report)(Progress::Unpacking(diff_id, size));
                (self.report)(Progress::Unpacked(diff_id, size));
            }
        }
        let images = self.graph.images();
        let taken = names.iter().filter_map(|name| {
            let before = images.by_name(name).filter(|before| before.id != *registration.id())?;
            Some((name.clone(), before.id.clone()))
        });
        let taken = taken.collect();
        self.loaded.push(Loaded { image: registration.commit(&names)?, names, taken });
        Ok(())
    }
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    json::from_slice(bytes).map_err(|error| Error::invalid(format!("{what} of the image archive"), error))
}

/// A document by its digest, verified.
fn blob(intake: &Intake<'_>, digest: &Digest) -> Result<Vec<u8>> {
    let bytes = intake.document(&blob_path(digest))?;
    let found = digest_of(&bytes);
    if found != *digest {
        return Err(Error::Digest { what: "document of the image archive", wanted: digest.clone(), found });
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
    if name.familiar_repository() == "sha256" {
        return Err(invalid("with a tag it would be read as a digest".to_owned()));
    }
    Ok(name)
}

/// The whole name; a tag alone names nothing.
fn entry_name(entry: &Entry) -> Result<Option<Reference>> {
    let Some(annotations) = &entry.annotations else { return Ok(None) };
    match (annotations.get(IMAGE_NAME), annotations.get(REF_NAME)) {
        // containerd names what was pulled by digest so.
        (Some(name), _) | (None, Some(name)) if name.contains('@') => Ok(None),
        (Some(name), _) => reference(name).map(Some),
        (None, Some(name)) if name.contains([':', '/']) => reference(name).map(Some),
        _ => Ok(None),
    }
}

/// An entry that does not say what it is for is taken.
fn is_said(platform: &Platform) -> bool {
    !platform.os.is_empty() && !platform.architecture.is_empty()
}
