//! Every bound of the server, with its unit and its reason.
//!
//! One idea: nothing that a client, a peer or a disk can make grow is without a number here, and
//! the relations between the numbers are checked by the compiler.

use std::time::Duration;

// --- Connections ---------------------------------------------------------------------------------

/// File descriptors kept for the log, tables and peers when the connection limit is derived from
/// RLIMIT_NOFILE; the number is etcd's.
pub const FILES_RESERVED: u64 = 150;
/// Client connections at once, whatever RLIMIT_NOFILE allows: each costs about 20 KiB.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Client connections at once, even if RLIMIT_NOFILE is absurdly small.
pub const CONNECTIONS_MIN: usize = 16;
/// Connections at once on the metrics listeners. Separate, so that probes work when clients have
/// used up the others.
pub const METRICS_CONNECTIONS_MAX: usize = 64;
/// Accepted connections that wait for their socket thread; beyond, they are closed.
pub const CONNECTIONS_PENDING_MAX: usize = 4_096;
/// Backlog of each listening socket; the kernel caps it at `net.core.somaxconn`.
pub const LISTEN_BACKLOG: u32 = 4_096;
/// Bytes of a request that the log line "request stats" shows.
pub const LOGGED_REQUEST_BYTES_MAX: usize = 4_096;
/// First pause of the accept loop after an error such as EMFILE; doubles up to the maximum.
pub const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
/// Longest pause of the accept loop.
pub const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A connection must send the first `PREFACE_BYTES` within this time.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// Length of the HTTP/2 connection preface; no useful HTTP/1 request is much shorter.
pub const PREFACE_BYTES: u64 = 24;
/// An HTTP/1 connection must send its next request's header within this time. Longer than the
/// usual scrape interval of a minute, so that Prometheus keeps its connection.
pub const HTTP1_HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes of an HTTP/1 request header.
pub const HTTP1_HEADER_BYTES_MAX: usize = 64 * 1024;
/// What is read of a request's body that nobody looks at, before it is answered; as much as Go reads.
pub const UNREAD_BODY_BYTES_MAX: usize = 256 * 1024;
/// And for how long.
pub const UNREAD_BODY_TIME_MAX: Duration = Duration::from_millis(500);
/// TCP keep-alive: idle time before the first probe, and between probes.
pub const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// How long open calls may go on after the server was told to stop.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(3);

// --- HTTP/2 --------------------------------------------------------------------------------------

/// Flow-control window of one stream, for what clients send: one largest message and its overhead.
pub const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// Flow-control window of one connection. Large for a second reason: h2 closes a connection whose
/// unread small DATA frames exceed a budget that is derived from this window (lease keep-alives of
/// thousands of streams).
pub const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Largest frame we accept; the protocol's minimum keeps the turns of streams short.
pub const FRAME_BYTES_MAX: u32 = 16 * 1024;
/// What HTTP/2 may hold per stream of what we send, on top of [`STREAM_BUFFER_BYTES_MAX`].
pub const SEND_BUFFER_BYTES_MAX: usize = 512 * 1024;
/// Decoded size of a request's headers; auth tokens are about 1 KiB.
pub const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// Streams of one connection at once, announced to the client, unless the flag
/// `--max-concurrent-streams` is lower. etcd's default is no limit; a stream costs about 6 KiB, so
/// this bounds one hostile connection to 400 MiB (392 MB measured, `tests/tests/floods/main.rs`)
/// while no client known opens more.
pub const CONCURRENT_STREAMS_MAX: u32 = 65_536;
/// Streams that a client has opened and reset before we looked at them; beyond, the connection is
/// closed (rapid reset, CVE-2023-44487). A client that cancels all its watches must stay below.
pub const PENDING_RESET_STREAMS_MAX: usize = 1_024;
/// Streams reset by us because the client broke the protocol; beyond, the connection is closed
/// (RUSTSEC-2024-0003).
pub const LOCAL_ERROR_RESETS_MAX: usize = 1_024;

// --- gRPC ----------------------------------------------------------------------------------------

/// What a gRPC message may be longer than `--max-request-bytes`; the number is etcd's
/// (`grpcOverheadBytes`).
pub const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;
/// Bytes that may wait in one stream's `Outgoing`; a longer message waits alone.
pub const STREAM_BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// Longest response: gRPC clients take no longer message, and neither does etcd send one.
pub const RESPONSE_BYTES_MAX: usize = i32::MAX as usize;
/// `--max-request-bytes` above this is accepted with a warning, as in etcd.
pub const REQUEST_BYTES_RECOMMENDED_MAX: usize = 10 * 1024 * 1024;
/// `--max-request-bytes` above this is refused: a message must fit one Raft frame.
pub const REQUEST_BYTES_MAX: usize = 32 * 1024 * 1024;

