//! `containers_prune`, `images_prune`, `volumes_prune`, `networks_prune`: remove what nobody uses.

use std::collections::{BTreeMap, HashSet};

use gantry_api::filters::Filters;
use gantry_api::image::ImageDeleted;
use gantry_api::prune::{PrunedContainers, PrunedImages, PrunedNetworks, PrunedVolumes};
use gantry_api::reference::Digest;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::container::State;
use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::lifecycle;

/// Marks a volume that was made without a name.
pub(crate) const ANONYMOUS: &str = "com.docker.volume.anonymous";

/// Removes every container that does not run.
pub struct ContainersPrune {
    /// `until`, `label`, `label!`.
    pub filters: Option<String>,
}

/// Removes images that nothing names or, with `dangling=false`, that no container uses.
pub struct ImagesPrune {
    /// `dangling`, `until`, `label`, `label!`.
    pub filters: Option<String>,
}

/// Removes volumes that no container uses: those without a name or, with `all`, every one.
pub struct VolumesPrune {
    /// `all`, `label`, `label!`.
    pub filters: Option<String>,
    /// Before API 1.42 named ones went as well.
    pub all: bool,
}

/// Removes networks that no container uses.
pub struct NetworksPrune {
    /// `until`, `label`, `label!`.
    pub filters: Option<String>,
}

impl Job for ContainersPrune {
    const NAME: &'static str = "containers_prune";
    const DOC: &'static str = "removes every container that does not run";
    const CLASS: Class = Class::Change;
    type Output = PrunedContainers;

    async fn run(self, context: Context) -> Result<PrunedContainers> {
        let filters = Filters::parse(self.filters.as_deref(), &["label", "label!", "until"])?;
        let until = until(&filters)?;
        let engine = context.engine;
        let mut pruned = PrunedContainers::default();
        for container in engine.containers.all() {
            let record = container.record();
            let ended = matches!(record.state, State::Created { .. } | State::Exited(_) | State::Dead(_));
            if !ended || !filters.labels(&record.labels()) || until.is_some_and(|until| record.created >= until) {
                continue;
            }
            let (worker, id) = (std::sync::Arc::clone(&engine), record.id.clone());
            let size = blocking(move || Ok(worker.graph.container_size(&id).map_or(0, |(own, _)| own))).await?;
            match lifecycle::remove::remove(&engine, &container, false, false).await {
                Ok(()) => {
                    pruned.containers_deleted.get_or_insert_default().push(record.id.clone());
                    pruned.space_reclaimed += size;
                }
                // It was started meanwhile, or removed by somebody else.
                Err(error) => tracing::info!(container = record.id, %error, "not pruned"),
            }
        }
        publish(&engine, "container", pruned.space_reclaimed);
        Ok(pruned)
    }
}

impl Job for ImagesPrune {
    const NAME: &'static str = "images_prune";
    const DOC: &'static str = "removes images that nothing names or uses";
    const CLASS: Class = Class::Change;
    type Output = PrunedImages;

    async fn run(self, context: Context) -> Result<PrunedImages> {
        let filters = Filters::parse(self.filters.as_deref(), &["dangling", "label", "label!", "until"])?;
        let until = until(&filters)?;
        let engine = context.engine;
        blocking(move || prune_images(&engine, &filters, until)).await
    }
}

fn prune_images(engine: &Engine, filters: &Filters, until: Option<Timestamp>) -> Result<PrunedImages> {
    let dangling = filters.boolean("dangling")?.unwrap_or(true);
    let before = engine.graph.layers_size();
    let mut deleted: Vec<ImageDeleted> = Vec::new();
    let mut failed = HashSet::new();
    // What an image was made on top of can go only after it.
    loop {
        let gone = deleted.len();
        prune_tops(engine, filters, until, dangling, &mut deleted, &mut failed);
        if deleted.len() == gone {
            break;
        }
    }
    let mut space_reclaimed = before.saturating_sub(engine.graph.layers_size());
    // What was downloaded of images that never came has no labels.
    if ["label", "label!"].iter().all(|key| filters.get(key).next().is_none()) {
        let age = until.map(|until| Timestamp::now().duration_since(until).unsigned_abs()).unwrap_or_default();
        let cleared = engine.registry.clear_downloads(age)?;
        space_reclaimed += cleared.bytes;
        // Docker's CLI tells of no space where nothing was deleted.
        let gone = |blob: Digest| ImageDeleted { deleted: blob.to_string(), ..ImageDeleted::default() };
        deleted.extend(cleared.blobs.into_iter().map(gone));
    }
    publish(engine, "image", space_reclaimed);
    Ok(PrunedImages { images_deleted: Some(deleted).filter(|list| !list.is_empty()), space_reclaimed })
}

/// Removes those that are wanted no more and that no other is made on top of; one that is made upon loses its names only.
/// What could not be removed is not tried again.
fn prune_tops(
    engine: &Engine,
    filters: &Filters,
    until: Option<Timestamp>,
    dangling: bool,
    deleted: &mut Vec<ImageDeleted>,
    failed: &mut HashSet<Digest>,
) {
    let images = engine.graph.images();
    let used: HashSet<Digest> = crate::images::users(engine).into_iter().map(|user| user.image).collect();
    for image in images.iter() {
        if used.contains(&image.id) || failed.contains(&image.id) {
            continue;
        }
        let names = images.names(&image.id);
        let labels = image.config.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        let young = until.is_some_and(|until| super::images::created(image) >= until);
        let nameless = names.iter().all(|name| name.tag().is_none());
        let is_needed = (dangling || names.is_empty()) && images.has_children(&image.id);
        if dangling && !nameless || young || !filters.labels(&labels) || is_needed {
            continue;
        }
        // By its names, as a person would; by its id what has none.
        let mut wanted: Vec<String> = names.iter().map(ToString::to_string).collect();
        if wanted.is_empty() {
            wanted.push(image.id.to_string());
        }
        for name in wanted {
            match super::image_delete::delete(engine, &name, false, true) {
                Ok(steps) => deleted.extend(steps),
                Err(error) => {
                    tracing::info!(image = name, %error, "not pruned");
                    failed.insert(image.id.clone());
                }
            }
        }
    }
}

