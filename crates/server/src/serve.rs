//! `serveapi`: the job that serves the API. It accepts connections until it is cancelled, then lets them end.

use std::sync::Arc;
use std::time::Duration;

use gantry_engine::{Class, Context, Door, Engine, Error, Job, Result};
use gantry_transport::Listener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::connection;

/// Serves the API on these doors.
pub struct ServeApi {
    /// Open doors, and what may be done through each.
    pub listeners: Vec<(Listener, Arc<Door>)>,
}

/// How long connections may take to end after the job was cancelled.
const DRAIN: Duration = Duration::from_secs(5);
/// How many may be in their TLS handshake at once; who comes beyond that is sent away, so that those who are known get in.
const ENTERING: usize = 1024;
/// After a failed accept: descriptors may be free again.
const PAUSE: Duration = Duration::from_millis(50);

impl Job for ServeApi {
    const NAME: &'static str = "serveapi";
    const DOC: &'static str = "serves the Docker Engine API";
    const CLASS: Class = Class::Long;
    type Output = ();

    fn arguments(&self) -> String {
        self.listeners.iter().map(|(listener, _)| listener.endpoint().to_string()).collect::<Vec<_>>().join(" ")
    }

    async fn run(self, context: Context) -> Result<()> {
        let connections = TaskTracker::new();
        let doors = TaskTracker::new();
        let crowd = Crowd::new();
        for (listener, door) in self.listeners {
            info!("serving the API on {}", listener.endpoint());
            doors.spawn(accept(
                listener,
                door,
                Arc::clone(&context.engine),
                context.cancelled.clone(),
                connections.clone(),
                crowd.clone(),
            ));
        }
        doors.close();
        doors.wait().await;
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            return Err(Error::system(format!("{} connections did not end within {DRAIN:?}", connections.len())));
        }
        Ok(())
    }
}

/// How many may be here at once: memory and descriptors stay bounded whatever comes.
#[derive(Clone)]
struct Crowd {
    entering: Arc<Semaphore>,
    all: Arc<Semaphore>,
}

impl Crowd {
    fn new() -> Self {
        // The rest is for containers, layers and the database.
        let all = (gantry_transport::descriptor_limit() / 4 * 3).max(64);
        Self { entering: Arc::new(Semaphore::new(ENTERING)), all: Arc::new(Semaphore::new(all)) }
    }
}

async fn accept(
    listener: Listener,
    door: Arc<Door>,
    engine: Arc<Engine>,
    cancelled: CancellationToken,
    connections: TaskTracker,
    crowd: Crowd,
) {
    loop {
        let next = async {
            // Those who find no place wait in the kernel's queue.
            let place = Arc::clone(&crowd.all).acquire_owned().await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>((place, listener.accept().await?))
        };
        let accepted = tokio::select! {
            () = cancelled.cancelled() => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((place, arrival)) => {
                // Strangers that say nothing must not keep those out who are here already.
                let entering = match listener.is_encrypted().then(|| Arc::clone(&crowd.entering).try_acquire_owned()) {
                    None => None,
                    Some(Ok(entering)) => Some(entering),
                    Some(Err(_)) => {
                        debug!("{}: too many are entering: one is sent away", listener.endpoint());
                        continue;
                    }
                };
                let serving =
                    connection::serve(arrival, entering, Arc::clone(&door), Arc::clone(&engine), cancelled.clone());
                connections.spawn(async move {
                    serving.await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!("accept a connection on {}: {error}", listener.endpoint());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
