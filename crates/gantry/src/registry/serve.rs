//! `gantry registry serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use gantry_registry::server::front::Front;
use gantry_registry::server::store::Layout;
use gantry_registry::server::{Name, Repositories, Server, Settings, Sparse, Storage};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::settings::{self, SettingFlags};
use super::storage;

/// What can be said to it.
#[derive(Debug, Args)]
pub struct Flags {
    #[command(flatten)]
    settings: SettingFlags,
    /// Serve this OCI layout instead, read-only
    layout: Option<PathBuf>,
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
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    gantry_transport::raise_descriptor_limit().context("raise the limit of descriptors")?;
    let config = flags.settings.config()?;
    let (addr, place) = (settings::addr(&config)?, settings::root(&config));
    config.may_listen(addr)?;
    let layout = match &flags.layout {
        Some(layout) => Some(Layout::open(layout, &name_of(layout)?).await?),
        None => None,
    };
    let root = storage::open(&place, &config.storage).await?;
    let (gc, quota) = (config.gc.clone(), config.quota.clone());
    let front = Front::open(config, &place).await?;
    let settings = Settings {
        read_only: flags.settings.is_read_only() || layout.is_some(),
        collection: gc.policy().filter(|_| layout.is_none()),
        collect_every: gc.every.0,
        sparse: match flags.sparse {
            SparseFlag::Nothing => Sparse::Nothing,
            SparseFlag::Indexes => Sparse::Indexes,
            SparseFlag::Anything => Sparse::Anything,
        },
        drain: Duration::from_secs(flags.drain),
        ..Settings::default()
    };
    let storage: Arc<dyn Storage> = match layout {
        Some(layout) => layout,
        None => root.storage,
    };
    let mut server = Server::new(Arc::clone(&storage), root.uploads, settings);
    server.repositories = Repositories::new(storage).with_quotas(quota);
    front.equip(&mut server);
    let server = Arc::new(server);
    let listener = TcpListener::bind(addr).await.with_context(|| format!("listen on {addr}"))?;
    let address = listener.local_addr().context("ask for the port")?;
    info!(root = %place.display(), "serving images on {}://{address}", front.scheme());
    let stop = CancellationToken::new();
    let mut serving = tokio::spawn(server.serve(listener, stop.clone()));
    loop {
        tokio::select! {
            ended = &mut serving => {
                ended.context("the server")?;
                break;
            }
            _ = hangup.recv() => reload(&flags.settings, &front, address),
            _ = terminate.recv() => break stop.cancel(),
            _ = interrupt.recv() => break stop.cancel(),
        }
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

/// What images of a layout are called that have no name of their own: as its directory.
fn name_of(layout: &Path) -> Result<Name> {
    let layout = gantry_linux::fs::canonicalize(layout).context("open the OCI layout")?;
    let name = layout.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    Ok(name.parse().unwrap_or_else(|_| "image".parse().expect("this is a name")))
}

fn reload(flags: &SettingFlags, front: &Front, listening: SocketAddr) {
    match flags.config().and_then(|config| Ok(front.reload(&config, listening)?)) {
        Ok(other) if other.is_empty() => info!("certificates and configuration were read again"),
        Ok(other) => warn!("read again; what changed in {} needs a restart", other.join(", ")),
        Err(error) => error!("nothing was changed: {error:#}"),
    }
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
