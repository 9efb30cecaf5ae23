//! The apply thread over a real state machine: the test plays the Raft thread and a socket thread
//! whose mailbox is often full.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use prost::Message;
use varve_api::authpb::Permission;
use varve_api::authpb::permission::Type;
use varve_api::etcdserverpb::{AuthRoleGrantPermissionRequest, PutRequest};
use varve_api::{Status, error, method};
use varve_disk::Disk;
use varve_disk::sim::SimDisk;
use varve_lsm::{Db, Options, Work};
use varve_raftnode::Term;
use varve_store::{
    AuthCommand, Author, Command, CommandKind, Founding, RequestId, View, encode_batch,
};

use super::*;
use crate::auth::{AuthOptions, TokenOptions};
use crate::grpc::{Caller, RequestMeta};
use crate::mailbox::{MailboxOwner, mailbox};
use crate::metrics::Detail;
use crate::queue::bounded;
use crate::request::Budget;

const NONCE: BootNonce = BootNonce(9);
const SNAPSHOT_COUNT: u64 = 1_000;

struct Applying {
    thread: ApplyThread,
    outbox: Outbox,
    inbox: MailboxOwner<ToWorker>,
    queue: Sender<ApplyInput>,
    disk: Arc<dyn Disk>,
    db: Db,
}

fn start(mailbox_length: usize) -> Applying {
    start_as(1, mailbox_length)
}

fn start_as(origin: u32, mailbox_length: usize) -> Applying {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new(1));
    let options = Options { origin, ..Options::default() };
    let (db, writer) = Db::open(Arc::clone(&disk), Path::new("/engine"), options).unwrap();
    let member = Member {
        id: 1,
        name: "one".into(),
        peer_urls: Vec::new(),
        client_urls: Vec::new(),
        is_learner: false,
    };
    let store = Store::open(db.clone(), writer, &Founding { cluster_id: 1, members: vec![member] });
    let (raft, _) = bounded(8);
    let (queue, inputs) = bounded(8);
    let (worker, inbox) = mailbox(mailbox_length);
    let options = AuthOptions {
        token: TokenOptions::Simple,
        token_time_to_live: Duration::ZERO,
        bcrypt_cost: 4,
        client_cert_auth: false,
    };
    let authenticator = Authenticator::start(&options, disk.as_ref()).unwrap();
    let thread = ApplyThread {
        store: store.unwrap(),
        queue: inputs,
        raft,
        workers: vec![worker],
        boot_nonce: NONCE,
        cluster: Arc::new(Cluster::new(1, 1)),
        lessor: Arc::default(),
        auth: Arc::new(authenticator),
        background: Arc::default(),
        peers: Peers::new(Vec::new(), Metrics::new(Detail::Basic)).0,
        metrics: Metrics::new(Detail::Basic),
        snapshot_count: SNAPSHOT_COUNT,
        warning_duration: Duration::MAX,
    };
    let outbox = Outbox::new(&thread);
    Applying { thread, outbox, inbox, queue, disk, db }
}

impl Applying {
    /// Applies one entry with one put, whose waiter is `request`.
    fn put(&mut self, request: u64) {
        let body =
            PutRequest { key: "k".into(), value: vec![b'v'; 64].into(), ..PutRequest::default() };
        let id = RequestId(u64::from(NONCE.0) << 48 | request);
        let (kind, body) = (CommandKind::Put, body.encode_to_vec().into());
        self.take(Command { id, kind, author: None, body });
    }

    /// Applies an entry with one command.
    fn take(&mut self, command: Command) {
        let index = self.thread.store.applied().index + 1;
        let entry = Committed {
            index: Index(index),
            term: Term(1),
            payload: encode_batch(&[command]),
            change: None,
        };
        self.thread.take(&mut self.outbox, ApplyInput::Committed(vec![entry])).unwrap();
    }

    fn view(&self) -> View {
        self.thread.store.view()
    }

    fn change(&mut self, command: AuthCommand) {
        self.take(auth(&self.view(), command));
    }

