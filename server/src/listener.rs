//! The acceptor: listening sockets, the connection limit, and who gets the next connection.
//!
//! One idea: one thread accepts for all listeners and gives each connection to the socket thread
//! with the fewest. (With SO_REUSEPORT the kernel would hash, and a handful of long-lived clients
//! such as API servers could all land on one thread.)
//!
//! Full: at the connection limit the acceptor stops accepting until a connection ends, so new ones
//! wait in the kernel's backlog, as with etcd. Errors of `accept` that mean "out of something"
//! (EMFILE, ENOMEM) pause it, twice as long each time; those of a single connection do not.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use varve_disk::Disk as _;
use varve_disk::os::OsDisk;

use crate::grpc::PeerAddress;
use crate::limits;
use crate::socket::{Accepted, AcceptedSocket, Role, Security};
use crate::worker::WorkerInbox;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// Host and port; the host may be a name such as `localhost`.
    Tcp {
        /// An IP address (without brackets) or a name.
        host: String,
        /// 0 lets the system choose.
        port: u16,
    },
    /// Path of a socket file; an old one is removed.
    Unix(PathBuf),
}

impl std::fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Self::Unix(path) => path.display().fmt(formatter),
        }
    }
}

/// Options of listening sockets.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListenOptions {
    /// `--socket-reuse-port`.
    pub reuse_port: bool,
}

/// A bound listener, not accepting yet.
#[derive(Debug)]
pub struct Bound {
    socket: BoundSocket,
    role: Role,
    security: Security,
}

/// A listening socket that belongs to no reactor yet.
#[derive(Debug)]
pub enum BoundSocket {
    /// TCP.
    Tcp(std::net::TcpListener),
    /// Unix.
    Unix(std::os::unix::net::UnixListener),
}

/// The running acceptor thread.
#[derive(Debug)]
pub struct Acceptor {
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
}

/// Binds one address, so that errors are known before anything is started.
///
/// # Errors
/// With the address in the text, as etcd logs it.
pub fn bind(address: &ListenAddress, role: Role, options: ListenOptions) -> io::Result<Bound> {
    let socket = bind_socket(address, options)?;
    Ok(Bound { socket, role, security: Security::Plain })
}

/// As [`bind`], for whoever accepts by itself.
///
/// # Errors
/// With the address in the text, as etcd logs it.
pub fn bind_socket(address: &ListenAddress, options: ListenOptions) -> io::Result<BoundSocket> {
    Ok(match address {
        ListenAddress::Tcp { host, port } => BoundSocket::Tcp(bind_tcp(host, *port, options)?),
        ListenAddress::Unix(path) => BoundSocket::Unix(bind_unix(path)?),
    })
}

/// Removes the files of Unix sockets that nobody listens on any more, as etcd does at its end.
pub fn remove_socket_files<'a>(addresses: impl IntoIterator<Item = &'a ListenAddress>) {
    let disk = OsDisk::new();
    for address in addresses {
        if let ListenAddress::Unix(path) = address {
            // What is left there is removed by the next start.
            let _left = disk.remove(path);
        }
    }
}

