//! Signed tokens (JWT): `--auth-token=jwt,sign-method=...,priv-key=...,pub-key=...,ttl=...`.
//!
//! One idea: three parts in base64 with full stops between: a header that names the algorithm,
//! claims (`username`, `revision`, `exp`), and the signature over both. Only the configured
//! algorithm is accepted, whatever a header says. With a public key alone tokens can be verified
//! and not made.
//!
//! Algorithms: RS256/384/512, PS256/384/512, ES256/384/512, EdDSA, HS256/384/512. RSA keys have at
//! least 2048 bits. What a member says about an invalid token is the same for every reason.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    self as sig, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RsaEncoding,
    RsaKeyPair, UnparsedPublicKey, VerificationAlgorithm,
};
use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::pem::{self, Block};

/// A key and what is done with it.
pub struct Jwt {
    algorithm: &'static str,
    key: Key,
    time_to_live: Duration,
}

enum Key {
    Hmac(Box<hmac::Key>),
    Public { verifier: Verifier, signer: Option<Signer> },
}

struct Verifier {
    algorithm: &'static dyn VerificationAlgorithm,
    public_key: Vec<u8>,
}

enum Signer {
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A family of algorithms with what tells its members apart.
enum Family {
    Rsa(&'static dyn VerificationAlgorithm, &'static dyn RsaEncoding),
    Ecdsa(&'static dyn VerificationAlgorithm, &'static EcdsaSigningAlgorithm),
    Ed25519,
    Hmac(hmac::Algorithm),
}

/// In the order in which Go writes them.
#[derive(Serialize)]
struct Claims<'a> {
    exp: u64,
    revision: u64,
    username: &'a str,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Received {
    username: String,
    revision: f64,
    exp: Option<f64>,
    nbf: Option<f64>,
}

/// What a valid token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The user.
    pub user: String,
    /// The auth revision at which it was made.
    pub auth_revision: u64,
}

impl Jwt {
    /// Reads the keys, which are PEM, or any bytes for HS.
    ///
    /// # Errors
    /// In words: an unknown method, no key, a key that cannot be read or does not fit.
    pub fn new(
        method: &str,
        private_key: Option<&[u8]>,
        public_key: Option<&[u8]>,
        time_to_live: Duration,
    ) -> Result<Self, String> {
        let (algorithm, family) =
            family(method).ok_or_else(|| "auth: invalid auth signature method".to_owned())?;
        let key = match family {
            Family::Hmac(algorithm) => match private_key {
                None | Some(b"") => return Err("auth: missing key data".to_owned()),
                Some(secret) => Key::Hmac(Box::new(hmac::Key::new(algorithm, secret))),
            },
            family => family.key_pair(private_key, public_key)?,
        };
        Ok(Self { algorithm, key, time_to_live })
    }

    /// A token for a user at an auth revision; `None` if there is a public key only.
    pub fn sign(&self, user: &str, auth_revision: u64) -> Option<String> {
        let exp = now().saturating_add(self.time_to_live.as_secs());
        let claims = Claims { exp, revision: auth_revision, username: user };
        let header = format!(r#"{{"alg":"{}","typ":"JWT"}}"#, self.algorithm);
        let claims = serde_json::to_vec(&claims).expect("claims are text and numbers");
        let message =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(message.as_bytes())?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// What a token says, if it is ours and its time is not over.
    pub fn verify(&self, token: &str) -> Option<Subject> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != self.algorithm {
            return None;
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        self.key.verify(message.as_bytes(), &signature)?;
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let claims: Received = serde_json::from_slice(&claims).ok()?;
        let now = now() as f64;
        let is_over = claims.exp.is_some_and(|end| end <= now);
        let is_early = claims.nbf.is_some_and(|start| start > now);
        (!is_over && !is_early)
            .then_some(Subject { user: claims.username, auth_revision: claims.revision as u64 })
    }
}

impl Key {
    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Hmac(key) => Some(hmac::sign(key, message).as_ref().to_vec()),
            Self::Public { signer: None, .. } => None,
            Self::Public { signer: Some(Signer::Rsa(key, encoding)), .. } => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).ok()?;
                Some(signature)
            }
            Self::Public { signer: Some(Signer::Ecdsa(key)), .. } => {
                Some(key.sign(&random, message).ok()?.as_ref().to_vec())
            }
            Self::Public { signer: Some(Signer::Ed25519(key)), .. } => {
                Some(key.sign(message).as_ref().to_vec())
            }
        }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Option<()> {
        match self {
            Self::Hmac(key) => hmac::verify(key, message, signature).ok(),
            Self::Public { verifier, .. } => {
                let key = UnparsedPublicKey::new(verifier.algorithm, &verifier.public_key);
                key.verify(message, signature).ok()
            }
        }
    }
}

