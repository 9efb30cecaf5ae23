//! Who may connect, and whom we talk to: a chain to an authority, then the names that are allowed,
//! then the serial numbers that are revoked.
//!
//! One idea: the chain is rustls's business, and only a certificate whose chain is good is looked
//! at further. A revocation list counts as etcd has it: a serial number on it is refused, whoever
//! signed the list, anywhere in the chain that was shown.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::Certificate;

/// Serial numbers that are refused.
pub type RevokedSerials = BTreeSet<Vec<u8>>;

/// Names of which a certificate must have one.
#[derive(Clone, Debug, Default)]
pub struct AllowedNames {
    /// Common names; empty is all.
    pub common_names: Vec<String>,
    /// Host names or IP addresses that it must be for; empty is all.
    pub host_names: Vec<ServerName<'static>>,
}

impl AllowedNames {
    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if !self.common_names.is_empty() {
            let common_name = Certificate::read(certificate).map(|read| read.common_name);
            if !common_name.is_some_and(|name| self.common_names.contains(&name)) {
                return Err(not_allowed());
            }
        }
        if !self.host_names.is_empty() {
            let parsed = ParsedCertificate::try_from(certificate)?;
            if !self.host_names.iter().any(|name| verify_server_name(&parsed, name).is_ok()) {
                return Err(not_allowed());
            }
        }
        Ok(())
    }
}

/// etcd's text.
fn not_allowed() -> Error {
    Error::General("client certificate authentication failed".to_owned())
}

/// Checks whoever connects.
#[derive(Debug)]
pub struct Clients {
    /// Checks the chain.
    pub chain: Arc<dyn ClientCertVerifier>,
    /// Checks its end.
    pub allowed: AllowedNames,
    /// Checks all of it.
    pub revoked: RevokedSerials,
}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end, intermediates, now)?;
        self.allowed.check(end)?;
        if !self.revoked.is_empty() {
            for certificate in std::iter::once(end).chain(intermediates) {
                let serial = Certificate::read(certificate).map(|read| read.serial);
                if serial.is_none_or(|serial| self.revoked.contains(&serial)) {
                    return Err(Error::InvalidCertificate(rustls::CertificateError::Revoked));
                }
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Checks members that are dialled.
#[derive(Debug)]
pub struct Members {
    /// Checks chain and host name; `None` if certificates are made up, and only prove that the
    /// other end has the key.
    pub chain: Option<Arc<dyn ServerCertVerifier>>,
    /// Checks the end of the chain.
    pub allowed: AllowedNames,
    /// Checks signatures where nothing else is checked.
    pub provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Members {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_server_cert(end, intermediates, name, ocsp, now)?;
        }
        self.allowed.check(end)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
