//! `gantry daemon`: reads its settings, wires the drivers, runs the job `serveapi` until a signal ends it.

mod flags;
mod pidfile;
mod remap;
mod wiring;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::{CommandFactory, FromArgMatches};
use gantry_engine::{Engine, Environment};
use gantry_linux::{fs, memory};
use gantry_server::ServeApi;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use flags::Flags;

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
    let flags = match Flags::from_arg_matches(&matches).map_err(Into::into).and_then(|f| f.with_config_file(&matches)) {
        Ok(flags) => flags,
        Err(error) => {
            eprintln!("gantry daemon: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    memory::be_frugal();
    log(&flags);
    match run(flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(flags: &Flags) {
    let level = if flags.debug { "debug" } else { flags.log_level.as_str() };
    let level = if level == "fatal" { "error" } else { level };
    let filter =
        tracing_subscriber::EnvFilter::new(format!("{level},hyper=warn,reqwest=warn,rustls=warn,hickory=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
}

fn run(flags: Flags) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        anyhow::bail!("the daemon needs to be root: it makes namespaces, cgroups, mounts and network links; use sudo");
    }
    if std::env::var_os(DETACH).is_some() {
        // Already a leader of its session: then it is detached.
        let _ = rustix::process::setsid();
    }
    fs::create_dir_mode(&flags.data_root, 0o710)?;
    fs::create_dir_mode(&flags.exec_root, 0o711)?;
    let _pidfile = pidfile::PidFile::claim(&flags.pidfile())?;
    let options = flags.engine_options()?;
    // Drivers start processes: before there are threads.
    let drivers = wiring::drivers(&flags)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(serve(flags, options, drivers));
    // What still blocks on a kernel call must not hold the exit up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}

async fn serve(flags: Flags, options: gantry_engine::Options, drivers: gantry_engine::Drivers) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let listeners = wiring::listeners(&flags)?;
    let started = std::time::Instant::now();
    let engine = Engine::start(options, drivers).await?;
    info!(took = ?started.elapsed(), data_root = %flags.data_root.display(), "the engine is up");
    let _link = wiring::link_docker_socket(&flags);
    let serving = Arc::clone(&engine);
    let mut job = tokio::spawn(async move { serving.run(ServeApi { listeners }, Environment::default()).await });
    let ended = tokio::select! {
        ended = &mut job => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    if let Some(ended) = ended {
        return Ok(ended.context("the job serveapi")??);
    }
    info!("stopping: containers go on");
    engine.stop().await;
    if let Err(error) = job.await.context("the job serveapi")? {
        info!("{error}");
    }
    Ok(())
}
