//! Files to configurations of rustls, read again when they change.
//!
//! One idea: the stamps of the files belong to the configuration that was built from them. Two
//! threads may both see a change and both build; the one that stores last may store what is older,
//! and the next handshake sees that by the stamps.
//!
//! A change that cannot be used (a certificate whose key is still the old one, half a file) leaves
//! what was good in use and is logged once; the next change is tried again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use varve_disk::os::{Stamp, read_foreign, stamp};

use super::certificate::{Certificate, revoked_serials};
use super::options::TlsOptions;
use super::verify::{AllowedNames, Clients, Members, RevokedSerials};

/// Where systems keep the authorities that they trust, if no flag names any; as Go looks for them.
const SYSTEM_AUTHORITIES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Configurations from files, always those of now.
pub struct TlsSource {
    options: TlsOptions,
    used_for: Use,
    provider: Arc<CryptoProvider>,
    files: Vec<PathBuf>,
    loaded: ArcSwap<Loaded>,
}

/// What the configurations are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Others connect.
    Accept,
    /// Others connect, and are connected to.
    AcceptAndDial,
}

struct Loaded {
    server: Option<Arc<ServerConfig>>,
    client: Option<Arc<ClientConfig>>,
    stamps: Vec<Option<Stamp>>,
    is_settled: bool,
}

impl std::fmt::Debug for TlsSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("TlsSource").field("options", &self.options).finish_non_exhaustive()
    }
}

impl TlsSource {
    /// Reads all files.
    ///
    /// # Errors
    /// Which file, what was expected and what found.
    pub fn load(options: TlsOptions, used_for: Use) -> Result<Self, String> {
        let provider = options.provider()?;
        let files = [
            &options.cert_file,
            &options.key_file,
            &options.client_cert_file,
            &options.client_key_file,
            &options.trusted_ca_file,
            &options.crl_file,
        ];
        let files: Vec<PathBuf> = files.into_iter().flatten().cloned().collect();
        let loaded = Loaded::build(&options, used_for, &provider, stamps(&files))?;
        Ok(Self { options, used_for, provider, files, loaded: ArcSwap::from_pointee(loaded) })
    }

    /// For a handshake with somebody who has connected; `None` without a certificate to show.
    pub fn server(&self) -> Option<Arc<ServerConfig>> {
        self.current().server.clone()
    }

    /// For a handshake with a member that was dialled; `None` if that is not the [`Use`].
    pub fn client(&self) -> Option<Arc<ClientConfig>> {
        self.current().client.clone()
    }

    /// What the flags say.
    pub fn options(&self) -> &TlsOptions {
        &self.options
    }

