//! What is replicated: an entry of the log is a batch of commands.
//!
//! One idea: etcd's own requests are the command language. A command is an id that finds the waiter
//! again, a kind, and the body: the protobuf message as the client sent it, which is neither
//! decoded nor copied on its way through the log. The layout is in `docs/FORMAT.md`, section 3.1.
//!
//! What it does not do: look into bodies (that is `apply`), or limit sizes (that is the server).

use bytes::Bytes;

use crate::auth::Author;
use crate::error::{Error, Result};
use crate::schema;
use crate::wire::{self, Cursor, Malformed};

/// Finds the waiter of a command again when its reply is there. Chosen by the proposing member;
/// the state machine only hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a command's body is. The numbers are on the disk and in the log: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum CommandKind {
    /// `etcdserverpb.PutRequest`.
    Put = 1,
    /// `etcdserverpb.DeleteRangeRequest`.
    DeleteRange = 2,
    /// `etcdserverpb.TxnRequest`.
    Txn = 3,
    /// `etcdserverpb.CompactionRequest`.
    Compact = 4,
    /// `etcdserverpb.LeaseGrantRequest` with the final id and TTL: the server has drawn the one and
    /// raised the other to the minimum.
    LeaseGrant = 5,
    /// `etcdserverpb.LeaseRevokeRequest`.
    LeaseRevoke = 6,
    /// [`crate::MemberPublish`]: a member tells its name and client URLs.
    MemberPublish = 7,
    /// `etcdserverpb.AlarmRequest`.
    Alarm = 8,
    /// [`crate::AuthCommand`]: a change of users and roles.
    Auth = 9,
    /// [`crate::Downgrade`].
    Downgrade = 10,
    /// `etcdserverpb.LeaseCheckpointRequest`: what leases have left, said by the leader.
    LeaseCheckpoint = 11,
    /// [`crate::MemberChange`]: who belongs to the cluster, or where a member listens.
    MemberChange = 12,
}

/// All kinds, in the order of their numbers.
const KINDS: [CommandKind; 12] = [
    CommandKind::Put,
    CommandKind::DeleteRange,
    CommandKind::Txn,
    CommandKind::Compact,
    CommandKind::LeaseGrant,
    CommandKind::LeaseRevoke,
    CommandKind::MemberPublish,
    CommandKind::Alarm,
    CommandKind::Auth,
    CommandKind::Downgrade,
    CommandKind::LeaseCheckpoint,
    CommandKind::MemberChange,
];

