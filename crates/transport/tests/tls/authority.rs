//! An authority of a test's own: certificates that are as good or as bad as wanted.

use std::path::Path;
use std::sync::Mutex;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    next: Mutex<u64>,
}

/// What a certificate shall be.
#[derive(Clone)]
pub struct Wanted {
    pub names: Vec<String>,
    subject: String,
    purpose: ExtendedKeyUsagePurpose,
    expired: bool,
}

impl Wanted {
    pub fn server(names: &[&str]) -> Self {
        Self {
            names: names.iter().map(ToString::to_string).collect(),
            subject: "server".to_owned(),
            purpose: ExtendedKeyUsagePurpose::ServerAuth,
            expired: false,
        }
    }

    pub fn client(subject: &str) -> Self {
        let purpose = ExtendedKeyUsagePurpose::ClientAuth;
        Self { names: Vec::new(), subject: subject.to_owned(), purpose, expired: false }
    }

    pub fn expired(mut self) -> Self {
        self.expired = true;
        self
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        Self { issuer: CertifiedIssuer::self_signed(params, key).unwrap(), next: Mutex::new(1) }
    }

    /// Its own certificate.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.issuer.pem()).unwrap();
    }

    /// `<name>-cert.pem` and `<name>-key.pem`; the serial number.
    pub fn issue(&self, wanted: &Wanted, directory: &Path, name: &str) -> SerialNumber {
        let mut next = self.next.lock().unwrap();
        *next += 1;
        let serial = SerialNumber::from(*next);
        let mut params = CertificateParams::default();
        params.serial_number = Some(serial.clone());
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, wanted.subject.as_str());
        params.extended_key_usages = vec![wanted.purpose.clone()];
        params.subject_alt_names = wanted.names.iter().map(|name| alternative(name)).collect();
        if wanted.expired {
            (params.not_before, params.not_after) = (date_time_ymd(2000, 1, 1), date_time_ymd(2001, 1, 1));
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join(format!("{name}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
        serial
    }

    /// Its certificate, and a list that revokes one, in the same file.
    pub fn revoke(&self, serial: &SerialNumber, path: &Path) {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2999, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: serial.clone(),
                revocation_time: date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).unwrap().pem().unwrap();
        std::fs::write(path, format!("{}{list}", self.issuer.pem())).unwrap();
    }
}

fn alternative(name: &str) -> SanType {
    name.parse().map_or_else(|_| SanType::DnsName(Ia5String::try_from(name).unwrap()), SanType::IpAddress)
}
