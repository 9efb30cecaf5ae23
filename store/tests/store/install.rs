//! A member that was away receives the state of another one, and goes on from there.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use varve_api::authpb::Permission;
use varve_api::authpb::permission::Type;
use varve_api::error as api;
use varve_api::etcdserverpb::{AuthRoleGrantPermissionRequest, RangeRequest};
use varve_disk::Disk;
use varve_disk::sim::SimDisk;
use varve_lsm::db::Work;
use varve_lsm::{Checkpoint, Commit, Db, Delta, Keyspace, Meta, Options, Revision};
use varve_store::{Auth, AuthCommand, Author, Command, CommandKind, Mark, RequestId};

use crate::machine::{Machine, founding};
use crate::naive::{Naive, Write};
use crate::random::{self, Random};

const ENTRIES: usize = 400;
const STAGED: &str = "/varve/staged";

/// Applies random puts of keys and leases; the same to each machine.
fn apply(random: &mut Random, model: &mut Naive, machines: &mut [&mut Machine]) {
    use prost::Message;
    let put = random.put(model);
    let (kind, body) = match random.below(10) {
        0 => {
            let request = varve_api::etcdserverpb::LeaseGrantRequest { id: random.lease(), ttl: 9 };
            let _ = model.apply(Write::Grant { id: request.id, ttl: request.ttl });
            (CommandKind::LeaseGrant, request.encode_to_vec())
        }
        1 => {
            let delete = random.delete();
            let body = delete.encode_to_vec();
            model.apply(Write::Delete(delete)).unwrap();
            (CommandKind::DeleteRange, body)
        }
        _ => {
            let body = put.encode_to_vec();
            let _ = model.apply(Write::Put(put));
            (CommandKind::Put, body)
        }
    };
    let command = Command { id: RequestId(0), kind, author: None, body: body.into() };
    for machine in machines {
        machine.apply(std::slice::from_ref(&command));
    }
}

/// Brings to `to` what it has not.
fn stage(checkpoint: &Checkpoint, to: &Machine) {
    let staged = Path::new(STAGED);
    to.disk().create_dir_all(staged).unwrap();
    for file in &checkpoint.files {
        if !to.db.has_file(&file.name, file.digest) {
            let path = staged.join(&file.name);
            let copy = to.disk().create(&path).unwrap();
            copy.write_at(0, &file.content).unwrap();
            // The content of the staged file is durable, as install expects of its caller.
            copy.sync().unwrap();
        }
    }
    to.disk().sync_dir(staged).unwrap();
}

fn send(from: &Machine, to: &mut Machine) {
    let checkpoint = from.db.checkpoint();
    stage(&checkpoint, to);
    to.store.install(&checkpoint.manifest, Path::new(STAGED)).unwrap();
    assert_eq!(to.store.applied(), Mark::decode(&checkpoint.mark).unwrap());
    to.check();
}

#[test]
fn an_installed_state_is_the_senders_and_entries_follow_on_it() {
    let options = |origin| Options { origin, memtable_bytes: 16 << 10, ..Options::default() };
    let mut random = Random::new(7);
    let mut model = Naive::new();
    let mut sender = Machine::new(1, options(1));
    let mut receiver = Machine::new(2, options(2));
    for _ in 0..ENTRIES / 4 {
        apply(&mut random, &mut model, &mut [&mut sender, &mut receiver]);
    }
    for _ in 0..ENTRIES / 2 {
        apply(&mut random, &mut model, &mut [&mut sender]);
    }
    sender.flush();
    let before = receiver.view();
    send(&sender, &mut receiver);
    assert_eq!(receiver.store.applied(), sender.store.applied());
    assert_eq!(before.revision(), model.revision, "a view sees what was installed");
    for _ in 0..ENTRIES / 4 {
        apply(&mut random, &mut model, &mut [&mut sender, &mut receiver]);
    }
    for machine in [&sender, &receiver] {
        let everything = random::everything(0);
        assert_eq!(machine.view().range(&everything), model.range(&everything));
        assert_eq!(machine.view().leases().unwrap().len(), model.leases.len());
        assert_eq!(machine.store.members(), founding().members);
        machine.check();
    }
}

