//! What the state machine takes for a bug of its caller, or for an entry that it must not pass
//! over.

use bytes::Bytes;
use varve_lsm::Options;
use varve_store::{Command, CommandKind, Configuration, Mark, RequestId, Store, encode_batch};

use crate::machine::{Machine, founding};

fn machine() -> Machine {
    Machine::new(1, Options::default())
}

#[test]
fn a_founded_store_stands_at_index_one_and_revision_one() {
    let machine = machine();
    assert_eq!(machine.store.applied(), Mark { index: 1, term: 1 });
    assert_eq!(machine.view().revision(), 1);
    assert_eq!(machine.store.members(), founding().members);
    machine.check();
}

#[test]
fn a_founding_is_durable_after_one_step_of_background_work() {
    let machine = machine();
    assert_eq!(machine.db.flushed_mark(), None);
    machine.db.work().unwrap();
    let configuration = Configuration { voters: vec![1, 2], learners: Vec::new() };
    let mark = Mark { index: 1, term: 1 }.encode(&configuration);
    assert_eq!(machine.db.flushed_mark(), Some(mark));
}

#[test]
#[should_panic(expected = "does not follow")]
fn an_entry_out_of_order_is_a_bug_of_the_caller() {
    let mut machine = machine();
    let _ = machine.store.apply(4, 1, &Bytes::new());
}

#[test]
#[should_panic(expected = "does not follow")]
fn a_term_never_falls() {
    let mut machine = machine();
    machine.store.apply(2, 3, &Bytes::new()).unwrap();
    let _ = machine.store.apply(3, 2, &Bytes::new());
}

#[test]
fn an_entry_that_is_no_batch_stops_the_member_and_changes_nothing() {
    let mut machine = machine();
    let (id, kind) = (RequestId(1), CommandKind::Put);
    let command = Command { id, kind, author: None, body: Bytes::new() };
    let mut payload = encode_batch(&[command]).to_vec();
    payload[0] = 9;
    let error = machine.store.apply(2, 1, &payload.into()).unwrap_err();
    assert_eq!(error.to_string(), "a batch of commands, at byte 0: expected version 1, found 9");
    assert_eq!(machine.store.applied(), Mark { index: 1, term: 1 });
}

#[test]
fn views_are_shared_between_threads() {
    fn is_shared<T: Clone + Send + Sync + 'static>() {}
    fn is_sent<T: Send + 'static>() {}
    is_shared::<varve_store::View>();
    is_sent::<Store>();
    is_sent::<varve_store::RangeStream>();
    is_sent::<varve_store::Events>();
}