    fn current(&self) -> Arc<Loaded> {
        let loaded = self.loaded.load_full();
        let stamps = stamps(&self.files);
        let is_new = stamps != loaded.stamps;
        if !is_new && loaded.is_settled {
            return loaded;
        }
        let is_settled = are_settled(&stamps);
        let loaded =
            match Loaded::build(&self.options, self.used_for, &self.provider, stamps.clone()) {
                Ok(loaded) => {
                    if is_new {
                        tracing::info!(files = ?self.files, "reloaded TLS files");
                    }
                    loaded
                }
                Err(error) => {
                    if is_new {
                        let text =
                            "cannot use changed TLS files; what was loaded before stays in use";
                        tracing::warn!(%error, "{text}");
                    }
                    let (server, client) = (loaded.server.clone(), loaded.client.clone());
                    Loaded { server, client, stamps, is_settled }
                }
            };
        let loaded = Arc::new(loaded);
        self.loaded.store(Arc::clone(&loaded));
        loaded
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    files.iter().map(|file| stamp(file).ok()).collect()
}

fn are_settled(stamps: &[Option<Stamp>]) -> bool {
    stamps.iter().all(|stamp| stamp.is_none_or(|stamp| stamp.is_settled()))
}

impl Loaded {
    /// `stamps` were taken before anything is read: a change in between makes them old.
    fn build(
        options: &TlsOptions,
        used_for: Use,
        provider: &Arc<CryptoProvider>,
        stamps: Vec<Option<Stamp>>,
    ) -> Result<Self, String> {
        let is_settled = are_settled(&stamps);
        let own = pair("KeyFile and CertFile", &options.cert_file, &options.key_file)?;
        let other = pair(
            "ClientKeyFile and ClientCertFile",
            &options.client_cert_file,
            &options.client_key_file,
        )?;
        let asks = own.is_some() && options.asks_for_certificates();
        let verifies = used_for == Use::AcceptAndDial && !options.is_made_up;
        let authorities =
            if asks || verifies { authorities(options)? } else { Authorities::default() };
        let server = match &own {
            None => None,
            Some(own) => Some(Arc::new(server(options, provider, own, &authorities)?)),
        };
        let shown = other.or(own);
        let client = match used_for {
            Use::Accept => None,
            Use::AcceptAndDial => {
                Some(Arc::new(client(options, provider, shown.as_ref(), &authorities)?))
            }
        };
        Ok(Self { server, client, stamps, is_settled })
    }
}

/// A certificate with what leads to its authority, and its key.
struct Pair {
    cert_file: PathBuf,
    key_file: PathBuf,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Reads both files, or none.
fn pair(
    what: &str,
    cert_file: &Option<PathBuf>,
    key_file: &Option<PathBuf>,
) -> Result<Option<Pair>, String> {
    let (cert_file, key_file) = match (cert_file, key_file) {
        (None, None) => return Ok(None),
        (Some(cert_file), Some(key_file)) => (cert_file.clone(), key_file.clone()),
        (cert, key) => {
            let shown = |path: &Option<PathBuf>| {
                path.as_ref().map_or(String::new(), |path| path.display().to_string())
            };
            let (key, cert) = (shown(key), shown(cert));
            return Err(format!("{what} must both be present[key: {key}, cert: {cert}]"));
        }
    };
    let chain = certificates(&cert_file)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&key_file)?).map_err(|error| {
        let key_file = key_file.display();
        format!("{key_file}: expected a private key in PEM, unencrypted, found none ({error})")
    })?;
    Ok(Some(Pair { cert_file, key_file, chain, key }))
}

impl Pair {
    fn refused(&self, error: &rustls::Error) -> String {
        let (cert_file, key_file) = (self.cert_file.display(), self.key_file.display());
        match error {
            rustls::Error::InconsistentKeys(_) => format!(
                "{cert_file}, {key_file}: expected a certificate and its key, found the key of \
                 another (tls: private key does not match public key)"
            ),
            _ => format!("{cert_file}, {key_file}: cannot be used: {error}"),
        }
    }
}

fn server(
    options: &TlsOptions,
    provider: &Arc<CryptoProvider>,
    own: &Pair,
    authorities: &Authorities,
) -> Result<ServerConfig, String> {
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&options.versions())
        .map_err(|error| format!("TLS versions and cipher suites: {error}"))?;
    let builder = if options.asks_for_certificates() {
        let roots = Arc::clone(&authorities.roots);
        let chain = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
        let chain = chain.build().map_err(|error| format!("certificate authorities: {error}"))?;
        let (allowed, revoked) = (allowed_names(options)?, revoked(options)?);
        let authorities = Arc::clone(&authorities.certificates);
        let clients = Clients { chain, authorities, allowed, revoked };
        builder.with_client_cert_verifier(Arc::new(clients))
    } else {
        builder.with_no_client_auth()
    };
    let mut config = builder
        .with_single_cert(own.chain.clone(), own.key.clone_key())
        .map_err(|error| own.refused(&error))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

