//! A member that was away receives the state of another one, and goes on from there.

use std::path::Path;

use varve_disk::Disk;
use varve_lsm::Options;
use varve_store::{Command, CommandKind, Mark, RequestId};

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

/// Sends what `to` has not.
fn send(from: &Machine, to: &mut Machine) {
    let checkpoint = from.db.checkpoint();
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
    to.store.install(&checkpoint.manifest, staged).unwrap();
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
