//! A request as handlers see it: the path's parameters, the query, the bounded body, who asks.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_api::ErrorKind;
use gantry_engine::stream::Inlet;
use gantry_engine::{Engine, Environment, Job};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body, Incoming};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::crowd::Seat;
use crate::error::{Failure, Result};
use crate::respond::Takeover;

/// The largest JSON body that is read.
const BODY_LIMIT: usize = 4 << 20;
/// How long a client may take between two pieces of a JSON body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a whole JSON body may take.
const BODY_DEADLINE: Duration = Duration::from_secs(120);

/// A parsed request.
pub struct Request {
    /// Who serves it.
    pub engine: Arc<Engine>,
    /// Its connection's place at the door.
    pub seat: Seat,
    /// Cancelled when the daemon lets its connections end.
    pub stopping: CancellationToken,
    /// A job that takes the connection over gets it by a relay.
    pub relayed: bool,
    /// The environment of its job.
    pub environment: Environment,
    /// Its headers.
    pub headers: HeaderMap,
    /// The connection, where the client can let a job have it.
    pub upgrade: Option<Takeover>,
    pub(crate) parameters: HashMap<&'static str, String>,
    pub(crate) query: HashMap<String, Vec<String>>,
    pub(crate) body: Payload,
}

/// The body of a request.
#[derive(Default)]
pub enum Payload {
    /// None, or taken.
    #[default]
    Empty,
    /// Still to come.
    Incoming(Incoming),
    /// Read by the raw door.
    Whole(Bytes),
}

impl Request {
    /// Runs a job for this request.
    pub async fn run<J: Job>(&self, job: J) -> Result<J::Output> {
        Ok(self.engine.run(job, self.environment.clone()).await?)
    }

    /// A parameter of the path.
    pub fn parameter(&self, name: &str) -> String {
        self.parameters.get(name).cloned().unwrap_or_default()
    }

    /// A parameter of the query, `None` where it is absent.
    pub fn query(&self, name: &str) -> Option<String> {
        self.query.get(name).and_then(|values| values.first().cloned())
    }

    /// Every value of a parameter of the query.
    pub fn query_all(&self, name: &str) -> Vec<String> {
        self.query.get(name).cloned().unwrap_or_default()
    }

