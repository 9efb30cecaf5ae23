//! Each rule with a message that breaks it, and the good message that it was made from.

use super::*;
use crate::snapshot::snapshot_of;
use crate::{Applied, Index, Term};

const VIEW: View =
    View { id: 1, term: 5, is_leader: false, last: 20, has_unpersisted: false, matched: None };

const LEADER: View = View { is_leader: true, matched: Some(12), ..VIEW };

fn message(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.to = 1;
    message.from = 2;
    message.term = 5;
    message
}

fn entry(index: u64, term: u64) -> Entry {
    Entry { index, term, data: vec![1].into(), ..Entry::default() }
}

fn append() -> Message {
    let mut append = message(MessageType::MsgAppend);
    append.index = 20;
    append.log_term = 4;
    append.set_entries(vec![entry(21, 4), entry(22, 5)].into());
    append
}

fn question(kind: MessageType, contexts: usize) -> Message {
    let mut question = message(kind);
    let data = vec![7; contexts * CONTEXT_BYTES].into();
    let entry = Entry { data, ..Entry::default() };
    question.set_entries(vec![entry].into());
    question
}

fn snapshot(index: u64, term: u64, voter: u64) -> Message {
    let mut message = message(MessageType::MsgSnapshot);
    message.set_snapshot(snapshot_of(&Applied {
        index: Index(index),
        term: Term(term),
        voters: vec![NodeId(voter)],
        learners: Vec::new(),
    }));
    message
}

/// The reason that a refusal must give, and what makes a good message bad.
type Change<'a> = (&'a str, fn(&mut Message));

/// Asserts that `good` passes, and that it does not after each change, for the reason named.
fn refuses(good: Message, view: &View, changes: &[Change]) {
    check(NodeId(2), &good, view).unwrap_or_else(|error| panic!("{good:?}: {error}"));
    for (reason, change) in changes {
        let mut bad = good.clone();
        change(&mut bad);
        match check(NodeId(2), &bad, view) {
            Ok(()) => panic!("not refused: {reason}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(reason), "{text} does not say {reason}");
            }
        }
    }
}

#[test]
fn the_envelope_fits_the_carrier() {
    refuses(
        append(),
        &VIEW,
        &[
            ("it says that it is from 3", |message| message.from = 3),
            ("it is for 4, this is 1", |message| message.to = 4),
            ("term 0", |message| message.term = 0),
            ("out of range", |message| message.term = u64::MAX),
            ("out of range", |message| message.index = NUMBER_MAX),
            ("out of range", |message| message.commit = u64::MAX),
            ("nobody requests snapshots", |message| message.request_snapshot = 3),
        ],
    );
    let own = Message { from: 1, ..append() };
    assert!(check(NodeId(1), &own, &VIEW).is_err(), "a message from itself");
    assert!(check(NodeId(0), &Message { from: 0, ..append() }, &VIEW).is_err());
}

#[test]
fn every_type_carries_only_its_own_contents() {
    refuses(
        message(MessageType::MsgHeartbeat),
        &VIEW,
        &[
            ("1 entries in MsgHeartbeat", |message| message.set_entries(vec![entry(1, 1)].into())),
            ("a mark in MsgHeartbeat", |message| {
                message.set_snapshot(snapshot(3, 1, 1).take_snapshot());
            }),
            ("a context of 5 bytes", |message| message.context = vec![0; 5].into()),
        ],
    );
    refuses(
        message(MessageType::MsgRequestVote),
        &VIEW,
        &[("a context of 1 bytes", |message| message.context = vec![0].into())],
    );
    let mut transfer = message(MessageType::MsgRequestVote);
    transfer.context = TRANSFER_CONTEXT.into();
    refuses(transfer, &VIEW, &[]);
}

