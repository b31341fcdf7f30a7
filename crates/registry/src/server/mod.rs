//! The private registry: `gantry registry serve`. The OCI distribution protocol over a [`Storage`].
//!
//! A request goes one way: its path becomes a [`Route`], [`Access`] says whether the caller may, a handler answers from
//! [`Repositories`], and each [`Observer`] is told once the last byte of the answer has gone. What a client sends is
//! hostile: names become keys only after they were parsed, bodies are bounded or streamed, content is hashed on its way in.

pub mod access_log;
mod answer;
pub mod auth;
pub mod config;
mod connection;
mod direct;
mod document;
mod failure;
pub mod front;
pub mod gc;
mod handlers;
mod hooks;
pub mod limits;
mod locks;
pub mod metrics;
mod names;
mod patient;
pub mod proxy;
mod repositories;
mod request;
mod request_id;
mod root;
mod route;
mod seats;
mod serve;
pub mod store;
mod upload_id;
mod uploads;
pub mod verify;

pub use crate::byte_range::Chunk;
pub use answer::{Body, Response};
pub use document::{Descriptor, Document};
pub use failure::{Code, Failure, Result};
pub use hooks::{Access, Action, Anybody, Ask, Door, Exchange, Future, Observer, Secure, SecuredStream, Who};
pub use names::{Algorithm, Digest, Hash, Name, NameError, Tag, Target};
pub use repositories::{Manifest, Repositories, Sparse};
pub use request::Request;
pub use root::Root;
pub use route::{Query, Route};
pub use serve::{Server, Settings};
pub use store::{Storage, StoreError};
pub use upload_id::UploadId;
pub use uploads::Uploads;