    /// A parameter of the query as Docker reads truth: everything but nothing, 0, no, false and none is true.
    pub fn flag(&self, name: &str) -> bool {
        let value = self.query(name).unwrap_or_default().trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// A number of the query, `None` where it is absent or empty.
    pub fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>> {
        match self.query(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Failure::invalid(format!("invalid value for {name}: {text:?} is no number that fits"))),
            },
        }
    }

    /// The JSON body.
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let bytes = self.json_bytes().await?;
        gantry_api::json::from_slice(&bytes).map_err(|error| bad_json(&error))
    }

    /// The JSON body, or the default where there is none.
    pub async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T> {
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Ok(T::default());
        }
        gantry_api::json::from_slice(&bytes).map_err(|error| bad_json(&error))
    }

    /// The bytes of a JSON body that must be there.
    pub async fn json_bytes(&mut self) -> Result<Bytes> {
        if let Some(kind) = self.headers.get(hyper::header::CONTENT_TYPE) {
            let kind = String::from_utf8_lossy(kind.as_bytes()).into_owned();
            let essence = kind.split(';').next().unwrap_or_default().trim();
            if !essence.is_empty() && !essence.eq_ignore_ascii_case("application/json") {
                return Err(Failure::invalid(format!(
                    "unsupported Content-Type header ({kind}): must be 'application/json'"
                )));
            }
        }
        let bytes = self.bytes().await?;
        if bytes.is_empty() {
            return Err(Failure::invalid("invalid JSON: got EOF while reading request body"));
        }
        Ok(bytes)
    }

    async fn bytes(&mut self) -> Result<Bytes> {
        let mut body = match std::mem::take(&mut self.body) {
            Payload::Empty => return Ok(Bytes::new()),
            Payload::Whole(bytes) => return Ok(bytes),
            Payload::Incoming(body) => body,
        };
        let mut whole = Vec::new();
        let stalled = |_| Failure::invalid("read the request's body: it stalled");
        let end = tokio::time::Instant::now() + BODY_DEADLINE;
        loop {
            let patience = BODY_TIMEOUT.min(end.saturating_duration_since(tokio::time::Instant::now()));
            let Some(frame) = tokio::time::timeout(patience, body.frame()).await.map_err(stalled)? else { break };
            let frame = frame.map_err(|error| Failure::invalid(format!("read the request's body: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > BODY_LIMIT {
                return Err(Failure::new(
                    ErrorKind::TooLarge,
                    format!("the request's body is larger than {} MiB", BODY_LIMIT >> 20),
                ));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.into())
    }

    /// The body as a job's standard input.
    pub fn inlet(&mut self) -> Inlet {
        let (sender, inlet) = Inlet::new();
        if let Payload::Incoming(body) = std::mem::take(&mut self.body) {
            tokio::spawn(forward(body, sender, self.stopping.clone(), PATIENCE));
        }
        inlet
    }
}

/// How long the rest of a body is taken when it is of no use any more. Who is in the middle of sending hears nothing of the
/// answer when the connection is closed under them.
#[derive(Clone, Copy)]
struct Patience {
    /// In all.
    usually: Duration,
    /// When the daemon is leaving: less than connections have to end.
    leaving: Duration,
}

const PATIENCE: Patience = Patience { usually: Duration::from_secs(120), leaving: Duration::from_secs(1) };

async fn forward<B>(mut body: B, to: mpsc::Sender<io::Result<Bytes>>, stopping: CancellationToken, patience: Patience)
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    loop {
        // Who sends nothing meanwhile is not waited for without an end either.
        let frame = tokio::select! {
            biased;
            () = to.closed() => break,
            frame = body.frame() => frame,
        };
        let Some(frame) = frame else { return };
        let piece = match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => Ok(data),
            Ok(Err(_)) => continue,
            Err(error) => Err(io::Error::other(format!("read the request's body: {error}"))),
        };
        let failed = piece.is_err();
        if to.send(piece).await.is_err() {
            break;
        }
        if failed {
            return;
        }
    }
    let left = async {
        stopping.cancelled().await;
        tokio::time::sleep(patience.leaving).await;
    };
    tokio::select! {
        () = left => {}
        _ = tokio::time::timeout(patience.usually, discard(body)) => {}
    }
}

/// Takes what still comes of a body that no job reads any more, until the client stops sending.
async fn discard<B: Body<Data = Bytes> + Unpin>(mut body: B) {
    while let Ok(Some(Ok(_))) = tokio::time::timeout(BODY_TIMEOUT, body.frame()).await {}
}

fn bad_json(error: &gantry_api::json::Error) -> Failure {
    Failure::invalid(format!("invalid JSON: {error}"))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// The body of a client that sends nothing, or without an end.
    struct Endless {
        sends: bool,
        is_there: bool,
    }

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<std::result::Result<Frame<Bytes>, Infallible>>> {
            // As from a network: a piece is there, and then the next one is not yet.
            self.is_there = self.sends && !self.is_there;
            if self.is_there {
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))));
            }
            if self.sends {
                context.waker().wake_by_ref();
            }
            Poll::Pending
        }
    }

    /// Both kinds of client, sending to a job that has ended.
    async fn refused(stopping: &CancellationToken, patience: Patience) {
        for sends in [false, true] {
            let (sender, inlet) = Inlet::new();
            drop(inlet);
            let forwarding = forward(Endless { sends, is_there: false }, sender, stopping.clone(), patience);
            tokio::time::timeout(Duration::from_secs(20), forwarding).await.expect("the client is let go");
        }
    }

    const LONG: Duration = Duration::from_secs(1000);
    const SHORT: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn a_refused_client_is_let_go_also_when_it_sends_nothing_more() {
        refused(&CancellationToken::new(), Patience { usually: SHORT, leaving: LONG }).await;
    }

    #[tokio::test]
    async fn a_daemon_that_leaves_takes_nothing_more_for_long() {
        let stopping = CancellationToken::new();
        stopping.cancel();
        refused(&stopping, Patience { usually: LONG, leaving: SHORT }).await;
    }
}
