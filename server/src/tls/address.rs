//! Whether the certificate of a member is for the address that it connects from.
//!
//! One idea: etcd's rule. A certificate without names is for everybody. One with IP addresses must
//! have that of the connection; one with DNS names is good as well if the address resolves to one
//! of them, or one of them to the address.
//!
//! What it does not do: remember answers; connections of members are few.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;

use super::certificate::Certificate;

/// Checks the certificate of whoever has connected from `remote`.
///
/// # Errors
/// Why it is for somebody else.
pub async fn check(certificate: &CertificateDer<'_>, remote: IpAddr) -> Result<(), String> {
    let remote = remote.to_canonical();
    let names = Certificate::read(certificate).ok_or("the certificate cannot be read")?;
    if !names.has_ip_addresses && names.dns_names.is_empty() {
        return Ok(());
    }
    if names.has_ip_addresses {
        let parsed = ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
        let verified = verify_server_name(&parsed, &ServerName::IpAddress(remote.into()));
        match verified {
            Ok(()) => return Ok(()),
            Err(error) if names.dns_names.is_empty() => return Err(error.to_string()),
            Err(_) => {}
        }
    }
    let own_name = tokio::task::spawn_blocking(move || name_of(remote)).await;
    let own_name = own_name.map_err(io::Error::other).and_then(|name| name);
    if own_name.as_deref().is_ok_and(|name| is_among(name, &names.dns_names)) {
        return Ok(());
    }
    for name in names.dns_names.iter().filter(|name| !name.starts_with("*.")) {
        let addresses = tokio::net::lookup_host((name.as_str(), 0)).await;
        if addresses.is_ok_and(|mut found| found.any(|found| found.ip().to_canonical() == remote)) {
            return Ok(());
        }
    }
    let dns_names = names.dns_names;
    Err(format!("tls: \"{remote}\" does not match any of DNSNames {dns_names:?}"))
}

fn is_among(name: &str, dns_names: &[String]) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    dns_names.iter().any(|dns_name| match dns_name.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => name.ends_with(suffix),
        _ => dns_name == name,
    })
}

/// The name that an address resolves to. Waits for name servers.
fn name_of(address: IpAddr) -> io::Result<String> {
    let address = socket2::SockAddr::from(SocketAddr::new(address, 0));
    // As long as a name can be, and the zero behind it.
    let mut name = [0_u8; 1025];
    // SAFETY: both pointers are to live memory with the lengths given beside them; the call writes
    // only into `name`, at most its length, and the port is not asked for.
    let outcome = unsafe {
        libc::getnameinfo(
            address.as_ptr().cast(),
            address.len(),
            name.as_mut_ptr().cast(),
            name.len() as libc::socklen_t,
            std::ptr::null_mut(),
            0,
            libc::NI_NAMEREQD,
        )
    };
    if outcome != 0 {
        return Err(io::Error::other(format!("no name of the address: error {outcome}")));
    }
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8(name[..length].to_vec()).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn verdict(names: &[&str], remote: &str) -> Result<(), String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(certificate.der(), remote.parse().unwrap()))
    }

    #[test]
    fn a_certificate_is_for_its_addresses_and_names() {
        assert_eq!(verdict(&[], "127.0.0.1"), Ok(()));
        assert_eq!(verdict(&["127.0.0.1"], "127.0.0.1"), Ok(()));
        assert_eq!(verdict(&["127.0.0.1"], "::ffff:127.0.0.1"), Ok(()));
        assert_eq!(verdict(&["localhost"], "127.0.0.1"), Ok(()));
        assert_eq!(verdict(&["10.0.0.1", "localhost"], "127.0.0.1"), Ok(()));
        assert!(verdict(&["10.0.0.1"], "127.0.0.1").is_err());
        let error = verdict(&["name.invalid"], "127.0.0.1").unwrap_err();
        assert_eq!(error, "tls: \"127.0.0.1\" does not match any of DNSNames [\"name.invalid\"]");
    }

    #[test]
    fn stars_stand_for_anything_in_front() {
        let names = ["*.a.example".to_owned(), "b.example".to_owned()];
        for (name, expected) in [
            ("x.a.example", true),
            ("a.example", false),
            ("b.example.", true),
            ("xb.example", false),
        ] {
            assert_eq!(is_among(name, &names), expected, "{name}");
        }
    }
}
