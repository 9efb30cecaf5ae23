//! `--auto-tls`, `--peer-auto-tls`: a certificate that signs itself.
//!
//! One idea: made once, kept in the data directory where etcd keeps it (`fixtures/client`,
//! `fixtures/peer`), and from then on files like any other. It encrypts; it proves nothing.
//!
//! What it does not do: renew them. Whoever removes the files gets new ones at the next start.

use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair,
    KeyUsagePurpose, SanType,
};
use varve_disk::Disk;

/// The certificate's file and its key's, made if one of them is missing; it is for `hosts`.
///
/// # Errors
/// No years, or the disk says no.
pub fn made_up(
    disk: &dyn Disk,
    directory: &Path,
    hosts: &[&str],
    validity_years: u64,
) -> Result<(PathBuf, PathBuf), String> {
    if validity_years == 0 {
        return Err("selfSignedCertValidity is invalid,it should be greater than 0".to_owned());
    }
    let (cert_file, key_file) = (directory.join("cert.pem"), directory.join("key.pem"));
    let on_disk = |error: varve_disk::Error| error.to_string();
    let has_both =
        disk.exists(&cert_file).map_err(on_disk)? && disk.exists(&key_file).map_err(on_disk)?;
    if !has_both {
        let (cert, key) = make(hosts, validity_years).map_err(|error| error.to_string())?;
        disk.create_dir_all(directory).map_err(on_disk)?;
        put(disk, directory, &key_file, &key).map_err(on_disk)?;
        put(disk, directory, &cert_file, &cert).map_err(on_disk)?;
        tracing::warn!(cert_file = %cert_file.display(), "automatically generate certificates");
    }
    Ok((cert_file, key_file))
}

/// Certificate and key, both in PEM.
fn make(hosts: &[&str], validity_years: u64) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "etcd");
    for host in hosts {
        params.subject_alt_names.push(match host.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*host).try_into()?),
        });
    }
    params.key_usages = vec![KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let now = std::time::SystemTime::now();
    // A few minutes for clocks that are behind.
    let validity = std::time::Duration::from_secs(validity_years.min(1_000) * 365 * 24 * 3600);
    params.not_before = (now - std::time::Duration::from_secs(300)).into();
    params.not_after = (now + validity).into();
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

/// Whole or not at all, whatever was there.
fn put(disk: &dyn Disk, directory: &Path, path: &Path, text: &str) -> varve_disk::Result<()> {
    let unfinished = path.with_extension("new");
    for old in [&unfinished, path] {
        if disk.exists(old)? {
            disk.remove(old)?;
        }
    }
    let file = disk.create(&unfinished)?;
    file.write_at(0, text.as_bytes())?;
    // Durable after it: the content, under a name that nobody reads.
    file.sync()?;
    disk.rename(&unfinished, path)?;
    // Durable after it: the name.
    disk.sync_dir(directory)
}

#[cfg(test)]
mod tests {
    use varve_disk::os::OsDisk;

    use super::*;
    use crate::tls::certificate::Certificate;
    use crate::tls::source::Use;
    use crate::tls::{TlsOptions, TlsSource};

    #[test]
    fn a_pair_is_made_once_and_can_be_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("fixtures").join("client");
        let disk = OsDisk::new();
        let make = || made_up(&disk, &directory, &["127.0.0.1", "localhost"], 1).unwrap();
        let (cert_file, key_file) = make();
        let key = std::fs::read(&key_file).unwrap();
        let options = TlsOptions {
            cert_file: Some(cert_file.clone()),
            key_file: Some(key_file.clone()),
            is_made_up: true,
            ..TlsOptions::default()
        };
        assert!(TlsSource::load(options, Use::Accept).unwrap().server().is_some());
        assert_eq!(make(), (cert_file.clone(), key_file.clone()));
        assert_eq!(std::fs::read(&key_file).unwrap(), key);
        std::fs::remove_file(cert_file).unwrap();
        make();
        assert_ne!(std::fs::read(key_file).unwrap(), key);
        let (pem, _) = super::make(&["10.0.0.1", "a.example"], 1).unwrap();
        use rustls::pki_types::pem::PemObject as _;
        let der = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let read = Certificate::read(&der).unwrap();
        assert_eq!(
            (read.dns_names.as_slice(), read.has_ip_addresses),
            (&["a.example".to_owned()][..], true)
        );
        assert!(made_up(&disk, &directory, &[], 0).unwrap_err().contains("greater than 0"));
    }
}
