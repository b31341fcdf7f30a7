//! `volumes`, `volume_create`, `volume_inspect`, `volume_delete`.

use std::collections::BTreeMap;

use gantry_api::filters::Filters;
use gantry_api::volume::{self, Volume, VolumeList};

use crate::engine::{Engine, blocking};
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::lifecycle::remove::in_use;
use crate::policy::Subject;

/// Lists volumes.
pub struct Volumes {
    /// As the query says them.
    pub filters: Option<String>,
}

impl Job for Volumes {
    const NAME: &'static str = "volumes";
    const DOC: &'static str = "lists volumes";
    const CLASS: Class = Class::Read;
    type Output = VolumeList;

    async fn run(self, context: Context) -> Result<VolumeList> {
        let filters = Filters::parse(self.filters.as_deref(), &["dangling", "driver", "label", "name"])?;
        let names = filters.matcher("name")?;
        let dangling = filters.boolean("dangling")?;
        let engine = &context.engine;
        let wanted = |volume: &Volume| {
            context.environment.shows(&volume.labels.clone().unwrap_or_default())
                && names.matches(&volume.name)
                && filters.any("driver", |driver| volume.driver == driver)
                && filters.labels(&volume.labels.clone().unwrap_or_default())
                && dangling.is_none_or(|dangling| in_use(engine, &volume.name).is_none() == dangling)
        };
        let volumes = engine.volumes.all().iter().filter(|v| wanted(v)).map(|v| Volume::clone(v)).collect();
        Ok(VolumeList { volumes, warnings: None })
    }
}

/// Makes a volume.
pub struct VolumeCreate {
    /// What was asked for.
    pub request: volume::VolumeCreate,
}

impl Job for VolumeCreate {
    const NAME: &'static str = "volume_create";
    const DOC: &'static str = "makes a volume";
    const CLASS: Class = Class::Change;
    type Output = Volume;

    fn subject(&self) -> Subject<'_> {
        Subject::NewVolume(&self.request)
    }

    fn arguments(&self) -> String {
        self.request.name.clone()
    }

    async fn run(self, context: Context) -> Result<Volume> {
        let engine = context.engine;
        blocking(move || {
            let (volume, new) = engine.volumes.create(&self.request)?;
            if new {
                let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
                engine.events.publish("volume", "create", &volume.name, attributes);
            }
            Ok(Volume::clone(&volume))
        })
        .await
    }
}

/// Shows a volume.
pub struct VolumeInspect {
    /// Its name.
    pub name: String,
}

impl Job for VolumeInspect {
    const NAME: &'static str = "volume_inspect";
    const DOC: &'static str = "shows a volume";
    const CLASS: Class = Class::Read;
    type Output = Volume;

    fn subject(&self) -> Subject<'_> {
        Subject::Volume(&self.name)
    }

    fn arguments(&self) -> String {
        self.name.clone()
    }

    async fn run(self, context: Context) -> Result<Volume> {
        context.engine.volumes.get(&self.name).map(|volume| Volume::clone(&volume))
    }
}

/// Removes a volume.
pub struct VolumeDelete {
    /// Its name.
    pub name: String,
    /// One that is not there is fine.
    pub force: bool,
}

impl Job for VolumeDelete {
    const NAME: &'static str = "volume_delete";
    const DOC: &'static str = "removes a volume";
    const CLASS: Class = Class::Change;
    type Output = ();

    fn subject(&self) -> Subject<'_> {
        Subject::Volume(&self.name)
    }

    fn arguments(&self) -> String {
        self.name.clone()
    }

    async fn run(self, context: Context) -> Result<()> {
        let engine = context.engine;
        blocking(move || {
            let name = &self.name;
            if self.force && engine.volumes.get(name).is_err() {
                return Ok(());
            }
            remove(&engine, name)
        })
        .await
    }
}

/// Removes a volume that no container uses, and tells everybody.
pub(super) fn remove(engine: &Engine, name: &str) -> Result<()> {
    engine.volumes.get(name)?;
    if let Some(container) = in_use(engine, name) {
        let id = container.id();
        return Err(Error::conflict(format!("remove {name}: volume is in use - [{id}]")));
    }
    engine.volumes.remove(name)?;
    let attributes = BTreeMap::from([("driver".to_owned(), "local".to_owned())]);
    engine.events.publish("volume", "destroy", name, attributes);
    Ok(())
}
