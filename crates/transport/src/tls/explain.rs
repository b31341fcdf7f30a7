//! What went wrong in a handshake, as one sentence with the way out.

use std::error::Error as StdError;
use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use super::{ClientTls, Verification};

/// The TLS error at the bottom of another error.
pub fn rustls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inside.map(|inside| inside as &(dyn StdError + 'static)).or_else(|| error.source());
    }
    None
}

/// For the client's person: why there is no connection to `host`.
pub fn client_side(error: &Error, host: &str, tls: &ClientTls) -> String {
    match error {
        Error::InvalidCertificate(wrong) => certificate(wrong, host, tls),
        Error::AlertReceived(alert) => refused(*alert, tls),
        Error::InvalidMessage(_) => "the daemon does not speak TLS there: leave --tls and --tlsverify out (unset \
                                     DOCKER_TLS_VERIFY), or give the port of its TLS (2376 usually)"
            .to_owned(),
        Error::PeerIncompatible(_) => {
            format!("the daemon speaks no TLS that is safe ({error}): it needs TLS 1.2 or 1.3, update it")
        }
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn certificate(wrong: &CertificateError, host: &str, tls: &ClientTls) -> String {
    let date = |seconds: u64| {
        let moment = i64::try_from(seconds).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        moment.map_or_else(|| "an unknown date".to_owned(), |moment| moment.to_string())
    };
    let renew = "make a new one for it (gantry system tls-init), or set this machine's clock";
    match wrong {
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the daemon's certificate expired on {}: {renew}", date(not_after.as_secs()))
        }
        CertificateError::Expired => format!("the daemon's certificate has expired: {renew}"),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the daemon's certificate is not valid before {}: {renew}", date(not_before.as_secs()))
        }
        CertificateError::NotValidYet => format!("the daemon's certificate is not valid yet: {renew}"),
        CertificateError::NotValidForNameContext { presented, .. } => {
            let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
            let names = if names.is_empty() { "no name at all".to_owned() } else { names.join(", ") };
            format!(
                "the daemon's certificate is for {names}, not for {host}: use a name of the certificate, or make one \
                 for {host} (gantry system tls-init --host {host})"
            )
        }
        CertificateError::NotValidForName => format!(
            "the daemon's certificate is not for {host}: use a name of the certificate, or make one for {host} \
             (gantry system tls-init --host {host})"
        ),
        // Another authority of the same name is found out by its signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => match &tls.verification {
            Verification::Authority(path) => format!(
                "the daemon's certificate was signed by an unknown authority, not by one in {}: give the daemon's own \
                 authority with --tlscacert",
                path.display()
            ),
            _ => "the daemon's certificate was signed by an unknown authority: give the daemon's own authority with \
                  --tlscacert"
                .to_owned(),
        },
        other => format!("the daemon's certificate cannot be accepted ({other}): make a new one for it"),
    }
}

/// `DnsName("a.example")` as `a.example`.
fn bare(name: &str) -> String {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
    inside.trim_matches('"').to_owned()
}

fn refused(alert: AlertDescription, tls: &ClientTls) -> String {
    use AlertDescription as Alert;
    let Some((certificate, _)) = &tls.identity else {
        return match alert {
            Alert::CertificateRequired | Alert::BadCertificate | Alert::HandshakeFailure => {
                "the daemon wants a client's certificate: give one with --tlscert and --tlskey".to_owned()
            }
            other => format!("the daemon refused the TLS handshake ({})", spoken(other)),
        };
    };
    let file = certificate.display();
    match alert {
        Alert::UnknownCA | Alert::DecryptError => {
            format!(
                "the daemon does not know the authority that signed this client's certificate {file}: \
                     give one that the daemon's own authority signed"
            )
        }
        Alert::CertificateExpired => format!("this client's certificate {file} has expired: ask for a new one"),
        Alert::CertificateRevoked => format!("this client's certificate {file} was revoked: ask for a new one"),
        Alert::CertificateRequired
        | Alert::BadCertificate
        | Alert::CertificateUnknown
        | Alert::AccessDenied
        | Alert::UnsupportedCertificate => {
            format!(
                "the daemon does not accept this client's certificate {file} ({}): ask for a new one",
                spoken(alert)
            )
        }
        other => format!("the daemon refused the TLS handshake ({})", spoken(other)),
    }
}

/// `UnknownCA` as `unknown ca`.
fn spoken(alert: AlertDescription) -> String {
    let mut text = String::new();
    let mut before = 'A';
    for letter in format!("{alert:?}").chars() {
        if letter.is_ascii_uppercase() && before.is_ascii_lowercase() {
            text.push(' ');
        }
        before = letter;
        text.push(letter.to_ascii_lowercase());
    }
    text
}

/// For the server's log: why a client did not come in.
pub fn server_side(error: io::Error) -> io::Error {
    let reason = match rustls_error(&error) {
        Some(Error::NoCertificatesPresented) => "the client showed no certificate".to_owned(),
        Some(Error::InvalidCertificate(wrong)) => format!("the client's certificate is refused: {wrong}"),
        Some(Error::AlertReceived(alert)) => format!("the client refused the handshake ({})", spoken(*alert)),
        Some(Error::PeerIncompatible(why)) => format!("the client speaks no TLS that is safe: {why:?}"),
        Some(other) => format!("the TLS handshake failed: {other}"),
        None => return error,
    };
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_alerts_and_of_certificates_are_for_people() {
        assert_eq!(spoken(AlertDescription::UnknownCA), "unknown ca");
        assert_eq!(spoken(AlertDescription::HandshakeFailure), "handshake failure");
        assert_eq!(bare("DnsName(\"a.example\")"), "a.example");
        assert_eq!(bare("IpAddress(127.0.0.1)"), "127.0.0.1");
    }
}
