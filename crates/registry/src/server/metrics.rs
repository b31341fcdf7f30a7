//! `/metrics`: what the registry did, for Prometheus.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use gantry_transport::Peer;
use http::{HeaderValue, Method, StatusCode, header};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use serde::Deserialize;

use super::gc::Collected;
use super::{Code, Door, Exchange, Failure, Future, Observer, Query, Request, Response, Result, Route};

/// The path.
const PATH: &str = "/metrics";
/// What OpenMetrics says that its text is.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Bounds of durations, in seconds: a manifest from memory to a layer over a slow line.
const SECONDS: [f64; 9] = [0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 600.0];

/// Who may read them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricsFor {
    /// Whoever is on this machine.
    #[default]
    Loopback,
    /// Everybody.
    All,
    /// Nobody: there is no such path.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    upstream: String,
    result: &'static str,
}

/// What is counted.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    received: Counter,
    sent: Counter,
    broken: Counter,
    in_flight: Gauge,
    uploads: Counter,
    /// What the pull-through cache did.
    pub cache: CacheMetrics,
    /// What was collected.
    pub storage: StorageMetrics,
}

/// What the pull-through cache did.
#[derive(Clone, Default)]
pub struct CacheMetrics {
    answers: Family<CacheLabels, Counter>,
    fetched: Counter,
    /// Bytes that are kept.
    pub bytes: Gauge<u64, AtomicU64>,
    /// Bytes that went to make room.
    pub evicted: Counter,
}

/// What collections of garbage did.
#[derive(Clone, Default)]
pub struct StorageMetrics {
    /// Collections that ended.
    pub collections: Counter,
    /// Bytes that collections freed.
    pub freed: Counter,
}

/// What came of a question to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// It was here.
    Hit,
    /// It came from upstream.
    Miss,
    /// It was here, and upstream could not be asked whether it still holds.
    Stale,
    /// It was not here, and upstream did not give it.
    Failure,
}

impl CacheMetrics {
    /// One question about what is of `upstream`.
    pub fn answered(&self, upstream: &str, result: CacheResult) {
        let result = match result {
            CacheResult::Hit => "hit",
            CacheResult::Miss => "miss",
            CacheResult::Stale => "stale",
            CacheResult::Failure => "failure",
        };
        self.answers.get_or_create(&CacheLabels { upstream: upstream.to_owned(), result }).inc();
    }

    /// Bytes came from upstream.
    pub fn fetched(&self, bytes: u64) {
        self.fetched.inc_by(bytes);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("gantry_registry");
        let requests = Family::<RequestLabels, Counter>::default();
        let seconds = Family::<RouteLabels, Histogram>::new_with_constructor(|| Histogram::new(SECONDS));
        let (received, sent, broken, uploads) =
            (Counter::default(), Counter::default(), Counter::default(), Counter::default());
        let in_flight = Gauge::default();
        let (cache, storage) = (CacheMetrics::default(), StorageMetrics::default());
        registry.register("requests", "Requests that were answered", requests.clone());
        registry.register("request_seconds", "From a request's head to its answer's last byte", seconds.clone());
        registry.register("received_bytes", "Bytes of requests' bodies", received.clone());
        registry.register("sent_bytes", "Bytes of answers' bodies", sent.clone());
        registry.register("broken_answers", "Answers that did not go out whole", broken.clone());
        registry.register("requests_in_flight", "Requests that are worked on", in_flight.clone());
        registry.register("uploads", "Blobs that were uploaded or mounted", uploads.clone());
        registry.register("cache_answers", "Questions to the cache, by what came of them", cache.answers.clone());
        registry.register("cache_fetched_bytes", "Bytes that came from upstream", cache.fetched.clone());
        registry.register("cache_bytes", "Bytes that the cache keeps", cache.bytes.clone());
        registry.register("cache_evicted_bytes", "Bytes that the cache gave up to make room", cache.evicted.clone());
        registry.register("collections", "Collections of garbage that ended", storage.collections.clone());
        registry.register("collected_bytes", "Bytes that collections of garbage freed", storage.freed.clone());
        Self { registry, requests, seconds, received, sent, broken, in_flight, uploads, cache, storage }
    }
}

impl Metrics {
    /// All of them as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes everything");
        text
    }
}