    /// Alice, who may write `k` when authentication is on.
    fn add_alice(&mut self) {
        let add = |user: &str| AuthCommand::UserAdd {
            user: user.into(),
            password_hash: "hash".into(),
            has_no_password: false,
        };
        let grant = |user: &str, role: &str| AuthCommand::UserGrantRole {
            user: user.into(),
            role: role.into(),
        };
        let perm_type = Type::Write as i32;
        let perm = Some(Permission { perm_type, key: "k".into(), range_end: "".into() });
        let permission = AuthRoleGrantPermissionRequest { name: "writer".into(), perm };
        for command in [
            add("root"),
            grant("root", "root"),
            add("alice"),
            AuthCommand::RoleAdd { role: "writer".into() },
            AuthCommand::RoleGrantPermission(permission),
            grant("alice", "writer"),
            AuthCommand::Enable,
        ] {
            self.change(command);
        }
    }

    /// A new token of Alice's.
    fn authenticate(&mut self) -> String {
        let (user, token_prefix) = ("alice".into(), "abc".into());
        self.change(AuthCommand::Authenticate { user, token_prefix });
        format!("abc.{}", self.thread.store.applied().index)
    }

    /// Who comes with a token.
    fn author(&self, token: &str) -> Result<Author, Status> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("token", HeaderValue::from_str(token).unwrap());
        let caller = Rc::new(Caller::of_unix_socket());
        let meta = RequestMeta::new(&method::KV_PUT, headers, caller).unwrap();
        let found = runtime.block_on(async {
            let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
            self.thread.auth.author(&meta, &self.view(), &self.thread.cluster, deadline).await
        });
        found.map(|author| author.expect("authentication is on"))
    }

    /// What the state machine says to a put by whom this member takes for the token's owner.
    fn put_with(&self, token: &str) -> Result<(), Status> {
        let author = self.author(token)?;
        Ok(self.view().auth().may_write(Some(&author), b"k", b"")?)
    }

    fn read(&mut self, token: u64, index: u64) {
        let token = u64::from(NONCE.0) << 48 | token;
        let ready = vec![(token, Index(index))];
        self.thread
            .take(&mut self.outbox, ApplyInput::Reads { ready, failed: Vec::new() })
            .unwrap();
    }

    fn drain(&self) -> Vec<String> {
        let mut posted = Vec::new();
        self.inbox.try_drain(&mut posted);
        let short = |id: u64| id & 0xffff;
        posted
            .into_iter()
            .map(|item| match item {
                ToWorker::Reply(id, _) => format!("reply {}", short(id.0)),
                ToWorker::ReadReady(token) => format!("read {}", short(token)),
                ToWorker::ReadFailed(token) => format!("failed {}", short(token)),
                ToWorker::Events(batch, _) => format!("events {}", batch.revision()),
                ToWorker::Resync(revision) => format!("resync {revision}"),
                ToWorker::Lease(_) => "lease".to_owned(),
                ToWorker::Hash(_) => "hash".to_owned(),
                ToWorker::Call { .. } | ToWorker::CallAnswer(_) => "call".to_owned(),
            })
            .collect()
    }
}

/// A change by root.
fn auth(view: &View, command: AuthCommand) -> Command {
    let author = crate::auth::internal_author(view);
    Command { id: RequestId(0), kind: CommandKind::Auth, author, body: command.encode() }
}

fn new_password() -> AuthCommand {
    AuthCommand::UserChangePassword { user: "alice".into(), password_hash: "other".into() }
}

#[test]
fn events_come_before_the_reply_that_tells_of_them_and_reads_when_their_index_is_applied() {
    let mut applying = start(16);
    applying.read(1, 3);
    applying.read(2, 2);
    assert_eq!(applying.drain(), [""; 0]);
    applying.put(7);
    assert_eq!(applying.drain(), ["events 2", "reply 7", "read 2"]);
    applying.put(8);
    assert_eq!(applying.drain(), ["events 3", "reply 8", "read 1"]);
    applying.read(3, 2);
    assert_eq!(applying.drain(), ["read 3"]);
}

#[test]
fn a_socket_thread_without_room_for_events_is_told_to_read_them_and_gets_the_next() {
    let mut applying = start(2);
    applying.put(1);
    // Full: the events of revision 3 and its reply have no room, those of 4 neither.
    applying.put(2);
    applying.put(3);
    assert_eq!(applying.drain(), ["events 2", "reply 1"]);
    applying.put(4);
    assert_eq!(applying.drain(), ["resync 5", "reply 4"]);
    applying.put(5);
    assert_eq!(applying.drain(), ["events 6", "reply 5"]);
}

