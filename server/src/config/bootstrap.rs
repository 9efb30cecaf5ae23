//! The founding members as the flags name them, and whether this member is one of them.
//!
//! One idea: checked only when the member starts without data; on a restart the flags of
//! bootstrapping have no effect, as in etcd. Texts of errors are etcd's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs};

use varve_api::etcdserverpb::Member as JoinedMember;

use super::url::{self, Url};
use super::{Config, identity};
use crate::data_dir::FoundingMember;

/// The founding members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialCluster {
    /// Peer URLs (sorted) by name.
    pub members: BTreeMap<String, Vec<Url>>,
}

/// One founding member, with its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    /// The id that every founder computes for it.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its peer URLs, sorted.
    pub peer_urls: Vec<Url>,
}

impl InitialCluster {
    /// Reads `name=url,name=url`; a name may stand several times.
    ///
    /// # Errors
    /// If a URL is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut lists: BTreeMap<String, Vec<Url>> = BTreeMap::new();
        for pair in text.split(',').filter(|pair| !pair.is_empty()) {
            let (name, url) = pair.split_once('=').unwrap_or((pair, ""));
            lists.entry(name.to_owned()).or_default().push(Url::parse(url)?);
        }
        for urls in lists.values_mut() {
            urls.sort();
        }
        Ok(Self { members: lists })
    }

    /// All founders with their ids, in order of id.
    ///
    /// # Errors
    /// If two have the same id.
    pub fn founders(&self, token: &str) -> Result<Vec<Founder>, String> {
        let mut founders: Vec<Founder> = self
            .members
            .iter()
            .map(|(name, urls)| Founder {
                id: identity::member_id(urls, token, None),
                name: name.clone(),
                peer_urls: urls.clone(),
            })
            .collect();
        founders.sort_by_key(|founder| founder.id);
        match founders.windows(2).find(|pair| pair[0].id == pair[1].id) {
            Some(pair) => Err(format!("member exists with identical ID {:x}", pair[0].id)),
            None => Ok(founders),
        }
    }

    /// Whether two members, or one twice, have a URL.
    pub fn has_duplicate_url(&self) -> bool {
        let mut seen = BTreeSet::new();
        !self.members.values().flatten().all(|url| seen.insert(url))
    }
}

impl std::fmt::Display for InitialCluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs = self
            .members
            .iter()
            .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")));
        formatter.write_str(&pairs.collect::<Vec<_>>().join(","))
    }
}

/// Checks the flags of a member that founds a cluster; gives the founders, in order of id.
///
/// # Errors
/// Etcd's text.
pub fn verify_new(config: &Config) -> Result<Vec<Founder>, String> {
    let cluster = InitialCluster::parse(&config.initial_cluster)?;
    let own = own_urls(config, &cluster)?;
    if url::join(own) != url::join(&config.initial_advertise_peer_urls)
        && !same_addresses(own, &config.initial_advertise_peer_urls)
    {
        return Err(mismatch(config, own));
    }
    if cluster.has_duplicate_url() {
        return Err(format!("initial cluster {cluster} has duplicate url"));
    }
    cluster.founders(&config.initial_cluster_token)
}

/// Checks the flags of a member that joins a cluster; gives all members named, itself included.
/// Their ids are decided by the cluster.
///
/// # Errors
/// Etcd's text.
pub fn verify_existing(config: &Config) -> Result<InitialCluster, String> {
    let cluster = InitialCluster::parse(&config.initial_cluster)?;
    own_urls(config, &cluster)?;
    if cluster.has_duplicate_url() {
        return Err(format!("initial cluster {cluster} has duplicate url"));
    }
    Ok(cluster)
}

/// The members that the flags name, with the ids that the cluster has given them.
///
/// # Errors
/// Etcd's text: the flags name others than there are.
pub fn assign_ids(
    named: &InitialCluster,
    existing: &[JoinedMember],
) -> Result<Vec<FoundingMember>, String> {
    let refused = |reason: String| Err(format!("error validating peerURLs: {reason}"));
    if named.members.len() != existing.len() {
        return refused("member count is unequal".to_owned());
    }
    let mut members = Vec::new();
    for (name, urls) in &named.members {
        let urls: Vec<String> = urls.iter().map(|url| url.as_str().to_owned()).collect();
        let is_same = |member: &&JoinedMember| {
            let mut theirs = member.peer_urls.clone();
            theirs.sort();
            theirs == urls
        };
        let Some(member) = existing.iter().find(is_same) else {
            let theirs: Vec<_> = existing.iter().flat_map(|member| &member.peer_urls).collect();
            return refused(format!(
                "unmatched member while checking PeerURLs: {name} with {urls:?} is not among {theirs:?}"
            ));
        };
        members.push(FoundingMember { id: member.id, name: name.clone(), peer_urls: urls });
    }
    members.sort_by_key(|member| member.id);
    Ok(members)
}

fn own_urls<'a>(config: &Config, cluster: &'a InitialCluster) -> Result<&'a [Url], String> {
    let urls = cluster.members.get(&config.name);
    urls.map(Vec::as_slice).ok_or_else(|| {
        format!("couldn't find local name {:?} in the initial cluster configuration", config.name)
    })
}

/// Whether the URLs lead to the same addresses, once names are resolved.
fn same_addresses(one: &[Url], other: &[Url]) -> bool {
    let resolve = |urls: &[Url]| -> Option<BTreeSet<Vec<SocketAddr>>> {
        let addresses = |url: &Url| -> Option<Vec<SocketAddr>> {
            let mut found: Vec<_> = (url.host(), url.port()?).to_socket_addrs().ok()?.collect();
            found.sort();
            Some(found)
        };
        urls.iter().map(addresses).collect()
    };
    let schemes = |urls: &[Url]| urls.iter().map(Url::scheme).collect::<Vec<_>>();
    schemes(one) == schemes(other) && resolve(one).is_some_and(|one| Some(one) == resolve(other))
}

fn mismatch(config: &Config, own: &[Url]) -> String {
    let advertised = &config.initial_advertise_peer_urls;
    let named = |urls: &[&Url]| {
        urls.iter().map(|url| format!("{}={url}", config.name)).collect::<Vec<_>>().join(",")
    };
    let not_advertised: Vec<&Url> = own.iter().filter(|url| !advertised.contains(url)).collect();
    if !not_advertised.is_empty() {
        return format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} \
             (resolved urls: \"{}\" != \"{}\")",
            named(&not_advertised),
            url::join(advertised),
            url::join(advertised),
            url::join(own),
        );
    }
    let not_named: Vec<&str> =
        advertised.iter().filter(|url| !own.contains(url)).map(Url::as_str).collect();
    format!(
        "--initial-advertise-peer-urls has {} but missing from --initial-cluster={}",
        not_named.join(","),
        named(&advertised.iter().collect::<Vec<_>>()),
    )
}