// --- Threads -------------------------------------------------------------------------------------

/// Socket threads at most; more than this were never measured to help.
pub const SOCKET_THREADS_MAX: usize = 64;

const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(
    STREAM_WINDOW_BYTES as usize >= 1536 * 1024 + MESSAGE_OVERHEAD_BYTES,
    "a default largest request fits the window of its stream"
);
const _: () = assert!(FRAME_BYTES_MAX >= 16_384, "the protocol's minimum");
const _: () = assert!(CONNECTIONS_MIN <= CONNECTIONS_MAX);
const _: () = assert!(ACCEPT_PAUSE_MIN.as_millis() < ACCEPT_PAUSE_MAX.as_millis());
const _: () = assert!(
    REQUEST_BYTES_MAX + MESSAGE_OVERHEAD_BYTES < u32::MAX as usize,
    "the length prefix of a message has 32 bits"
);

// --- From request to reply -------------------------------------------------------------------------

/// How long a connection must be up to count for a healthy quorum, as in etcd.
pub const PEER_HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// How often a member that answers for its leader looks whether it has applied the change.
pub const APPLIED_POLL: Duration = Duration::from_millis(10);

/// Inputs that wait for the Raft thread. A full inbox refuses requests ("too many requests") and
/// drops peers' messages.
pub const RAFT_INBOX_MAX: usize = 16_384;
/// Inputs that the Raft thread takes before it runs a cycle: bounds the latency of a tick.
pub const RAFT_INPUTS_PER_TURN: usize = 8_192;
/// An entry is proposed when its commands hold this many bytes, without waiting for more.
pub const ENTRY_BYTES_TARGET: usize = 1 << 20;
/// Bytes of requests that wait for consensus, of all clients together; beyond, "too many requests".
pub const PROPOSAL_BYTES_IN_FLIGHT_MAX: usize = 256 << 20;
/// Proposals that wait for a leader or for room, in bytes: whatever may be in flight.
pub const HELD_PROPOSAL_BYTES_MAX: usize = PROPOSAL_BYTES_IN_FLIGHT_MAX;
/// And in time: their clients have given up by then (`request_timeout` is 7 s by default).
pub const HELD_PROPOSAL_AGE_MAX: Duration = Duration::from_secs(5);
/// Inputs that wait for the apply thread; what has no room stays with the Raft thread.
pub const APPLY_QUEUE_MAX: usize = 256;
/// Bytes of committed entries handed to the apply thread and not applied, beyond which requests
/// are refused and peers' bulk messages dropped.
pub const APPLY_BACKLOG_BYTES_MAX: usize = 64 << 20;
/// A peer's message up to this size is never dropped for the sake of the backlog: it may be a
/// heartbeat.
pub const SMALL_MESSAGE_BYTES_MAX: usize = 1 << 10;
/// Entries committed and not yet applied before requests are refused; etcd's number.
pub const COMMIT_APPLY_GAP_MAX: u64 = 5_000;
/// Requests of one socket thread that wait for consensus.
pub const REQUESTS_WAITING_MAX: usize = 65_536;
/// Items in a socket thread's mailbox: every waiting request may be answered at once, and events
/// come on top.
pub const MAILBOX_ITEMS_MAX: usize = 2 * REQUESTS_WAITING_MAX;
/// With this many items waiting, a socket thread gets no more events but reads the history.
pub const MAILBOX_EVENT_BATCHES_MAX: usize = REQUESTS_WAITING_MAX / 2;
/// And with so many bytes of events waiting for it; a larger batch waits alone.
pub const MAILBOX_EVENT_BYTES_MAX: usize = 64 << 20;
/// Bytes of files compared with their digests in a tenth of a second: 100 GB take eleven hours.
pub const SCRUB_STEP_BYTES: u64 = 256 << 10;
/// How long after the start the first pass over the files begins; opening has checked the keys.
pub const SCRUB_FIRST_AFTER: Duration = Duration::from_secs(600);
/// Pause between two passes.
pub const SCRUB_PAUSE: Duration = Duration::from_secs(6 * 3600);
/// How long a member that is there may take to answer with its hash: it reads everything.
pub const HASH_ANSWER_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// How often a physical compaction looks whether the engine is done.
pub const BACKGROUND_POLL: Duration = Duration::from_millis(5);
/// How soon a socket thread that had no room for events is told again to read the history.
pub const RESYNC_RETRY: Duration = Duration::from_millis(20);
/// How long a request that waited when the leader was lost still waits when the next one leads.
pub const LEADER_FAILED_PATIENCE: Duration = Duration::from_secs(1);
/// Pause before a read or a lease question is tried again after a change of leader.
pub const READ_RETRY_PAUSE: Duration = Duration::from_millis(20);
/// Pause before a member that has started tells its name again.
pub const PUBLISH_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long the leader may take to answer a lease question before it is asked again.
pub const LEASE_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes proposed and not yet committed.
pub const UNCOMMITTED_BYTES_MAX: u64 = 64 << 20;
/// Entry bytes in one append message.
pub const APPEND_BYTES_MAX: u64 = 1 << 20;
/// Append messages under way to one follower. A network with a longer way gets fuller messages.
pub const APPENDS_IN_FLIGHT_MAX: usize = 64;
/// Entry bytes read back from the log for followers in one cycle of the Raft thread: a leader goes
/// on while others catch up.
pub const CATCH_UP_READ_BYTES_MAX: u64 = 8 << 20;
/// Expired leases whose revocation is proposed per round of half a second; etcd's rate.
pub const LEASE_REVOKES_PER_ROUND: usize = 500;
/// Leases that a new leader lets end in a second; etcd's: three quarters of the rate above.
pub const LEASES_ENDING_PER_SECOND: u32 = 750;
/// With no more leases than this, their ends are not spread out; etcd's number.
pub const LEASES_SPREAD_MIN: usize = 1_000;
/// Time between two checkpoints of a lease; etcd's.
pub const LEASE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// Leases in one proposal of checkpoints; etcd's number.
pub const LEASE_CHECKPOINTS_MAX: usize = 1_000;
/// How long a stopping leader waits for its successor.
pub const LEADER_TRANSFER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long it then stays, for what others have sent to it before they heard of the successor.
pub const LEADER_TRANSFER_LINGER: Duration = Duration::from_millis(200);
/// Time between two such rounds.
pub const LEASE_ROUND: Duration = Duration::from_millis(500);

