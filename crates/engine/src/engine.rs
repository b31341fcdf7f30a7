//! The engine: the store of containers, the drivers, and the one place where jobs run.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_execdriver::Exit;
use gantry_graph::Graph;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;
use tracing::{Level, debug, info, warn};

use crate::audit::{Audit, Entry};
use crate::container::store::Store;
use crate::error::{Error, Result};
use crate::events::Events;
use crate::job::{Class, Context, Environment, Job};
use crate::lifecycle;
use crate::networks::{self, Networks};
use crate::options::{Drivers, Options};
use crate::policy::{self, Deed};
use crate::spec::apparmor::AppArmor;
use crate::spec::seccomp::Programs;
use crate::table::JobTable;
use crate::volumes::Volumes;

/// The daemon's core.
pub struct Engine {
    pub(crate) options: Options,
    pub(crate) drivers: Drivers,
    pub(crate) containers: Store,
    pub(crate) graph: Graph,
    pub(crate) volumes: Volumes,
    pub(crate) networks: Networks,
    pub(crate) names: gantry_networkdriver::names::Resolver,
    pub(crate) events: Events,
    pub(crate) jobs: JobTable,
    pub(crate) seccomp: Programs,
    pub(crate) apparmor: AppArmor,
    pub(crate) host: crate::spec::host::Host,
    pub(crate) registry: gantry_registry::Registry,
    pub(crate) pulls: crate::images::Pulls,
    /// Ends of containers, reported by the execdriver's thread.
    pub(crate) exits: mpsc::UnboundedSender<(String, Exit)>,
    /// Work that goes on after its job: teardown, restarts.
    pub(crate) background: TaskTracker,
    audit: Option<Audit>,
    stopping: AtomicBool,
    sweep: Arc<tokio::sync::Notify>,
}

impl Engine {
    /// Opens the data root with these drivers and takes up the containers that an earlier daemon left.
    ///
    /// # Errors
    /// When the data root cannot be used.
    pub async fn start(options: Options, drivers: Drivers) -> Result<Arc<Self>> {
        let (exits, ended) = mpsc::unbounded_channel();
        let engine = blocking(move || Self::open(options, drivers, exits)).await?;
        networks::names::follow(&engine);
        tokio::spawn(lifecycle::exit::watch(Arc::downgrade(&engine), ended));
        engine.background.spawn(load_apparmor_profile(Arc::clone(&engine)));
        tokio::spawn(sweep(Arc::downgrade(&engine), Arc::clone(&engine.sweep)));
        lifecycle::recover::all(&engine).await;
        engine.sweep.notify_one();
        tokio::spawn(back_up(Arc::downgrade(&engine)));
        Ok(engine)
    }

    fn open(options: Options, drivers: Drivers, exits: mpsc::UnboundedSender<(String, Exit)>) -> Result<Arc<Self>> {
        gantry_linux::fs::create_dir_mode(&options.data_root, 0o710)?;
        gantry_linux::fs::create_dir_mode(options.data_root.join("containers"), 0o710)?;
        if let Some(map) = &options.userns_remap {
            crate::spec::users::check(map, &options.data_root)?;
        }
        let graph = Graph::open(&options.data_root, Arc::clone(&drivers.graph))?;
        let containers = Store::load(graph.clone(), &options.data_root)?;
        for (id, reason) in containers.unreadable() {
            warn!("the record of container {id} cannot be read and was left alone: {reason}");
        }
        let registry = gantry_registry::Registry::new(crate::images::registry_options(&options)?);
        Ok(Arc::new(Self {
            volumes: Volumes::open(options.data_root.join("volumes"), graph.clone())?,
            networks: Networks::open(graph.clone(), &options, &drivers)?,
            names: networks::names::open(&options, &drivers)?,
            host: crate::spec::host::Host::discover()?,
            audit: options.audit_log.as_deref().map(Audit::open).transpose()?,
            options,
            drivers,
            containers,
            graph,
            registry,
            exits,
            events: Events::default(),
            jobs: JobTable::default(),
            seccomp: Programs::default(),
            apparmor: AppArmor::discover(),
            pulls: crate::images::Pulls::default(),
            background: TaskTracker::new(),
            stopping: AtomicBool::new(false),
            sweep: Arc::default(),
        }))
    }