impl Observer for Metrics {
    fn began(&self) {
        self.in_flight.inc();
    }

    fn collected(&self, collected: &Collected) {
        self.storage.collections.inc();
        self.storage.freed.inc_by(collected.freed);
    }

    fn ended(&self, exchange: &Exchange) {
        self.in_flight.dec();
        let route = exchange.route.as_ref().map_or("none", Route::label);
        let (method, status) = (word(&exchange.method), exchange.status.as_u16());
        self.requests.get_or_create(&RequestLabels { route, method, status }).inc();
        self.seconds.get_or_create(&RouteLabels { route }).observe(exchange.took.as_secs_f64());
        self.received.inc_by(exchange.received);
        self.sent.inc_by(exchange.sent);
        if !exchange.whole {
            self.broken.inc();
        }
        if route == "upload" && exchange.status == StatusCode::CREATED {
            self.uploads.inc();
        }
    }
}

/// A method that somebody invented is no label of ours.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

/// Answers `/metrics`.
pub struct MetricsDoor {
    metrics: Arc<Metrics>,
    readers: MetricsFor,
}

impl MetricsDoor {
    /// For these readers.
    #[must_use]
    pub const fn new(metrics: Arc<Metrics>, readers: MetricsFor) -> Self {
        Self { metrics, readers }
    }

    fn page(&self, request: &Request) -> Result<Response> {
        let is_here = match &request.peer {
            Peer::Remote { address, .. } => address.ip().to_canonical().is_loopback(),
            Peer::Process { .. } => true,
        };
        // Behind a proxy on this machine everybody would come from here.
        let is_forwarded = ["forwarded", "x-forwarded-for"].iter().any(|name| request.headers.contains_key(*name));
        if self.readers == MetricsFor::Loopback && (!is_here || is_forwarded) {
            let message =
                "metrics are for this machine only: set metrics = \"all\" in the configuration to change that";
            return Err(Failure::new(Code::Denied, message));
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Err(Failure::method(&request.method, PATH));
        }
        let mut response = Response::new(Bytes::from(self.metrics.text()).into());
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        Ok(response)
    }
}

impl Door for MetricsDoor {
    fn is_at(&self, path: &str) -> bool {
        self.readers != MetricsFor::None && path == PATH
    }

    fn answer<'a>(&'a self, request: &'a Request, _: &'a Query) -> Future<'a, Result<Response>> {
        Box::pin(async { self.page(request) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    #[test]
    fn requests_are_counted_by_route_method_and_status_and_strangers_make_no_labels() {
        let metrics = Metrics::default();
        let mut exchange = Exchange {
            id: String::new(),
            peer: Peer::Remote { address: "192.0.2.1:7".parse().unwrap(), subject: None },
            user: None,
            method: Method::PUT,
            target: "/v2/a/blobs/uploads/".to_owned(),
            route: Route::parse("/v2/a/blobs/uploads/").ok(),
            status: StatusCode::CREATED,
            received: 5,
            sent: 7,
            whole: true,
            took: Duration::from_millis(3),
            agent: None,
        };
        metrics.began();
        metrics.began();
        metrics.ended(&exchange);
        exchange.method = Method::from_bytes(b"STRANGE").unwrap();
        exchange.route = None;
        exchange.whole = false;
        exchange.status = StatusCode::BAD_REQUEST;
        metrics.ended(&exchange);
        metrics.cache.answered("docker.io", CacheResult::Stale);
        metrics.collected(&Collected { freed: 77, ..Collected::default() });
        let text = metrics.text();
        for line in [
            "gantry_registry_requests_total{route=\"upload\",method=\"PUT\",status=\"201\"} 1",
            "gantry_registry_requests_total{route=\"none\",method=\"other\",status=\"400\"} 1",
            "gantry_registry_requests_in_flight 0",
            "gantry_registry_received_bytes_total 10",
            "gantry_registry_sent_bytes_total 14",
            "gantry_registry_broken_answers_total 1",
            "gantry_registry_uploads_total 1",
            "gantry_registry_collections_total 1",
            "gantry_registry_collected_bytes_total 77",
            "gantry_registry_request_seconds_bucket{le=\"0.005\",route=\"upload\"} 1",
            "gantry_registry_cache_answers_total{upstream=\"docker.io\",result=\"stale\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