#[test]
fn appended_entries_follow_each_other() {
    refuses(
        append(),
        &VIEW,
        &[
            ("an append at index 0", |message| message.index = 0),
            ("no term for index 20", |message| message.log_term = 0),
            ("entry 21 after 19", |message| message.index = 19),
            ("entry 23 after 21", |message| message.mut_entries()[1].index = 23),
            ("entry 22 has term 3 after 4", |message| message.mut_entries()[1].term = 3),
            ("entry 21 has term 0 after 4", |message| message.mut_entries()[0].term = 0),
            ("entries of term 6 in term 5", |message| message.mut_entries()[1].term = 6),
            ("entry 21 carries a context", |message| {
                message.mut_entries()[0].context = vec![1].into();
            }),
            ("a membership change at index 21", |message| {
                message.mut_entries()[0].set_entry_type(EntryType::EntryConfChangeV2);
            }),
        ],
    );
}

#[test]
fn followers_do_not_have_more_than_the_leader() {
    let mut response = message(MessageType::MsgAppendResponse);
    response.index = 20;
    refuses(
        response.clone(),
        &LEADER,
        &[
            ("it has index 21, the leader ends at 20", |message| message.index = 21),
            ("a late rejection of index 12", |message| {
                message.reject = true;
                message.index = 12;
            }),
        ],
    );
    response.index = 21;
    response.term = 6;
    refuses(response, &LEADER, &[]);
}

#[test]
fn heartbeats_commit_only_what_is_here() {
    let mut heartbeat = message(MessageType::MsgHeartbeat);
    heartbeat.commit = 20;
    refuses(
        heartbeat.clone(),
        &VIEW,
        &[("commit 21 is above the end of the log 20", |message| message.commit = 21)],
    );
    heartbeat.commit = 21;
    heartbeat.term = 4;
    refuses(heartbeat, &VIEW, &[]);
}

#[test]
fn snapshots_are_for_members_and_not_from_the_future() {
    refuses(
        snapshot(30, 5, 1),
        &VIEW,
        &[
            ("a snapshot of term 6 in term 5", |message| {
                *message = snapshot(30, 6, 1);
            }),
            ("1 is not among the snapshot's members", |message| {
                *message = snapshot(30, 5, 2);
            }),
            ("index", |message| *message = snapshot(NUMBER_MAX, 5, 1)),
        ],
    );
}

#[test]
fn forwarded_messages_end_at_a_leader() {
    let mut proposal = message(MessageType::MsgPropose);
    proposal.term = 0;
    proposal.set_entries(vec![entry(0, 0)].into());
    refuses(
        proposal.clone(),
        &LEADER,
        &[
            ("term 5", |message| message.term = 5),
            ("0 entries", |message| message.entries.clear()),
            ("an empty proposal", |message| message.mut_entries()[0].data.clear()),
            ("a membership change", |message| {
                message.mut_entries()[0].set_entry_type(EntryType::EntryConfChange);
            }),
        ],
    );
    assert!(check(NodeId(2), &proposal, &VIEW).is_err(), "a follower passes nothing on");
    let mut read = question(MessageType::MsgReadIndex, 1);
    read.term = 0;
    refuses(
        read.clone(),
        &LEADER,
        &[
            ("a read context of 3 bytes", |message| message.mut_entries()[0].data.truncate(3)),
            ("0 entries", |message| message.entries.clear()),
        ],
    );
    assert!(check(NodeId(2), &read, &VIEW).is_err(), "a follower passes nothing on");
    refuses(
        question(MessageType::MsgReadIndexResp, 2),
        &VIEW,
        &[("a read context of 24 bytes", |message| {
            message.mut_entries()[0].data.truncate(CONTEXT_BYTES);
        })],
    );
}

#[test]
fn elections_wait_for_a_durable_log() {
    let busy = View { has_unpersisted: true, ..VIEW };
    for kind in [
        MessageType::MsgTimeoutNow,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgRequestPreVoteResponse,
    ] {
        refuses(message(kind), &VIEW, &[]);
        let error = check(NodeId(2), &message(kind), &busy).unwrap_err().to_string();
        assert!(error.contains("before the log is durable"), "{error}");
    }
}
