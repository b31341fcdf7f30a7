//! Certificates, keys and revocation lists from PEM files.

use std::path::Path;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::{CertificateError, RootCertStore};

use crate::{Error, Result, files};

/// What a file of authorities has: their certificates, and what they have revoked.
pub struct Authorities {
    pub roots: RootCertStore,
    pub revoked: Vec<CertificateRevocationListDer<'static>>,
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    files::read(path).map_err(|error| failed(path, format!("cannot read {what}: {}", crate::error::reason(&error))))
}

pub fn failed(path: &Path, reason: impl Into<String>) -> Error {
    Error::Certificate { path: path.to_owned(), reason: reason.into() }
}

/// Every certificate of a file, at least one.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(path, "the certificate")?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| failed(path, format!("not a PEM file: {error}")))?;
    if all.is_empty() {
        return Err(failed(path, "there is no certificate in it: want PEM (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(all)
}

/// The private key of a file.
pub fn key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    let pem = read(path, "the private key")?;
    if pem.windows(20).any(|text| text == b"BEGIN ENCRYPTED PRIV") {
        return Err(failed(path, "the private key is encrypted: take its passphrase off (openssl pkey -in … -out …)"));
    }
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|_| failed(path, "there is no private key in it: want PEM (-----BEGIN PRIVATE KEY-----)"))
}

/// The authorities of a file.
pub fn authorities(path: &Path) -> Result<Authorities> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| match error {
            rustls::Error::InvalidCertificate(CertificateError::BadEncoding) => {
                failed(path, "a certificate in it is damaged")
            }
            other => failed(path, format!("a certificate in it is no authority's: {other}")),
        })?;
    }
    let pem = read(path, "the certificates")?;
    let revoked = CertificateRevocationListDer::pem_slice_iter(&pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| failed(path, format!("a revocation list in it is damaged: {error}")))?;
    Ok(Authorities { roots, revoked })
}