#[test]
fn lost_events_are_made_good_though_nothing_else_happens() {
    let mut applying = start(1);
    applying.put(1);
    applying.put(2);
    assert_eq!(applying.drain(), ["events 2"]);
    let queue = applying.queue.clone();
    let waker = std::thread::spawn(move || {
        // Longer than it takes to look again, on any machine that is not asleep.
        std::thread::sleep(limits::RESYNC_RETRY * 20);
        queue.send(ApplyInput::Lead { term: None }).unwrap();
    });
    assert!(applying.thread.next(&mut applying.outbox).is_some());
    waker.join().unwrap();
    assert_eq!(applying.drain(), ["resync 3"]);
}

#[test]
fn batches_that_wait_are_bounded_in_bytes_too() {
    let mut applying = start(1_000);
    applying.outbox.event_room = vec![Budget::new(1_000)];
    for request in 0..50 {
        applying.put(request);
    }
    let posted = applying.drain();
    let events = posted.iter().filter(|item| item.starts_with("events")).count();
    assert!((1..20).contains(&events), "{events} of 50 batches wait");
    assert!(posted.iter().any(|item| item.starts_with("resync")), "{posted:?}");
    // What was taken out makes room again.
    applying.put(50);
    applying.drain();
    applying.put(51);
    assert_eq!(applying.drain(), ["events 53", "reply 51"]);
}

#[test]
fn an_entry_that_takes_longer_than_was_said_is_counted() {
    let mut applying = start(64);
    applying.put(1);
    assert_eq!(applying.thread.metrics.slow_apply.get(), 0);
    applying.thread.warning_duration = Duration::ZERO;
    applying.put(2);
    assert_eq!(applying.thread.metrics.slow_apply.get(), 1);
}

#[test]
fn a_token_is_not_taken_under_the_auth_revision_that_made_it_void() {
    let mut applying = start(1_000);
    applying.add_alice();
    let token = applying.authenticate();
    assert_eq!(applying.put_with(&token), Ok(()));

    // The entry is visible to readers, and nobody has said yet what it did.
    let payload = encode_batch(&[auth(&applying.view(), new_password())]);
    let index = applying.thread.store.applied().index + 1;
    let applied = applying.thread.store.apply(index, 1, &payload).unwrap();
    assert_eq!(applying.put_with(&token), Err(error::AUTH_OLD_REVISION.into()));
    let auth_revision = applying.view().auth().revision();
    applying.thread.auth.changed(applied.auth, auth_revision);
    assert_eq!(applying.put_with(&token), Err(error::INVALID_AUTH_TOKEN.into()));

    let token = applying.authenticate();
    assert_eq!(applying.put_with(&token), Ok(()));
    // Others' changes leave it valid, and it goes with what is known now.
    applying.change(AuthCommand::RoleAdd { role: "other".into() });
    assert_eq!(applying.put_with(&token), Ok(()));
    applying.change(new_password());
    assert_eq!(applying.put_with(&token), Err(error::INVALID_AUTH_TOKEN.into()));
}

#[test]
fn a_token_is_not_taken_under_the_auth_revision_of_a_snapshot() {
    let (mut sender, mut receiver) = (start_as(1, 1_000), start_as(2, 1_000));
    sender.add_alice();
    receiver.add_alice();
    let token = receiver.authenticate();
    assert_eq!(sender.authenticate(), token);
    sender.change(new_password());
    sender.thread.store.freeze().unwrap();
    while sender.db.work().unwrap() != Work::Idle {}

    let (checkpoint, staged) = (sender.db.checkpoint(), Path::new("/staged"));
    receiver.disk.create_dir_all(staged).unwrap();
    for file in &checkpoint.files {
        let copy = receiver.disk.create(&staged.join(&file.name)).unwrap();
        copy.write_at(0, &file.content).unwrap();
    }
    assert_eq!(receiver.put_with(&token), Ok(()));
    // It is visible to readers, and nobody has said yet that it is there.
    receiver.thread.store.install(&checkpoint.manifest, staged).unwrap();
    assert_eq!(receiver.put_with(&token), Err(error::AUTH_OLD_REVISION.into()));
    receiver.thread.auth.replaced(receiver.view().auth().revision());
    assert_eq!(receiver.put_with(&token), Err(error::INVALID_AUTH_TOKEN.into()));
    let token = receiver.authenticate();
    assert_eq!(receiver.put_with(&token), Ok(()));
}
