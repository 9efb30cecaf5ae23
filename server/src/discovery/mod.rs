//! Who founds a cluster when no flag names them: by DNS (`--discovery-srv`), or at a meeting place,
//! which is another cluster (`--discovery-endpoints`).
//!
//! One idea: both end in the text that `--initial-cluster` would have, so nothing after that knows.
//! Keys, rules and texts of errors are etcd's; members of both can meet at one place.
//!
//! What it does not do: anything on a restart.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::{ClusterState, Config, identity, url};

mod client;
mod dns;
mod meeting;
mod srv;

/// `--discovery-*`.
#[derive(Clone, Debug, Default)]
pub struct DiscoveryOptions {
    /// `--discovery-srv`; empty is none.
    pub domain: String,
    /// `--discovery-srv-name`; empty is none.
    pub service_name: String,
    /// `--discovery-token`.
    pub token: String,
    /// `--discovery-endpoints`; empty if there is no meeting place.
    pub endpoints: Vec<String>,
    /// `--discovery-dial-timeout`, for one endpoint.
    pub dial_timeout: Duration,
    /// `--discovery-request-timeout`.
    pub request_timeout: Duration,
    /// `--discovery-insecure-transport`: endpoints without a scheme are spoken to in plain.
    pub is_plain: bool,
    /// `--discovery-insecure-skip-tls-verify`.
    pub skips_verification: bool,
    /// `--discovery-cert`.
    pub cert_file: Option<PathBuf>,
    /// `--discovery-key`.
    pub key_file: Option<PathBuf>,
    /// `--discovery-cacert`.
    pub ca_file: Option<PathBuf>,
    /// `--discovery-user`; empty is nobody.
    pub user: String,
    /// `--discovery-password`, or what stands behind a colon in the user.
    pub password: String,
}

impl DiscoveryOptions {
    /// Whether founders are to be found.
    pub fn is_wanted(&self) -> bool {
        !self.domain.is_empty() || !self.endpoints.is_empty()
    }
}

/// `config` with the founders that were found. At a meeting place it waits until all have come.
///
/// # Errors
/// Etcd's text.
pub fn find(config: &Config) -> Result<Config, String> {
    let mut found = config.clone();
    let options = &config.discovery;
    if options.endpoints.is_empty() {
        let resolver = dns::Resolver::of_system();
        found.initial_cluster = srv::initial_cluster(config, &resolver)
            .map_err(|error| format!("error setting up initial cluster: {error}"))?;
        return Ok(found);
    }
    if config.initial_cluster_state == ClusterState::Existing {
        let text = "discovery URL should not be set when joining existing initial cluster";
        return Err(text.to_owned());
    }
    let urls = &config.initial_advertise_peer_urls;
    let id = identity::member_id(urls, &options.token, None);
    let own: Vec<String> = urls.iter().map(|url| format!("{}={url}", config.name)).collect();
    tracing::info!(
        discovery_token = options.token,
        discovery_endpoints = ?options.endpoints,
        peer_urls = url::join(urls),
        "Bootstrapping cluster using v3 discovery."
    );
    found.initial_cluster_token.clone_from(&options.token);
    found.initial_cluster = meeting::join(options, id, &own.join(","))
        .map_err(|error| format!("failed to join discovery cluster ({error})"))?;
    tracing::info!(cluster = found.initial_cluster, "discovery joined cluster successfully");
    Ok(found)
}
