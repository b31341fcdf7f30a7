//! `serveapi`: the job that serves the API. It accepts connections until it is cancelled, then lets them end.

use std::sync::Arc;
use std::time::Duration;

use gantry_engine::{Class, Context, Door, Engine, Error, Job, Result};
use gantry_transport::Listener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::connection;
use crate::crowd::Crowd;

/// Serves the API on these doors.
pub struct ServeApi {
    /// Open doors, and what may be done through each.
    pub listeners: Vec<(Listener, Arc<Door>)>,
}

/// How long connections may take to end after the job was cancelled.
const DRAIN: Duration = Duration::from_secs(5);
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
        let crowds = Crowd::of(self.listeners.len());
        for ((listener, door), crowd) in self.listeners.into_iter().zip(crowds) {
            info!("serving the API on {}", listener.endpoint());
            doors.spawn(accept(
                listener,
                door,
                Arc::clone(&context.engine),
                context.cancelled.clone(),
                connections.clone(),
                crowd,
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

async fn accept(
    listener: Listener,
    door: Arc<Door>,
    engine: Arc<Engine>,
    cancelled: CancellationToken,
    connections: TaskTracker,
    crowd: Arc<Crowd>,
) {
    loop {
        let next = async {
            // Those who find no place wait in the kernel's queue.
            let seat = crowd.seat().await?;
            Ok::<_, std::io::Error>((seat, listener.accept().await?))
        };
        let accepted = tokio::select! {
            () = cancelled.cancelled() => return,
            accepted = next => accepted,
        };
        match accepted {
            Ok((seat, arrival)) => {
                // Strangers that say nothing must not keep those out who are here already.
                let entering = match listener.is_encrypted().then(|| crowd.enter()) {
                    None => None,
                    Some(Some(entering)) => Some(entering),
                    Some(None) => {
                        debug!("{}: too many are entering: one is sent away", listener.endpoint());
                        continue;
                    }
                };
                let (door, stopping) = (Arc::clone(&door), cancelled.clone());
                let host = connection::Host { door, engine: Arc::clone(&engine), seat, stopping };
                crowd.came();
                let engine = Arc::clone(&engine);
                let serving = connection::serve(arrival, entering, host);
                let crowd = Arc::clone(&crowd);
                connections.spawn(async move {
                    serving.await;
                    if crowd.left() {
                        engine.give_back_memory();
                    }
                });
            }
            Err(error) => {
                warn!("accept a connection on {}: {error}", listener.endpoint());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