/// A checkpoint by hand with the key `k` at revision 7. Authentication is on, and nobody may
/// anything. When it is installed, that ends where leases are read.
fn without_permissions(cluster_row: &[u8]) -> Checkpoint {
    let options = Options { origin: 9, ..Options::default() };
    let disk = Arc::new(SimDisk::new(9));
    let (db, mut writer) = Db::open(disk, Path::new("/engine"), options).unwrap();
    let rows: [(&[u8], &[u8]); 3] = [
        (b"cluster", cluster_row),
        (b"auth", b"\x01\x01\x32\0\0\0\0\0\0\0"),
        (b"lease/short", b""),
    ];
    for (sub, (row, value)) in (0..).zip(rows) {
        let revision = Revision { main: 90, sub };
        writer.put(Keyspace::Sys, row, revision, Delta::Plus, Meta::EMPTY, value);
    }
    let (revision, meta) = (Revision { main: 7, sub: 0 }, Meta::new(b"\x00\x01").unwrap());
    writer.put(Keyspace::Kv, b"k", revision, Delta::Plus, meta, b"secret");
    let mark = Bytes::from_static(b"\x01\x5a\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0");
    writer.commit(Commit { mark, kv_visible: 7, compacted: 0 }).unwrap();
    writer.freeze().unwrap();
    while db.work().unwrap() != Work::Idle {}
    db.checkpoint()
}

/// Alice may read `k`, and root may do everything.
fn add_alice(machine: &mut Machine) {
    let add = |user: &str| AuthCommand::UserAdd {
        user: user.into(),
        password_hash: Bytes::new(),
        has_no_password: true,
    };
    let grant = |user: &str, role: &str| AuthCommand::UserGrantRole {
        user: user.into(),
        role: role.into(),
    };
    let (key, range_end) = (Bytes::from_static(b"k"), Bytes::new());
    let perm = Some(Permission { perm_type: Type::Read as i32, key, range_end });
    let permission = AuthRoleGrantPermissionRequest { name: "reader".into(), perm };
    for command in [
        add("root"),
        grant("root", "root"),
        add("alice"),
        AuthCommand::RoleAdd { role: "reader".into() },
        AuthCommand::RoleGrantPermission(permission),
        grant("alice", "reader"),
    ] {
        change(machine, command);
    }
}

fn change(machine: &mut Machine, command: AuthCommand) {
    let (kind, body) = (CommandKind::Auth, command.encode());
    let applied = machine.apply(&[Command { id: RequestId(0), kind, author: None, body }]);
    assert!(applied.replies[0].1.is_ok(), "{command:?}: {:?}", applied.replies);
}

#[test]
fn who_reads_during_an_installation_is_held_to_the_users_that_came_with_it() {
    for is_enabled in [true, false] {
        let mut receiver = Machine::new(2, Options { origin: 2, ..Options::default() });
        add_alice(&mut receiver);
        if is_enabled {
            change(&mut receiver, AuthCommand::Enable);
        }
        let checkpoint = without_permissions(b"\x01\xc1\0\0\0\0\0\0\0");
        stage(&checkpoint, &receiver);
        let view = receiver.view();
        let auth_revision = view.auth().revision();
        let author = is_enabled.then(|| Author { user: "alice".into(), auth_revision });
        let request = RangeRequest { key: "k".into(), ..RangeRequest::default() };
        let may = |auth: &Auth| auth.may_range(author.as_ref(), &request);
        assert_eq!(view.judged(may, || view.range(&request)).unwrap().count, 0);

        // It fails in the middle, and so stands still there for whoever reads.
        let read = view.judged(may, || {
            let installed = receiver.store.install(&checkpoint.manifest, Path::new(STAGED));
            let error = installed.unwrap_err().to_string();
            assert!(error.starts_with("row lease/short"), "{error}");
            let found = view.range(&request)?;
            assert_eq!(found.kvs[0].value, "secret", "the new data is to be read");
            Ok(found)
        });
        assert_eq!(read, Err(api::AUTH_OLD_REVISION.into()), "begun before");
        let refusal = if is_enabled { api::AUTH_OLD_REVISION } else { api::USER_EMPTY };
        assert_eq!(view.judged(may, || view.range(&request)), Err(refusal.into()));
    }
}

#[test]
fn data_of_another_cluster_is_refused_before_anybody_reads_it() {
    let mut receiver = Machine::new(2, Options { origin: 2, ..Options::default() });
    let checkpoint = without_permissions(b"\x01\xc2\0\0\0\0\0\0\0");
    stage(&checkpoint, &receiver);
    let installed = receiver.store.install(&checkpoint.manifest, Path::new(STAGED));
    let error = installed.unwrap_err().to_string();
    assert!(error.contains("belongs to cluster 00000000000000c2"), "{error}");
    let view = receiver.view();
    assert_eq!((view.revision(), view.is_auth_enabled()), (1, false));
}
