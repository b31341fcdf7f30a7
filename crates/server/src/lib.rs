//! The doors of the daemon: listeners, the route table, the version prefix, hijacking. Each route builds one job.

mod body;
mod connection;
mod crowd;
mod error;
mod handlers;
mod raw;
mod relay;
mod request;
mod respond;
mod router;
mod routes;
mod serve;

pub use routes::{ROUTES, Route};
pub use serve::ServeApi;
