//! `image_export`: sends images as one archive, for `load` here and elsewhere.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use gantry_api::reference::Reference;
use gantry_graph::Image;

use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::Subject;
use crate::stream::{Cancellable, Opening, Outlet};

/// Sends images.
pub struct ImageExport {
    /// Names, digests and ids; a repository without a tag means all its tags.
    pub images: Vec<String>,
    /// `os/architecture`, which the images must be for; any where empty.
    pub platform: String,
    /// Gets the archive.
    pub outlet: Outlet,
}

impl Job for ImageExport {
    const NAME: &'static str = "image_export";
    const DOC: &'static str = "sends images as an archive";
    const CLASS: Class = Class::Stream;
    const READS: bool = true;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Image
    }

    fn arguments(&self) -> String {
        self.images.join(" ")
    }

    async fn run(self, context: Context) -> Result<()> {
        let engine = context.engine;
        let images = choose(&engine, &self.images)?;
        for (image, _) in &images {
            crate::images::check_platform(image, image.id.short(), &self.platform)?;
        }
        let mut outlet = self.outlet;
        outlet.open(Opening::default());
        let writer = Cancellable { stream: outlet.into_writer(), cancelled: context.cancelled.clone() };
        let sending = blocking(move || {
            let mut output = BufWriter::with_capacity(128 << 10, writer);
            engine.graph.save(&images, &mut output)?;
            output.flush().map_err(|error| Error::system(format!("send the archive: {error}")))?;
            for (image, _) in images {
                let attributes = BTreeMap::from([("name".to_owned(), image.id.to_string())]);
                engine.events.publish("image", "save", image.id.as_str(), attributes);
            }
            Ok(())
        });
        tokio::select! {
            () = context.cancelled.cancelled() => Err(Error::unavailable("the job was cancelled")),
            sent = sending => sent,
        }
    }
}

/// The images with the names that they are to have in the archive, each image once.
fn choose(engine: &Engine, names: &[String]) -> Result<Vec<(Arc<Image>, Vec<Reference>)>> {
    let mut chosen: Vec<(Arc<Image>, Vec<Reference>)> = Vec::new();
    let mut add = |image: Arc<Image>, name: Option<Reference>| {
        let index = chosen.iter().position(|(other, _)| other.id == image.id).unwrap_or(chosen.len());
        if index == chosen.len() {
            chosen.push((image, Vec::new()));
        }
        if let Some(name) = name.filter(|name| !chosen[index].1.contains(name)) {
            chosen[index].1.push(name);
        }
    };
    if names.is_empty() {
        return Err(Error::invalid("no image was named"));
    }
    let images = engine.graph.images();
    for text in names {
        let parsed = Reference::parse(text).ok();
        let repository = parsed.as_ref().filter(|name| name.tag().is_none() && name.digest().is_none());
        let mut tags = Vec::new();
        if let Some(repository) = repository {
            let same = |name: &&Reference| name.repository() == repository.repository() && name.tag().is_some();
            tags.extend(images.all_names().map(|(name, _)| name).filter(same).cloned());
        }
        if tags.is_empty() {
            let image = crate::images::find(engine, text)?;
            let by_tag = parsed.filter(|name| name.tag().is_some() && name.digest().is_none());
            add(image, by_tag.filter(|name| images.by_name(name).is_some()));
            continue;
        }
        for tag in tags {
            if let Some(image) = images.by_name(&tag) {
                add(Arc::clone(image), Some(tag));
            }
        }
    }
    Ok(chosen)
}