    /// Runs a job to its end.
    ///
    /// A job that changes state goes on when the caller stops waiting; others end with the caller.
    ///
    /// # Errors
    /// As the job; `Unavailable` when the daemon is shutting down.
    pub async fn run<J: Job>(self: &Arc<Self>, job: J, environment: Environment) -> Result<J::Output> {
        // As its caller put it, for the log.
        let arguments = job.arguments();
        let job = self.judge(job, &environment, &arguments).await?;
        if self.stopping.load(Ordering::Acquire) && environment.parent.is_none() {
            return Err(Error::unavailable(format!("{}: the daemon is shutting down", J::NAME)));
        }
        let engine = Arc::clone(self);
        if !J::CLASS.outlives_caller() {
            return engine.execute(job, arguments, environment).await;
        }
        // Tracked, so that a shutdown waits for it.
        let task = self.background.spawn(async move { engine.execute(job, arguments, environment).await });
        task.await.unwrap_or_else(|panic| Err(Error::system(format!("{}: the job crashed: {panic}", J::NAME))))
    }

    /// Asks the policy of the caller's door, once: what a job starts itself is part of what was allowed.
    async fn judge<J: Job>(self: &Arc<Self>, mut job: J, environment: &Environment, arguments: &str) -> Result<J> {
        let asked = environment.door.as_ref().filter(|door| environment.parent.is_none() && door.is_guarded());
        let Some(door) = asked else { return Ok(job) };
        let (engine, guard) = (Arc::clone(self), Arc::clone(door));
        let judge = move || {
            if let Some(known) = guard.known(&engine) {
                job.identify(&known);
            }
            let deed = Deed { job: J::NAME, reads: J::READS, subject: job.subject() };
            guard.judge(&engine, &deed).map(|()| job)
        };
        // Where a path leads is asked of its file system, which may be silent.
        let judged = if policy::follows_paths(J::NAME, J::READS) { blocking(judge).await } else { judge() };
        if let Err(error) = &judged {
            let caller = &environment.caller;
            info!(job = J::NAME, %caller, door = door.name(), "refused: {error}");
            Entry::begin(self.audit.as_ref(), J::NAME, arguments, environment).end("denied", Some(&error.message));
        }
        judged
    }

    /// Opens the audit log anew.
    ///
    /// # Errors
    /// When it cannot be opened; the old file stays in use.
    pub fn reopen_audit_log(&self) -> Result<()> {
        self.audit.as_ref().map_or(Ok(()), Audit::reopen)
    }

    async fn execute<J: Job>(
        self: Arc<Self>,
        job: J,
        arguments: String,
        environment: Environment,
    ) -> Result<J::Output> {
        let place = self.jobs.enter(J::NAME, J::CLASS, arguments.clone(), &environment);
        let (id, parent, caller) = (place.id, environment.parent, environment.caller.clone());
        debug!(job = J::NAME, id, parent, %caller, arguments, "job started");
        let audit = self.audit.as_ref().filter(|_| !J::READS);
        let entry = Entry::begin(audit, J::NAME, &arguments, &environment);
        let context = Context { engine: Arc::clone(&self), id, environment, cancelled: place.cancelled.clone() };
        let result = job.run(context).await;
        let error = result.as_ref().err().map(ToString::to_string);
        let took = place.end(error.clone());
        let status = error.as_deref().unwrap_or("ok");
        entry.end(if error.is_some() { "failed" } else { "done" }, error.as_deref());
        if J::CLASS == Class::Read || !tracing::enabled!(Level::INFO) {
            debug!(job = J::NAME, id, parent, ?took, status, "job ended");
        } else {
            info!(job = J::NAME, id, parent, %caller, arguments, ?took, status, "job ended");
        }
        result
    }

