//! https: tried first on loopback, and used where it is spoken.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::fake::Fake;
use crate::image::Image;
use crate::store::pull;

type Handshake = Pin<Box<dyn Future<Output = io::Result<TlsStream<TcpStream>>> + Send>>;

/// A certificate that nobody has signed, by openssl; `None` where that is not installed.
fn acceptor(directory: &Path) -> Option<TlsAcceptor> {
    let (key, certificate) = (directory.join("key"), directory.join("certificate"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .ok()?;
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
    let key = PrivateKeyDer::from_pem_file(key).unwrap();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    Some(TlsAcceptor::from(Arc::new(config)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loopback_registry_may_show_any_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let Some(acceptor) = acceptor(directory.path()) else {
        return crate::debian::skipped("openssl");
    };
    let fake = Fake::serve(move |stream| -> Handshake { Box::pin(acceptor.accept(stream)) }).await;
    let image = Image::oci(2);
    fake.image("app", "1", &image);
    pull(&fake.name("app:1")).await.result.unwrap();
}
