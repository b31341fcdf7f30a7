//! `system tls-init`: an authority of one's own, and the certificates of a daemon and of its clients.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use sha2::{Digest as _, Sha256};

use crate::cli::{Arity, Command, Flag, Parsed};
use crate::contexts::put;
use crate::failure::{Failure, Result, reason};
use crate::printer;

/// The command.
pub static COMMAND: Command = Command::new(
    &["[OPTIONS] DIR"],
    "Make certificates: an authority, the daemon's and a client's",
    Arity::Exactly(1),
    |_, flags| Box::pin(async move { run(&flags) }),
)
.flags(&[&[
    Flag::many("host", "list", "Name or address of the daemon (default localhost, 127.0.0.1, ::1, this machine's name)"),
    Flag::many("client", "list", "Make certificates for these clients only, each in a directory of its name"),
    Flag::one("days", "int", "How long certificates are valid").default("730"),
    Flag::switch("force", "Make the daemon's and the client's anew; the authority stays").short('f'),
]])
.details(
    "DIR gets ca.pem and ca-key.pem (the authority, which stays when it is there), server-cert.pem and server-key.pem (for \
     the daemon), cert.pem and key.pem (for a client; DOCKER_CERT_PATH=DIR finds them). Keep ca-key.pem where nobody \
     else reads it.",
);

const AUTHORITY_DAYS: u64 = 3650;

fn run(flags: &Parsed) -> Result<u8> {
    let directory = PathBuf::from(&flags.args[0]);
    let days = flags.text("days").unwrap_or("730").parse().ok().filter(|days| (1..=AUTHORITY_DAYS).contains(days));
    let days = days.ok_or_else(|| Failure::new(format!("--days: want a number between 1 and {AUTHORITY_DAYS}")))?;
    let force = flags.on("force");
    let (authority, ca) = authority(&directory)?;
    let clients = flags.list("client");
    if clients.is_empty() {
        let mut server = params("gantry daemon", days, ExtendedKeyUsagePurpose::ServerAuth);
        server.subject_alt_names = names(flags.list("host"))?;
        // The daemon is a client, too, where it is asked by its own certificate.
        issue(&authority, &server, &directory.join("server-cert.pem"), &directory.join("server-key.pem"), force)?;
        let client = params("client", days, ExtendedKeyUsagePurpose::ClientAuth);
        issue(&authority, &client, &directory.join("cert.pem"), &directory.join("key.pem"), force)?;
        let dir = directory.display();
        printer::line(&format!(
            "daemon: gantry daemon -H tcp://0.0.0.0:2376 --tlsverify --tlscacert {dir}/ca.pem --tlscert \
             {dir}/server-cert.pem --tlskey {dir}/server-key.pem"
        ))?;
        printer::line(&format!("client: DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH={dir} DOCKER_HOST=tcp://HOST:2376"))?;
        return Ok(0);
    }
    for name in clients {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(Failure::new(format!("--client {name:?}: it becomes a directory's name")));
        }
        let place = directory.join(name);
        let client = params(name, days, ExtendedKeyUsagePurpose::ClientAuth);
        issue(&authority, &client, &place.join("cert.pem"), &place.join("key.pem"), force)?;
        put(&place.join("ca.pem"), ca.as_bytes(), 0o700)?;
    }
    Ok(0)
}

/// The authority that is there, or a new one; and its certificate.
fn authority(directory: &Path) -> Result<(Issuer<'static, KeyPair>, String)> {
    let (certificate, key) = (directory.join("ca.pem"), directory.join("ca-key.pem"));
    match (certificate.exists(), key.exists()) {
        (true, true) => {
            let (pem, key) = (read(&certificate)?, read(&key)?);
            let key = KeyPair::from_pem(&key).map_err(made)?;
            Ok((Issuer::from_ca_cert_pem(&pem, key).map_err(made)?, pem))
        }
        (false, false) => {
            let mut params = lasting(CertificateParams::default(), AUTHORITY_DAYS);
            params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let pair = KeyPair::generate().map_err(made)?;
            // Authorities that differ must not have one name: who is asked for the right one would not know.
            let digest = Sha256::digest(pair.public_key_raw());
            params.distinguished_name =
                named(&format!("gantry authority {:02x}{:02x}{:02x}", digest[0], digest[1], digest[2]));
            let pem = params.self_signed(&pair).map_err(made)?.pem();
            put(&key, pair.serialize_pem().as_bytes(), 0o700)?;
            put(&certificate, pem.as_bytes(), 0o700)?;
            told(&certificate, "made");
            Ok((Issuer::new(params, pair), pem))
        }
        _ => Err(Failure::new(format!(
            "{}: of ca.pem and ca-key.pem only one is there: put the other beside it, or take another directory",
            directory.display()
        ))),
    }
}

fn issue(
    authority: &Issuer<'static, KeyPair>,
    params: &CertificateParams,
    certificate: &Path,
    key: &Path,
    force: bool,
) -> Result<()> {
    if !force && (certificate.exists() || key.exists()) {
        told(certificate, "kept (--force makes it anew)");
        return Ok(());
    }
    let pair = KeyPair::generate().map_err(made)?;
    let pem = params.signed_by(&pair, authority).map_err(made)?.pem();
    put(key, pair.serialize_pem().as_bytes(), 0o700)?;
    put(certificate, pem.as_bytes(), 0o700)?;
    told(certificate, "made");
    Ok(())
}

fn params(name: &str, days: u64, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = lasting(CertificateParams::default(), days);
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![purpose];
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut whole = DistinguishedName::new();
    whole.push(DnType::CommonName, name);
    whole
}

/// Valid since yesterday: clocks differ.
fn lasting(mut params: CertificateParams, days: u64) -> CertificateParams {
    let day = Duration::from_secs(24 * 60 * 60);
    let today = jiff::Zoned::now().with_time_zone(jiff::tz::TimeZone::UTC).date();
    let [month, today_day] = [today.month(), today.day()].map(i8::unsigned_abs);
    let now = date_time_ymd(i32::from(today.year()), month, today_day);
    params.not_before = now - day;
    params.not_after = now + day * u32::try_from(days).unwrap_or(u32::MAX);
    params
}

fn names(given: &[String]) -> Result<Vec<SanType>> {
    let usual = || {
        let own = rustix::system::uname().nodename().to_string_lossy().into_owned();
        ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into_iter().chain([own]).filter(|name| !name.is_empty())
    };
    let all = if given.is_empty() { usual().collect() } else { given.to_vec() };
    let one = |name: &String| {
        let wrong = |_| Failure::new(format!("--host {name:?}: it is no name and no address"));
        match name.parse() {
            Ok(address) => Ok(SanType::IpAddress(address)),
            Err(_) => Ia5String::try_from(name.as_str()).map(SanType::DnsName).map_err(wrong),
        }
    };
    all.iter().map(one).collect()
}

fn told(path: &Path, what: &str) {
    printer::error_line(&format!("{}: {what}", path.display()));
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Failure::new(format!("read {}: {}", path.display(), reason(&error))))
}

#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn made(error: rcgen::Error) -> Failure {
    Failure::new(format!("make certificates: {error}"))
}
