//! A registry that caches another one, for the tests of the cache.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gantry_registry::server::config::Span;
use gantry_registry::server::metrics::Metrics;
use gantry_registry::server::proxy::{Cache, CacheSettings, ProxySettings};
use gantry_registry::server::{Root, Server, Settings};
use http::{HeaderMap, Method};
use reqwest::Response;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fake::{Fake, Reply};
use crate::image::digest;

pub const LAYER: usize = 200_000;

/// A directory that goes at the end, also where a fetch that nobody waits for any more still writes there for a moment.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let start = Instant::now();
        while std::fs::remove_dir_all(self.path()).is_err() && self.path().exists() && start.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
    }
}

/// A registry that caches `hub.test`, which is the fake, also as `docker.io`.
pub struct Cached {
    pub directory: Scratch,
    pub address: String,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    pub serving: Option<JoinHandle<usize>>,
}

impl Cached {
    pub async fn new(upstream: &Fake) -> Self {
        Self::with(upstream, &settings()).await
    }

    pub async fn with(upstream: &Fake, settings: &CacheSettings) -> Self {
        Self::at(Scratch::new(), upstream.address, settings).await
    }

    pub async fn at(directory: Scratch, upstream: SocketAddr, settings: &CacheSettings) -> Self {
        let proxy = |name: &str| format!("{name}=http://{upstream}").parse::<ProxySettings>().unwrap();
        let metrics = Arc::new(Metrics::default());
        let proxies = [proxy("hub.test"), proxy("docker.io")];
        let root = directory.path().join("cache");
        let cache = Cache::open(&proxies, settings, &root, metrics.cache.clone()).await.unwrap().unwrap();
        let opened = Root::open(&directory.path().join("root")).unwrap();
        let mut server = Server::new(opened.storage, opened.uploads, Settings::default());
        server.upstream = Some(Arc::new(cache));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stop = CancellationToken::new();
        let (until, lock) = (stop.clone(), opened.lock);
        let serving = tokio::spawn(async move {
            let cut = Arc::new(server).serve(listener, until).await;
            drop(lock);
            cut
        });
        Self { directory, address, metrics, stop, serving: Some(serving) }
    }

    /// Stops it and starts another one in the same place.
    pub async fn again(mut self, upstream: SocketAddr, settings: &CacheSettings) -> Self {
        self.stop.cancel();
        self.serving.take().unwrap().await.unwrap();
        Self::at(self.directory, upstream, settings).await
    }

    pub async fn send(&self, method: Method, path: &str) -> Response {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        client.request(method, format!("http://{}{path}", self.address)).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> Response {
        self.send(Method::GET, path).await
    }

    /// Status, headers, and the body as far as it came.
    pub async fn all(&self, path: &str) -> (u16, HeaderMap, Result<Vec<u8>, reqwest::Error>) {
        let answer = self.get(path).await;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.bytes().await.map(|bytes| bytes.to_vec()))
    }

    pub async fn message(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.all(path).await;
        (status, String::from_utf8_lossy(&body.unwrap()).into_owned())
    }

    pub fn counted(&self, upstream: &str, result: &str) -> u64 {
        let wanted = format!("gantry_registry_cache_answers_total{{upstream=\"{upstream}\",result=\"{result}\"}} ");
        self.metrics.text().lines().find_map(|line| line.strip_prefix(&wanted)?.parse().ok()).unwrap_or(0)
    }

    /// Bytes of content that are kept.
    pub fn kept(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders =
            vec![self.directory.path().join("cache/content"), self.directory.path().join("cache/staging")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).into_iter().flatten().map(Result::unwrap) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if entry.path().is_dir() { folders.push(entry.path()) } else { found.push(name) }
            }
        }
        found.sort();
        found
    }
}

pub fn settings() -> CacheSettings {
    CacheSettings { age: span(0), timeout: span(1), ..CacheSettings::default() }
}

pub fn span(seconds: u64) -> Span {
    Span(Duration::from_secs(seconds))
}

pub fn noise(seed: u8) -> Vec<u8> {
    (0..LAYER).map(|at| seed.wrapping_add(u8::try_from(at % 251).unwrap())).collect()
}

/// A blob at the fake: its path there, its path here, its content.
pub fn blob(fake: &Fake, repository: &str, seed: u8) -> (String, String, Vec<u8>) {
    let content = noise(seed);
    let there = format!("/v2/{repository}/blobs/{}", digest(&content));
    fake.put(&there, Reply::new(200, content.clone()));
    (there, format!("/v2/hub.test/{repository}/blobs/{}", digest(&content)), content)
}
