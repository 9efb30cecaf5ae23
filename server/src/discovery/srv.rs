//! Founders from service records of DNS: `_etcd-server-ssl._tcp` and `_etcd-server._tcp`.
//!
//! One idea: etcd's rule. Each record is a member; the one that leads where this member is reached
//! (`--initial-advertise-peer-urls`) has its name, the others are numbered, as their names are not
//! needed. Records that lead nowhere are left out.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};

use super::dns::Resolver;
use crate::config::Config;
use crate::config::bootstrap::InitialCluster;
use crate::config::url::{Scheme, Url};

/// What `--initial-cluster` would be.
///
/// # Errors
/// Nobody is found, or not this member; etcd's text.
pub(super) fn initial_cluster(config: &Config, resolver: &Resolver) -> Result<String, String> {
    let options = &config.discovery;
    let suffix = match options.service_name.as_str() {
        "" => String::new(),
        name => format!("-{name}"),
    };
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for (scheme, service) in [(Scheme::Https, "etcd-server-ssl"), (Scheme::Http, "etcd-server")] {
        let service = format!("{service}{suffix}");
        let outcome = members(config, resolver, scheme, &service);
        tracing::info!(
            service_name = service,
            server_name = config.name,
            discovery_srv = options.domain,
            outcome = ?outcome,
            "get cluster for SRV"
        );
        match outcome {
            Ok(mut members) => found.append(&mut members),
            Err(error) => errors.push(error),
        }
    }
    if found.is_empty() {
        return Err(errors.join("\n"));
    }
    let text = found.join(",");
    if !InitialCluster::parse(&text)?.members.contains_key(&config.name) {
        return Err(format!("cannot find local etcd member {:?} in SRV records", config.name));
    }
    Ok(text)
}

/// The members that one service names, as `name=url`; not empty.
fn members(
    config: &Config,
    resolver: &Resolver,
    scheme: Scheme,
    service: &str,
) -> Result<Vec<String>, String> {
    let mut own: HashMap<SocketAddr, &Url> = HashMap::new();
    for url in &config.initial_advertise_peer_urls {
        let port =
            url.port().ok_or_else(|| format!("address {}: missing port", url.authority()))?;
        own.insert(address_of(url.host(), port)?, url);
    }
    let domain = &config.discovery.domain;
    let told = |error: String| format!("error querying DNS SRV records for _{service} {error}");
    let records = resolver.services(&format!("_{service}._tcp.{domain}")).map_err(told)?;
    let (mut members, mut nameless, mut why) = (Vec::new(), 0, String::new());
    for record in records {
        let address = match address_of(&record.host, record.port) {
            Ok(address) => address,
            Err(error) => {
                why = error;
                continue;
            }
        };
        let name = match own.get(&address) {
            Some(_) => config.name.clone(),
            None => {
                nameless += 1;
                (nameless - 1).to_string()
            }
        };
        let is_secure = scheme == Scheme::Https;
        let prefix = if is_secure { "https" } else { "http" };
        let url = format!("{prefix}://{}:{}", bracketed(&record.host), record.port);
        match own.get(&address) {
            Some(expected) if expected.is_secure() != is_secure => {
                why = format!(
                    "bootstrap at {url} from DNS for {service} has scheme mismatch with expected \
                     peer {expected}"
                );
            }
            _ => members.push(format!("{name}={url}")),
        }
    }
    if members.is_empty() { Err(told(why)) } else { Ok(members) }
}

/// As Go: of the addresses of a name, the first, IPv4 preferred.
fn address_of(host: &str, port: u16) -> Result<SocketAddr, String> {
    let found =
        (host, port).to_socket_addrs().map_err(|error| format!("lookup {host}: {error}"))?;
    let found: Vec<SocketAddr> = found.collect();
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| format!("lookup {host}: no such host"))
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::dns::tests::{Manner, serve};
    use super::*;
    use crate::config::{Invocation, load};

    fn config(name: &str, url: &str, more: &[&str]) -> Box<Config> {
        let mut arguments =
            vec![format!("--name={name}"), format!("--initial-advertise-peer-urls={url}")];
        arguments.push("--discovery-srv=a.test".to_owned());
        arguments.extend(more.iter().map(|text| (*text).to_owned()));
        let disk = varve_disk::sim::SimDisk::new(1);
        match load(&arguments, &[], &disk, &mut Vec::new()).unwrap() {
            Invocation::Run(config) => config,
            Invocation::Print(text) => panic!("{text}"),
        }
    }

    #[test]
    fn records_become_founders_and_this_member_is_known_by_its_address() {
        let server = serve(
            Manner::Plain,
            &[
                (
                    "_etcd-server._tcp.a.test",
                    &[
                        (1, "127.0.0.1", 2380),
                        (2, "localhost", 2480),
                        (3, "127.0.0.1", 2580),
                        (4, "name.invalid", 2680),
                    ],
                ),
                ("_etcd-server-ssl-blue._tcp.a.test", &[(1, "127.0.0.1", 2380)]),
            ],
        );
        let resolver = Resolver::of(server);
        let own = config("own", "http://127.0.0.1:2480", &[]);
        assert_eq!(
            initial_cluster(&own, &resolver).unwrap(),
            "0=http://127.0.0.1:2380,own=http://localhost:2480,1=http://127.0.0.1:2580"
        );
        let blue = ["--discovery-srv-name=blue"];
        let secure = config("own", "https://127.0.0.1:2380", &blue);
        assert_eq!(initial_cluster(&secure, &resolver).unwrap(), "own=https://127.0.0.1:2380");
        let plain = config("own", "http://127.0.0.1:2380", &blue);
        let error = initial_cluster(&plain, &resolver).unwrap_err();
        assert!(
            error.contains("scheme mismatch with expected peer http://127.0.0.1:2380"),
            "{error}"
        );
        let other = config("own", "http://127.0.0.1:9", &[]);
        let error = initial_cluster(&other, &resolver).unwrap_err();
        assert_eq!(error, "cannot find local etcd member \"own\" in SRV records");
    }

    #[test]
    fn both_services_are_named_when_there_is_neither() {
        let server = serve(Manner::Plain, &[]);
        let own = config("own", "http://127.0.0.1:2480", &[]);
        let error = initial_cluster(&own, &Resolver::of(server)).unwrap_err();
        let expected = ["etcd-server-ssl", "etcd-server"].map(|service| {
            format!(
                "error querying DNS SRV records for _{service} lookup _{service}._tcp.a.test on \
                 {server}: no such host"
            )
        });
        assert_eq!(error, expected.join("\n"));
    }
}