const _: () = assert!(RAFT_INPUTS_PER_TURN <= RAFT_INBOX_MAX);
const _: () = assert!(MAILBOX_EVENT_BATCHES_MAX + REQUESTS_WAITING_MAX <= MAILBOX_ITEMS_MAX);

// --- Reads -----------------------------------------------------------------------------------------

/// Threads for long reads.
pub const READ_THREADS: usize = 2;
/// Long reads that wait for a thread; beyond, "too many requests".
pub const READ_QUEUE_MAX: usize = 4_096;
/// Threads that hash passwords, if there are as many processors.
pub const PASSWORD_THREADS_MAX: usize = 16;
/// Passwords that wait to be hashed; beyond, "too many requests".
pub const PASSWORD_QUEUE_MAX: usize = 1_024;
/// How often a token that this member cannot know yet is looked for.
pub const TOKEN_POLL: Duration = Duration::from_millis(5);
/// How often a password is compared again because users changed meanwhile.
pub const AUTHENTICATE_ATTEMPTS_MAX: usize = 64;
/// A range of at most this many keys is read on the socket thread.
pub const INLINE_RANGE_KEYS_MAX: i64 = 16;
/// Revisions that one step of catching up reads for one watcher; etcd's number is 1000.
pub const CATCH_UP_REVISIONS_MAX: i64 = 4_096;
/// Bytes of events after which such a step ends at the next revision.
pub const CATCH_UP_BYTES_TARGET: usize = 256 << 10;
/// Longest profile of the processor that `/debug/pprof/profile` makes.
pub const PROFILE_DURATION_MAX: Duration = Duration::from_secs(600);

// --- Backups -----------------------------------------------------------------------------------------

/// Backups being made at once; beyond, "too many requests". Each has a thread and pins files.
pub const SNAPSHOTS_MAX: usize = 4;
/// Bytes of one message of a backup; etcd's number.
pub const SNAPSHOT_PIECE_BYTES: usize = 32 << 10;
/// Such messages made ahead of the client.
pub const SNAPSHOT_PIECES_QUEUED_MAX: usize = 16;
/// Rows after which a restoration says how far it is.
pub const RESTORE_PROGRESS_ROWS: u64 = 1_000_000;

// --- Log and engine ----------------------------------------------------------------------------------

/// Recent log entries kept in memory for followers.
pub const LOG_CACHE_BYTES_MAX: usize = 32 << 20;

// --- Peers -------------------------------------------------------------------------------------------

