//! One connection: requests in, answers out, the headers that every answer has.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use gantry_engine::{Caller, Door, Engine, Environment};
use gantry_transport::{Arrival, Peer, Standing, Stream};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::crowd::Seat;
use crate::error::Result;
use crate::raw;
use crate::relay::is_relayed;
use crate::request::{Payload, Request};
use crate::respond::{Response, Takeover, set};
use crate::router;

/// How long a client may take to send a request's head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// What is kept of a connection's bytes; a head that is longer is refused.
const BUFFER: usize = 128 << 10;

/// What `Api-Version` says: the newest that is spoken.
const NEWEST: &str = "1.56";

/// Who serves a connection, and where.
#[derive(Clone)]
pub struct Host {
    /// The door that it came in by.
    pub door: Arc<Door>,
    /// Runs its jobs.
    pub engine: Arc<Engine>,
    /// Its place.
    pub seat: Seat,
    /// Cancelled when it is to end.
    pub stopping: CancellationToken,
}

/// Serves a connection until it ends, or the host is stopping, or its client's certificate is good no more.
pub async fn serve(arrival: Arrival, entering: Option<OwnedSemaphorePermit>, host: Host) {
    let address = arrival.address();
    let cancelled = host.stopping.clone();
    let entered = tokio::select! {
        entered = arrival.enter() => entered,
        () = cancelled.cancelled() => return,
    };
    drop(entering);
    let (stream, peer) = match entered {
        Ok(entered) => entered,
        Err(error) => {
            info!("a connection{} is refused: {error}", address.map(|a| format!(" from {a}")).unwrap_or_default());
            return;
        }
    };
    let caller = match peer {
        Peer::Process { uid, gid, pid } => {
            Caller::Process { uid, gid, pid: pid.and_then(|pid| i32::try_from(pid).ok()).unwrap_or(0) }
        }
        Peer::Remote { address, subject } => Caller::Remote { address, subject },
    };
    let environment = Environment { version: None, caller, parent: None, door: Some(Arc::clone(&host.door)) };
    let lost = Standing::lost(stream.standing());
    tokio::select! {
        () = talk(stream, host, environment, cancelled) => {}
        reason = lost => {
            info!("a connection{} is closed: {reason}", address.map(|a| format!(" from {a}")).unwrap_or_default());
        }
    }
}

/// Serves the requests of one who was let in.
async fn talk(mut stream: Stream, host: Host, environment: Environment, cancelled: CancellationToken) {
    let begins_raw = tokio::select! {
        begins_raw = tokio::time::timeout(HEAD_TIMEOUT, raw::begins_raw(&mut stream)) => begins_raw,
        () = cancelled.cancelled() => return,
    };
    match begins_raw {
        Ok(Ok(false)) => {}
        Ok(Ok(true)) => {
            if let Err(error) = raw::answer(stream, &host, &environment).await {
                debug!("a raw connection ended: {error}");
            }
            return;
        }
        // It sent nothing, or is gone.
        Ok(Err(_)) | Err(_) => return,
    }
    let relayed = is_relayed(&stream);
    let service = service_fn(move |request| {
        let (host, environment) = (host.clone(), environment.clone());
        async move { Ok::<_, Infallible>(answer(request, host, environment, relayed).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = cancelled.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        // A client that goes away in the middle is no fault of ours.
        debug!("a connection ended: {error}");
    }
}

async fn answer(request: hyper::Request<Incoming>, host: Host, environment: Environment, relayed: bool) -> Response {
    let result = match router::find(request.method(), request.uri().path()) {
        Ok(found) => handle(found, request, host, environment, relayed).await,
        Err(failure) => Err(failure),
    };
    dress(result.unwrap_or_else(crate::error::Failure::into_response))
}

/// Adds the headers that every answer has.
pub fn dress(mut response: Response) -> Response {
    set(&mut response, "api-version", NEWEST);
    set(&mut response, "ostype", "linux");
    set(&mut response, "docker-experimental", "false");
    set(&mut response, "server", concat!("Gantry/", env!("CARGO_PKG_VERSION"), " (linux)"));
    response
}

async fn handle(
    found: router::Found,
    mut request: hyper::Request<Incoming>,
    host: Host,
    environment: Environment,
    relayed: bool,
) -> Result<Response> {
    let headers = request.headers();
    let upgrades = headers.contains_key(UPGRADE)
        && headers
            .get(CONNECTION)
            .is_some_and(|value| String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase().contains("upgrade"));
    let upgrade = upgrades.then(|| Takeover::Upgrade(hyper::upgrade::on(&mut request)));
    let query = router::parse_query(request.uri().query())?;
    let (parts, body) = request.into_parts();
    let handler = found.route.handler;
    handler(Request {
        engine: host.engine,
        seat: host.seat,
        stopping: host.stopping,
        relayed,
        environment: Environment { version: found.version, ..environment },
        headers: parts.headers,
        upgrade,
        parameters: found.parameters,
        query,
        body: Payload::Incoming(body),
    })
    .await
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_header_says_the_newest_version() {
        assert_eq!(super::NEWEST, gantry_api::ApiVersion::NEWEST.to_string());
    }
}
