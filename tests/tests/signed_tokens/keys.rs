//! Keys of tokens, the flags that name them, and tokens of any content.
//!
//! One idea: what signs a token here is not what signs it in the server, so a fault in either shows.
//!
//! What it does not do: verify.

use std::path::PathBuf;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaEncoding, RsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use varve_tests::certificates::put;

/// A private key or a shared secret.
pub struct Key {
    /// The method that it is made for.
    pub method: &'static str,
    /// The public key in PEM; secrets have none.
    pub public: Option<String>,
    /// What the file has from which the server reads it.
    private: Vec<u8>,
    /// PKCS #8, or the secret.
    der: Vec<u8>,
}

impl Key {
    /// A new one.
    pub fn new(method: &'static str) -> Key {
        let algorithm = match method {
            "RS256" | "PS256" => &rcgen::PKCS_RSA_SHA256,
            "ES256" => &rcgen::PKCS_ECDSA_P256_SHA256,
            "EdDSA" => &rcgen::PKCS_ED25519,
            "HS256" => {
                let random: [u8; 32] =
                    aws_lc_rs::rand::generate(&SystemRandom::new()).expect("random").expose();
                return Key::of_secret(&random);
            }
            _ => panic!("no keys for {method}"),
        };
        let pair = rcgen::KeyPair::generate_for(algorithm).expect("a key");
        Key {
            method,
            public: Some(pair.public_key_pem()),
            private: pair.serialize_pem().into_bytes(),
            der: pair.serialize_der(),
        }
    }

    /// A shared secret.
    pub fn of_secret(secret: &[u8]) -> Key {
        Key { method: "HS256", public: None, private: secret.to_vec(), der: secret.to_vec() }
    }

    /// A method that this key could be used for, and is not.
    pub fn other_method(&self) -> &'static str {
        match self.method {
            "RS256" => "PS256",
            "PS256" => "RS256",
            "HS256" => "HS512",
            // There is none for its curve; the name alone must be enough.
            "ES256" => "ES384",
            "EdDSA" => "HS256",
            method => panic!("no keys for {method}"),
        }
    }

    /// A token that says `claims` and that it was signed by `method`, which is true.
    pub fn token(&self, method: &str, claims: &str) -> String {
        let message = message(method, claims);
        let signature = self.sign(method, message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, method: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let key = RsaKeyPair::from_pkcs8(&self.der).expect("an RSA key");
            let mut signature = vec![0; key.public_modulus_len()];
            key.sign(encoding, &random, message, &mut signature).expect("signed");
            signature
        };
        let hmac = |algorithm| {
            hmac::sign(&hmac::Key::new(algorithm, &self.der), message).as_ref().to_vec()
        };
        match method {
            "RS256" => rsa(&signature::RSA_PKCS1_SHA256),
            "PS256" => rsa(&signature::RSA_PSS_SHA256),
            "ES256" | "ES384" => {
                let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
                let key = EcdsaKeyPair::from_pkcs8(algorithm, &self.der).expect("a key");
                key.sign(&random, message).expect("signed").as_ref().to_vec()
            }
            "EdDSA" => {
                let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&self.der).expect("a key");
                key.sign(message).as_ref().to_vec()
            }
            "HS256" => hmac(hmac::HMAC_SHA256),
            "HS512" => hmac(hmac::HMAC_SHA512),
            _ => panic!("nothing signs {method}"),
        }
    }
}

/// What is signed.
pub fn message(method: &str, claims: &str) -> String {
    let header = format!(r#"{{"alg":"{method}","typ":"JWT"}}"#);
    format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims))
}

/// A directory for the files of keys, removed with it.
pub struct Place(PathBuf);

impl Place {
    /// Uses a directory.
    pub fn new(directory: PathBuf) -> Place {
        Place(directory)
    }

    /// `--auth-token` with both keys, or with the secret.
    pub fn flag(&self, key: &Key, time_to_live_seconds: u64) -> String {
        let private = put(&self.0, "private", &key.private);
        let public = key.public.as_ref().map(|pem| put(&self.0, "public", pem.as_bytes()));
        let public = public.map_or(String::new(), |path| format!(",pub-key={}", path.display()));
        let (method, private) = (key.method, private.display());
        format!("jwt{public},priv-key={private},sign-method={method},ttl={time_to_live_seconds}s")
    }

    /// `--auth-token` with the public key alone.
    pub fn public_flag(&self, key: &Key) -> String {
        let pem = key.public.as_ref().expect("a pair of keys");
        let path = put(&self.0, "public", pem.as_bytes());
        format!("jwt,pub-key={},sign-method={}", path.display(), key.method)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}
