//! Streams that peers open to us: greet, check who it is, then hand each frame to whom it is for.
//!
//! Anything unexpected ends the stream with a reason, on the wire and in the log; the peer dials
//! again. Nothing here waits for the Raft thread: a message that finds its inbox full is dropped.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tokio::time::{sleep, timeout};
use varve_api::etcdserverpb::MemberListResponse;

use super::call::{Call, CallAnswer};
use super::frame::{self, FrameError, FrameKind, Hello, LeaseAnswer, LeaseQuestion, StreamKind};
use super::hash::{HashAnswer, HashQuestion};
use super::stream::{self, PeerStream};
use super::{Context, PeerListener, Peers, hex, lend, node, snapshot};
use crate::apply::ToWorker;
use crate::grpc::PeerAddress as RemoteAddress;
use crate::limits;
use crate::raft::RaftInput;
use crate::read_pool::lower_priority;
use crate::request;
use crate::socket::AcceptedSocket;

/// Accepts streams for the life of the process.
pub(super) async fn listen(context: Arc<Context>, peers: Peers, listener: PeerListener) {
    let PeerListener { socket: listener, is_secure } = listener;
    let listener = match listener.register() {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(error = %error, "cannot listen for peers");
            return;
        }
    };
    let permits = Arc::new(tokio::sync::Semaphore::new(limits::PEER_STREAMS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, remote)) => {
                let (context, peers) = (Arc::clone(&context), peers.clone());
                tokio::spawn(async move {
                    serve(&context, &peers, socket, &remote, is_secure).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: give others time to close some.
                tracing::warn!(error = %error, "cannot accept a peer stream");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    context: &Arc<Context>,
    peers: &Peers,
    socket: AcceptedSocket,
    remote: &RemoteAddress,
    is_secure: bool,
) {
    let tls = context.tls.as_ref().filter(|_| is_secure);
    assert_eq!(tls.is_some(), is_secure, "a listener with TLS has certificates");
    let mut stream = match stream::accept(socket, remote, tls).await {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(remote = %remote, error = %error, "rejected connection on peer endpoint");
            return;
        }
    };
    let outcome = match greet(context, peers, &mut stream).await {
        Ok(hello) if hello.stream == StreamKind::Members => {
            tell_members(context, &mut stream).await
        }
        Ok(hello) if hello.stream == StreamKind::Snapshot => {
            snapshot::receive::receive(context, peers, &mut stream, hello.from).await
        }
        Ok(hello) => pump(context, peers, &mut stream, hello.from).await,
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => {}
        // The peer went away; it will dial again.
        Err(FrameError::Io(_)) => {}
        Err(error) => {
            tracing::warn!(remote = %remote, error = %error, "rejected connection on peer endpoint");
            let reason = error.to_string();
            let _ = timeout(
                Duration::from_secs(1),
                frame::write(&mut stream, FrameKind::Refused, reason.as_bytes()),
            )
            .await;
        }
    }
}

/// Reads the hello and checks that it means this member of this cluster.
async fn greet(
    context: &Context,
    peers: &Peers,
    stream: &mut PeerStream,
) -> Result<Hello, FrameError> {
    let payload = timeout(limits::PEER_HELLO_TIMEOUT, frame::expect_hello(stream))
        .await
        .map_err(|_| FrameError::malformed("a hello", "silence"))??;
    let hello = Hello::decode(&payload)?;
    // Whoever wants to join knows nobody yet.
    if hello.stream == StreamKind::Members {
        return Ok(hello);
    }
    admit(context, peers, &hello)?;
    Ok(hello)
}

/// Whether a stream that begins so may go on; who is ahead of this member is believed where it is.
///
/// # Errors
/// It is for another cluster or another member, or its sender is none of the members or was removed.
pub fn admit(context: &Context, peers: &Peers, hello: &Hello) -> Result<(), FrameError> {
    let cluster = &context.cluster;
    if hello.cluster_id != cluster.cluster_id {
        return Err(FrameError::malformed(
            format!("cluster id {:x}", cluster.cluster_id),
            format!("cluster id {:x} (cluster ID mismatch)", hello.cluster_id),
        ));
    }
    if hello.to != cluster.member_id {
        return Err(FrameError::malformed(
            format!("a stream to member {:x}", cluster.member_id),
            format!("a stream to member {:x}", hello.to),
        ));
    }
    require_member_or_learn(context, peers, hello)
}

/// Who dials may have been added, or have moved, by an entry that this member has not applied yet; and
/// may be the one who has to send it. Then it is believed where it is, until that entry is applied.
fn require_member_or_learn(
    context: &Context,
    peers: &Peers,
    hello: &Hello,
) -> Result<(), FrameError> {
    let is_removed = || context.view.is_removed_member(hello.from).unwrap_or(true);
    if hello.from != context.cluster.member_id && (peers.is_known(hello.from) || !is_removed()) {
        let applied = context.cluster.applied();
        peers.learn(hello.from, stream::addresses_of(&hello.urls), hello.as_of, applied);
    }
    require_member(context, peers, hello.from)
}

fn require_member(context: &Context, peers: &Peers, id: u64) -> Result<(), FrameError> {
    if peers.is_known(id) {
        return Ok(());
    }
    // A member that cannot read its own state refuses everybody.
    if context.view.is_removed_member(id).unwrap_or(false) {
        return Err(FrameError::Removed);
    }
    Err(FrameError::malformed(
        "a stream from another member of the cluster",
        format!("a stream from {id:x}"),
    ))
}

/// Answers somebody who wants to join.
async fn tell_members(context: &Context, stream: &mut PeerStream) -> Result<(), FrameError> {
    let members =
        context.view.members().map_err(|status| FrameError::Own(status.message.into()))?;
    let members = members.into_iter().map(crate::rpc::cluster::wire_member).collect();
    let header = Some(context.cluster.header(0));
    let response = MemberListResponse { header, members };
    frame::write(stream, FrameKind::Members, &response.encode_to_vec()).await?;
    Ok(())
}

async fn pump(
    context: &Context,
    peers: &Peers,
    stream: &mut PeerStream,
    from: u64,
) -> Result<(), FrameError> {
    let mut stream = tokio::io::BufReader::with_capacity(64 << 10, stream);
    let received = context.metrics.peer_received_bytes.with_label_values(&[&hex(from)]);
    let mut hashing = None;
    loop {
        let read = frame::read(&mut stream).await.and_then(|(kind, payload)| {
            received.inc_by(payload.len() as u64);
            if kind == FrameKind::Raft {
                peers.hear(from);
            }
            take(context, peers, from, (kind, payload), &mut hashing)
        });
        if let Err(error) = read {
            let failures = &context.metrics.peer_received_failures;
            // A connection that ends is no message that cannot be read.
            let failed = u64::from(!matches!(error, FrameError::Io(_)));
            failures.with_label_values(&[&hex(from)]).inc_by(failed);
            return Err(error);
        }
    }
}

/// The questions for hashes of one stream: the one that is being answered.
pub type Hashing = Option<tokio::task::JoinHandle<()>>;

/// Hands one frame of a member to whom it is for.
///
/// # Errors
/// The stream must end.
pub fn take(
    context: &Context,
    peers: &Peers,
    from: u64,
    (kind, payload): (FrameKind, Bytes),
    hashing: &mut Hashing,
) -> Result<(), FrameError> {
    require_member(context, peers, from)?;
    match kind {
        FrameKind::Raft => raft(context, from, payload)?,
        FrameKind::Call => {
            let call = Call::decode(&payload)?;
            // No room: the asker waits for its timeout.
            let _ = context.workers[0].post_one(ToWorker::Call { from, call });
        }
        FrameKind::CallAnswer => {
            let answer = CallAnswer::decode(&payload)?;
            if let Some(worker) =
                request::worker_of(answer.request, context.boot_nonce, context.workers.len())
            {
                let _ = context.workers[worker].post_one(ToWorker::CallAnswer(answer));
            }
        }
        FrameKind::LeaseQuestion => {
            let question = LeaseQuestion::decode(&payload)?;
            let answer = answer(context, question);
            peers.send_frame(from, FrameKind::LeaseAnswer, answer.encode());
        }
        FrameKind::HashQuestion => {
            let question = HashQuestion::decode(&payload)?;
            answer_hash(context, peers, from, question, hashing);
        }
        FrameKind::HashAnswer => {
            let answer = HashAnswer::decode(&payload)?;
            if let Some(worker) =
                request::worker_of(answer.request, context.boot_nonce, context.workers.len())
            {
                let _ = context.workers[worker].post_one(ToWorker::Hash(answer));
            }
        }
        FrameKind::LeaseAnswer => {
            let answer = LeaseAnswer::decode(&payload)?;
            if let Some(worker) =
                request::worker_of(answer.request, context.boot_nonce, context.workers.len())
            {
                // No room: the asker's timeout asks again.
                let _ = context.workers[worker].post_one(ToWorker::Lease(answer));
            }
        }
        FrameKind::SnapshotAsked => peers.lend_snapshot(lend::decode_asked(from, &payload)?),
        FrameKind::SnapshotTold => {
            let (to, lent) = lend::decode_told(&payload)?;
            // No room: the leader takes silence for a failure.
            let told = RaftInput::SnapshotTold { by: node(from), to: node(to), lent };
            let _ = context.raft.try_send(told);
        }
        other => {
            return Err(FrameError::malformed(
                "a frame of Raft, leases, hashes, calls or snapshots",
                format!("{other:?}"),
            ));
        }
    }
    Ok(())
}

/// Hands a message over. What does not even parse ends the stream; whether the rest makes sense is
/// for the node to judge, which refuses single messages.
fn raft(context: &Context, from: u64, message: Bytes) -> Result<(), FrameError> {
    varve_raftnode::Node::check_form(&message)
        .map_err(|error| FrameError::malformed("a Raft message", error.to_string()))?;
    let _ = context.raft.try_send(RaftInput::Peer { from: node(from), message });
    Ok(())
}

/// Computes a hash beside the streams and sends it. While one is computed for a stream, further
/// questions of that stream are dropped: whoever asks so often does not need them all.
fn answer_hash(
    context: &Context,
    peers: &Peers,
    from: u64,
    question: HashQuestion,
    hashing: &mut Hashing,
) {
    if hashing.as_ref().is_some_and(|task| !task.is_finished()) {
        return;
    }
    let (view, peers) = (context.view.clone(), peers.clone());
    *hashing = Some(tokio::task::spawn_blocking(move || {
        lower_priority();
        let answer = question.answer(&view);
        peers.send_frame(from, FrameKind::HashAnswer, answer.encode());
    }));
}

/// What this member's lessor says about a lease; it knows whether this member leads.
fn answer(context: &Context, question: LeaseQuestion) -> LeaseAnswer {
    let answer = context.lessor.ask(question.lease, question.renew, &context.metrics);
    let (seconds, term) = answer.to_wire();
    LeaseAnswer { request: question.request, seconds, term }
}
