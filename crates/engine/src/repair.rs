//! Repairing images: what is damaged is fetched again from the registry that it came from.

use std::collections::BTreeMap;
use std::sync::Arc;

use gantry_api::reference::{Digest, Reference};
use gantry_graph::{Finding, Outcome, Place, Problem, Repair};
use gantry_registry::{Platform, Pull};
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::error::Result;
use crate::images::GraphSink;

/// What came of fetching each image: the name that it came by, or why it did not come.
pub type Fetched = BTreeMap<Digest, std::result::Result<Reference, String>>;

/// Fetches every image that something damaged is a part of. What was brought by one is not fetched for the next.
pub async fn fetch(engine: &Arc<Engine>, damaged: &[Finding], cancelled: &CancellationToken) -> Fetched {
    let mut fetched = Fetched::new();
    for finding in damaged {
        for (image, names) in engine.graph.sources(&finding.place) {
            if engine.graph.is_whole(&finding.place) || fetched.contains_key(&image) {
                continue;
            }
            let mut came = Err("no registry is known for it: load it again".to_owned());
            for name in names {
                came = bring(engine, &image, &name, cancelled).await.map(|()| name);
                if came.is_ok() {
                    break;
                }
            }
            fetched.insert(image, came);
        }
    }
    fetched
}

/// Pulls an image by its digest. Credentials are the clients': where the registry wants some, a person has to pull.
async fn bring(
    engine: &Arc<Engine>,
    image: &Digest,
    name: &Reference,
    cancelled: &CancellationToken,
) -> std::result::Result<(), String> {
    let platform = engine.graph.images().get(image).and_then(|image| {
        let config = &image.config;
        let words = [&config.os, &config.architecture, &config.variant];
        let words: Vec<_> = words.into_iter().filter(|word| !word.is_empty()).map(String::as_str).collect();
        words.join("/").parse::<Platform>().ok()
    });
    let request = Pull { reference: name.clone(), platform, auth: None };
    let sink = Arc::new(GraphSink::of(engine));
    let pulled = engine.registry.pull(request, sink, Arc::new(|_| {}), cancelled.clone()).await;
    match pulled {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("fetching it failed: {error}: pull {} again", name.familiar())),
    }
}

/// What came of a finding when everything was tried; with `remove` what cannot be repaired goes.
///
/// # Errors
/// The database's and the driver's.
pub fn outcome(engine: &Engine, finding: &Finding, fetched: &Fetched, remove: bool) -> Result<Outcome> {
    let place = &finding.place;
    let sources = engine.graph.sources(place);
    if engine.graph.is_whole(place) {
        let came = sources.iter().find_map(|(image, _)| fetched.get(image)?.as_ref().ok());
        let Some(name) = came else { return Ok(Outcome::Repaired(Repair::Removed(Vec::new()))) };
        let images: Vec<&Digest> = sources.iter().map(|(image, _)| image).collect();
        return Ok(Outcome::Repaired(Repair::Fetched {
            from: name.familiar(),
            running: running(engine, finding, &images),
        }));
    }
    if let (Place::Container(id), true) = (place, remove) {
        return forget(engine, id);
    }
    if let (Place::Lost(id), true) = (place, remove)
        && let Some(reason) = needed(engine, id)?
    {
        return Ok(Outcome::Unrepaired(format!("kept: {reason}")));
    }
    if remove && matches!(place, Place::Image(_) | Place::Layer(_) | Place::Document(_) | Place::Lost(_)) {
        return Ok(engine.graph.give_up(place, &crate::images::users(engine))?);
    }
    let failed = sources.iter().find_map(|(image, _)| fetched.get(image)?.as_ref().err());
    Ok(Outcome::Unrepaired(match (failed, place) {
        (Some(why), _) => format!("{why}, or remove its images (--remove)"),
        (None, Place::Layer(_)) => {
            "its image was removed, and containers stand on it: pull or load the image again".to_owned()
        }
        (None, Place::Container(_)) => {
            "there is no copy of its record: --remove removes it with its files, if it does not run".to_owned()
        }
        (None, Place::Lost(_)) => {
            "its record was lost with a damaged database, see quarantine/ in the data root: --remove deletes it"
                .to_owned()
        }
        (None, _) => "nothing is known that could repair it".to_owned(),
    }))
}

/// Why a directory without a record must stay: it runs, or a container whose image is gone may stand on it.
fn needed(engine: &Engine, id: &str) -> Result<Option<String>> {
    if engine.drivers.exec.list()?.iter().any(|running| running == id) {
        return Ok(Some("it runs".to_owned()));
    }
    let images = engine.graph.images();
    let lacks = |user: &gantry_graph::Use| images.get(&user.image).is_none();
    let user = crate::images::users(engine).into_iter().find(lacks);
    Ok(user.map(|user| format!("container {} has lost its image and may stand on it", user.container)))
}

/// Removes a container whose record cannot be read.
fn forget(engine: &Engine, id: &str) -> Result<Outcome> {
    if engine.drivers.exec.list()?.iter().any(|running| running == id) {
        return Ok(Outcome::Unrepaired("kept: it runs".to_owned()));
    }
    engine.containers.forget(id)?;
    engine.graph.remove_container_layer(id)?;
    crate::lifecycle::remove::put_aside(engine, id)?;
    Ok(Outcome::Repaired(Repair::Removed(Vec::new())))
}

/// The containers that run on what was replaced.
fn running(engine: &Engine, finding: &Finding, images: &[&Digest]) -> Vec<String> {
    if !matches!(finding.problem, Problem::Altered(_) | Problem::Missing | Problem::StandsOn(_))
        || matches!(finding.place, Place::Document(_))
    {
        return Vec::new();
    }
    let users = crate::images::users(engine).into_iter().filter(|user| user.running && images.contains(&&user.image));
    users.map(|user| user.container.get(..12).unwrap_or(&user.container).to_owned()).collect()
}
