//! A socket thread: one current-thread runtime that owns its connections, streams and handlers.
//!
//! One idea: everything about a connection happens on one thread, so its state is `Rc` and `Cell`,
//! and HTTP/2's per-connection lock is never contended. Other threads reach it through mailboxes.
//!
//! Stop: every connection gets a GOAWAY and may finish its calls; after the grace period what is
//! left is dropped with the runtime.
//!
//! Invariants: `WorkerHandle::connections` is the number of connections handed over and not yet
//! closed.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::runtime::LocalOptions;
use tokio::sync::watch;

use crate::grpc::router::Dispatch;
use crate::grpc::{Caller, Origin, ResponseBody, Router, Successor};
use crate::limits;
use crate::mailbox::{Mailbox, MailboxOwner, mailbox};
use crate::socket::{Accepted, Role, Socket};

/// What flags decide about connections.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    /// `--max-concurrent-streams`; capped by [`limits::CONCURRENT_STREAMS_MAX`].
    pub concurrent_streams_max: u32,
    /// `--grpc-keepalive-interval`: a ping when nothing was received for so long; `None` is never.
    pub keepalive_interval: Option<Duration>,
    /// `--grpc-keepalive-timeout`: the connection is closed if a ping is not answered in time.
    pub keepalive_timeout: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            concurrent_streams_max: u32::MAX,
            keepalive_interval: Some(Duration::from_secs(2 * 60 * 60)),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// A running socket thread, as seen by other threads.
#[derive(Debug)]
pub struct WorkerHandle {
    inbox: Mailbox<Accepted>,
    connections: Arc<AtomicUsize>,
    stop: watch::Sender<Option<Duration>>,
    thread: JoinHandle<()>,
}

/// The part of a worker that the acceptor needs: where to put connections.
#[derive(Clone, Debug)]
pub struct WorkerInbox {
    inbox: Mailbox<Accepted>,
    connections: Arc<AtomicUsize>,
}

/// Starts a socket thread named `name`; `build` runs on it, inside its runtime, so it may create
/// `!Send` state and `tokio::task::spawn_local` tasks.
///
/// # Errors
/// If the thread or its runtime cannot be created.
pub fn spawn(
    name: String,
    options: ConnectionOptions,
    build: impl FnOnce() -> Router + Send + 'static,
) -> io::Result<WorkerHandle> {
    let (inbox, owner) = mailbox(limits::CONNECTIONS_PENDING_MAX);
    let connections = Arc::new(AtomicUsize::new(0));
    let (stop, stopping) = watch::channel(None);
    let open = Arc::clone(&connections);
    // The runtime is `!Send`: made on its thread, its failure reported through this channel.
    let (started, report) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        let (runtime, outcome) = match runtime {
            Ok(runtime) => (Some(runtime), Ok(())),
            Err(error) => (None, Err(error)),
        };
        // Nobody waits if the spawning thread is gone; then there is nothing to serve either.
        let is_awaited = started.send(outcome).is_ok();
        if let (Some(runtime), true) = (runtime, is_awaited) {
            runtime.block_on(serve(owner, options, build, stopping, open));
        }
    })?;
    report.recv().map_err(io::Error::other)??;
    Ok(WorkerHandle { inbox, connections, stop, thread })
}

impl WorkerHandle {
    /// Connections of this thread.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Where the acceptor puts connections.
    pub fn inbox(&self) -> WorkerInbox {
        WorkerInbox { inbox: self.inbox.clone(), connections: Arc::clone(&self.connections) }
    }

    /// Tells the thread to finish within `grace`; returns at once.
    pub fn stop(&self, grace: Duration) {
        // An error means that the thread has ended already.
        let _ended = self.stop.send(Some(grace));
    }

