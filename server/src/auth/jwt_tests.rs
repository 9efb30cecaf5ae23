//! Every algorithm signs and verifies, and nothing else passes.

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeys, KeySize};
use base64::engine::general_purpose::STANDARD;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Made by `openssl req -x509 -newkey ec`, and its key by `openssl ec`; they protect nothing.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBgTCCASegAwIBAgIUO/6yXGUcNK8ItxRAgKkjkRPmB6kwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKdmFydmUgdGVzdDAgFw0yNjExMjExMTAxMDdaGA8yMTI2MTAy
ODExMDEwN1owFTETMBEGA1UEAwwKdmFydmUgdGVzdDBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABFEXA9r/bj2oXjvzXMNeVtEJZuFNxox/1qXKFmtbuFcZCKWSFQaG
XF2eJhl6+e5ym+QI4Z09Hb3Uza7O6DmkbSmjUzBRMB0GA1UdDgQWBBS8K8gwMw9h
0/V1BGtK+8OgTfF0+jAfBgNVHSMEGDAWgBS8K8gwMw9h0/V1BGtK+8OgTfF0+jAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCGbPTV2A7MG9r/+07m
1WAuLn3UzkXilsfChBh6UIJ+VQIgVM/ioCkD+6CdtI6BqAHhdYvLywkgpdzzSMOt
3+jHAPc=
-----END CERTIFICATE-----
";
const EC_PRIVATE_KEY: &str = "-----BEGIN EC PRIVATE KEY-----
MHcCAQEEIHLtMOk1mObYq8/goNw9unQnFVpGQ7nYdh42RXfvoT5yoAoGCCqGSM49
AwEHoUQDQgAEURcD2v9uPaheO/Ncw15W0Qlm4U3GjH/WpcoWa1u4VxkIpZIVBoZc
XZ4mGXr57nKb5AjhnT0dvdTNrs7oOaRtKQ==
-----END EC PRIVATE KEY-----
";

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    let body = STANDARD.encode(der);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n").into_bytes()
}

/// A private and the public key for a method, as PEM.
fn keys(method: &str) -> (Vec<u8>, Vec<u8>) {
    let ecdsa = |algorithm| {
        let key = EcdsaKeyPair::generate(algorithm).unwrap();
        let public = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
        (key.to_pkcs8v1().unwrap().as_ref().to_vec(), public.as_ref().to_vec())
    };
    let (private, public) = match method {
        "ES256" => ecdsa(&sig::ECDSA_P256_SHA256_FIXED_SIGNING),
        "ES384" => ecdsa(&sig::ECDSA_P384_SHA384_FIXED_SIGNING),
        "ES512" => ecdsa(&sig::ECDSA_P521_SHA512_FIXED_SIGNING),
        "EdDSA" => {
            let key = Ed25519KeyPair::generate().unwrap();
            let public = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
            (key.to_pkcs8v1().unwrap().as_ref().to_vec(), public.as_ref().to_vec())
        }
        _ => {
            let key = RsaKeys::generate(KeySize::Rsa2048).unwrap();
            let public = AsDer::<PublicKeyX509Der<'_>>::as_der(key.public_key()).unwrap();
            let private = AsDer::<Pkcs8V1Der<'_>>::as_der(&key).unwrap();
            (private.as_ref().to_vec(), public.as_ref().to_vec())
        }
    };
    (pem("PRIVATE KEY", &private), pem("PUBLIC KEY", &public))
}

fn alice(auth_revision: u64) -> Option<Subject> {
    Some(Subject { user: "alice".to_owned(), auth_revision })
}

#[test]
fn every_method_with_a_key_pair_signs_and_verifies() {
    let (rsa, rsa_public) = keys("RS256");
    let methods = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    for method in methods.into_iter().chain(["ES256", "ES384", "ES512", "EdDSA"]) {
        let (private, public) = if method.contains('S') && !method.starts_with('E') {
            (rsa.clone(), rsa_public.clone())
        } else {
            keys(method)
        };
        let both = Jwt::new(method, Some(&private), Some(&public), HOUR).unwrap();
        let public_only = Jwt::new(method, None, Some(&public), HOUR).unwrap();
        let token = both.sign("alice", 7).unwrap();
        assert_eq!(both.verify(&token), alice(7), "{method}");
        assert_eq!(public_only.verify(&token), alice(7), "{method}");
        assert_eq!(public_only.sign("alice", 7), None, "{method}");
        for position in 0..token.len() {
            let mut damaged = token.clone().into_bytes();
            damaged[position] = if damaged[position] == b'A' { b'B' } else { b'A' };
            let damaged = String::from_utf8(damaged).unwrap();
            // The last letter of a part may hold bits that do not count.
            let verified = both.verify(&damaged);
            assert!(verified.is_none() || verified == alice(7), "{method} {position}");
        }
        let (_, other) = keys(method);
        let mismatch = Jwt::new(method, Some(&private), Some(&other), HOUR).err();
        assert_eq!(mismatch.as_deref(), Some("auth: public and private keys don't match"));
    }
}