impl CommandKind {
    fn from_number(number: u8) -> Option<Self> {
        KINDS.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Whose reply this will be.
    pub id: RequestId,
    /// What the body is.
    pub kind: CommandKind,
    /// Who asked for it; nobody is asked while authentication is off.
    pub author: Option<Author>,
    /// The request as it was received.
    pub body: Bytes,
}

/// The version of the batch format that is written.
const BATCH_VERSION: u8 = 1;

/// Set in a kind's byte when an author follows.
const HAS_AUTHOR: u8 = 0x80;

/// Bytes in front of a body at least: id, kind, length.
const COMMAND_BYTES_MIN: usize = 8 + 1 + 1;

/// Encodes the payload of a log entry. An empty batch is legal; an *empty payload* is the entry
/// that a new leader appends and holds no batch at all.
pub fn encode_batch(commands: &[Command]) -> Bytes {
    let bodies: usize = commands.iter().map(|command| command.body.len()).sum();
    let mut out = Vec::with_capacity(1 + 5 + commands.len() * (COMMAND_BYTES_MIN + 4) + bodies);
    out.push(BATCH_VERSION);
    wire::put_varint(&mut out, commands.len() as u64);
    for command in commands {
        out.extend_from_slice(&command.id.0.to_le_bytes());
        match &command.author {
            None => out.push(command.kind as u8),
            Some(author) => {
                out.push(command.kind as u8 | HAS_AUTHOR);
                wire::put_varint(&mut out, author.auth_revision);
                wire::put_bytes(&mut out, author.user.as_bytes());
            }
        }
        wire::put_bytes(&mut out, &command.body);
    }
    out.into()
}

/// Decodes the payload of a log entry; the bodies are slices of it.
///
/// # Errors
/// [`Error::Command`] when the bytes are not a batch of a known version. A committed entry that
/// fails here was damaged on its way or written by a newer program: the member must stop.
pub fn decode_batch(payload: &Bytes) -> Result<Vec<Command>> {
    decode(payload).map_err(Error::in_command)
}

fn decode(payload: &Bytes) -> std::result::Result<Vec<Command>, Malformed> {
    let mut cursor = Cursor::new(payload);
    let version = cursor.take_u8("a version")?;
    if version != BATCH_VERSION {
        return Err(Malformed { offset: 0, expected: "version 1", found: version.to_string() });
    }
    let count = cursor.take_varint("the number of commands")?;
    // A count from damaged bytes must not reserve memory that the bytes cannot fill.
    if count > (cursor.remaining() / COMMAND_BYTES_MIN) as u64 {
        return Err(cursor.malformed("at most as many commands as fit", count));
    }
    let mut commands = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let id = RequestId(cursor.take_u64("a request id")?);
        let number = cursor.take_u8("a kind of command")?;
        let kind = CommandKind::from_number(number & !HAS_AUTHOR)
            .ok_or_else(|| cursor.malformed("a known kind of command", number))?;
        let author = match number & HAS_AUTHOR {
            0 => None,
            _ => Some(Author {
                auth_revision: cursor.take_varint("an auth revision")?,
                user: schema::take_text(&mut cursor)?,
            }),
        };
        let length = cursor.take_bytes("a body")?.len();
        let end = cursor.offset();
        commands.push(Command { id, kind, author, body: payload.slice(end - length..end) });
    }
    cursor.finish()?;
    Ok(commands)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<Command> {
        let command = |id, kind, body: &'static [u8]| Command {
            id: RequestId(id),
            kind,
            author: None,
            body: Bytes::from_static(body),
        };
        vec![
            command(0x0102_0304_0506_0708, CommandKind::Put, b"\x0a\x01k"),
            command(2, CommandKind::MemberPublish, b""),
            Command {
                author: Some(Author { user: "u".to_owned(), auth_revision: 300 }),
                ..command(3, CommandKind::Put, b"")
            },
        ]
    }

    #[test]
    fn a_batch_has_these_bytes() {
        let expected = b"\x01\x03\
            \x08\x07\x06\x05\x04\x03\x02\x01\x01\x03\x0a\x01k\
            \x02\0\0\0\0\0\0\0\x07\x00\
            \x03\0\0\0\0\0\0\0\x81\xac\x02\x01u\x00";
        assert_eq!(encode_batch(&batch()).as_ref(), expected);
    }

    #[test]
    fn a_batch_is_read_as_it_was_written_and_without_a_copy() {
        let payload = encode_batch(&batch());
        let decoded = decode_batch(&payload).unwrap();
        assert_eq!(decoded, batch());
        assert!(payload.as_ptr_range().contains(&decoded[0].body.as_ptr()));
    }

    #[test]
    fn kinds_keep_their_numbers() {
        for (position, kind) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, position + 1);
            assert_eq!(CommandKind::from_number(*kind as u8), Some(*kind));
        }
        assert_eq!(CommandKind::from_number(0), None);
        assert_eq!(CommandKind::from_number(KINDS.len() as u8 + 1), None);
    }

    #[test]
    fn a_batch_that_is_cut_anywhere_is_refused() {
        let payload = encode_batch(&batch());
        for length in 0..payload.len() {
            assert!(decode_batch(&payload.slice(..length)).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn a_batch_with_more_behind_it_an_unknown_kind_or_version_is_refused() {
        let mut bytes = encode_batch(&batch()).to_vec();
        bytes.push(0);
        assert!(decode_batch(&bytes.clone().into()).is_err());
        bytes.pop();
        bytes[10] = 99;
        let error = decode_batch(&bytes.clone().into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a batch of commands, at byte 11: expected a known kind of command, found 99"
        );
        bytes[0] = 2;
        assert!(decode_batch(&bytes.into()).is_err());
    }

    #[test]
    fn a_count_that_cannot_be_true_reserves_nothing() {
        let mut bytes = vec![BATCH_VERSION];
        wire::put_varint(&mut bytes, u64::MAX);
        assert!(decode_batch(&bytes.into()).is_err());
    }
}
