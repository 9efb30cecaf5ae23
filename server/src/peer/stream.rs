//! A connection between members: TCP or a Unix socket, plain or TLS.
//!
//! One idea: an address of a member is its URL, but for plain TCP, which is `host:port`; everything
//! above reads and writes frames and does not know which of the four it is.
//!
//! Both ends prove who they are if the flags say so: the dialled one is verified for the host that
//! was dialled, the dialling one for the address it comes from (`tls/address.rs`). A Unix socket has
//! no addresses: its name stands for the host, up to a colon, and `localhost` for a path; who may
//! dial it is for the permissions of its file.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::tune;
use crate::config::url::{Scheme, Url};
use crate::grpc::PeerAddress as RemoteAddress;
use crate::limits;
use crate::socket::AcceptedSocket;
use crate::tls::{TlsSource, address};

/// A connection.
pub type PeerStream = Box<dyn Connection>;

/// What all connections can do.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin + Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + Debug> Connection for T {}

/// The address of a peer URL; `None` if it is none.
pub fn address_of(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let place = url.authority();
    Some(match url.scheme() {
        Scheme::Http => place,
        Scheme::Https => format!("https://{place}"),
        Scheme::Unix => format!("unix://{place}"),
        Scheme::Unixs => format!("unixs://{place}"),
    })
}

/// The addresses of peer URLs, without those that are none.
pub fn addresses_of(urls: &[String]) -> Vec<String> {
    urls.iter().filter_map(|url| address_of(url)).collect()
}

/// Connects to an address within `limits::PEER_DIAL_TIMEOUT`. What is sent and neither arrives nor is
/// taken for `silence_max` ends the connection.
///
/// # Errors
/// Nobody is there, or somebody else.
pub async fn dial(
    address: &str,
    tls: Option<&TlsSource>,
    silence_max: Duration,
) -> io::Result<PeerStream> {
    timeout(limits::PEER_DIAL_TIMEOUT, dial_unbounded(address, tls, silence_max))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn dial_unbounded(
    address: &str,
    tls: Option<&TlsSource>,
    silence_max: Duration,
) -> io::Result<PeerStream> {
    let (scheme, place) = address.split_once("://").unwrap_or(("http", address));
    let stream = open(scheme, place, silence_max).await?;
    if matches!(scheme, "http" | "unix") {
        return Ok(stream);
    }
    let config = tls.and_then(TlsSource::client).ok_or_else(|| {
        io::Error::other(format!(
            "{address}: expected --peer-trusted-ca-file or --peer-cert-file to speak TLS with, \
             found neither"
        ))
    })?;
    let name = ServerName::try_from(host_of(place).to_owned()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(config).connect(name, stream).await?))
}

/// Connects to a place, without TLS.
///
/// # Errors
/// Nobody is there.
pub async fn open(scheme: &str, place: &str, silence_max: Duration) -> io::Result<PeerStream> {
    if matches!(scheme, "unix" | "unixs") {
        return Ok(Box::new(UnixStream::connect(place).await?));
    }
    let stream = TcpStream::connect(place).await?;
    tune(&stream, silence_max);
    Ok(Box::new(stream))
}

/// Whose certificate is expected at a place.
pub fn host_of(place: &str) -> &str {
    if place.contains('/') {
        return "localhost";
    }
    let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']')
}

/// Makes the handshake with a member that has connected, and checks that its certificate is for
/// where it comes from.
///
/// # Errors
/// It has no certificate that we accept, or takes too long.
pub async fn accept(
    socket: AcceptedSocket,
    remote: &RemoteAddress,
    tls: Option<&Arc<TlsSource>>,
) -> io::Result<PeerStream> {
    let stream: PeerStream = match socket {
        AcceptedSocket::Unix(socket) => Box::new(UnixStream::from_std(socket)?),
        AcceptedSocket::Tcp(socket) => {
            let stream = TcpStream::from_std(socket)?;
            tune(&stream, limits::PEER_SILENCE_MAX);
            Box::new(stream)
        }
    };
    let Some(source) = tls else { return Ok(stream) };
    timeout(limits::PREFACE_TIMEOUT, secure(stream, remote, source))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn secure(
    stream: PeerStream,
    remote: &RemoteAddress,
    source: &TlsSource,
) -> io::Result<PeerStream> {
    let config = source.server();
    let config = config.expect("listeners with TLS are started with a certificate only");
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let certificate = certificate.filter(|_| !source.options().skips_address_check);
    if let (Some(certificate), RemoteAddress::Tcp(remote)) = (certificate, remote) {
        address::check(certificate, remote.ip()).await.map_err(io::Error::other)?;
    }
    Ok(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_whether_they_are_spoken_to_with_tls() {
        assert_eq!(address_of("http://a:1").as_deref(), Some("a:1"));
        assert_eq!(address_of("https://[::1]:1").as_deref(), Some("https://[::1]:1"));
        assert_eq!(address_of("a:1"), None);
        assert_eq!(address_of("unix://a:1").as_deref(), Some("unix://a:1"));
        assert_eq!(address_of("unixs:///run/a.sock").as_deref(), Some("unixs:///run/a.sock"));
    }

    #[test]
    fn a_certificate_is_expected_for_the_host_that_was_dialled() {
        let hosts = ["a:1", "[::1]:1", "a", "/run/a:1", "run/a"].map(host_of);
        assert_eq!(hosts, ["a", "::1", "a", "localhost", "localhost"]);
    }
}
