//! `gantry registry serve`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use gantry_registry::server::{Root, Server, Settings, Sparse};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// What can be said to it.
#[derive(Debug, Args)]
pub struct Flags {
    /// Address and port to serve
    #[arg(long, default_value = "127.0.0.1:5000", value_name = "ADDRESS")]
    addr: SocketAddr,
    /// Directory of what is served
    #[arg(long, default_value = "/var/lib/gantry-registry", value_name = "DIR")]
    root: PathBuf,
    /// Refuse whatever would change something
    #[arg(long)]
    read_only: bool,
    /// What may be missing of a manifest that is pushed
    #[arg(long, value_enum, default_value = "indexes", value_name = "WHAT")]
    sparse: SparseFlag,
    /// Seconds that requests may go on after a signal
    #[arg(long, default_value = "30", value_name = "SECONDS")]
    drain: u64,
    /// Log more
    #[arg(short = 'D', long)]
    debug: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SparseFlag {
    /// Nothing
    Nothing,
    /// Manifests that an index lists
    Indexes,
    /// Layers, too
    Anything,
}

/// Serves until SIGTERM or SIGINT.
pub async fn run(flags: Flags) -> Result<ExitCode> {
    log(flags.debug);
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let root = Root::open(&flags.root).context("open the registry's directory")?;
    let settings = Settings {
        read_only: flags.read_only,
        sparse: match flags.sparse {
            SparseFlag::Nothing => Sparse::Nothing,
            SparseFlag::Indexes => Sparse::Indexes,
            SparseFlag::Anything => Sparse::Anything,
        },
        drain: Duration::from_secs(flags.drain),
        ..Settings::default()
    };
    let server = Arc::new(Server::new(Arc::new(root.storage), root.uploads, settings));
    let listener = TcpListener::bind(flags.addr).await.with_context(|| format!("listen on {}", flags.addr))?;
    let address = listener.local_addr().context("ask for the port")?;
    info!(root = %flags.root.display(), "serving images on http://{address}");
    let stop = CancellationToken::new();
    let mut serving = tokio::spawn(server.serve(listener, stop.clone()));
    tokio::select! {
        ended = &mut serving => {
            ended.context("the server")?;
        }
        _ = terminate.recv() => stop.cancel(),
        _ = interrupt.recv() => stop.cancel(),
    }
    info!("stopping: requests that run are finished");
    if !serving.is_finished() {
        let cut = serving.await.context("the server")?;
        if cut > 0 {
            info!("{cut} connections were cut off; what they sent is kept");
        }
    }
    drop(root.lock);
    Ok(ExitCode::SUCCESS)
}

fn log(debug: bool) {
    let level = if debug { "debug" } else { "info" };
    let filter =
        tracing_subscriber::EnvFilter::new(format!("{level},hyper=warn,reqwest=warn,rustls=warn,hickory=warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(false)
        .init();
}