/// Longest frame of a peer stream: a snapshot's manifest is the largest.
pub const PEER_FRAME_BYTES_MAX: usize = 64 << 20;
/// Longest first frame of a peer stream, read before anybody is known.
pub const PEER_HELLO_BYTES_MAX: usize = 64 << 10;
/// URLs in it. Who has more says the first.
pub const PEER_HELLO_URLS_MAX: usize = 16;
/// Bytes of each. A longer one is not said.
pub const PEER_HELLO_URL_BYTES_MAX: usize = 2 << 10;
/// Members that say where they are and are ahead of this one, so that it cannot know yet.
pub const PEERS_LEARNT_MAX: usize = 64;
/// Small messages that wait for one peer.
pub const PEER_SMALL_QUEUE_MAX: usize = 4_096;
/// Append messages that wait for one peer; Raft keeps no more under way to one that follows.
pub const PEER_BULK_QUEUE_MAX: usize = 4 * APPENDS_IN_FLIGHT_MAX;
/// And their bytes; a longer one waits alone. What has no room is dropped, and Raft then sends one
/// at a time until the peer answers.
pub const PEER_BULK_BYTES_MAX: usize = 64 << 20;
/// Streams that peers may hold open here.
pub const PEER_STREAMS_MAX: usize = 256;
/// Frames are written together up to about this many bytes.
pub const PEER_WRITE_BYTES_TARGET: usize = 256 << 10;
/// A peer that takes nothing for this long is gone; etcd's number.
pub const PEER_SILENCE_MAX: Duration = Duration::from_secs(5);
/// Time for a TCP connection.
pub const PEER_DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Time for the first frame of an incoming stream.
pub const PEER_HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before dialling again, at first.
pub const PEER_REDIAL_MIN: Duration = Duration::from_millis(50);
/// Pause before dialling again, at most.
pub const PEER_REDIAL_MAX: Duration = Duration::from_secs(1);
/// One piece of a file in a snapshot.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// Pause after a failed transfer, before Raft may ask for the next.
pub const SNAPSHOT_RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Silence after which, and intervals at which, the other end of a peer stream is asked whether it
/// is still there. Streams of followers may be silent for long; a machine that lost power sends
/// nothing, and its streams would be held for ever.
pub const PEER_KEEPALIVE: Duration = Duration::from_secs(10);
/// How long whole files of a transfer that broke off are kept for the next one.
pub const SNAPSHOT_PARTS_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// How often a member says that a snapshot which the leader asked of it is under way.
pub const SNAPSHOT_LENT_WORD: Duration = Duration::from_secs(2);
/// Silence after which the leader sends such a snapshot itself.
pub const SNAPSHOT_LENT_SILENCE_MAX: Duration = Duration::from_secs(10);
/// Silence that ends a snapshot transfer.
pub const SNAPSHOT_STEP_TIMEOUT: Duration = Duration::from_secs(60);

const _: () = assert!(APPEND_BYTES_MAX as usize * 4 <= PEER_FRAME_BYTES_MAX);
const _: () = assert!(SNAPSHOT_CHUNK_BYTES < PEER_FRAME_BYTES_MAX);
const _: () = assert!(
    PEER_HELLO_URLS_MAX * (2 + PEER_HELLO_URL_BYTES_MAX) + 1024 <= PEER_HELLO_BYTES_MAX
        && PEER_HELLO_URLS_MAX <= u8::MAX as usize
        && PEER_HELLO_URL_BYTES_MAX <= u16::MAX as usize,
    "what a member says of itself fits its hello"
);

// --- Traces ------------------------------------------------------------------------------------------

/// Spans that wait for the collector; more are dropped and counted. OpenTelemetry's number, as are the
/// next two.
pub const TRACE_SPANS_WAITING_MAX: usize = 2_048;
/// Spans that are sent together.
pub const TRACE_BATCH_SPANS_MAX: usize = 512;
/// Time after which what waits is sent, though it is no whole batch.
pub const TRACE_PERIOD: Duration = Duration::from_secs(5);
/// Inner spans that one call has at once (watchers of a stream); more are dropped and counted.
pub const TRACE_SPANS_OPEN_MAX: usize = 1_024;
/// Bytes of a key that a span shows.
pub const TRACE_TEXT_BYTES_MAX: usize = 1_024;
/// Time for a batch, with the connection to the collector.
pub const TRACE_EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long batches are tried again when the collector is away.
pub const TRACE_RETRY_MAX: Duration = Duration::from_secs(60);
/// What a stopping server gives to the spans that still wait.
pub const TRACE_FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

const _: () = assert!(TRACE_BATCH_SPANS_MAX < TRACE_SPANS_WAITING_MAX);
