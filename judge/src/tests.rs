//! Short histories without a log, told command by command: what is concluded from them, and what must
//! not be believed. Long ones are judged, and falsified, in the simulator's tests.

use varve_api::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeRequest, PutRequest,
    PutResponse, RangeRequest, RangeResponse, ResponseHeader,
};

use super::*;
use crate::history::{Micros, Operation, Outcome, Replica, Request, Response, SECOND};
use crate::model::Model;

const LEASE: i64 = 7;
const TTL_SECONDS: i64 = 5;

/// What happens, each thing a second after the one before.
struct Story {
    model: Model,
    operations: Vec<Operation>,
    now: Micros,
}

impl Story {
    fn new() -> Story {
        Story { model: Model::empty(), operations: Vec::new(), now: 0 }
    }

    fn tell(mut self, request: Request, outcome: Outcome) -> Story {
        self.now += SECOND;
        let (invoked, returned) = (self.now, self.now + 1);
        self.operations.push(Operation {
            client: 0,
            member: 0,
            request,
            invoked,
            returned,
            outcome,
        });
        self
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader { revision: self.model.revision, ..ResponseHeader::default() })
    }

    /// A put that is answered.
    fn put(mut self, key: &'static str, value: &'static str, lease: i64) -> Story {
        let request = put(key, value, lease);
        self.model.execute(&request, None, 0);
        let header = self.header();
        self.tell(request, Outcome::Done(Response::Put(PutResponse { header, prev_kv: None })))
    }

    /// Something that happens and is not answered.
    fn unanswered(mut self, request: Request) -> Story {
        self.model.execute(&request, None, 0);
        self.tell(request, Outcome::Unknown)
    }

    fn grant(mut self) -> Story {
        let grant = LeaseGrantRequest { id: LEASE, ttl: TTL_SECONDS };
        self.model.execute(&Request::Grant(grant), None, 0);
        let (id, ttl, header) = (LEASE, TTL_SECONDS, self.header());
        let told = LeaseGrantResponse { header, id, ttl, ..LeaseGrantResponse::default() };
        self.tell(Request::Grant(grant), Outcome::Done(Response::Grant(told)))
    }

    /// A clock ends the lease.
    fn expire(mut self) -> Story {
        let expiry = Request::Revoke(LeaseRevokeRequest { id: LEASE });
        self.model.execute(&expiry, None, 0);
        self
    }

    /// Nobody does anything.
    fn wait(mut self, seconds: u64) -> Story {
        self.now += seconds * SECOND;
        self
    }

    /// A read of all keys, as they are or as they were.
    fn read(self, revision: i64, serializable: bool) -> Story {
        let (key, range_end) = ("a".into(), "z".into());
        let request = RangeRequest { key, range_end, serializable, ..RangeRequest::default() };
        let header = Some(ResponseHeader { revision, ..ResponseHeader::default() });
        let told = RangeResponse { header, ..self.model.answer(&request, revision) };
        self.tell(Request::Range(request), Outcome::Done(Response::Range(told)))
    }

    fn history(self) -> History {
        let model = self.model;
        let replica = Replica {
            member: 0,
            keys: model.range(&[0], &[0], i64::MAX),
            leases: model.leases.into_iter().collect(),
            revision: model.revision,
            compacted: 0,
            hash: 1,
            changes: Some(model.changes),
        };
        History { operations: self.operations, replicas: vec![replica], ..History::default() }
    }

    fn violations(self) -> Vec<String> {
        violations(&self.history())
    }
}

fn put(key: &'static str, value: &'static str, lease: i64) -> Request {
    let (key, value) = (key.into(), value.into());
    Request::Put(PutRequest { key, value, lease, ..PutRequest::default() })
}

fn delete(key: &'static str) -> Request {
    Request::Delete(DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() })
}

/// Expects one violation, with these words in it.
fn assert_found(found: &[String], words: &str) {
    assert!(found.len() == 1 && found[0].contains(words), "expected {words:?}: {found:#?}");
}

#[test]
fn what_was_not_answered_is_found_by_what_it_did() {
    let none: [String; 0] = [];
    let story = || Story::new().put("b", "1", 0).put("c", "2", 0);
    let sound = story().unanswered(delete("c")).unanswered(put("d", "3", 0)).read(5, false);
    assert_eq!(sound.violations(), none);
    let mut nobodys = story().unanswered(delete("c")).history();
    nobodys.operations.pop();
    assert_found(&violations(&nobodys), "nobody asked for");
    let mut others = story().unanswered(delete("c")).history();
    others.operations[2].request = delete("b");
    assert_found(&violations(&others), "nobody asked for");
}

#[test]
fn a_write_without_an_answer_is_not_seen_before_it_was_asked_for() {
    let mut history = Story::new().unanswered(put("b", "1", 0)).read(2, false).history();
    history.operations.swap(0, 1);
    history.operations[1].invoked += 5 * SECOND;
    assert_found(&violations(&history), "linear: operation 1");
}

#[test]
fn what_a_serializable_read_has_shown_is_known_later() {
    let none: [String; 0] = [];
    let story = || Story::new().unanswered(put("b", "1", 0)).read(2, true);
    assert_eq!(story().read(1, true).violations(), none);
    assert_found(&story().read(1, false).violations(), "linear: operation 2");
}

#[test]
fn a_lease_ends_in_time_and_takes_its_keys_along() {
    let none: [String; 0] = [];
    let story = || Story::new().grant().put("b", "1", LEASE);
    assert_eq!(story().wait(9).expire().read(3, false).violations(), none);
    assert_found(&story().expire().read(3, false).violations(), "lease: 7 was revoked at");
    // Without keys it ends unseen.
    assert_eq!(story().put("b", "2", 0).expire().violations(), none);
    let mut left = story().history();
    left.replicas[0].leases.clear();
    assert_found(&violations(&left), "lease 7 is gone and would have taken along");
}
