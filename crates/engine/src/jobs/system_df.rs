//! `system_df`: what takes how much of the disk. The sums of images, containers and volumes are what `du` says of the data
//! root: blocks, with documents, database and logs. What is shown beside one image is its content, as everywhere.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use gantry_api::image::ImageSummary;
use gantry_api::usage::{DiskUsage, Usage};
use gantry_api::volume::{Volume, VolumeUsage};
use gantry_graph::Image;

use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};

/// The kinds that can be asked for.
const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];

/// Measures the store.
pub struct SystemDf {
    /// Only these of `container`, `image`, `volume`, `build-cache`; all where empty.
    pub kinds: Vec<String>,
    /// With every object, not only sums (from API 1.52 on; before it always).
    pub verbose: bool,
}

impl Job for SystemDf {
    const NAME: &'static str = "system_df";
    const DOC: &'static str = "tells what takes how much of the disk";
    const CLASS: Class = Class::Read;
    type Output = DiskUsage;

    async fn run(self, context: Context) -> Result<DiskUsage> {
        if let Some(kind) = self.kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
            return Err(Error::invalid(format!("unknown object type: {kind}")));
        }
        let wants = |kind: &str| self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind);
        let (images, volumes) = (wants("image"), wants("volume"));
        let mut containers = match wants("container") {
            true => {
                let job = super::Containers { all: true, limit: 0, size: true, filters: None };
                Some(context.run(job).await?)
            }
            false => None,
        };
        let engine = std::sync::Arc::clone(&context.engine);
        let (layers_size, images, containers, volumes) = blocking(move || {
            let images = if images { Some(summaries(&engine)?) } else { None };
            for container in containers.iter_mut().flatten() {
                container.size_rw = container_disk_use(&engine, &container.id);
            }
            let disk_use = engine.graph.disk_use()? + crate::images::downloads_disk_use(&engine)?;
            Ok((disk_use, images, containers, volumes.then(|| measured_volumes(&engine))))
        })
        .await?;
        let build_cache = wants("build-cache").then(Vec::new);
        let usage = DiskUsage { layers_size, images, containers, volumes, build_cache, ..DiskUsage::default() };
        Ok(if context.environment.version().at_least(52) { sums(usage, self.verbose) } else { usage })
    }
}

/// What a container keeps on the disk: its layer, its logs and the files that the daemon wrote for it. `None` for one that
/// is removed meanwhile.
fn container_disk_use(engine: &Engine, id: &str) -> Option<i64> {
    let record = engine.containers.get(id).ok()?.record();
    let layer = engine.graph.container_disk_use(id).ok()?;
    let files = gantry_graphdriver::disk_use(&record.directory(&engine.options.data_root)).ok()?;
    i64::try_from(layer + files).ok()
}

/// The images with what they share with others, and how many containers use them.
fn summaries(engine: &Engine) -> Result<Vec<ImageSummary>> {
    let images = engine.graph.images();
    let mut holders: HashMap<_, usize> = HashMap::new();
    images.iter().flat_map(|image| &image.layers).for_each(|layer| *holders.entry(&layer.chain_id).or_default() += 1);
    let shared = |image: &Image| -> u64 {
        image.layers.iter().filter(|layer| holders.get(&layer.chain_id).is_some_and(|n| *n > 1)).map(|l| l.size).sum()
    };
    let users = crate::images::users(engine);
    let mut list = super::images::list(engine, &Default::default(), true)?;
    for summary in &mut list {
        let Some(image) = summary.id.parse().ok().and_then(|id| images.get(&id)) else { continue };
        summary.shared_size = i64::try_from(shared(image)).unwrap_or(i64::MAX);
        let used = users.iter().filter(|user| user.image == image.id).count();
        summary.containers = i64::try_from(used).unwrap_or(i64::MAX);
    }
    Ok(list)
}

fn measured_volumes(engine: &Engine) -> Vec<Volume> {
    let records: Vec<_> = engine.containers.all().iter().map(|container| container.record()).collect();
    let measured = engine.volumes.all().into_iter().map(|volume| {
        let users = records.iter().filter(|r| r.mounts.iter().any(|m| m.kind == "volume" && m.name == volume.name));
        // One that is removed meanwhile has no size.
        let size = gantry_graphdriver::disk_use(Path::new(&volume.mountpoint)).ok();
        let usage = VolumeUsage {
            size: size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)),
            ref_count: i64::try_from(users.count()).unwrap_or(i64::MAX),
        };
        Volume { usage_data: Some(usage), ..Volume::clone(&volume) }
    });
    measured.collect()
}

/// The newer form: sums for each kind, the objects only when asked for.
fn sums(usage: DiskUsage, verbose: bool) -> DiskUsage {
    let total = |sizes: &mut dyn Iterator<Item = i64>| sizes.filter(|size| *size > 0).sum::<i64>();
    let items = |list: serde_json::Value| if verbose { Some(list) } else { None };
    let mut newer = BTreeMap::new();
    if let Some(images) = usage.images {
        let used = images.iter().filter(|image| image.containers > 0).map(|image| image.size - image.shared_size);
        let total_size = i64::try_from(usage.layers_size).unwrap_or(i64::MAX);
        newer.insert(
            "ImageUsage".to_owned(),
            Usage {
                total_count: images.len() as u64,
                active_count: images.iter().filter(|image| image.containers > 0).count() as u64,
                total_size,
                reclaimable: (total_size - used.sum::<i64>()).max(0),
                items: items(serde_json::json!(images)),
            },
        );
    }
    if let Some(containers) = usage.containers {
        let active = |state: &str| matches!(state, "running" | "paused" | "restarting");
        let idle = containers.iter().filter(|container| !active(&container.state));
        newer.insert(
            "ContainerUsage".to_owned(),
            Usage {
                total_count: containers.len() as u64,
                active_count: containers.iter().filter(|container| active(&container.state)).count() as u64,
                total_size: total(&mut containers.iter().map(|container| container.size_rw.unwrap_or(0))),
                reclaimable: total(&mut idle.map(|container| container.size_rw.unwrap_or(0))),
                items: items(serde_json::json!(containers)),
            },
        );
    }
    if let Some(volumes) = usage.volumes {
        let size = |volume: &Volume| volume.usage_data.as_ref().map_or(0, |usage| usage.size);
        let used = |volume: &&Volume| volume.usage_data.as_ref().is_some_and(|usage| usage.ref_count > 0);
        newer.insert(
            "VolumeUsage".to_owned(),
            Usage {
                total_count: volumes.len() as u64,
                active_count: volumes.iter().filter(used).count() as u64,
                total_size: total(&mut volumes.iter().map(size)),
                reclaimable: total(&mut volumes.iter().filter(|volume| !used(volume)).map(size)),
                items: items(serde_json::json!(volumes)),
            },
        );
    }
    if usage.build_cache.is_some() {
        newer.insert("BuildCacheUsage".to_owned(), Usage::default());
    }
    DiskUsage { newer, ..DiskUsage::default() }
}