fn bind_tcp(host: &str, port: u16, options: ListenOptions) -> io::Result<std::net::TcpListener> {
    let name = |error: io::Error| name_listen_error("tcp", &format!("{host}:{port}"), &error);
    // As Go: of the addresses of a name, the first, IPv4 preferred.
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs().map_err(name)?.collect();
    let address = addresses
        .iter()
        .find(|address| address.is_ipv4())
        .or(addresses.first())
        .ok_or_else(|| name(io::Error::other("no such host")))?;
    let bind = || {
        let domain = socket2::Domain::for_address(*address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if options.reuse_port {
            socket.set_reuse_port(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&(*address).into())?;
        socket.listen(limits::LISTEN_BACKLOG.try_into().unwrap_or(i32::MAX))?;
        Ok(std::net::TcpListener::from(socket))
    };
    bind().map_err(name)
}

fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let bind = || {
        // A socket file that outlived its process would make bind fail; etcd removes it too, and even
        // that of a process that runs.
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let disk = OsDisk::new();
        if disk.exists(path).map_err(io::Error::other)? {
            disk.remove(path).map_err(io::Error::other)?;
        }
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    bind().map_err(|error| name_listen_error("unix", &path.display().to_string(), &error))
}

/// The error of listening at `address`, in etcd's words, which wrappers look for.
fn name_listen_error(network: &str, address: &str, error: &io::Error) -> io::Error {
    let reason = match error.kind() {
        io::ErrorKind::AddrInUse => "bind: address already in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "bind: cannot assign requested address".to_owned(),
        io::ErrorKind::PermissionDenied => "bind: permission denied".to_owned(),
        _ => error.to_string(),
    };
    io::Error::new(error.kind(), format!("listen {network} {address}: {reason}"))
}

impl Bound {
    /// The same, spoken to in another way than in plain.
    pub fn with_security(self, security: Security) -> Self {
        Self { security, ..self }
    }

    /// The address that was bound, with the port the system chose; `None` for Unix sockets.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.socket.local_address()
    }
}

impl BoundSocket {
    /// The address that was bound, with the port the system chose; `None` for Unix sockets.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// Makes it one of this thread's reactor.
    ///
    /// # Errors
    /// Epoll refuses it.
    pub fn register(self) -> io::Result<Registered> {
        Ok(match self {
            Self::Tcp(listener) => Registered::Tcp(TcpListener::from_std(listener)?),
            Self::Unix(listener) => Registered::Unix(UnixListener::from_std(listener)?),
        })
    }
}

/// Starts accepting on all of `listeners` for `workers`, with at most `connections_max` client
/// connections at once (see [`connection_limit`]).
///
/// # Errors
/// If the thread or its runtime cannot be created.
///
/// # Panics
/// If there are no workers.
pub fn start(
    listeners: Vec<Bound>,
    workers: Vec<WorkerInbox>,
    connections_max: usize,
) -> io::Result<Acceptor> {
    assert!(!workers.is_empty(), "an acceptor needs at least one socket thread");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (stop, mut stopping) = watch::channel(());
    let clients = Arc::new(Semaphore::new(connections_max));
    let probes = Arc::new(Semaphore::new(limits::METRICS_CONNECTIONS_MAX));
    let workers: Arc<[WorkerInbox]> = workers.into();
    let registered = {
        let _reactor = runtime.enter();
        let register = |bound: Bound| Ok((bound.socket.register()?, bound.role, bound.security));
        listeners.into_iter().map(register).collect::<io::Result<Vec<_>>>()?
    };
    let thread = std::thread::Builder::new().name("acceptor".into()).spawn(move || {
        runtime.block_on(async {
            for (listener, role, security) in registered {
                let slots = if role == Role::Metrics { &probes } else { &clients };
                let (slots, workers) = (Arc::clone(slots), Arc::clone(&workers));
                tokio::spawn(accept_loop(listener, role, security, slots, workers));
            }
            // A change or the loss of the handle: either means stop.
            let _stopped = stopping.changed().await;
        });
    })?;
    Ok(Acceptor { stop, thread })
}

impl Acceptor {
    /// Closes all listeners and ends the thread.
    pub fn stop(self) {
        drop(self.stop);
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

/// How many client connections the process can hold: RLIMIT_NOFILE less what it needs itself.
pub fn connection_limit() -> usize {
    let free = file_limit().saturating_sub(limits::FILES_RESERVED);
    usize::try_from(free)
        .unwrap_or(usize::MAX)
        .clamp(limits::CONNECTIONS_MIN, limits::CONNECTIONS_MAX)
}

/// How many files the process may have open; 0 if the system does not tell.
pub fn file_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which the call only writes.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if outcome == 0 { limit.rlim_cur } else { 0 }
}

/// A listening socket of one reactor.
#[derive(Debug)]
pub enum Registered {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

async fn accept_loop(
    listener: Registered,
    role: Role,
    security: Security,
    slots: Arc<Semaphore>,
    workers: Arc<[WorkerInbox]>,
) {
    let mut pause = limits::ACCEPT_PAUSE_MIN;
    loop {
        let permit = Arc::clone(&slots).acquire_owned().await;
        let permit = permit.expect("the semaphore of connections is never closed");
        match listener.accept().await {
            Ok((socket, peer)) => {
                pause = limits::ACCEPT_PAUSE_MIN;
                let security = security.clone();
                hand_over(Accepted { socket, peer, role, security, permit }, &workers);
            }
            Err(error) if is_of_one_connection(&error) => {
                tracing::debug!(%error, "a connection broke while being accepted");
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    pause_ms = pause.as_millis() as u64,
                    "could not accept a connection; pausing"
                );
                tokio::time::sleep(pause).await;
                pause = next_pause(pause);
            }
        }
    }
}

/// Gives the connection to the socket thread with the fewest.
fn hand_over(accepted: Accepted, workers: &[WorkerInbox]) {
    let least = workers
        .iter()
        .min_by_key(|worker| worker.connections())
        .expect("an acceptor has at least one socket thread");
    if let Err(refused) = least.submit(accepted) {
        tracing::warn!(peer = %refused.peer, "closed a connection: its socket thread is overloaded");
    }
}

/// True for errors after which the next `accept` may well succeed at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::BrokenPipe
    )
}

fn next_pause(pause: Duration) -> Duration {
    (pause * 2).min(limits::ACCEPT_PAUSE_MAX)
}

impl Registered {
    /// The next connection.
    ///
    /// # Errors
    /// Of this connection, or of the process (see the header).
    pub async fn accept(&self) -> io::Result<(AcceptedSocket, PeerAddress)> {
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept().await?;
                let socket = socket.into_std()?;
                prepare_tcp(&socket)?;
                Ok((AcceptedSocket::Tcp(socket), PeerAddress::Tcp(address)))
            }
            Self::Unix(listener) => {
                let (socket, _unnamed) = listener.accept().await?;
                Ok((AcceptedSocket::Unix(socket.into_std()?), PeerAddress::Unix))
            }
        }
    }
}

fn prepare_tcp(socket: &std::net::TcpStream) -> io::Result<()> {
    // A response is written whole; waiting for more to send would only delay it.
    socket.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(limits::TCP_KEEPALIVE).with_interval(limits::TCP_KEEPALIVE);
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut pause = limits::ACCEPT_PAUSE_MIN;
        for _ in 0..20 {
            pause = next_pause(pause);
        }
        assert_eq!(pause, limits::ACCEPT_PAUSE_MAX);
    }

    #[test]
    fn running_out_of_files_is_not_the_fault_of_one_connection() {
        for (errno, expected) in [
            (libc::EMFILE, false),
            (libc::ENFILE, false),
            (libc::ENOMEM, false),
            (libc::ECONNABORTED, true),
            (libc::EINTR, true),
        ] {
            let error = io::Error::from_raw_os_error(errno);
            assert_eq!(is_of_one_connection(&error), expected, "{error}");
        }
    }

    #[test]
    fn the_connection_limit_leaves_files_for_the_log() {
        let limit = connection_limit();
        assert!((limits::CONNECTIONS_MIN..=limits::CONNECTIONS_MAX).contains(&limit));
    }
}
