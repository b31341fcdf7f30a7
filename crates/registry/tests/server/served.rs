//! A server in a temporary directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_registry::server::{Root, Server, Settings};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::client::Client;

/// A server that runs; dropping it stops it as a signal does.
pub struct Served {
    pub client: Client,
    runtime: Option<Runtime>,
    serving: Option<JoinHandle<usize>>,
    stop: CancellationToken,
    root: PathBuf,
    _directory: Option<TempDir>,
}

impl Served {
    pub fn start() -> Self {
        Self::with(Settings::default())
    }

    pub fn with(settings: Settings) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut served = Self::at(directory.path(), settings, |_| {});
        served._directory = Some(directory);
        served
    }

    /// One of a directory that somebody else removes, with whatever is to be set of it.
    pub fn at(root: &Path, settings: Settings, set: impl FnOnce(&mut Server)) -> Self {
        Self::of(Root::open(root).unwrap(), root, runtime(), settings, set)
    }

    /// One of what was opened.
    pub fn of(opened: Root, root: &Path, runtime: Runtime, settings: Settings, set: impl FnOnce(&mut Server)) -> Self {
        let stop = CancellationToken::new();
        let (port, serving) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let mut server = Server::new(opened.storage, opened.uploads, settings);
            set(&mut server);
            let (stop, lock) = (stop.clone(), opened.lock);
            let serving = tokio::spawn(async move {
                let cut = Arc::new(server).serve(listener, stop).await;
                drop(lock);
                cut
            });
            (port, serving)
        });
        Self {
            client: Client { port },
            runtime: Some(runtime),
            serving: Some(serving),
            stop,
            root: root.to_owned(),
            _directory: None,
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// As a signal does: returns how many connections were cut off.
    pub fn stop(&mut self) -> usize {
        self.stop.cancel();
        match (self.runtime.take(), self.serving.take()) {
            (Some(runtime), Some(serving)) => runtime.block_on(serving).unwrap(),
            _ => 0,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop();
    }
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Every file below a directory.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}
