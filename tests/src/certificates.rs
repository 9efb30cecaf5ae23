//! Certificates for tests: an authority, what it signs, and what it revokes.
//!
//! One idea: made anew by each test, in memory; a test writes the files that it wants a server to
//! read, by rename, as everybody should who replaces a certificate.
//!
//! What it does not do: keep anything. Keys are worth nothing after the test.

use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};

/// Who signs.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// What is to be signed.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The common name; empty for none.
    pub common_name: &'a str,
    /// Hosts and addresses that it is for.
    pub names: &'a [&'a str],
    /// The serial number.
    pub serial: u64,
    /// Whether its time is over.
    pub is_expired: bool,
}

/// What a server on loopback needs.
pub const SERVER: Wanted<'static> = Wanted {
    common_name: "server",
    names: &["127.0.0.1", "localhost"],
    serial: 100,
    is_expired: false,
};

/// A client without names.
pub const CLIENT: Wanted<'static> =
    Wanted { common_name: "client", names: &[], serial: 200, is_expired: false };

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Authority {
    /// A new authority.
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// Its own certificate.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Signs.
    pub fn sign(&self, wanted: &Wanted<'_>) -> Pair {
        let names: Vec<String> = wanted.names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name = DistinguishedName::new();
        if !wanted.common_name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, wanted.common_name);
        }
        params.serial_number = Some(SerialNumber::from(wanted.serial));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        if wanted.is_expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        Pair { certificate, key: key.serialize_pem() }
    }

    /// A list of revoked serial numbers, in DER, as etcd wants it.
    pub fn revoke(&self, serials: &[u64]) -> Vec<u8> {
        let revoked_certs = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2096, 1, 1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("a list").der().to_vec()
    }
}

impl Pair {
    /// Writes `{name}.crt` and `{name}.key`; both paths.
    pub fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let certificate = put(directory, &format!("{name}.crt"), self.certificate.as_bytes());
        (certificate, put(directory, &format!("{name}.key"), self.key.as_bytes()))
    }
}

/// Writes a file, whole or not at all; its path.
///
/// # Panics
/// If the directory is not writable.
pub fn put(directory: &Path, name: &str, content: &[u8]) -> PathBuf {
    let (path, unfinished) = (directory.join(name), directory.join(format!("{name}.new")));
    std::fs::write(&unfinished, content).expect("a directory of the test");
    std::fs::rename(&unfinished, &path).expect("a directory of the test");
    path
}
