//! One client connection: TCP or Unix, plain or TLS, as accepted and as used.
//!
//! One idea: the acceptor hands over plain std sockets, because a tokio socket belongs to the
//! reactor of one thread; the socket thread registers them with its own.
//!
//! Which of plain and TLS it is was decided before the first byte of HTTP: by the listener, or,
//! where both are served on one port, by the first byte, with which every TLS handshake begins. An
//! enum, not a `dyn`: plain connections pay one predictable branch.
//!
//! Invariants: an [`Accepted`] holds its slot of the connection limit until it is dropped.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::authority::AuthorityFilter;
use crate::grpc::PeerAddress;
use crate::tls::TlsSource;
use crate::tls::certificate::Certificate;

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// gRPC and HTTP: `--listen-client-urls`.
    Client,
    /// gRPC only: `--listen-client-urls` if `--listen-client-http-urls` is given.
    GrpcOnly,
    /// HTTP only: `--listen-client-http-urls`.
    HttpOnly,
    /// Metrics and health checks only: `--listen-metrics-urls`.
    Metrics,
}

/// How a listener is spoken to.
#[derive(Clone, Debug)]
pub enum Security {
    /// In plain.
    Plain,
    /// With TLS.
    Tls(Arc<TlsSource>),
    /// As the client likes; TCP only.
    Either(Arc<TlsSource>),
}

/// What the first byte of every TLS connection is: the content type "handshake".
const TLS_HANDSHAKE: u8 = 0x16;

/// A connection on its way from the acceptor to its socket thread.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, non-blocking and with its options set.
    pub socket: AcceptedSocket,
    /// Who is at the other end.
    pub peer: PeerAddress,
    /// What it may ask for.
    pub role: Role,
    /// How it is spoken to.
    pub security: Security,
    /// Its slot of the connection limit.
    pub permit: OwnedSemaphorePermit,
}

/// A socket that belongs to no reactor.
#[derive(Debug)]
pub enum AcceptedSocket {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
}

/// A socket of this thread; counts what it receives, and mends the authority of old clients.
#[derive(Debug)]
pub struct Socket {
    stream: Stream,
    // Only one thread counts; it is atomic because hyper hands on what is `Send` only.
    received_bytes: Arc<AtomicU64>,
    authority: AuthorityFilter,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    TlsOverTcp(Box<TlsStream<TcpStream>>),
    TlsOverUnix(Box<TlsStream<UnixStream>>),
}

impl Socket {
    /// Registers the socket with this thread's reactor and, if it is to be spoken to with TLS, makes
    /// the handshake. Takes as long as the client likes: the caller has a deadline.
    ///
    /// # Errors
    /// Epoll refuses it, or the handshake fails.
    pub async fn open(accepted: AcceptedSocket, security: &Security) -> io::Result<Self> {
        let stream = match accepted {
            AcceptedSocket::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
            AcceptedSocket::Unix(socket) => Stream::Unix(UnixStream::from_std(socket)?),
        };
        let stream = match security {
            Security::Plain => stream,
            Security::Tls(source) => stream.secure(source).await?,
            Security::Either(source) if stream.first_byte().await? == Some(TLS_HANDSHAKE) => {
                stream.secure(source).await?
            }
            Security::Either(_) => stream,
        };
        Ok(Self { stream, received_bytes: Arc::default(), authority: AuthorityFilter::default() })
    }

    /// Whether it speaks TLS.
    pub fn is_secure(&self) -> bool {
        self.stream.session().is_some()
    }

    /// The address that the client has connected to; `None` for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::TlsOverTcp(stream) => stream.get_ref().0.local_addr().ok(),
            Stream::Unix(_) | Stream::TlsOverUnix(_) => None,
        }
    }

    /// The common name of the client's certificate, which was verified; `None` if it has shown
    /// none, or its name is empty.
    pub fn common_name(&self) -> Option<Rc<str>> {
        let certificate = self.stream.session()?.peer_certificates()?.first()?;
        let name = Certificate::read(certificate)?.common_name;
        (!name.is_empty()).then(|| name.into())
    }

    /// A view of the number of bytes received so far.
    pub fn received_bytes(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.received_bytes)
    }
}

impl Stream {
    async fn secure(self, source: &TlsSource) -> io::Result<Self> {
        let config = source.server();
        let config = config.expect("listeners with TLS are started with a certificate only");
        let acceptor = TlsAcceptor::from(config);
        Ok(match self {
            Self::Tcp(stream) => Self::TlsOverTcp(Box::new(acceptor.accept(stream).await?)),
            Self::Unix(stream) => Self::TlsOverUnix(Box::new(acceptor.accept(stream).await?)),
            Self::TlsOverTcp(_) | Self::TlsOverUnix(_) => panic!("a handshake is made once"),
        })
    }

    /// The first byte that comes, left where it is; `None` if none will come.
    async fn first_byte(&self) -> io::Result<Option<u8>> {
        let Self::Tcp(stream) = self else {
            panic!("a Unix socket is served in plain or with TLS, not as the client likes");
        };
        let mut byte = [0];
        let length = stream.peek(&mut byte).await?;
        Ok((length > 0).then_some(byte[0]))
    }

    fn session(&self) -> Option<&rustls::ServerConnection> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => None,
            Self::TlsOverTcp(stream) => Some(stream.get_ref().1),
            Self::TlsOverUnix(stream) => Some(stream.get_ref().1),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::TlsOverTcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::TlsOverUnix(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        ready!(result)?;
        let received = (buffer.filled().len() - before) as u64;
        self.authority.pass(&mut buffer.filled_mut()[before..]);
        self.received_bytes.fetch_add(received, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::TlsOverTcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::TlsOverUnix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::TlsOverTcp(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::TlsOverUnix(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::TlsOverTcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::TlsOverUnix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::TlsOverTcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::TlsOverUnix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
