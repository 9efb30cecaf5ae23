//! What the flags say about TLS: files, names, versions, cipher suites.
//!
//! One idea: values are etcd's and are checked with etcd's words; what rustls does not have (RC4,
//! CBC, key exchange by RSA) is accepted as long as something is left.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

/// One family of flags: that for clients, or that for members (`--peer-...`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsOptions {
    /// `--cert-file`: shown to whoever connects.
    pub cert_file: Option<PathBuf>,
    /// `--key-file`.
    pub key_file: Option<PathBuf>,
    /// `--client-cert-file`: shown to members that are dialled, instead of `cert_file`.
    pub client_cert_file: Option<PathBuf>,
    /// `--client-key-file`.
    pub client_key_file: Option<PathBuf>,
    /// `--trusted-ca-file`: who signs the certificates of others.
    pub trusted_ca_file: Option<PathBuf>,
    /// `--client-cert-auth`.
    pub client_cert_auth: bool,
    /// `--client-crl-file`.
    pub crl_file: Option<PathBuf>,
    /// `--client-cert-allowed-cn`; empty is all.
    pub allowed_common_names: Vec<String>,
    /// `--client-cert-allowed-hostname`; empty is all.
    pub allowed_host_names: Vec<String>,
    /// `--peer-skip-client-san-verification`.
    pub skips_address_check: bool,
    /// The certificate was made up: nobody can verify it, so nobody does.
    pub is_made_up: bool,
    /// `--cipher-suites`, names as Go has them; empty is all.
    pub cipher_suites: Vec<String>,
    /// `--tls-min-version`.
    pub version_min: TlsVersion,
    /// `--tls-max-version`; `None` is the highest there is.
    pub version_max: Option<TlsVersion>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    Tls12,
    /// TLS 1.3.
    Tls13,
}

impl TlsVersion {
    /// Reads the value of a flag; empty is `None`.
    ///
    /// # Errors
    /// Etcd's text.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(Self::Tls12)),
            "TLS1.3" => Ok(Some(Self::Tls13)),
            _ => Err(format!("unexpected TLS version {text:?} (must be one of: TLS1.2, TLS1.3)")),
        }
    }
}

impl TlsOptions {
    /// Whether there is no certificate to show.
    pub fn has_no_certificate(&self) -> bool {
        self.cert_file.is_none() && self.key_file.is_none()
    }

    /// Whether others must show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.client_cert_auth || self.trusted_ca_file.is_some()
    }

    /// The versions to offer, best first.
    pub fn versions(&self) -> Vec<&'static SupportedProtocolVersion> {
        let max = self.version_max.unwrap_or(TlsVersion::Tls13);
        let all = [
            (TlsVersion::Tls13, &rustls::version::TLS13),
            (TlsVersion::Tls12, &rustls::version::TLS12),
        ];
        let wanted =
            all.into_iter().filter(|(version, _)| (self.version_min..=max).contains(version));
        wanted.map(|(_, version)| version).collect()
    }

    /// The algorithms to offer: all, or of TLS 1.2 those that were named. Those of TLS 1.3 are not
    /// chosen by anybody, as in etcd.
    ///
    /// # Errors
    /// A name is none, or nothing is left for the versions that are wanted.
    pub fn provider(&self) -> Result<Arc<CryptoProvider>, String> {
        let mut provider = aws_lc_rs::default_provider();
        if self.cipher_suites.is_empty() {
            return Ok(Arc::new(provider));
        }
        let mut chosen = Vec::new();
        for name in &self.cipher_suites {
            check_cipher_suite(name)?;
            let suites = provider.cipher_suites.iter();
            chosen.extend(suites.filter(|suite| is_named(**suite, name)).copied());
        }
        let is_of_12 =
            |suite: &SupportedCipherSuite| matches!(suite, SupportedCipherSuite::Tls12(_));
        chosen.retain(is_of_12);
        if chosen.is_empty() && self.version_max == Some(TlsVersion::Tls12) {
            return Err(format!(
                "--cipher-suites: expected at least one of {}, found {}",
                CIPHER_SUITES_USED.join(", "),
                self.cipher_suites.join(", ")
            ));
        }
        provider.cipher_suites.retain(|suite| !is_of_12(suite));
        provider.cipher_suites.extend(chosen);
        Ok(Arc::new(provider))
    }
}

/// Checks that Go knows a cipher suite of this name.
///
/// # Errors
/// Etcd's text.
pub fn check_cipher_suite(name: &str) -> Result<(), String> {
    let is_known = |names: &[&str]| names.contains(&name);
    if is_known(&CIPHER_SUITES_USED) || is_known(&CIPHER_SUITES_UNUSED) {
        return Ok(());
    }
    Err(format!("unexpected TLS cipher suite {name:?}"))
}

/// Whether we have no cipher suite of this name, or always have it.
pub fn is_cipher_suite_unused(name: &str) -> bool {
    CIPHER_SUITES_UNUSED.contains(&name)
}

fn is_named(suite: SupportedCipherSuite, name: &str) -> bool {
    // Go had two names without the hash first.
    let name = name.strip_suffix("_SHA256").unwrap_or(name);
    let ours = format!("{:?}", suite.suite());
    ours.strip_suffix("_SHA256").unwrap_or(&ours) == name
}

/// Names that choose a cipher suite of TLS 1.2.
const CIPHER_SUITES_USED: [&str; 8] = [
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
];

/// Names that Go knows as well: of TLS 1.3, where there is no choice, and of what is broken.
const CIPHER_SUITES_UNUSED: [&str; 19] = [
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn named(names: &[&str]) -> TlsOptions {
        let cipher_suites = names.iter().map(|name| (*name).to_owned()).collect();
        TlsOptions { cipher_suites, ..TlsOptions::default() }
    }

    #[test]
    fn each_name_that_counts_chooses_one_cipher_suite() {
        let of_13 = 3;
        for name in CIPHER_SUITES_USED {
            let provider = named(&[name]).provider().unwrap();
            assert_eq!(provider.cipher_suites.len(), of_13 + 1, "{name}");
        }
        for name in CIPHER_SUITES_UNUSED {
            let provider = named(&[name]).provider().unwrap();
            assert_eq!(provider.cipher_suites.len(), of_13, "{name}");
        }
        let error = named(&["TLS_NONE"]).provider().unwrap_err();
        assert_eq!(error, "unexpected TLS cipher suite \"TLS_NONE\"");
        let options = TlsOptions {
            version_max: Some(TlsVersion::Tls12),
            ..named(&["TLS_RSA_WITH_RC4_128_SHA"])
        };
        assert!(options.provider().unwrap_err().contains("found TLS_RSA_WITH_RC4_128_SHA"));
    }

    #[test]
    fn versions_are_those_between_lowest_and_highest() {
        let count = |version_min, version_max| {
            TlsOptions { version_min, version_max, ..TlsOptions::default() }.versions().len()
        };
        assert_eq!(count(TlsVersion::Tls12, None), 2);
        assert_eq!(count(TlsVersion::Tls13, None), 1);
        assert_eq!(count(TlsVersion::Tls12, Some(TlsVersion::Tls12)), 1);
        assert!(TlsVersion::parse("TLS1.1").unwrap_err().contains("must be one of"));
    }
}
