//! `serveapi`: the job that serves the API. It accepts connections until it is cancelled, then lets them end.

use std::sync::Arc;
use std::time::Duration;

use gantry_engine::{Class, Context, Engine, Error, Job, Result};
use gantry_transport::Listener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::connection;

/// Serves the API on these doors.
pub struct ServeApi {
    /// Open doors.
    pub listeners: Vec<Listener>,
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
        self.listeners.iter().map(|listener| listener.endpoint().to_string()).collect::<Vec<_>>().join(" ")
    }

    async fn run(self, context: Context) -> Result<()> {
        let connections = TaskTracker::new();
        let doors = TaskTracker::new();
        for listener in self.listeners {
            info!("serving the API on {}", listener.endpoint());
            doors.spawn(accept(listener, Arc::clone(&context.engine), context.cancelled.clone(), connections.clone()));
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

async fn accept(listener: Listener, engine: Arc<Engine>, cancelled: CancellationToken, connections: TaskTracker) {
    loop {
        let accepted = tokio::select! {
            () = cancelled.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(arrival) => {
                connections.spawn(connection::serve(arrival, Arc::clone(&engine), cancelled.clone()));
            }
            Err(error) => {
                warn!("accept a connection on {}: {error}", listener.endpoint());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
