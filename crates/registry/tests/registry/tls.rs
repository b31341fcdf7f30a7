//! https: tried first on loopback, used where it is spoken, and with the certificates that lie there for a host.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gantry_registry::{Options, Registry};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::fake::Fake;
use crate::image::Image;
use crate::store::{Request, pull};

type Handshake = Pin<Box<dyn Future<Output = io::Result<TlsStream<TcpStream>>> + Send>>;

/// Makes a key and a certificate for this subject that nobody has signed, by openssl; false where that is not installed.
fn certify(directory: &Path, name: &str, subject: &str) -> bool {
    certify_as(directory, name, subject, "CA:FALSE")
}

fn certify_as(directory: &Path, name: &str, subject: &str, constraint: &str) -> bool {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
        .args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName={subject}"), "-addext"])
        .args([&format!("basicConstraints=critical,{constraint}"), "-keyout"])
        .arg(directory.join(format!("{name}.key")))
        .arg("-out")
        .arg(directory.join(format!("{name}.cert")))
        .output();
    let Ok(made) = made else { return false };
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    true
}

/// A server with that certificate, for those whose own is `client`, if it says one.
fn acceptor(directory: &Path, name: &str, client: Option<&str>) -> TlsAcceptor {
    let certificate = |name: &str| CertificateDer::from_pem_file(directory.join(format!("{name}.cert"))).unwrap();
    let key = PrivateKeyDer::from_pem_file(directory.join(format!("{name}.key"))).unwrap();
    let builder = match client {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(client) => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate(client)).unwrap();
            ServerConfig::builder()
                .with_client_cert_verifier(WebPkiClientVerifier::builder(roots.into()).build().unwrap())
        }
    };
    TlsAcceptor::from(Arc::new(builder.with_single_cert(vec![certificate(name)], key).unwrap()))
}

async fn serve(acceptor: TlsAcceptor) -> Fake {
    Fake::serve(move |stream| -> Handshake { Box::pin(acceptor.accept(stream)) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loopback_registry_may_show_any_certificate() {
    let directory = tempfile::tempdir().unwrap();
    if !certify(directory.path(), "server", "DNS:localhost") {
        return crate::debian::skipped("openssl");
    }
    let fake = serve(acceptor(directory.path(), "server", None)).await;
    let image = Image::oci(2);
    fake.image("app", "1", &image);
    pull(&fake.name("app:1")).await.result.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_shows_an_authority_as_itself_is_refused_in_words_that_say_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    if !certify_as(directory.path(), "server", "IP:0.0.0.0", "CA:TRUE") {
        return crate::debian::skipped("openssl");
    }
    let fake = serve(acceptor(directory.path(), "server", None)).await;
    let host = format!("0.0.0.0:{}", fake.address.port());
    let own = directory.path().join("certs.d").join(&host);
    std::fs::create_dir_all(&own).unwrap();
    std::fs::copy(directory.path().join("server.cert"), own.join("ca.crt")).unwrap();
    let options = Options::default().certificates(vec![directory.path().join("certs.d")]).parts(directory.path());
    let request = Request { registry: Some(Registry::new(options)), ..Request::default() };
    let error = request.pull(&format!("{host}/app:1")).await.error();
    assert!(error.contains("(CA:TRUE) as its own") && error.contains("basicConstraints=critical,CA:FALSE"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_trusted_by_its_own_authority_and_knows_who_asks() {
    let directory = tempfile::tempdir().unwrap();
    if !certify(directory.path(), "server", "IP:0.0.0.0") || !certify(directory.path(), "client", "DNS:me") {
        return crate::debian::skipped("openssl");
    }
    let fake = serve(acceptor(directory.path(), "server", Some("client"))).await;
    let image = Image::oci(1);
    fake.image("app", "1", &image);
    // An address of this machine that is none of loopback's, where any certificate would do.
    let host = format!("0.0.0.0:{}", fake.address.port());
    let certs = directory.path().join("certs.d");
    let own = certs.join(&host);
    std::fs::create_dir_all(&own).unwrap();
    let options =
        Options::default().retry_pause(Duration::from_millis(5)).certificates(vec![certs]).parts(directory.path());
    let registry = Registry::new(options);
    let pull = || Request { registry: Some(registry.clone()), ..Request::default() };
    let name = format!("{host}/app:1");
    let unknown = pull().pull(&name).await.error();
    assert!(unknown.contains("certificate"), "{unknown}");
    std::fs::copy(directory.path().join("server.cert"), own.join("ca.crt")).unwrap();
    std::fs::copy(directory.path().join("client.cert"), own.join("client.cert")).unwrap();
    let half = pull().pull(&name).await.error();
    assert!(half.contains("missing key") && half.contains("client.key"), "{half}");
    std::fs::copy(directory.path().join("client.key"), own.join("client.key")).unwrap();
    pull().pull(&name).await.result.unwrap();
    // What lies there for another host is for that one.
    std::fs::rename(&own, own.with_file_name("0.0.0.0:1")).unwrap();
    pull().pull(&name).await.error();
}
