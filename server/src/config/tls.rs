//! The flags of TLS, and what does not fit together in them; words and order are etcd's.
//!
//! One idea: clients and members have the same options under different names.

use super::url::{self, Url};
use super::values::Values;
use super::{Config, ConfigError, Note};
use crate::tls::options::{check_cipher_suite, is_cipher_suite_unused};
use crate::tls::{TlsOptions, TlsVersion};

/// What the flags of TLS say.
#[derive(Clone, Debug)]
pub struct TlsFlags {
    /// TLS of clients; without a made-up certificate, see `makes_up_clients`.
    pub clients: TlsOptions,
    /// TLS of members.
    pub members: TlsOptions,
    /// `--auto-tls`; without effect if certificates are given.
    pub makes_up_clients: bool,
    /// `--peer-auto-tls`; without effect if certificates are given.
    pub makes_up_members: bool,
    /// `--self-signed-cert-validity`.
    pub made_up_validity_years: u64,
}

/// Whose flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// `--cert-file` and so on.
    Clients,
    /// `--peer-cert-file` and so on.
    Members,
}

/// All of them.
pub(super) fn flags(values: &Values<'_>) -> Result<TlsFlags, ConfigError> {
    Ok(TlsFlags {
        clients: options(values, Family::Clients)?,
        members: options(values, Family::Members)?,
        makes_up_clients: values.flag("auto-tls"),
        makes_up_members: values.flag("peer-auto-tls"),
        made_up_validity_years: values.unsigned("self-signed-cert-validity")?,
    })
}

/// One family of flags.
fn options(values: &Values<'_>, family: Family) -> Result<TlsOptions, ConfigError> {
    let prefix = if family == Family::Members { "peer-" } else { "" };
    let name = |name: &str| format!("{prefix}{name}");
    let of_other_end = |what: &str| match family {
        Family::Clients => format!("client-{what}"),
        Family::Members => format!("peer-{what}"),
    };
    Ok(TlsOptions {
        cert_file: values.path(&name("cert-file")),
        key_file: values.path(&name("key-file")),
        client_cert_file: values.path(&name("client-cert-file")),
        client_key_file: values.path(&name("client-key-file")),
        trusted_ca_file: values.path(&name("trusted-ca-file")),
        client_cert_auth: values.flag(&name("client-cert-auth")),
        crl_file: values.path(&of_other_end("crl-file")),
        allowed_common_names: values.list(&of_other_end("cert-allowed-cn")),
        allowed_host_names: values.list(&of_other_end("cert-allowed-hostname")),
        skips_address_check: family == Family::Members
            && values.flag("peer-skip-client-san-verification"),
        is_made_up: false,
        cipher_suites: values.list("cipher-suites"),
        version_min: TlsVersion::parse(&values.text("tls-min-version"))?.unwrap_or_default(),
        version_max: TlsVersion::parse(&values.text("tls-max-version"))?,
    })
}

/// What does not fit together.
pub(super) fn check(config: &Config, notes: &mut Vec<Note>) -> Result<(), ConfigError> {
    let options = &config.tls.clients;
    if let Some(max) = options.version_max.filter(|max| options.version_min > *max) {
        let name = |version| if version == TlsVersion::Tls12 { "TLS1.2" } else { "TLS1.3" };
        let (min, max) = (name(options.version_min), name(max));
        return Err(format!("min version ({min}) is greater than max version ({max})").into());
    }
    if options.version_min == TlsVersion::Tls13 && !options.cipher_suites.is_empty() {
        let text = "cipher suites cannot be configured when only TLS1.3 is enabled";
        return Err(text.to_owned().into());
    }
    for name in &options.cipher_suites {
        check_cipher_suite(name)?;
        if is_cipher_suite_unused(name) {
            let text = "cipher suite has no effect: it is broken, or of TLS 1.3, which has its own";
            notes.push(Note::warn(text, &[("cipher-suite", name)]));
        }
    }
    check_members(config, notes)?;
    check_clients(config, notes)
}

fn check_members(config: &Config, notes: &mut Vec<Note>) -> Result<(), ConfigError> {
    let has_none = check_family(&config.tls.members, config.tls.makes_up_members, "peer", notes)?;
    for url in &config.listen_peer_urls {
        if url.is_secure() && has_none {
            let address = url.authority();
            let text = format!(
                "cannot listen on TLS for {address}: KeyFile and CertFile are not presented"
            );
            return Err(text.into());
        }
        ignored("peer-url", url, &config.tls.members, "--peer-client-cert-auth", notes);
    }
    Ok(())
}

fn check_clients(config: &Config, notes: &mut Vec<Note>) -> Result<(), ConfigError> {
    let has_none = check_family(&config.tls.clients, config.tls.makes_up_clients, "client", notes)?;
    for url in config.listen_client_urls.iter().chain(&config.listen_client_http_urls) {
        if url.is_secure() && has_none {
            let text = format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} \
                 with HTTPS scheme"
            );
            return Err(text.into());
        }
        ignored("client-url", url, &config.tls.clients, "--client-cert-auth", notes);
    }
    for url in &config.listen_client_http_urls {
        let address = url.authority();
        if config.listen_client_urls.iter().any(|other| other.authority() == address) {
            let text = format!(
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same \
                 url {url}"
            );
            return Err(text.into());
        }
    }
    if has_none && config.listen_metrics_urls.iter().any(Url::is_secure) {
        let text = "client TLS key/cert (--cert-file, --key-file) must be provided for metrics \
                    secure url";
        return Err(text.to_owned().into());
    }
    Ok(())
}

/// Whether there is no certificate for them.
fn check_family(
    options: &TlsOptions,
    is_made_up: bool,
    whose: &str,
    notes: &mut Vec<Note>,
) -> Result<bool, ConfigError> {
    let (common_names, host_names) = (&options.allowed_common_names, &options.allowed_host_names);
    if !common_names.is_empty() && !host_names.is_empty() {
        let text = format!(
            "AllowedCNs and AllowedHostnames are mutually exclusive (cns={common_names:?}, \
             hostnames={host_names:?})"
        );
        return Err(text.into());
    }
    if is_made_up && !options.has_no_certificate() {
        notes.push(Note::warn(&format!("ignoring {whose} auto TLS since certs given"), &[]));
    }
    let judges = options.crl_file.is_some() || !common_names.is_empty() || !host_names.is_empty();
    if judges && (!options.asks_for_certificates() || is_made_up && options.has_no_certificate()) {
        let text = "allowed names and revoked certificates have no effect: nobody is asked for a \
                    certificate";
        notes.push(Note::warn(text, &[("tls", whose)]));
    }
    Ok(options.has_no_certificate() && !is_made_up)
}

/// Tells about certificates that a URL in plain does not use.
fn ignored(what: &str, url: &Url, options: &TlsOptions, flag: &str, notes: &mut Vec<Note>) {
    if url.is_secure() {
        return;
    }
    let scheme = if url.scheme() == url::Scheme::Unix { "UNIX" } else { "HTTP" };
    if !options.has_no_certificate() {
        let text = format!(
            "scheme is {scheme} while key and cert files are present; ignoring key and cert files"
        );
        notes.push(Note::warn(&text, &[(what, url.as_str())]));
    }
    if options.client_cert_auth {
        let text = format!(
            "scheme is {scheme} while {flag} is enabled; ignoring client cert auth for this URL"
        );
        notes.push(Note::warn(&text, &[(what, url.as_str())]));
    }
}
