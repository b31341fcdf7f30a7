//! TLS for both ends, by rustls: 1.2 and 1.3 only, suites with forward secrecy and authenticated encryption only.
//!
//! Sessions are never resumed: who may come in is judged anew for every connection, so that a certificate that expired,
//! or that was revoked by a reload, opens nothing.

mod client;
mod explain;
mod pem;
mod server;
mod standing;
mod stream;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub(crate) use client::connect as handshake;
pub use client::{ClientTls, Verification};
pub(crate) use explain::{client_side, rustls_error};
pub use server::{ClientCertificates, ServerFiles, ServerTls};
pub use standing::Standing;
pub use stream::TlsStream;

/// The protocol that is spoken inside.
const ALPN: &[u8] = b"http/1.1";

/// What signs, agrees and encrypts; of a configuration's own, so that no order of initialisation matters.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}
