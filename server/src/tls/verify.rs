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
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::Certificate;

/// Whether a chain that was refused is none, but an authority that shows its own certificate, as
/// one that signed itself and is trusted. Go takes it, rustls does not. Nothing is lost: who has its
/// key could sign any other. Its time was checked before.
fn is_authority(
    authorities: &[CertificateDer<'static>],
    end: &CertificateDer<'_>,
    refused: &Error,
) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(reason)) = refused else { return false };
    reason.to_string() == "CaUsedAsEndEntity" && authorities.iter().any(|known| known == end)
}

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
    /// Who may also connect.
    pub authorities: Arc<Vec<CertificateDer<'static>>>,
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
        let verified = self.chain.verify_client_cert(end, intermediates, now).or_else(|error| {
            let is_authority = is_authority(&self.authorities, end, &error);
            if is_authority { Ok(ClientCertVerified::assertion()) } else { Err(error) }
        })?;
        self.allowed.check(end)?;
        if !self.revoked.is_empty() {
            for certificate in std::iter::once(end).chain(intermediates) {
                let serial = Certificate::read(certificate).map(|read| read.serial);
                if serial.is_none_or(|serial| self.revoked.contains(&serial)) {
                    return Err(Error::InvalidCertificate(CertificateError::Revoked));
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
    /// Who may also answer, for the names of its certificate.
    pub authorities: Arc<Vec<CertificateDer<'static>>>,
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
        if let Some(chain) = &self.chain
            && let Err(error) = chain.verify_server_cert(end, intermediates, name, ocsp, now)
        {
            if !is_authority(&self.authorities, end, &error) {
                return Err(error);
            }
            verify_server_name(&ParsedCertificate::try_from(end)?, name)?;
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

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
    use rustls::RootCertStore;
    use rustls::server::WebPkiClientVerifier;

    use super::*;

    /// An authority for localhost that signed itself, good for an hour from `since`.
    fn authority(since: SystemTime) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = since.into();
        params.not_after = (since + Duration::from_secs(3600)).into();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn clients(trusted: &CertificateDer<'static>) -> Clients {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Clients {
            chain: chain.build().unwrap(),
            authorities: Arc::new(vec![trusted.clone()]),
            allowed: AllowedNames::default(),
            revoked: RevokedSerials::new(),
        }
    }

    #[test]
    fn a_trusted_certificate_that_signed_itself_may_be_shown_while_it_is_valid() {
        let now = SystemTime::now();
        let (sound, other) = (authority(now - Duration::from_secs(60)), authority(now));
        let clients_of = |trusted, shown| {
            clients(trusted).verify_client_cert(shown, &[], UnixTime::now()).map(drop)
        };
        assert_eq!(clients_of(&sound, &sound), Ok(()));
        clients_of(&sound, &other).expect_err("it is not trusted");
        let old = authority(now - Duration::from_secs(7200));
        clients_of(&old, &old).expect_err("its time is over");
    }
}
