//! `gantry daemon`: reads its settings, wires the drivers, runs the job `serveapi` until a signal ends it.

mod activation;
mod doors;
mod flags;
mod pidfile;
mod reload;
mod remap;
mod wiring;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};
use gantry_engine::{Door, Engine, Environment};
use gantry_linux::{fs, memory};
use gantry_server::ServeApi;
use gantry_transport::ServerTls;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use flags::Flags;
use reload::Reload;

/// Set by a client that starts the daemon in the background.
const DETACH: &str = "GANTRY_DETACH";

/// Runs the daemon.
#[allow(clippy::print_stderr, reason = "the log is not up yet")]
pub fn main(args: &[std::ffi::OsString]) -> ExitCode {
    let command = Flags::command().name("gantry daemon");
    let matches = match command.try_get_matches_from(args.iter().skip(1)) {
        Ok(matches) => matches,
        Err(error) => {
            // Help goes to standard output, mistakes to standard error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    let read = move || Flags::from_arg_matches(&matches).map_err(Into::into).and_then(|f| f.with_config_file(&matches));
    let flags = match read() {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("gantry daemon: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    memory::be_frugal();
    let log = log(&flags);
    match run(flags, |tls, doors, flags| Reload { tls, doors, log, flags, read: Box::new(read) }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(flags: &Flags) -> reload::LogHandle {
    let (filter, handle) = tracing_subscriber::reload::Layer::new(EnvFilter::new(flags.log_filter()));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false).with_ansi(false);
    tracing_subscriber::registry().with(filter).with(lines).init();
    handle
}

fn run(flags: Flags, reload: impl FnOnce(Option<Arc<ServerTls>>, Vec<Arc<Door>>, Flags) -> Reload) -> Result<()> {
    // Before anything else takes their numbers.
    let given = activation::sockets()?;
    let doors = flags.doors.plan(&flags.exec_root, &given)?;
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("the daemon needs to be root: it makes namespaces, cgroups, mounts and network links; use sudo");
    }
    if std::env::var_os(DETACH).is_some() {
        // Already a leader of its session: then it is detached.
        let _ = rustix::process::setsid();
    }
    // What a daemon left is not looked for at a place that is made now.
    if !flags.clear_network {
        fs::create_dir_mode(&flags.data_root, 0o710)?;
    }
    fs::create_dir_mode(&flags.exec_root, 0o711)?;
    let _pidfile = pidfile::PidFile::claim(&flags.pidfile())?;
    if flags.clear_network {
        return wiring::clear_network(&flags);
    }
    let options = flags.engine_options()?;
    // Drivers start processes: before there are threads.
    let drivers = wiring::drivers(&flags)?;
    // Every connection needs a descriptor. Not before: containers do not inherit it.
    if let Err(error) = gantry_transport::raise_descriptor_limit() {
        warn!("have more open files: {error}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(serve(flags, options, drivers, (doors, given), reload));
    // What still blocks on a kernel call must not hold the exit up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

async fn serve(
    flags: Flags,
    options: gantry_engine::Options,
    drivers: gantry_engine::Drivers,
    (doors, given): (doors::Planned, Vec<activation::Given>),
    reload: impl FnOnce(Option<Arc<ServerTls>>, Vec<Arc<Door>>, Flags) -> Reload,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    let doors::Doors { listeners, tls } = doors.open(given)?;
    let started = std::time::Instant::now();
    let engine = Engine::start(options, drivers).await?;
    info!(took = ?started.elapsed(), data_root = %flags.data_root.display(), "the engine is up");
    let _link = wiring::link_docker_socket(&flags);
    let mut reload = reload(tls, listeners.iter().map(|(_, door)| Arc::clone(door)).collect(), flags);
    let serving = Arc::clone(&engine);
    let mut job = tokio::spawn(async move { serving.run(ServeApi { listeners }, Environment::default()).await });
    // Connections wait in the sockets' queues from the moment that they are bound.
    activation::tell(&[NotifyState::Ready]);
    tokio::spawn(activation::keep_watchdog_quiet(Arc::downgrade(&engine)));
    let ended = loop {
        tokio::select! {
            ended = &mut job => break Some(ended),
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            _ = hangup.recv() => {
                let engine = Arc::clone(&engine);
                let done = tokio::task::spawn_blocking(move || {
                    reload.run(&engine);
                    reload
                });
                reload = done.await.context("read the settings again")?;
            }
        }
    };
    if let Some(ended) = ended {
        return Ok(ended.context("the job serveapi")??);
    }
    info!("stopping: containers go on");
    activation::tell(&[NotifyState::Stopping]);
    engine.stop().await;
    if let Err(error) = job.await.context("the job serveapi")? {
        info!("{error}");
    }
    Ok(())
}
