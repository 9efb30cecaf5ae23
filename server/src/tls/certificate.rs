//! The few fields that we read of certificates and of lists of revoked ones: a walk over DER.
//!
//! One idea: chains, signatures and host names are checked by rustls; what is left is the common
//! name, the serial number and the alternative names, each at a known place. Input is hostile
//! until its signature was checked: anything unexpected is `None`, nothing is trusted for its
//! length.

use crate::der::{
    BMP_STRING, DNS_NAME, EXTENSIONS, GENERALIZED_TIME, INTEGER, IP_ADDRESS, OBJECT_ID,
    OCTET_STRING, SEQUENCE, SET, UTC_TIME, VERSION, take,
};

/// 2.5.4.3
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// 2.5.29.17
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// What we read of a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The serial number, without leading zeros.
    pub serial: Vec<u8>,
    /// The last common name of the subject; empty if it has none.
    pub common_name: String,
    /// The DNS names it is for.
    pub dns_names: Vec<String>,
    /// Whether it is for any IP addresses.
    pub has_ip_addresses: bool,
}

impl Certificate {
    /// Reads a certificate; `None` if it is none.
    pub fn read(der: &[u8]) -> Option<Self> {
        let (certificate, _) = take(der, SEQUENCE)?;
        let (mut rest, _) = take(certificate, SEQUENCE)?;
        if rest.first() == Some(&VERSION) {
            rest = take(rest, VERSION)?.1;
        }
        let (serial, rest) = take(rest, INTEGER)?;
        // The algorithm of the signature, the issuer, the validity.
        let rest = skip(rest, SEQUENCE, 3)?;
        let (subject, rest) = take(rest, SEQUENCE)?;
        let mut read = Self {
            serial: without_zeros(serial),
            common_name: common_name(subject)?,
            ..Self::default()
        };
        // The public key, and unique ids that nobody has.
        let mut rest = skip(rest, SEQUENCE, 1)?;
        while let Some(tag) = rest.first() {
            let (content, behind) = take(rest, *tag)?;
            if *tag == EXTENSIONS {
                read.extensions(content)?;
            }
            rest = behind;
        }
        Some(read)
    }

    fn extensions(&mut self, content: &[u8]) -> Option<()> {
        let (mut extensions, _) = take(content, SEQUENCE)?;
        while !extensions.is_empty() {
            let (extension, behind) = take(extensions, SEQUENCE)?;
            extensions = behind;
            let (id, mut rest) = take(extension, OBJECT_ID)?;
            if id != ALTERNATIVE_NAMES {
                continue;
            }
            if rest.first() != Some(&OCTET_STRING) {
                // Whether it is critical.
                rest = take(rest, *rest.first()?)?.1;
            }
            let (names, _) = take(take(rest, OCTET_STRING)?.0, SEQUENCE)?;
            self.alternative_names(names)?;
        }
        Some(())
    }

    fn alternative_names(&mut self, mut names: &[u8]) -> Option<()> {
        while let Some(tag) = names.first() {
            let (name, behind) = take(names, *tag)?;
            names = behind;
            match *tag {
                DNS_NAME => self.dns_names.push(String::from_utf8(name.to_vec()).ok()?),
                IP_ADDRESS => self.has_ip_addresses = true,
                _ => {}
            }
        }
        Some(())
    }
}

/// The serial numbers of a revocation list, without leading zeros; `None` if it is no list.
pub fn revoked_serials(der: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (list, _) = take(der, SEQUENCE)?;
    let (mut rest, _) = take(list, SEQUENCE)?;
    if rest.first() == Some(&INTEGER) {
        rest = take(rest, INTEGER)?.1;
    }
    // The algorithm of the signature, the issuer.
    rest = skip(rest, SEQUENCE, 2)?;
    // This update, and perhaps the next.
    while let Some(tag @ (&UTC_TIME | &GENERALIZED_TIME)) = rest.first() {
        rest = take(rest, *tag)?.1;
    }
    let mut serials = Vec::new();
    if rest.first() == Some(&SEQUENCE) {
        let (mut entries, _) = take(rest, SEQUENCE)?;
        while !entries.is_empty() {
            let (entry, behind) = take(entries, SEQUENCE)?;
            serials.push(without_zeros(take(entry, INTEGER)?.0));
            entries = behind;
        }
    }
    Some(serials)
}

