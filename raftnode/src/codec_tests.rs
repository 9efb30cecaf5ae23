//! Golden bytes of the message format, and what is refused.

use super::*;

fn append() -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    message.to = 2;
    message.from = 1;
    message.term = 5;
    message.log_term = 4;
    message.index = 9;
    message.commit = 8;
    let data = Bytes::from_static(b"put");
    let entry = Entry { index: 10, term: 5, data, ..Entry::default() };
    message.set_entries(vec![entry].into());
    message
}

fn snapshot() -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgSnapshot);
    message.to = 3;
    message.from = 1;
    message.term = 5;
    message.set_snapshot(snapshot_of(&Applied {
        index: Index(40),
        term: Term(4),
        voters: vec![NodeId(1), NodeId(2)],
        learners: vec![NodeId(3)],
    }));
    message
}

/// The header is the same for all types: zero but for the fields given here.
fn header(kind: u8, flags: u8, fields: &[u64], context_bytes: u8, entry_count: u8) -> Vec<u8> {
    let mut bytes = vec![1, kind, flags, 0];
    for position in 0..10 {
        let field = fields.get(position).copied().unwrap_or(0);
        bytes.extend_from_slice(&field.to_le_bytes());
    }
    bytes.extend_from_slice(&[context_bytes, 0, 0, 0, entry_count, 0, 0, 0]);
    bytes
}

#[test]
fn golden_bytes_of_an_append() {
    let mut expected = header(2, 0, &[2, 1, 5, 4, 9, 8], 0, 1);
    assert_eq!(expected.len(), HEADER_BYTES);
    expected.extend_from_slice(&[0, 10, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend_from_slice(&[0, 0, 0, 0, 3, 0, 0, 0, b'p', b'u', b't']);
    let bytes = encode(&append()).unwrap();
    assert_eq!(bytes, expected);
    assert_eq!(decode(bytes).unwrap(), append());
}

#[test]
fn golden_bytes_of_a_snapshot() {
    let mut expected = header(10, 2, &[3, 1, 5], 0, 0);
    for field in [40u64, 4] {
        expected.extend_from_slice(&field.to_le_bytes());
    }
    expected.extend_from_slice(&[2, 0, 0, 0, 1, 0, 0, 0]);
    for member in [1u64, 2, 3] {
        expected.extend_from_slice(&member.to_le_bytes());
    }
    let bytes = encode(&snapshot()).unwrap();
    assert_eq!(bytes, expected);
    assert_eq!(decode(bytes).unwrap(), snapshot());
}

#[test]
fn golden_bytes_of_a_rejection() {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppendResponse);
    message.to = 1;
    message.from = 2;
    message.term = 3;
    message.log_term = 2;
    message.index = 9;
    message.commit = 4;
    message.commit_term = 1;
    message.reject = true;
    message.reject_hint = 7;
    message.request_snapshot = 6;
    message.priority = -1;
    message.context = Bytes::from_static(b"c");
    let mut expected = header(3, 1, &[1, 2, 3, 2, 9, 4, 1, 7, 6, u64::MAX], 1, 0);
    expected.push(b'c');
    let bytes = encode(&message).unwrap();
    assert_eq!(bytes, expected);
    assert_eq!(decode(bytes).unwrap(), message);
}

#[test]
fn every_travelling_type_survives() {
    for (code, kind) in TYPES {
        let mut message = Message::default();
        message.set_msg_type(kind);
        message.to = u64::from(code);
        assert_eq!(decode(encode(&message).unwrap()).unwrap(), message, "{kind:?}");
    }
}

#[test]
fn types_for_the_node_itself_do_not_travel() {
    for kind in [
        MessageType::MsgHup,
        MessageType::MsgBeat,
        MessageType::MsgUnreachable,
        MessageType::MsgSnapStatus,
        MessageType::MsgCheckQuorum,
        MessageType::MsgTransferLeader,
    ] {
        let mut message = Message::default();
        message.set_msg_type(kind);
        assert_eq!(encode(&message), None, "{kind:?}");
    }
    for code in (0..=255).filter(|code| !(1..=13).contains(code)) {
        let mut bytes = encode(&append()).unwrap().to_vec();
        bytes[1] = code;
        assert!(decode(bytes.into()).is_err(), "type {code}");
    }
}

#[test]
fn cut_and_prolonged_messages_are_errors() {
    for message in [append(), snapshot()] {
        let good = encode(&message).unwrap();
        for cut in 0..good.len() {
            assert!(decode(good.slice(..cut)).is_err(), "cut at {cut}");
        }
        let mut long = good.to_vec();
        long.push(0);
        assert!(decode(long.into()).is_err());
    }
}

#[test]
fn every_changed_byte_is_an_error_or_another_message() {
    for message in [append(), snapshot()] {
        let good = encode(&message).unwrap();
        for at in 0..good.len() {
            for value in [0, 1, 2, 0x7f, 0xff] {
                let mut bad = good.to_vec();
                if bad[at] == value {
                    continue;
                }
                bad[at] = value;
                if let Ok(other) = decode(bad.into()) {
                    assert_ne!(other, message, "byte {at} as {value} has no meaning");
                }
            }
        }
    }
}

#[test]
fn a_huge_count_reserves_nothing() {
    let mut bytes = encode(&append()).unwrap().to_vec();
    bytes[88..92].fill(0xff);
    assert!(decode(bytes.into()).is_err());
    let mut bytes = encode(&snapshot()).unwrap().to_vec();
    bytes[108..112].fill(0xff);
    assert!(decode(bytes.into()).is_err());
}

#[test]
fn snapshots_with_impossible_members_are_errors() {
    let mut bad = Vec::new();
    for change in [
        |mark: &mut Applied| mark.voters.clear(),
        |mark: &mut Applied| mark.voters = vec![NodeId(0)],
        |mark: &mut Applied| mark.learners = vec![NodeId(2)],
        |mark: &mut Applied| mark.index = Index(0),
        |mark: &mut Applied| mark.term = Term(0),
    ] {
        let mut mark = mark_of(snapshot().get_snapshot());
        change(&mut mark);
        bad.push(mark);
    }
    for mark in bad {
        let mut bytes = BytesMut::from(&header(10, FLAG_SNAPSHOT, &[3, 1, 5], 0, 0)[..]);
        put_mark(&mut bytes, &mark);
        assert!(decode(bytes.freeze()).is_err(), "{mark:?}");
    }
}