fn client(
    options: &TlsOptions,
    provider: &Arc<CryptoProvider>,
    shown: Option<&Pair>,
    authorities: &Authorities,
) -> Result<ClientConfig, String> {
    let chain: Option<Arc<dyn rustls::client::danger::ServerCertVerifier>> = if options.is_made_up {
        None
    } else {
        let roots = Arc::clone(&authorities.roots);
        let chain = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider));
        let chain = chain.build();
        Some(chain.map_err(|error| format!("certificate authorities: {error}"))?)
    };
    let verifier = Members {
        chain,
        authorities: Arc::clone(&authorities.certificates),
        allowed: allowed_names(options)?,
        provider: Arc::clone(provider),
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&options.versions())
        .map_err(|error| format!("TLS versions and cipher suites: {error}"))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(pair.chain.clone(), pair.key.clone_key())
            .map_err(|error| pair.refused(&error))?,
    };
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Whom we trust to sign certificates of others.
struct Authorities {
    roots: Arc<RootCertStore>,
    /// Those that a flag names; none of the system's.
    certificates: Arc<Vec<CertificateDer<'static>>>,
}

impl Default for Authorities {
    fn default() -> Self {
        Self { roots: Arc::new(RootCertStore::empty()), certificates: Arc::default() }
    }
}

fn authorities(options: &TlsOptions) -> Result<Authorities, String> {
    let mut store = RootCertStore::empty();
    let mut named = Vec::new();
    if let Some(file) = &options.trusted_ca_file {
        named = certificates(file)?;
        for certificate in &named {
            store.add(certificate.clone()).map_err(|error| {
                format!(
                    "{}: expected certificates, found one that is none: {error}",
                    file.display()
                )
            })?;
        }
    } else {
        let named = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
        let known = named.into_iter().chain(SYSTEM_AUTHORITIES.map(PathBuf::from));
        let file = known.into_iter().find(|file| stamp(file).is_ok());
        let text = "expected certificate authorities in a file that a flag names (--trusted-ca-file, \
                    --peer-trusted-ca-file) or in one of the system, found none";
        let file = file.ok_or(text)?;
        store.add_parsable_certificates(certificates(&file)?);
    }
    Ok(Authorities { roots: Arc::new(store), certificates: Arc::new(named) })
}

fn allowed_names(options: &TlsOptions) -> Result<AllowedNames, String> {
    let host_names = options.allowed_host_names.iter().map(|name| {
        ServerName::try_from(name.clone())
            .map_err(|error| format!("allowed host name {name:?}: {error}"))
    });
    let host_names = host_names.collect::<Result<_, _>>()?;
    Ok(AllowedNames { common_names: options.allowed_common_names.clone(), host_names })
}

/// DER, as etcd reads it, or PEM.
fn revoked(options: &TlsOptions) -> Result<RevokedSerials, String> {
    let Some(file) = &options.crl_file else { return Ok(RevokedSerials::new()) };
    let bytes = read(file)?;
    let der = CertificateRevocationListDer::from_pem_slice(&bytes);
    let der = der.as_ref().map_or(bytes.as_slice(), |der| der.as_ref());
    let serials = revoked_serials(der).ok_or_else(|| {
        format!("{}: expected a certificate revocation list, found something else", file.display())
    })?;
    Ok(serials.into_iter().collect())
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(file)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let shown = file.display();
    let found = found.map_err(|error| format!("{shown}: expected certificates in PEM: {error}"))?;
    if found.is_empty() {
        return Err(format!("{shown}: expected a certificate in PEM, found none"));
    }
    if found.iter().any(|der| Certificate::read(der).is_none()) {
        return Err(format!("{shown}: expected certificates, found one that cannot be read"));
    }
    Ok(found)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    read_foreign(file).map_err(|error| {
        let file = file.display();
        match error.kind() {
            std::io::ErrorKind::NotFound => format!("open {file}: no such file or directory"),
            std::io::ErrorKind::PermissionDenied => format!("open {file}: permission denied"),
            _ => error.to_string(),
        }
    })
}