    /// Refuses new jobs, cancels the long ones, and waits for what is under way. Containers go on.
    pub async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.jobs.cancel_all();
        self.background.close();
        let deadline = std::time::Duration::from_secs(10);
        if tokio::time::timeout(deadline, self.background.wait()).await.is_err() {
            warn!("background work did not end within {deadline:?}");
        }
        let (graph, data_root) = (self.graph.clone(), self.options.data_root.clone());
        if let Err(error) = blocking(move || back_up_now(&graph, &data_root)).await {
            warn!("back the database up: {error}");
        }
    }

    /// Gives to the kernel what is free in the heap, on a thread that may take its time: many of those who needed it have left.
    pub fn give_back_memory(&self) {
        tokio::task::spawn_blocking(gantry_linux::memory::give_back);
    }

    /// Whether the daemon is leaving.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The settings.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// Lets the space of removed layers come back soon.
    pub(crate) fn sweep_soon(&self) {
        self.sweep.notify_one();
    }
}

/// Has the default AppArmor profile loaded, off every path that somebody waits for; a container that starts meanwhile
/// waits for it.
async fn load_apparmor_profile(engine: Arc<Engine>) {
    match engine.apparmor.lacking() {
        _ if !engine.apparmor.visible() => {}
        Some(lacking) => warn!("{lacking}"),
        None => {
            if let Err(error) = blocking(move || engine.apparmor.refresh()).await {
                warn!("{error}");
            }
        }
    }
}

/// How old the backup of a database that changes may get.
const BACKUP_EVERY: std::time::Duration = std::time::Duration::from_secs(60);

/// Keeps a good copy of the database, off every path that somebody waits for.
async fn back_up(engine: std::sync::Weak<Engine>) {
    let mut tick = tokio::time::interval(BACKUP_EVERY);
    loop {
        tick.tick().await;
        let parts = engine.upgrade().map(|engine| (engine.graph.clone(), engine.options.data_root.clone()));
        let Some((graph, data_root)) = parts else { return };
        if let Err(error) = blocking(move || back_up_now(&graph, &data_root)).await {
            warn!("back the database up: {error}");
        }
    }
}

fn back_up_now(graph: &Graph, data_root: &Path) -> Result<()> {
    if graph.back_up()? {
        networks::backed_up(graph, data_root);
    }
    Ok(())
}

/// How often it is looked for what has become too old.
const SWEEP_EVERY: std::time::Duration = std::time::Duration::from_secs(3600);

/// Deletes removed layers, directories, volumes and old downloads, and measures new layers, off every path that somebody waits for.
async fn sweep(engine: std::sync::Weak<Engine>, wanted: Arc<tokio::sync::Notify>) {
    let mut tick = tokio::time::interval(SWEEP_EVERY);
    loop {
        tokio::select! {
            () = wanted.notified() => {}
            _ = tick.tick() => {}
        }
        let Some(engine) = engine.upgrade() else { return };
        let result = blocking(move || {
            let downloads = engine.registry.sweep_downloads();
            let layers = release_replaced(&engine).and_then(|()| Ok(engine.graph.sweep()?));
            let directories = lifecycle::remove::sweep_directories(&engine);
            // Most often an image has come or gone before.
            gantry_linux::memory::give_back();
            directories.and(layers).and(downloads.map_err(Error::from))
        });
        if let Err(error) = result.await {
            warn!("give back the space of what was removed: {error}");
        }
    }
}

/// Layers that good ones took the place of stay as long as a container may have them mounted.
fn release_replaced(engine: &Engine) -> Result<()> {
    engine.graph.release_replaced(|| {
        // Whatever a record says: a supervisor may have its container's root.
        let mut busy = engine.drivers.exec.list()?;
        let containers = engine.containers.all();
        let changing = containers
            .iter()
            .filter(|container| container.record().state.has_processes() || container.operation.try_lock().is_err());
        busy.extend(changing.map(|container| container.id().to_owned()));
        Ok(busy)
    })
}

/// Runs blocking work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panic| Err(Error::system(format!("a task crashed: {panic}"))))
}
