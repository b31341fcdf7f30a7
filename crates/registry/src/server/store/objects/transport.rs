//! How the bucket is spoken to: by the client's own HTTP, which resolves names without the C library.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::BodyExt;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use reqwest::{Body, Client};

use super::{S3Settings, StoreError};
use crate::dns::Resolver;
use crate::options::is_loopback;

const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The longest silence, also while a part is sent.
const SILENCE: Duration = Duration::from_secs(60);

/// One client for all requests.
#[derive(Debug)]
pub struct Connector(Client);

impl Connector {
    /// For a bucket there.
    pub fn new(settings: &S3Settings) -> Result<Self, StoreError> {
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_DEADLINE)
            .read_timeout(SILENCE)
            .dns_resolver(Resolver);
        if settings.endpoint.as_ref().is_some_and(|endpoint| is_loopback(&endpoint.0)) {
            builder = builder.no_proxy();
        }
        let client = builder.build();
        Ok(Self(client.map_err(|error| StoreError::Failed { what: format!("make a client for S3: {error}") })?))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Transport(self.0.clone())))
    }
}

#[derive(Debug)]
struct Transport(Client);

impl HttpService for Transport {
    fn call<'a, 'f>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'f>>
    where
        'a: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let request = request.map(Body::wrap).try_into().map_err(failed)?;
            let answer = self.0.execute(request).await.map_err(failed)?;
            let (parts, body) = http::Response::from(answer).into_parts();
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body.map_err(failed))))
        })
    }
}

/// What may be tried again depends on how it failed.
fn failed(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_request() || error.is_body() {
        HttpErrorKind::Request
    } else if error.is_decode() {
        HttpErrorKind::Interrupted
    } else {
        HttpErrorKind::Unknown
    };
    HttpError::new(kind, error)
}
