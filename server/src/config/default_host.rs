//! What is advertised by who listens on 0.0.0.0 and does not say where it can be reached.
//!
//! One idea: as in etcd, the default URL (`localhost`) is replaced by the address from which this
//! machine speaks to the world, with the port that is listened on. The kernel knows that address: a
//! datagram socket that is connected has it, and sends nothing.
//!
//! What it does not do: look at listeners on `::`, or choose among several interfaces (nor does
//! etcd).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::url::Url;
use super::{Config, Note, flags};

/// Addresses for documentation: routed as any other, and nobody's.
const SOMEWHERE: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))),
];

/// The address with which this machine leaves through its default route; the older version of IP
/// is preferred.
///
/// # Errors
/// There is no route.
pub(super) fn find() -> Result<IpAddr, String> {
    let mut failure = String::new();
    for (own, other) in SOMEWHERE {
        let found = UdpSocket::bind(SocketAddr::new(own, 0)).and_then(|socket| {
            socket.connect(SocketAddr::new(other, 9))?;
            socket.local_addr()
        });
        match found {
            Ok(address) => return Ok(address.ip()),
            Err(error) => failure = format!("could not find default route: {error}"),
        }
    }
    Err(failure)
}

/// Puts the host that `find` gives into advertised URLs that nobody has chosen.
pub(super) fn advertise(
    config: &mut Config,
    find: impl FnOnce() -> Result<IpAddr, String>,
    notes: &mut Vec<Note>,
) {
    let mut wanting = Vec::new();
    for (listen, advertised, name) in [
        (
            &config.listen_peer_urls,
            &mut config.initial_advertise_peer_urls,
            "initial-advertise-peer-urls",
        ),
        (&config.listen_client_urls, &mut config.advertise_client_urls, "advertise-client-urls"),
    ] {
        let default = flags::find(name).map_or("", |flag| flag.default);
        let is_default = matches!(&advertised[..], [only] if only.as_str() == default);
        let anywhere = listen.first().filter(|url| url.host() == "0.0.0.0");
        if let Some(port) = anywhere.and_then(Url::port).filter(|_| is_default) {
            wanting.push((advertised, port));
        }
    }
    if wanting.is_empty() {
        return;
    }
    match find() {
        Ok(address) => {
            let host = address.to_string();
            for (advertised, port) in wanting {
                // The scheme of the default.
                let url = format!("http://{}", SocketAddr::new(address, port));
                *advertised = vec![Url::parse(&url).expect("an address and a port make a URL")];
            }
            notes.push(Note::info("detected default host for advertise", &[("host", &host)]));
        }
        Err(error) => {
            notes.push(Note::warn("failed to detect default host", &[("error", &error)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::build::{Source, build};
    use crate::config::file;

    /// As `advertise` has it, with a host of ours; the notes' texts.
    fn advertised(
        text: &str,
        host: Result<IpAddr, String>,
    ) -> (String, String, Vec<(String, bool)>) {
        let plain = file::parse("name: m1").unwrap();
        let mut config = build(&plain, Source::File).unwrap();
        let asked = text.split_whitespace();
        for (urls, text) in
            [&mut config.listen_peer_urls, &mut config.listen_client_urls].into_iter().zip(asked)
        {
            *urls = vec![Url::parse(text).unwrap()];
        }
        let mut notes = Vec::new();
        advertise(&mut config, || host, &mut notes);
        let notes = notes.into_iter().map(|note| (note.message, note.is_warning)).collect();
        let text = |urls: &[Url]| crate::config::url::join(urls);
        (text(&config.initial_advertise_peer_urls), text(&config.advertise_client_urls), notes)
    }

    #[test]
    fn who_listens_everywhere_advertises_the_address_of_the_default_route() {
        let host = || Ok("192.0.2.7".parse().unwrap());
        let (peer, client, notes) = advertised("http://0.0.0.0:12380 http://0.0.0.0:1", host());
        assert_eq!(
            (peer.as_str(), client.as_str()),
            ("http://192.0.2.7:12380", "http://192.0.2.7:1")
        );
        assert_eq!(notes, [("detected default host for advertise".to_owned(), false)]);
        let (peer, client, notes) = advertised("http://127.0.0.1:12380 http://[::]:1", host());
        assert_eq!(
            (peer.as_str(), client.as_str()),
            ("http://localhost:2380", "http://localhost:2379")
        );
        assert!(notes.is_empty());
    }

    #[test]
    fn without_a_route_the_default_stays_and_a_warning_is_given() {
        let (peer, _, notes) =
            advertised("http://0.0.0.0:12380 http://0.0.0.0:1", Err("none".to_owned()));
        assert_eq!(peer, "http://localhost:2380");
        assert_eq!(notes, [("failed to detect default host".to_owned(), true)]);
    }

    #[test]
    fn the_founder_is_where_it_advertises() {
        let settings = file::parse("name: z\nlisten-peer-urls: http://0.0.0.0:12380").unwrap();
        let config = build(&settings, Source::File).unwrap();
        let own = crate::config::url::join(&config.initial_advertise_peer_urls);
        assert_eq!(config.initial_cluster, format!("z={own}"));
        if let Ok(host) = find() {
            assert!(own.contains(&host.to_string()), "{own}");
        }
    }
}