impl Family {
    fn key_pair(
        &self,
        private_key: Option<&[u8]>,
        public_key: Option<&[u8]>,
    ) -> Result<Key, String> {
        let signer = private_key.map(|pem| self.signer(pem)).transpose()?;
        let given = public_key.map(|pem| self.public_key(pem)).transpose()?;
        let own = signer.as_ref().map(Signer::public_key);
        let public_key = match (own, given) {
            (None, None) => return Err("auth: missing key data".to_owned()),
            (Some(own), Some(given)) if !is_same(&own, &given) => {
                return Err("auth: public and private keys don't match".to_owned());
            }
            (Some(own), _) => own,
            (None, Some(given)) => given,
        };
        Ok(Key::Public {
            verifier: Verifier { algorithm: self.verification(), public_key },
            signer,
        })
    }

    fn verification(&self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rsa(algorithm, _) | Self::Ecdsa(algorithm, _) => *algorithm,
            Self::Ed25519 => &sig::ED25519,
            Self::Hmac(_) => unreachable!("a shared secret verifies with itself"),
        }
    }

    fn signer(&self, pem: &[u8]) -> Result<Signer, String> {
        let Block { label, der } = pem::first(pem)?;
        let rejected = |reason| format!("the private key ({label}): {reason}");
        Ok(match self {
            Self::Rsa(_, encoding) => {
                let key = match label.as_str() {
                    "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der),
                    _ => RsaKeyPair::from_pkcs8(&der),
                };
                Signer::Rsa(key.map_err(rejected)?, *encoding)
            }
            Self::Ecdsa(_, algorithm) => {
                let key = EcdsaKeyPair::from_private_key_der(algorithm, &der);
                Signer::Ecdsa(key.map_err(rejected)?)
            }
            Self::Ed25519 => {
                let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der);
                Signer::Ed25519(key.map_err(rejected)?)
            }
            Self::Hmac(_) => unreachable!("a shared secret is no key pair"),
        })
    }

    /// The public key as [`UnparsedPublicKey`] wants it.
    fn public_key(&self, pem: &[u8]) -> Result<Vec<u8>, String> {
        let Block { label, der } = pem::first(pem)?;
        let key = match label.as_str() {
            "RSA PUBLIC KEY" => der,
            "PUBLIC KEY" => pem::subject_public_key(&der)?,
            "CERTIFICATE" => pem::subject_public_key(pem::certificate_key(&der)?)?,
            other => return Err(format!("expected a public key or a certificate, found {other}")),
        };
        // Parsed once to be refused now and not with the first token.
        sig::ParsedPublicKey::new(self.verification(), &key)
            .map_err(|reason| format!("the public key ({label}): {reason}"))?;
        Ok(key)
    }
}

impl Signer {
    fn public_key(&self) -> Vec<u8> {
        match self {
            Self::Rsa(key, _) => key.public_key().as_ref().to_vec(),
            Self::Ecdsa(key) => key.public_key().as_ref().to_vec(),
            Self::Ed25519(key) => key.public_key().as_ref().to_vec(),
        }
    }
}

fn is_same(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

fn family(method: &str) -> Option<(&'static str, Family)> {
    Some(match method {
        "RS256" => ("RS256", Family::Rsa(&sig::RSA_PKCS1_2048_8192_SHA256, &sig::RSA_PKCS1_SHA256)),
        "RS384" => ("RS384", Family::Rsa(&sig::RSA_PKCS1_2048_8192_SHA384, &sig::RSA_PKCS1_SHA384)),
        "RS512" => ("RS512", Family::Rsa(&sig::RSA_PKCS1_2048_8192_SHA512, &sig::RSA_PKCS1_SHA512)),
        "PS256" => ("PS256", Family::Rsa(&sig::RSA_PSS_2048_8192_SHA256, &sig::RSA_PSS_SHA256)),
        "PS384" => ("PS384", Family::Rsa(&sig::RSA_PSS_2048_8192_SHA384, &sig::RSA_PSS_SHA384)),
        "PS512" => ("PS512", Family::Rsa(&sig::RSA_PSS_2048_8192_SHA512, &sig::RSA_PSS_SHA512)),
        "ES256" => (
            "ES256",
            Family::Ecdsa(&sig::ECDSA_P256_SHA256_FIXED, &sig::ECDSA_P256_SHA256_FIXED_SIGNING),
        ),
        "ES384" => (
            "ES384",
            Family::Ecdsa(&sig::ECDSA_P384_SHA384_FIXED, &sig::ECDSA_P384_SHA384_FIXED_SIGNING),
        ),
        "ES512" => (
            "ES512",
            Family::Ecdsa(&sig::ECDSA_P521_SHA512_FIXED, &sig::ECDSA_P521_SHA512_FIXED_SIGNING),
        ),
        "EdDSA" => ("EdDSA", Family::Ed25519),
        "HS256" => ("HS256", Family::Hmac(hmac::HMAC_SHA256)),
        "HS384" => ("HS384", Family::Hmac(hmac::HMAC_SHA384)),
        "HS512" => ("HS512", Family::Hmac(hmac::HMAC_SHA512)),
        _ => return None,
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
