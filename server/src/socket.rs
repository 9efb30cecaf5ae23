//! One client connection: TCP or Unix, as accepted and as used.
//!
//! One idea: the acceptor hands over plain std sockets, because a tokio socket belongs to the
//! reactor of one thread; the socket thread registers them with its own.
//!
//! Invariants: an [`Accepted`] holds its slot of the connection limit until it is dropped.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;

use crate::authority::AuthorityFilter;
use crate::grpc::PeerAddress;

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

/// A connection on its way from the acceptor to its socket thread.
#[derive(Debug)]
pub struct Accepted {
    /// The socket, non-blocking and with its options set.
    pub socket: AcceptedSocket,
    /// Who is at the other end.
    pub peer: PeerAddress,
    /// What it may ask for.
    pub role: Role,
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
    received_bytes: Rc<Cell<u64>>,
    authority: AuthorityFilter,
}

#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Registers the socket with this thread's reactor.
    ///
    /// # Errors
    /// If epoll refuses it.
    pub fn register(accepted: AcceptedSocket) -> io::Result<Self> {
        let stream = match accepted {
            AcceptedSocket::Tcp(socket) => Stream::Tcp(TcpStream::from_std(socket)?),
            AcceptedSocket::Unix(socket) => Stream::Unix(UnixStream::from_std(socket)?),
        };
        Ok(Self { stream, received_bytes: Rc::default(), authority: AuthorityFilter::default() })
    }

    /// A view of the number of bytes received so far.
    pub fn received_bytes(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.received_bytes)
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
        };
        ready!(result)?;
        let received = (buffer.filled().len() - before) as u64;
        self.authority.pass(&mut buffer.filled_mut()[before..]);
        self.received_bytes.set(self.received_bytes.get() + received);
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
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
