//! HTTP/1 to a daemon: connections that serve one request after the other, and those that become a raw stream.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::response::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::ssh::Complaint;
use crate::{ClientTls, Endpoint, Error, Hijacked, Result, Stream, connect, tls};

/// A client of one daemon. Its clones share their connections: one that has answered is asked again, because TLS and ssh
/// cost far more to begin than to go on.
#[derive(Debug, Clone)]
pub struct HttpClient {
    endpoint: Endpoint,
    tls: Option<Arc<ClientTls>>,
    idle: Arc<Mutex<Vec<Sender>>>,
}

type AnyBody = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
type Connection = http1::Connection<TokioIo<Stream>, AnyBody>;

/// A connection that can be asked.
#[derive(Debug)]
struct Sender {
    sender: http1::SendRequest<AnyBody>,
    complaint: Option<Complaint>,
}

/// What a daemon answered to a request for the raw connection.
#[derive(Debug)]
pub enum Upgrade {
    /// The head of its answer, and the connection.
    Hijacked(Box<Parts>, Hijacked),
    /// An ordinary answer, usually an error with a message.
    Answered(Response<Incoming>),
}

impl HttpClient {
    /// A client of the daemon there.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, tls: None, idle: Arc::default() }
    }

    /// The same over TLS, where it is TCP.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<ClientTls>) -> Self {
        self.tls = tls.map(Arc::new);
        self
    }

    /// Whom it speaks to.
    #[must_use]
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether and how it speaks TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_deref()
    }

    /// Sends a request (its URI needs only path and query) and returns the answer's head; the body streams. Dropping an
    /// answer that is not whole closes the connection.
    ///
    /// # Errors
    /// When the daemon cannot be reached or breaks off; an error status is an answer.
    pub async fn request<B>(&self, request: Request<B>) -> Result<Response<Incoming>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = self.prepare(request).map(|body| body.map_err(Into::into).boxed_unsync());
        while let Some(mut kept) = self.take_idle() {
            match kept.sender.try_send_request(request).await {
                Ok(answer) => return Ok(self.answered(kept, answer)),
                // The daemon had closed it meanwhile: nothing was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(self.broken(error.into_error(), kept.complaint).await),
                },
            }
        }
        let (mut fresh, connection) = self.open().await?;
        // Its failures reach the caller through the answer and its body.
        tokio::spawn(async move { drop(connection.await) });
        match fresh.sender.send_request(request).await {
            Ok(answer) => Ok(self.answered(fresh, answer)),
            Err(source) => Err(self.broken(source, fresh.complaint).await),
        }
    }

    /// One that has nothing to do; those that ended are forgotten, and those that still answer stay.
    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| !kept.sender.is_closed());
        let ready = idle.iter().position(|kept| kept.sender.is_ready())?;
        Some(idle.swap_remove(ready))
    }

    fn answered(&self, sender: Sender, answer: Response<Incoming>) -> Response<Incoming> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        answer
    }

    /// Asks for the raw connection: attach, exec. Both the 101 of today's daemons and the bare 200 of old ones hijack.
    ///
    /// # Errors
    /// As for [`HttpClient::request`].
    pub async fn upgrade<B>(&self, request: Request<B>) -> Result<Upgrade>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = self.prepare(request).map(|body| body.map_err(Into::into).boxed_unsync());
        request.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        request.headers_mut().insert(UPGRADE, HeaderValue::from_static("tcp"));
        let (Sender { mut sender, complaint }, mut connection) = self.open().await?;
        let answered = {
            let mut answer = std::pin::pin!(sender.send_request(request));
            // The connection is driven here, not in a task of its own, so that it can be taken back. It is asked no
            // further once the head is there: what follows stays in its buffer.
            poll_fn(|cx| {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(answer);
                }
                let ended = connection.poll_without_shutdown(cx);
                match answer.as_mut().poll(cx) {
                    Poll::Ready(answer) => Poll::Ready(answer),
                    Poll::Pending => match ended {
                        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                        _ => Poll::Pending,
                    },
                }
            })
            .await
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(source) => return Err(self.broken(source, complaint).await),
        };
        if !is_raw(&answer) {
            tokio::spawn(async move { drop(connection.await) });
            return Ok(Upgrade::Answered(answer));
        }
        let (parts, body) = answer.into_parts();
        let raw = connection.into_parts();
        let read_ahead = read_ahead(body, &raw.read_buf).await;
        Ok(Upgrade::Hijacked(Box::new(parts), Hijacked::new(raw.io.into_inner(), read_ahead)))
    }

    async fn open(&self) -> Result<(Sender, Connection)> {
        let stream = connect(&self.endpoint, self.tls.as_deref()).await?;
        let complaint = match &stream {
            Stream::Ssh(stream) => Some(stream.complaint()),
            _ => None,
        };
        match http1::handshake(TokioIo::new(stream)).await {
            Ok((sender, connection)) => Ok((Sender { sender, complaint }, connection)),
            Err(source) => Err(self.broken(source, complaint).await),
        }
    }

    fn prepare<B>(&self, mut request: Request<B>) -> Request<B> {
        if let Some(path) = request.uri().path_and_query() {
            *request.uri_mut() = Uri::from(path.clone());
        }
        if let Ok(host) = HeaderValue::from_str(&self.endpoint.authority()) {
            request.headers_mut().entry(HOST).or_insert(host);
        }
        request
    }

    async fn broken(&self, source: hyper::Error, complaint: Option<Complaint>) -> Error {
        let endpoint = self.endpoint.clone();
        if let (Endpoint::Ssh(target), Some(complaint)) = (&self.endpoint, complaint) {
            let reason = complaint.explain(target).await;
            return Error::Handshake { endpoint, reason };
        }
        // The server judges a client's certificate after the client believes that all is well.
        match (self.tls.as_deref(), tls::rustls_error(&source)) {
            (Some(tls), Some(error)) => {
                let reason = tls::client_side(error, endpoint.host().unwrap_or_default(), tls);
                Error::Handshake { endpoint, reason }
            }
            _ => Error::Http { endpoint, source },
        }
    }
}

/// What HTTP has read of the stream: first what it took for a body's beginning (of a 200), then its buffer. The body
/// has lost its connection, so it ends at once.
async fn read_ahead(mut body: Incoming, buffer: &[u8]) -> Bytes {
    let mut all = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        all.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    all.extend_from_slice(buffer);
    all.freeze()
}

/// 101, or a success whose body has neither length nor chunks: the rest of the connection is the stream.
fn is_raw<B>(answer: &Response<B>) -> bool {
    let headers = answer.headers();
    let stream = |value: &HeaderValue| value.to_str().is_ok_and(|text| text.starts_with("application/vnd.docker."));
    answer.status() == StatusCode::SWITCHING_PROTOCOLS
        || (answer.status() == StatusCode::OK
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(TRANSFER_ENCODING)
            && headers.get(http::header::CONTENT_TYPE).is_some_and(stream))
}