impl Job for VolumesPrune {
    const NAME: &'static str = "volumes_prune";
    const DOC: &'static str = "removes volumes that no container uses";
    const CLASS: Class = Class::Change;
    type Output = PrunedVolumes;

    async fn run(self, context: Context) -> Result<PrunedVolumes> {
        let filters = Filters::parse(self.filters.as_deref(), &["all", "label", "label!"])?;
        let all = filters.boolean("all")?.unwrap_or(self.all);
        let engine = context.engine;
        blocking(move || {
            if let Some(why) = lifecycle::remove::unknown_users(&engine) {
                return Err(Error::conflict(format!(
                    "no volume was removed: {why}, and may use any of them: see `gantry system fsck`, or remove volumes by name"
                )));
            }
            let mut pruned = PrunedVolumes::default();
            for volume in engine.volumes.all() {
                let labels = volume.labels.clone().unwrap_or_default();
                let in_use = lifecycle::remove::in_use(&engine, &volume.name).is_some();
                if in_use || !(all || labels.contains_key(ANONYMOUS)) || !filters.labels(&labels) {
                    continue;
                }
                let size = gantry_graphdriver::disk_use(std::path::Path::new(&volume.mountpoint)).unwrap_or(0);
                match super::volumes::remove(&engine, &volume.name) {
                    Ok(()) => {
                        pruned.volumes_deleted.get_or_insert_default().push(volume.name.clone());
                        pruned.space_reclaimed += size;
                    }
                    Err(error) => tracing::info!(volume = volume.name, %error, "not pruned"),
                }
            }
            publish(&engine, "volume", pruned.space_reclaimed);
            engine.sweep_soon();
            Ok(pruned)
        })
        .await
    }
}

impl Job for NetworksPrune {
    const NAME: &'static str = "networks_prune";
    const DOC: &'static str = "removes networks that no container uses";
    const CLASS: Class = Class::Change;
    type Output = PrunedNetworks;

    async fn run(self, context: Context) -> Result<PrunedNetworks> {
        let filters = Filters::parse(self.filters.as_deref(), &["label", "label!", "until"])?;
        let until = until(&filters)?;
        let engine = context.engine;
        blocking(move || {
            let mut pruned = PrunedNetworks::default();
            for network in engine.networks.unused(&engine) {
                if !filters.labels(&network.labels) || until.is_some_and(|until| network.created >= until) {
                    continue;
                }
                match super::networks::remove(&engine, &network.definition.id) {
                    Ok(()) => pruned.networks_deleted.get_or_insert_default().push(network.name),
                    // A container has come meanwhile.
                    Err(error) => tracing::info!(network = network.name, %error, "not pruned"),
                }
            }
            publish(&engine, "network", 0);
            Ok(pruned)
        })
        .await
    }
}

/// `until`: a moment (RFC 3339 or seconds since 1970), or how long ago (`24h`).
pub(super) fn until(filters: &Filters) -> Result<Option<Timestamp>> {
    let mut texts = filters.get("until");
    let Some(text) = texts.next() else { return Ok(None) };
    if texts.next().is_some() {
        return Err(Error::invalid("more than one until filter specified"));
    }
    let invalid = || Error::invalid(format!("invalid value for \"until\": {text:?} is neither a time nor a duration"));
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(Some(moment));
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return Timestamp::from_second(seconds).map(Some).map_err(|_| invalid());
    }
    // A time without a zone is one of here, as in the rest of what a person sees of this machine.
    if let Ok(here) = text.parse::<jiff::civil::DateTime>() {
        return here.to_zoned(TimeZone::system()).map(|zoned| Some(zoned.timestamp())).map_err(|_| invalid());
    }
    let ago: SignedDuration = text.parse().map_err(|_| invalid())?;
    Timestamp::now().checked_sub(ago).map(Some).map_err(|_| invalid())
}

fn publish(engine: &Engine, kind: &'static str, reclaimed: u64) {
    engine.events.publish(kind, "prune", "", BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_is_a_moment_or_a_duration() {
        let parse = |text: &str| {
            let mut filters = Filters::default();
            filters.add("until", text);
            until(&filters)
        };
        assert_eq!(parse("2026-01-02T03:04:05Z").unwrap().unwrap().to_string(), "2026-01-02T03:04:05Z");
        assert_eq!(parse("100").unwrap().unwrap().as_second(), 100);
        let hours = (Timestamp::now() - parse("24h").unwrap().unwrap()).total(jiff::Unit::Hour).unwrap();
        assert!((23.9..24.1).contains(&hours), "{hours}");
        assert!(parse("1h30m").is_ok() && parse("yesterday").is_err());
        for here in ["2026-01-02", "2026-01-02T03:04", "2026-01-02T03:04:05.5"] {
            let day = parse(here).unwrap().unwrap().to_zoned(TimeZone::system()).date();
            assert_eq!(day.to_string(), "2026-01-02", "{here}");
        }
    }
}
