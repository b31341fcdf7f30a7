//! Both ends of the connections that the API travels on: unix sockets and tcp, and HTTP/1 over them for the client.
//!
//! TLS, `fd://` and `ssh://` are further variants of [`Endpoint`], [`Stream`] and [`Listener`]; nothing above them
//! looks at which one it has.

mod client;
mod connect;
mod endpoint;
mod error;
mod hijack;
mod listener;
mod names;
mod stream;
mod unix;

pub use client::{HttpClient, Upgrade};
pub use connect::connect;
pub use endpoint::{DEFAULT_SOCKET, DEFAULT_TCP_PORT, Endpoint};
pub use error::{Error, Result};
pub use hijack::Hijacked;
pub use listener::{Listener, Peer};
pub use names::addresses_of;
pub use stream::Stream;