    /// Waits until the thread has ended.
    ///
    /// # Panics
    /// If the thread panicked: its panic goes on here.
    pub fn join(self) {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl WorkerInbox {
    /// Connections of this thread.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Hands a connection over.
    ///
    /// # Errors
    /// Gives it back if too many wait to be taken.
    pub fn submit(&self, accepted: Accepted) -> Result<(), Accepted> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.inbox.post_one(accepted).inspect_err(|_| {
            self.connections.fetch_sub(1, Ordering::Relaxed);
        })
    }
}

/// What the connections of one thread share.
struct Shared {
    router: Rc<Router>,
    builder: auto::Builder<LocalExecutor>,
    stopping: watch::Receiver<Option<Duration>>,
    /// Connections of this thread; `closed` is notified when one ends.
    open: Arc<AtomicUsize>,
    closed: tokio::sync::Notify,
}

async fn serve(
    owner: MailboxOwner<Accepted>,
    options: ConnectionOptions,
    build: impl FnOnce() -> Router,
    mut stopping: watch::Receiver<Option<Duration>>,
    open: Arc<AtomicUsize>,
) {
    let shared = Rc::new(Shared {
        router: Rc::new(build()),
        builder: http_builder(&options),
        stopping: stopping.clone(),
        open,
        closed: tokio::sync::Notify::new(),
    });
    let mut batch = Vec::new();
    let grace = loop {
        tokio::select! {
            () = owner.drain(&mut batch) => {
                for accepted in batch.drain(..) {
                    tokio::task::spawn_local(serve_connection(Rc::clone(&shared), accepted));
                }
            }
            changed = stopping.changed() => {
                match (changed, *stopping.borrow()) {
                    (Ok(()), None) => {}
                    (Ok(()), Some(grace)) => break grace,
                    // The handle is gone: nobody can stop us any more, so stop.
                    (Err(_), _) => break Duration::ZERO,
                }
            }
        }
    };
    let all_closed = async {
        while shared.open.load(Ordering::Relaxed) > 0 {
            shared.closed.notified().await;
        }
    };
    if tokio::time::timeout(grace, all_closed).await.is_err() {
        let left = shared.open.load(Ordering::Relaxed);
        tracing::info!(connections = left, "closing connections that outlived the grace period");
    }
}

async fn serve_connection(shared: Rc<Shared>, accepted: Accepted) {
    let Accepted { socket, peer, role, security, permit } = accepted;
    // Released in this order when the connection ends: count, then the slot.
    let _slot = permit;
    let _counted = Counted(Rc::clone(&shared));
    let opening = tokio::time::timeout(limits::PREFACE_TIMEOUT, Socket::open(socket, &security));
    let socket = match opening.await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => {
            tracing::warn!(remote_addr = %peer, %error, "rejected connection on client endpoint");
            return;
        }
        Err(_) => {
            tracing::debug!(%peer, "closed a connection that made no TLS handshake");
            return;
        }
    };
    let received_bytes = socket.received_bytes();
    let (is_secure, common_name) = (socket.is_secure(), socket.common_name());
    let successor = Successor::default();
    let (address, local) = (peer.clone(), socket.local_address());
    let caller = Rc::new(Caller { address, local, is_secure, common_name, successor });
    let router = Rc::clone(&shared.router);
    let service = ConnectionService { router, caller: Rc::clone(&caller), role };
    let socket = TokioIo::new(socket);
    let mut connection = pin!(shared.builder.serve_connection_with_upgrades(socket, service));
    let mut preface = pin!(tokio::time::sleep(limits::PREFACE_TIMEOUT));
    let mut stopping = shared.stopping.clone();
    let mut is_open = false;
    let mut is_stopping = false;
    loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(%peer, %error, "rejected connection on client endpoint");
                }
                break;
            }
            () = preface.as_mut(), if !is_open => {
                if received_bytes.load(Ordering::Relaxed) < limits::PREFACE_BYTES {
                    tracing::debug!(%peer, "closed a connection that sent no request");
                    return;
                }
                is_open = true;
            }
            _ = stopping.changed(), if !is_stopping => {
                connection.as_mut().graceful_shutdown();
                is_stopping = true;
            }
        }
    }
    if let Some(successor) = caller.successor.take() {
        tokio::select! {
            () = successor => {}
            _ = stopping.changed(), if !is_stopping => {}
        }
    }
}

/// Takes one off the number of open connections when dropped.
struct Counted(Rc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
        self.0.closed.notify_one();
    }
}

/// Answers the requests of one connection.
struct ConnectionService {
    router: Rc<Router>,
    caller: Rc<Caller>,
    role: Role,
}

impl Service<Request<Incoming>> for ConnectionService {
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = Dispatch;

    fn call(&self, request: Request<Incoming>) -> Dispatch {
        match self.role {
            Role::Client => self.router.dispatch(request, &self.caller),
            Role::GrpcOnly => self.router.dispatch_grpc(request, &self.caller),
            Role::HttpOnly => self.router.dispatch_http(request, &self.caller, Origin::Client),
            Role::Metrics => self.router.dispatch_http(request, &self.caller, Origin::Metrics),
        }
    }
}

/// Runs hyper's tasks (one per stream) on this thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async {
            future.await;
        });
    }
}

/// HTTP with every limit set: the defaults of the libraries leave several open.
fn http_builder(options: &ConnectionOptions) -> auto::Builder<LocalExecutor> {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::HTTP1_HEADER_TIMEOUT)
        // As Go writes them; scripts that compare are written against that.
        .title_case_headers(true)
        .max_buf_size(limits::HTTP1_HEADER_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        // Never `adaptive_window`: it resets both windows to 65,535 bytes, and with them h2's
        // budget for small frames.
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_frame_size(limits::FRAME_BYTES_MAX)
        .max_concurrent_streams(options.concurrent_streams_max.min(limits::CONCURRENT_STREAMS_MAX))
        .max_pending_accept_reset_streams(limits::PENDING_RESET_STREAMS_MAX)
        .max_local_error_reset_streams(limits::LOCAL_ERROR_RESETS_MAX)
        .max_header_list_size(limits::HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(limits::SEND_BUFFER_BYTES_MAX)
        .keep_alive_interval(options.keepalive_interval)
        .keep_alive_timeout(options.keepalive_timeout)
        // gRPC has no use for it, and it would cost every call a formatted header.
        .auto_date_header(false);
    builder
}
