//! The server's side: certificate and key from files, clients' certificates against authorities, and all of it anew
//! when it is told to.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem::{self, failed};
use super::standing::Standing;
use super::stream::TlsStream;
use super::{ALPN, explain, provider};
use crate::Result;

/// The longest handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a refused client may take to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// The first byte of a TLS connection: a handshake record.
const HANDSHAKE_RECORD: u8 = 0x16;
/// What a client is told that does not speak TLS; Go's servers say the same, and clients know it.
const NOT_TLS: &[u8] =
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n\
    Client sent an HTTP request to an HTTPS server.\n";

/// Which certificates clients must show. A file of authorities may have revocation lists, too (`X509 CRL`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientCertificates {
    /// None is asked for.
    None,
    /// One that these authorities signed.
    Required(PathBuf),
    /// None, or one that these authorities signed.
    Optional(PathBuf),
}

/// The files of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFiles {
    /// Its certificate, and those between it and the authority, in PEM.
    pub certificate: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// What is asked of clients.
    pub clients: ClientCertificates,
}

/// A server's TLS. Shared by all its listeners; [`ServerTls::reload`] reaches every connection that is made after it, and
/// through their [`Standing`] those that are open.
#[derive(Debug)]
pub struct ServerTls {
    files: ServerFiles,
    current: watch::Sender<Arc<Current>>,
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Current {
    config: Arc<ServerConfig>,
    /// Judges clients' certificates, where they are asked for.
    pub(super) verifier: Option<Arc<dyn ClientCertVerifier>>,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file that cannot be read or used, a key that is not the certificate's.
    pub fn load(files: ServerFiles) -> Result<Self> {
        let current = watch::Sender::new(Arc::new(read(&files)?));
        Ok(Self { files, current })
    }

    /// Reads the files anew; what cannot be used leaves everything as it was.
    ///
    /// # Errors
    /// As [`ServerTls::load`].
    pub fn reload(&self) -> Result<()> {
        self.current.send_replace(Arc::new(read(&self.files)?));
        Ok(())
    }

    /// Its files.
    #[must_use]
    pub const fn files(&self) -> &ServerFiles {
        &self.files
    }

    /// What rustls knows now.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.borrow().config)
    }

    /// The handshake with a client, and the subject of the certificate that it showed. It ends in ten seconds, whatever
    /// the client does. A client that sends plain HTTP is told so in its own words.
    ///
    /// # Errors
    /// Why this client does not come in; it was told.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<(TlsStream, Option<Arc<str>>)> {
        let accepted = tokio::time::timeout(HANDSHAKE, self.handshake(stream)).await;
        accepted
            .unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake did not end in time")))
    }

    async fn handshake(&self, mut stream: TcpStream) -> io::Result<(TlsStream, Option<Arc<str>>)> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if first[0] != HANDSHAKE_RECORD {
            stream.write_all(NOT_TLS).await?;
            dismiss(stream).await;
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the client does not speak TLS"));
        }
        let mut changes = self.current.subscribe();
        // A reload during the handshake is one that this connection has still to be judged by.
        let config = Arc::clone(&changes.borrow_and_update().config);
        match TlsAcceptor::from(config).accept(stream).into_fallible().await {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
                let subject = shown.first().map(|certificate| subject(certificate.as_ref()));
                let standing = Standing::of(shown, changes);
                Ok((TlsStream::of_client(stream.into(), standing), subject))
            }
            Err((error, stream)) => {
                dismiss(stream).await;
                Err(explain::server_side(error))
            }
        }
    }
}

/// Closes so that the client reads what it was told: bytes that nobody reads would reset the connection.
async fn dismiss(mut stream: TcpStream) {
    let drained = async {
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    // It is refused either way.
    let _ = tokio::time::timeout(FAREWELL, drained).await;
}

/// Whom a certificate is for, as `CN=client, O=Example`.
fn subject(der: &[u8]) -> Arc<str> {
    // It was verified, so it can be read; one that is beyond this parser still is somebody.
    X509Certificate::from_der(der).map_or_else(|_| "unreadable".into(), |(_, read)| read.subject().to_string().into())
}

fn read(files: &ServerFiles) -> Result<Current> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(&files.certificate, error.to_string()))?;
    let (builder, verifier) = match &files.clients {
        ClientCertificates::None => (builder.with_no_client_auth(), None),
        ClientCertificates::Required(path) | ClientCertificates::Optional(path) => {
            let pem::Authorities { roots, revoked } = pem::authorities(path)?;
            // Authorities without a list have revoked nothing.
            let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .with_crls(revoked)
                .allow_unknown_revocation_status();
            if matches!(files.clients, ClientCertificates::Optional(_)) {
                verifier = verifier.allow_unauthenticated();
            }
            let verifier = verifier.build().map_err(|error| failed(path, error.to_string()))?;
            (builder.with_client_cert_verifier(Arc::clone(&verifier)), Some(verifier))
        }
    };
    let (chain, key) = (pem::certificates(&files.certificate)?, pem::key(&files.key)?);
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            failed(&files.key, format!("it is not the key of {}", files.certificate.display()))
        }
        other => failed(&files.certificate, format!("the certificate and its key cannot be used: {other}")),
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Current { config: Arc::new(config), verifier })
}
