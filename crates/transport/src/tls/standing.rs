//! A client's right to an encrypted connection: it lasts as long as its certificate is good.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use tokio::sync::watch;

use super::server::Current;

/// What gives a client the right to its connection. Every reload of the server's certificates judges it anew.
#[derive(Debug, Clone)]
pub struct Standing {
    shown: Arc<[CertificateDer<'static>]>,
    changes: watch::Receiver<Arc<Current>>,
}

impl Standing {
    /// Of a client that showed these certificates; who showed none has nothing to lose.
    pub(super) fn of(shown: &[CertificateDer<'static>], changes: watch::Receiver<Arc<Current>>) -> Option<Self> {
        (!shown.is_empty()).then(|| Self { shown: shown.into(), changes })
    }

    /// Resolves when a reload says that the certificate is good no more, with the reason; without a standing never.
    pub async fn lost(standing: Option<Self>) -> String {
        let Some(mut standing) = standing else { return std::future::pending().await };
        loop {
            if standing.changes.changed().await.is_err() {
                // The server is gone, and with it whoever could take something away.
                return std::future::pending().await;
            }
            let current = Arc::clone(&standing.changes.borrow_and_update());
            let (Some(verifier), [own, others @ ..]) = (&current.verifier, &*standing.shown) else { continue };
            if let Err(error) = verifier.verify_client_cert(own, others, UnixTime::now()) {
                return format!("its client's certificate is good no more: {error}");
            }
        }
    }
}
