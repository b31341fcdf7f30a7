//! The client's side: whom it believes, and what it shows.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::pem::{self, failed};
use super::stream::TlsStream;
use super::{ALPN, provider};
use crate::{Error, Result};

/// How a server is judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Verification {
    /// By these authorities alone.
    Authority(PathBuf),
    /// By those that this machine trusts.
    Machine,
    /// Not at all: whoever answers is believed, and nobody else can listen.
    None,
}

/// How a client speaks TLS. Files are read when a connection is made, and not before.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientTls {
    /// How it judges the server.
    pub verification: Verification,
    /// What it shows: a certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientTls {
    pub(crate) fn connector(&self) -> Result<TlsConnector> {
        Ok(TlsConnector::from(Arc::new(self.config()?)))
    }

    fn config(&self) -> Result<ClientConfig> {
        let provider = provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Tls { reason: error.to_string() })?;
        let builder = match &self.verification {
            Verification::Authority(path) => builder.with_root_certificates(pem::authorities(path)?.roots),
            Verification::Machine => builder.with_root_certificates(machine()?),
            Verification::None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))),
        };
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(pem::certificates(certificate)?, pem::key(key)?)
                .map_err(|error| match error {
                    rustls::Error::InconsistentKeys(_) => {
                        failed(key, format!("it is not the key of {}", certificate.display()))
                    }
                    other => failed(certificate, format!("the certificate and its key cannot be used: {other}")),
                })?,
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

/// The handshake with the server called `host`.
pub async fn connect(connector: &TlsConnector, host: &str, stream: TcpStream) -> io::Result<TlsStream> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a name that a certificate can be for"))?;
    Ok(TlsStream::new(connector.connect(name, stream).await?.into()))
}

fn machine() -> Result<RootCertStore> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // A machine's store may have what nobody can read; the others count.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reason = "this machine trusts no authority: give the daemon's with --tlscacert, or install ca-certificates";
        return Err(Error::Tls { reason: reason.to_owned() });
    }
    Ok(roots)
}

/// Believes every certificate; what is signed in the handshake must still be signed by its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
