//! A connection between members, plain or TLS.
//!
//! One idea: an address of a member is `host:port`, or `https://host:port` if it is spoken to with
//! TLS; everything above reads and writes frames and does not know which.
//!
//! Both ends prove who they are if the flags say so: the dialled one is verified for the host that
//! was dialled, the dialling one for the address it comes from (`tls/address.rs`).

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::tune;
use crate::limits;
use crate::tls::{TlsSource, address};

/// In front of addresses that are spoken to with TLS.
const SECURE: &str = "https://";

/// A connection.
#[derive(Debug)]
pub enum PeerStream {
    /// As the kernel has it.
    Plain(TcpStream),
    /// Encrypted.
    Tls(Box<TlsStream<TcpStream>>),
}

/// The address of a peer URL; `None` if it is none.
pub fn address_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next().unwrap_or(rest);
    let prefix = if scheme.eq_ignore_ascii_case("https") { SECURE } else { "" };
    Some(format!("{prefix}{authority}"))
}

/// Connects to an address within `limits::PEER_DIAL_TIMEOUT`.
///
/// # Errors
/// Nobody is there, or somebody else.
pub async fn dial(address: &str, tls: Option<&TlsSource>) -> io::Result<PeerStream> {
    timeout(limits::PEER_DIAL_TIMEOUT, dial_unbounded(address, tls))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn dial_unbounded(address: &str, tls: Option<&TlsSource>) -> io::Result<PeerStream> {
    let authority = address.strip_prefix(SECURE).unwrap_or(address);
    let stream = TcpStream::connect(authority).await?;
    tune(&stream);
    if authority.len() == address.len() {
        return Ok(PeerStream::Plain(stream));
    }
    let config = tls.and_then(TlsSource::client).ok_or_else(|| {
        io::Error::other(format!(
            "{address}: expected --peer-trusted-ca-file or --peer-cert-file to speak TLS with, \
             found neither"
        ))
    })?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(PeerStream::Tls(Box::new(stream.into())))
}

/// Makes the handshake with a member that has connected, and checks that its certificate is for
/// where it comes from.
///
/// # Errors
/// It has no certificate that we accept, or takes too long.
pub async fn accept(
    stream: TcpStream,
    remote: SocketAddr,
    tls: Option<&Arc<TlsSource>>,
) -> io::Result<PeerStream> {
    tune(&stream);
    let Some(source) = tls else { return Ok(PeerStream::Plain(stream)) };
    let handshake = async {
        let config = source.server();
        let config = config.expect("listeners with TLS are started with a certificate only");
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        if let Some(certificate) = certificate.filter(|_| !source.options().skips_address_check) {
            address::check(certificate, remote.ip()).await.map_err(io::Error::other)?;
        }
        Ok(PeerStream::Tls(Box::new(stream.into())))
    };
    timeout(limits::PREFACE_TIMEOUT, handshake)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

impl AsyncRead for PeerStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_whether_they_are_spoken_to_with_tls() {
        assert_eq!(address_of("http://a:1").as_deref(), Some("a:1"));
        assert_eq!(address_of("https://[::1]:1").as_deref(), Some("https://[::1]:1"));
        assert_eq!(address_of("a:1"), None);
    }
}
