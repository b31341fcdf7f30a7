//! The server: accepts connections until it is told to stop, then lets what runs end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use gantry_transport::{Peer, Stream};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use super::connection;
use super::gc::{Collector, Finding, Policy};
use super::hooks::{Access, Anybody, Door, Observer, Secure};
use super::limits::caller;
use super::proxy::Cache;
use super::repositories::{Repositories, Sparse};
use super::seats::{Seat, Seats};
use super::store::Storage;
use super::uploads::Uploads;

/// After a failed accept: descriptors may be free again.
const PAUSE: Duration = Duration::from_millis(50);
const HOUR: Duration = Duration::from_secs(3600);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What can be set of a registry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Nothing is changed by a request.
    pub read_only: bool,
    /// The largest manifest that is taken.
    pub manifest_limit: usize,
    /// What may be missing of a manifest that is taken.
    pub sparse: Sparse,
    /// What goes when; nothing does where it is none.
    pub collection: Option<Policy>,
    /// How long after a collection the next one begins.
    pub collect_every: Duration,
    /// How long a connection that is one too many may take to ask for something, and then to take in that it is.
    pub refusal: Duration,
    /// How long what runs may go on after the server was told to stop.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            read_only: false,
            manifest_limit: 4 << 20,
            sparse: Sparse::default(),
            collection: None,
            collect_every: HOUR,
            refusal: Duration::from_secs(5),
            drain: Duration::from_secs(30),
        }
    }
}

/// A registry that can be served.
pub struct Server {
    /// What it has.
    pub repositories: Repositories,
    /// What is on its way in.
    pub uploads: Uploads,
    /// Requests that go on when their client is gone: what came is kept.
    pub(super) work: TaskTracker,
    /// What was set.
    pub settings: Settings,
    /// Who may do what.
    pub access: Arc<dyn Access>,
    /// Where a miss is asked for.
    pub upstream: Option<Arc<Cache>>,
    /// Who is told of requests.
    pub observers: Vec<Arc<dyn Observer>>,
    /// What is answered beside the protocol.
    pub doors: Vec<Arc<dyn Door>>,
    /// TLS.
    pub secure: Option<Arc<dyn Secure>>,
}

impl Server {
    /// One that everybody may use, without TLS.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, uploads: Uploads, settings: Settings) -> Self {
        Self {
            repositories: Repositories::new(storage),
            uploads,
            work: TaskTracker::new(),
            settings,
            access: Arc::new(Anybody),
            upstream: None,
            observers: Vec::new(),
            doors: Vec::new(),
            secure: None,
        }
    }

    /// Serves until `stop`, then finishes the requests that run. Returns how many connections had to be cut off.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) -> usize {
        let connections = TaskTracker::new();
        let collecting = tokio::spawn(Arc::clone(&self).collect(stop.clone()));
        // Each may have a file open beside its socket. Who finds no place waits in the kernel's queue.
        let count = (gantry_transport::descriptor_limit() / 3).max(64);
        let (places, seats) = (Arc::new(Semaphore::new(count)), Arc::new(Seats::default()));
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>((place, listener.accept().await?))
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = next => accepted,
            };
            match accepted {
                Ok((place, (stream, address))) => {
                    let limit = match self.access.connection_limit() {
                        None => count / 2,
                        Some(0) => usize::MAX,
                        Some(limit) => limit,
                    };
                    let Some(seat) = seats.take(caller(address.ip()), limit) else { continue };
                    if let Err(error) = stream.set_nodelay(true) {
                        // Only slower.
                        warn!("switch off delays of a connection from {address}: {error}");
                    }
                    let (server, stop) = (Arc::clone(&self), stop.clone());
                    let peer = Peer::Remote { address, subject: None };
                    let connected = server.connect(Stream::Tcp(stream), peer, seat, stop);
                    connections.spawn(async move {
                        connected.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!("accept a connection: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(listener);
        collecting.abort();
        connections.close();
        self.work.close();
        let ended = async {
            connections.wait().await;
            self.work.wait().await;
        };
        // What cannot be finished is cut off: its bytes are kept, and the upload goes on where it was.
        let _ = tokio::time::timeout(self.settings.drain, ended).await;
        connections.len()
    }

    /// Collects garbage every now and then.
    async fn collect(self: Arc<Self>, stop: CancellationToken) {
        let Some(policy) = &self.settings.collection else { return };
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.settings.collect_every) => {}
            }
            let mut tell = |finding: &Finding| {
                let repository = finding.repository.as_ref().map_or("", |name| name.as_str());
                info!(kind = finding.kind, repository, name = finding.name, "collected: {}", finding.reason);
            };
            let collector = Collector {
                repositories: &self.repositories,
                uploads: Some(&self.uploads),
                policy,
                dry: false,
                tell: &mut tell,
                now: &SystemTime::now,
            };
            match collector.run().await {
                Ok(collected) => {
                    for (name, reason) in &collected.left_alone {
                        warn!("garbage of {name} stays: {reason}");
                    }
                    self.observers.iter().for_each(|observer| observer.collected(&collected));
                }
                Err(error) => warn!("a collection of garbage broke off, the next one begins anew: {error}"),
            }
        }
    }

    async fn connect(self: Arc<Self>, stream: Stream, peer: Peer, seat: Seat, stop: CancellationToken) {
        let (stream, certificate) = match &self.secure {
            None => (stream, None),
            Some(secure) => match tokio::time::timeout(HANDSHAKE, secure.secure(stream)).await {
                Ok(Ok(secured)) => (secured.stream, secured.certificate),
                Ok(Err(error)) => return info!("TLS handshake with {peer:?}: {error}"),
                Err(_) => return info!("TLS handshake with {peer:?} took longer than {HANDSHAKE:?}"),
            },
        };
        connection::serve(self, stream, peer, certificate, seat.refusal(), stop).await;
    }
}