#[test]
fn a_shared_secret_signs_and_another_does_not_verify() {
    for method in ["HS256", "HS384", "HS512"] {
        let jwt = Jwt::new(method, Some(b"secret"), None, HOUR).unwrap();
        let token = jwt.sign("alice", 1).unwrap();
        assert_eq!(jwt.verify(&token), alice(1));
        let other = Jwt::new(method, Some(b"Secret"), None, HOUR).unwrap();
        assert_eq!(other.verify(&token), None);
    }
    let hs256 = Jwt::new("HS256", Some(b"secret"), None, HOUR).unwrap();
    let hs512 = Jwt::new("HS512", Some(b"secret"), None, HOUR).unwrap();
    assert_eq!(hs256.verify(&hs512.sign("alice", 1).unwrap()), None, "another method");
}

/// A token with these parts, signed with the secret of the tests.
fn token(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
    let signature = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn claims_and_header_decide_as_well() {
    let jwt = Jwt::new("HS256", Some(b"secret"), None, HOUR).unwrap();
    let header = r#"{"alg":"HS256","typ":"JWT"}"#;
    let says = |claims: &str| jwt.verify(&token(header, claims));
    assert_eq!(says(r#"{"username":"alice","revision":3}"#), alice(3), "exp may be missing");
    assert_eq!(says(r#"{"exp":99999999999,"username":"alice","revision":3.0,"x":1}"#), alice(3));
    for claims in [
        r#"{"exp":1,"username":"alice","revision":3}"#,
        r#"{"nbf":99999999999,"username":"alice","revision":3}"#,
        r#"{"username":"alice"}"#,
        r#"{"revision":3}"#,
        r#"{"username":7,"revision":3}"#,
        "[]",
        "",
    ] {
        assert_eq!(says(claims), None, "{claims}");
    }
    let claims = r#"{"username":"alice","revision":3}"#;
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS512"}"#, "{}", ""] {
        assert_eq!(jwt.verify(&token(header, claims)), None, "{header}");
    }
    for text in ["", ".", "..", "a.b", "a.b.c", "a.b.c.d"] {
        assert_eq!(jwt.verify(text), None, "{text}");
    }
}

#[test]
fn a_token_of_go_is_understood_and_ours_has_its_shape() {
    let jwt = Jwt::new("HS256", Some(b"secret"), None, HOUR).unwrap();
    let made = jwt.sign("alice", 7).unwrap();
    let parts: Vec<_> = made.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap()).collect();
    assert_eq!(parts[0], br#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = String::from_utf8(parts[1].clone()).unwrap();
    assert!(claims.starts_with(r#"{"exp":"#), "{claims}");
    assert!(claims.ends_with(r#","revision":7,"username":"alice"}"#), "{claims}");
}

#[test]
fn keys_of_openssl_and_certificates_are_read() {
    let private = EC_PRIVATE_KEY.as_bytes();
    let both = Jwt::new("ES256", Some(private), Some(CERTIFICATE.as_bytes()), HOUR).unwrap();
    let verifier = Jwt::new("ES256", None, Some(CERTIFICATE.as_bytes()), HOUR).unwrap();
    assert_eq!(verifier.verify(&both.sign("alice", 2).unwrap()), alice(2));
}

#[test]
fn what_cannot_work_is_refused_in_words() {
    let reason = |method, private: Option<&[u8]>, public: Option<&[u8]>| {
        Jwt::new(method, private, public, HOUR).err().unwrap_or_default()
    };
    assert_eq!(reason("none", None, None), "auth: invalid auth signature method");
    for method in ["RS256", "ES256", "EdDSA", "HS256"] {
        assert_eq!(reason(method, None, None), "auth: missing key data");
    }
    assert_eq!(reason("HS256", Some(b""), None), "auth: missing key data");
    assert_eq!(reason("RS256", Some(b"x"), None), "expected a PEM block, found none");
    let ec = EC_PRIVATE_KEY.as_bytes();
    assert!(reason("RS256", Some(ec), None).starts_with("the private key (EC PRIVATE KEY): "));
    assert!(reason("ES384", Some(ec), None).starts_with("the private key"));
    let certificate = CERTIFICATE.as_bytes();
    assert!(reason("RS256", None, Some(certificate)).starts_with("the public key (CERTIFICATE): "));
    assert!(reason("ES256", None, Some(ec)).starts_with("expected a public key"));
}