/// The last common name counts, as for Go.
fn common_name(mut subject: &[u8]) -> Option<String> {
    let mut found = String::new();
    while !subject.is_empty() {
        let (mut set, behind) = take(subject, SET)?;
        subject = behind;
        while !set.is_empty() {
            let (attribute, behind) = take(set, SEQUENCE)?;
            set = behind;
            let (id, value) = take(attribute, OBJECT_ID)?;
            if id == COMMON_NAME {
                let tag = *value.first()?;
                found = text(tag, take(value, tag)?.0)?;
            }
        }
    }
    Some(found)
}

fn text(tag: u8, bytes: &[u8]) -> Option<String> {
    if tag != BMP_STRING {
        return String::from_utf8(bytes.to_vec()).ok();
    }
    let (pairs, rest) = bytes.as_chunks::<2>();
    let units: Vec<u16> = pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect();
    String::from_utf16(&units).ok().filter(|_| rest.is_empty())
}

fn without_zeros(number: &[u8]) -> Vec<u8> {
    let start = number.iter().position(|byte| *byte != 0).unwrap_or(number.len());
    number[start..].to_vec()
}

fn skip(mut rest: &[u8], tag: u8, count: usize) -> Option<&[u8]> {
    for _ in 0..count {
        rest = take(rest, tag)?.1;
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, DnType, Issuer, KeyIdMethod, KeyPair,
        RevokedCertParams, SanType, SerialNumber, date_time_ymd,
    };

    use super::*;

    fn certificate() -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["one.example".to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::IpAddress("10.1.2.3".parse().unwrap()));
        params.serial_number = Some(SerialNumber::from_slice(&[0, 0x81, 2]));
        params.distinguished_name.push(DnType::OrganizationName, "Organisation");
        params.distinguished_name.push(DnType::CommonName, "alice");
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn revocation_list() -> Vec<u8> {
        let revoked = |serial: &[u8]| RevokedCertParams {
            serial_number: SerialNumber::from_slice(serial),
            revocation_time: date_time_ymd(2026, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2026, 1, 1),
            next_update: date_time_ymd(2036, 1, 1),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked(&[0x81, 2]), revoked(&[7])],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::new(CertificateParams::default(), KeyPair::generate().unwrap());
        params.signed_by(&issuer).unwrap().der().to_vec()
    }

    #[test]
    fn names_and_numbers_are_read() {
        let read = Certificate::read(&certificate()).unwrap();
        let expected = Certificate {
            serial: vec![0x81, 2],
            common_name: "alice".to_owned(),
            dns_names: vec!["one.example".to_owned()],
            has_ip_addresses: true,
        };
        assert_eq!(read, expected);
        assert_eq!(revoked_serials(&revocation_list()).unwrap(), [vec![0x81, 2], vec![7]]);
    }

    #[test]
    fn bytes_cut_or_changed_anywhere_do_no_harm() {
        for der in [certificate(), revocation_list()] {
            for length in 0..der.len() {
                assert_eq!(Certificate::read(&der[..length]), None);
                assert_eq!(revoked_serials(&der[..length]), None);
            }
            for at in 0..der.len() {
                for value in [0, 1, 0x30, 0x7f, 0x80, 0x84, 0x85, 0xff] {
                    let mut changed = der.clone();
                    changed[at] = value;
                    // Whatever comes of it: an answer, and no panic.
                    let _ = (Certificate::read(&changed), revoked_serials(&changed));
                }
            }
        }
    }

    #[test]
    fn texts_of_two_bytes_a_character_are_read() {
        assert_eq!(text(BMP_STRING, &[0, b'a', 0, b'b']), Some("ab".to_owned()));
        assert_eq!(text(BMP_STRING, &[0, b'a', 0]), None);
        assert_eq!(text(0x0c, &[0xff]), None);
    }
}
