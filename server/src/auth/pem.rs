//! Keys in PEM files, as far as signed tokens need them.
//!
//! One idea: a public key is found by walking over what stands before it; nothing else of a
//! certificate is looked at, and nothing is trusted because of it (the operator named the file).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::der::{BIT_STRING, INTEGER, SEQUENCE, VERSION, take};

/// The content of one PEM block.
pub(super) struct Block {
    /// As in `-----BEGIN label-----`.
    pub label: String,
    /// What is between the lines.
    pub der: Vec<u8>,
}

/// The first block of a PEM file that is no list of EC parameters.
pub(super) fn first(file: &[u8]) -> Result<Block, String> {
    let text = std::str::from_utf8(file).map_err(|_| "expected PEM, found bytes".to_owned())?;
    let mut rest = text;
    while let Some((_, after)) = rest.split_once("-----BEGIN ") {
        let (label, after) = after.split_once("-----").ok_or("a PEM block that does not begin")?;
        let end = format!("-----END {label}-----");
        let (body, after) = after.split_once(&end).ok_or_else(|| format!("expected {end}"))?;
        rest = after;
        if label == "EC PARAMETERS" {
            continue;
        }
        let body: String = body.split_whitespace().collect();
        let der = STANDARD.decode(body).map_err(|error| format!("{label}: {error}"))?;
        return Ok(Block { label: label.to_owned(), der });
    }
    Err("expected a PEM block, found none".to_owned())
}

/// The SubjectPublicKeyInfo of a certificate.
pub(super) fn certificate_key(der: &[u8]) -> Result<&[u8], String> {
    let walk = || {
        let (certificate, _) = take(der, SEQUENCE)?;
        let (mut rest, _) = take(certificate, SEQUENCE)?;
        if rest.first() == Some(&VERSION) {
            rest = take(rest, VERSION)?.1;
        }
        rest = take(rest, INTEGER)?.1;
        // The algorithm of the signature, the issuer, the validity, the subject.
        for _ in 0..4 {
            rest = take(rest, SEQUENCE)?.1;
        }
        let (_, behind) = take(rest, SEQUENCE)?;
        Some(&rest[..rest.len() - behind.len()])
    };
    walk().ok_or_else(|| "expected an X.509 certificate, found something else".to_owned())
}

/// The key within a SubjectPublicKeyInfo.
pub(super) fn subject_public_key(der: &[u8]) -> Result<Vec<u8>, String> {
    let walk = || {
        let (info, _) = take(der, SEQUENCE)?;
        let (_algorithm, rest) = take(info, SEQUENCE)?;
        let (bits, _) = take(rest, BIT_STRING)?;
        // In front: how many bits of the last byte do not count.
        bits.strip_prefix(&[0])
    };
    let key = walk().ok_or("expected a SubjectPublicKeyInfo, found something else")?;
    Ok(key.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_found_behind_parameters() {
        let file = b"text\n-----BEGIN EC PARAMETERS-----\nBggq\n-----END EC PARAMETERS-----\n\
            -----BEGIN EC PRIVATE KEY-----\nAQID\nBA==\n-----END EC PRIVATE KEY-----\n";
        let block = first(file).expect("there is one");
        assert_eq!(
            (block.label.as_str(), block.der.as_slice()),
            ("EC PRIVATE KEY", &[1, 2, 3, 4][..])
        );
    }

    #[test]
    fn what_is_no_key_is_refused_in_words() {
        for (file, reason) in [
            (&b""[..], "expected a PEM block, found none"),
            (b"\xff", "expected PEM, found bytes"),
            (b"-----BEGIN A-----\nAQ==", "expected -----END A-----"),
        ] {
            assert_eq!(first(file).err().as_deref(), Some(reason));
        }
        for der in [&b""[..], b"\x30", b"\x30\x82", b"\x30\x05\x30\x00", b"\x30\x80"] {
            assert!(subject_public_key(der).is_err() && certificate_key(der).is_err(), "{der:?}");
        }
    }
}
