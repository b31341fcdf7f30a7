//! Images in motion: the client of the distribution protocol, and the [`server`].
//!
//! [`Registry::pull`] brings an image from a registry to an [`ImageSink`], and [`Registry::push`] one from an [`ImageSource`] to
//! a registry; the caller defines both. What a registry says is hostile input: documents are bounded, digests are checked on
//! the bytes as they came, and credentials go to the configured host and the token server that it names, nowhere else.

mod attached;
mod auth;
mod backoff;
mod byte_range;
mod certificates;
mod challenge;
mod credentials;
mod describe;
mod dns;
mod download;
mod error;
mod file;
mod http;
mod layers;
mod login;
mod manifest;
mod mirrors;
mod options;
mod parts;
mod places;
mod progress;
mod proxies;
mod pull;
mod push;
mod ranges;
mod reader;
mod redirect;
mod referrers;
mod registry;
mod renewed;
mod search;
pub mod server;
mod session;
mod sink;
mod tags;

pub use error::{Error, Result};
pub use file::Download;
pub use gantry_api::platform::Platform;
pub use manifest::Descriptor;
pub use mirrors::Mirrored;
pub use options::{Options, OptionsError};
pub use parts::Cleared;
pub use progress::ProgressFn;
pub use proxies::Proxies;
pub use pull::{Pull, Pulled};
pub use push::{ImageSource, KnownBlob, Push, PushLayer, PushOrigin, Pushable, Pushed, pushing};
pub use reader::BlobReader;
pub use registry::Registry;
pub use sink::{Document, ImageDraft, ImageSink, NewImage, SinkError, Unpacked};
