//! Both ends of the connections that the API travels on: unix sockets and tcp, and HTTP/1 over them for the client.
//!
//! TLS, `fd://` and `ssh://` are further variants of [`Endpoint`], [`Stream`] and [`Listener`]; nothing above them
//! looks at which one it has. [`ServerTls`] is the private registry's, too.

mod client;
mod connect;
mod endpoint;
mod error;
mod files;
mod hijack;
mod listener;
mod names;
mod ssh;
mod stream;
pub mod tls;
mod unix;
mod url;

pub use client::{HttpClient, Upgrade};
pub use connect::connect;
pub use endpoint::{DEFAULT_SOCKET, DEFAULT_TCP_PORT, DEFAULT_TLS_PORT, Endpoint, SshTarget};
pub use error::{Error, Result};
pub use hijack::Hijacked;
pub use listener::{Access, Arrival, Listener, Peer, Protection, descriptor_limit, raise_descriptor_limit};
pub use names::{account, addresses_of};
pub use ssh::SshStream;
pub use stream::Stream;
pub use tls::{ClientTls, ServerTls, Standing, TlsStream};
pub use url::percent_decode;
