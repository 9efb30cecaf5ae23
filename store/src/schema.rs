//! The layout of everything the state machine keeps in the engine.
//!
//! ```text
//! keyspace  key                                   value                       owner
//! kv        the user's key                        the user's value            kv
//! sys       cluster                               version, cluster id         state
//! sys       member/   id (8, big-endian)          version, member             member
//! sys       removed/  id (8, big-endian)          version                     member
//! sys       lease/    id (8, big-endian)          version, TTL in seconds     lease
//! sys       lease_left/ id (8, big-endian)        version, seconds left       lease
//! sys       lease_key/ id (8, big-endian) / key   nothing                     lease
//! sys       downgrade                             version, release            version
//! sys       alarm/    kind (4), member id (8)     version                     alarm
//! ```
//!
//! Beside each user key stands a *meta*: how far back it was created, its version, its lease. Ids
//! in keys are big-endian so that the rows of one lease are neighbours. Byte for byte:
//! `docs/FORMAT.md`, sections 3.3 and 3.4.

use bytes::Bytes;
use varve_api::mvccpb::KeyValue;
use varve_lsm::{Entry, KeyRange, Kind, Meta, RowRef, Values};

use crate::error::{Error, Result};
use crate::lease::LeaseId;
use crate::wire::{self, Cursor, Malformed};

/// The row that says whose data this is.
pub(crate) const CLUSTER_ROW: &[u8] = b"cluster";
/// In front of a member's id.
pub(crate) const MEMBER_PREFIX: &[u8] = b"member/";
/// In front of the id of a member that was removed.
pub(crate) const REMOVED_PREFIX: &[u8] = b"removed/";
/// In front of a lease's id.
pub(crate) const LEASE_PREFIX: &[u8] = b"lease/";
/// In front of the id of a lease whose remaining time was agreed upon.
pub(crate) const LEASE_LEFT_PREFIX: &[u8] = b"lease_left/";
/// The row that says whether authentication is on, and the auth revision.
pub(crate) const AUTH_ROW: &[u8] = b"auth";
/// In front of a user's name.
pub(crate) const USER_PREFIX: &[u8] = b"user/";
/// In front of a role's name.
pub(crate) const ROLE_PREFIX: &[u8] = b"role/";
/// In front of a lease's id and an attached key.
pub(crate) const LEASE_KEY_PREFIX: &[u8] = b"lease_key/";

/// The row that says to which release the cluster goes back.
pub(crate) const DOWNGRADE_ROW: &[u8] = b"downgrade";
/// In front of an alarm's kind and member.
pub(crate) const ALARM_PREFIX: &[u8] = b"alarm/";

/// The first byte of each row's value.
pub(crate) const ROW_VERSION: u8 = 1;

/// What is known of a live key beside its value.
///
/// Invariants: `1 <= create_revision <=` the entry's revision; `version >= 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyMeta {
    pub create_revision: u64,
    pub version: u64,
    /// 0 is none.
    pub lease: i64,
}

impl KeyMeta {
    /// The bytes beside the key of an entry at `revision`: 2 for a new key without a lease.
    pub fn encode(&self, revision: u64) -> Meta {
        assert!(
            self.create_revision <= revision && self.version >= 1,
            "{self:?} cannot be at {revision}"
        );
        let mut bytes = [0; 28];
        let mut length = 0;
        for mut number in [revision - self.create_revision, self.version] {
            while number >= 0x80 {
                bytes[length] = (number as u8) | 0x80;
                number >>= 7;
                length += 1;
            }
            bytes[length] = number as u8;
            length += 1;
        }
        if self.lease != 0 {
            bytes[length..length + 8].copy_from_slice(&self.lease.to_le_bytes());
            length += 8;
        }
        Meta::new(&bytes[..length]).expect("28 bytes are fewer than a meta can hold")
    }

    /// Reads the meta of an entry.
    pub fn of(entry: &Entry) -> Result<Self> {
        Self::decode(&entry.key, entry.revision.main, entry.meta.as_slice())
    }

    /// Reads the bytes beside `key` at `revision`.
    fn decode(key: &[u8], revision: u64, meta: &[u8]) -> Result<Self> {
        let decode = || -> std::result::Result<Self, Malformed> {
            let mut cursor = Cursor::new(meta);
            let age = cursor.take_varint("revisions since creation")?;
            let version = cursor.take_varint("a version")?;
            let lease = match cursor.remaining() {
                0 => 0,
                _ => cursor.take_u64("a lease")?.cast_signed(),
            };
            if age >= revision || version == 0 {
                let found = format!("age {age}, version {version} at revision {revision}");
                return Err(cursor.malformed("a key created at revision 1 or later", found));
            }
            cursor.finish()?;
            Ok(Self { create_revision: revision - age, version, lease })
        };
        decode().map_err(|malformed| Error::row(key, malformed.expected, malformed.found))
    }
}

/// What a client sees of a live entry. Without a value when the entry was read without.
pub(crate) fn key_value(entry: Entry) -> Result<KeyValue> {
    let meta = KeyMeta::of(&entry)?;
    Ok(KeyValue {
        key: entry.key,
        create_revision: meta.create_revision.cast_signed(),
        mod_revision: entry.revision.main.cast_signed(),
        version: meta.version.cast_signed(),
        value: entry.value,
        lease: meta.lease,
    })
}

/// As [`key_value`], of a live row where it lies. `key` is a copy of the row's key.
pub(crate) fn key_value_of_row(row: &RowRef<'_>, key: Bytes, values: Values) -> Result<KeyValue> {
    let revision = row.revision().main;
    let meta = KeyMeta::decode(row.key(), revision, row.meta()?)?;
    let value = match values {
        Values::Load => row.value()?,
        Values::Skip => Bytes::new(),
    };
    Ok(KeyValue {
        key,
        create_revision: meta.create_revision.cast_signed(),
        mod_revision: revision.cast_signed(),
        version: meta.version.cast_signed(),
        value,
        lease: meta.lease,
    })
}

/// The entry if it says that its key is there.
pub(crate) fn live(entry: Option<Entry>) -> Option<Entry> {
    entry.filter(|entry| entry.kind == Kind::Put)
}

/// The keys that a request means: `range_end` empty is exactly `key`, one zero byte is no upper
/// bound. `None` when no key can lie in the range.
pub(crate) fn key_range(key: &Bytes, range_end: &Bytes) -> Option<KeyRange> {
    match range_end.as_ref() {
        b"" => Some(KeyRange::one(key.clone())),
        b"\0" => Some(KeyRange::from(key.clone())),
        end if end <= key.as_ref() => None,
        _ => Some(KeyRange::between(key.clone(), range_end.clone())),
    }
}

/// All rows whose keys begin with `prefix`, which ends in a slash.
pub(crate) fn rows_of(prefix: &[u8]) -> KeyRange {
    let mut end = prefix.to_vec();
    let last = end.last_mut().expect("a prefix is not empty");
    assert_eq!(*last, b'/', "the end of a prefix");
    *last += 1;
    KeyRange::between(Bytes::copy_from_slice(prefix), end.into())
}

/// Key of a row that is named by an id.
pub(crate) fn id_row(prefix: &[u8], id: u64) -> Vec<u8> {
    let mut row = Vec::with_capacity(prefix.len() + 8);
    row.extend_from_slice(prefix);
    row.extend_from_slice(&id.to_be_bytes());
    row
}

/// Key of a lease's row.
pub(crate) fn lease_row(id: LeaseId) -> Vec<u8> {
    id_row(LEASE_PREFIX, id.0.cast_unsigned())
}

/// Key of the row that says how much time a lease has left.
pub(crate) fn lease_left_row(id: LeaseId) -> Vec<u8> {
    id_row(LEASE_LEFT_PREFIX, id.0.cast_unsigned())
}

/// What the rows of a lease's keys begin with.
pub(crate) fn lease_keys_prefix(id: LeaseId) -> Vec<u8> {
    let mut row = Vec::with_capacity(LEASE_KEY_PREFIX.len() + 9);
    row.extend_from_slice(LEASE_KEY_PREFIX);
    row.extend_from_slice(&id.0.to_be_bytes());
    row.push(b'/');
    row
}

/// Key of the row that attaches `key` to a lease.
pub(crate) fn lease_key_row(id: LeaseId, key: &[u8]) -> Vec<u8> {
    let mut row = lease_keys_prefix(id);
    row.extend_from_slice(key);
    row
}

/// The id that a row's key ends with.
pub(crate) fn row_id(prefix: &[u8], row: &[u8]) -> Result<u64> {
    let bytes = row
        .strip_prefix(prefix)
        .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok())
        .ok_or_else(|| Error::row(row, "an id of 8 bytes behind the prefix", row.len()))?;
    Ok(u64::from_be_bytes(bytes))
}

/// Lease and key of a `lease_key/` row.
pub(crate) fn attachment(row: &Bytes) -> Result<(LeaseId, Bytes)> {
    let prefix = LEASE_KEY_PREFIX.len();
    let is_long_enough = row.len() > prefix + 9 && row[prefix + 8] == b'/';
    if !is_long_enough {
        return Err(Error::row(row, "an id of 8 bytes, a slash and a key", row.len()));
    }
    let id = row_id(LEASE_KEY_PREFIX, &row[..prefix + 8])?;
    Ok((LeaseId(id.cast_signed()), row.slice(prefix + 9..)))
}

/// A row's value of a version byte and one number.
pub(crate) fn encode_number(number: u64) -> Vec<u8> {
    let mut value = Vec::with_capacity(9);
    value.push(ROW_VERSION);
    value.extend_from_slice(&number.to_le_bytes());
    value
}

/// Reads what [`encode_number`] wrote.
pub(crate) fn decode_number(row: &[u8], value: &[u8]) -> Result<u64> {
    decode_row(row, value, |cursor| cursor.take_u64("a number"))
}

/// Reads a row's value behind its version, to its end.
pub(crate) fn decode_row<'a, T>(
    row: &[u8],
    value: &'a [u8],
    decode: impl FnOnce(&mut Cursor<'a>) -> std::result::Result<T, Malformed>,
) -> Result<T> {
    let decode_all = || {
        let mut cursor = Cursor::new(value);
        let version = cursor.take_u8("a version")?;
        if version != ROW_VERSION {
            return Err(cursor.malformed("version 1", version));
        }
        let decoded = decode(&mut cursor)?;
        cursor.finish()?;
        Ok(decoded)
    };
    decode_all().map_err(|malformed| Error::row(row, malformed.expected, malformed.found))
}

/// Appends a list of texts.
pub(crate) fn put_texts(out: &mut Vec<u8>, texts: &[String]) {
    wire::put_varint(out, texts.len() as u64);
    for text in texts {
        wire::put_bytes(out, text.as_bytes());
    }
}

/// Takes a text.
pub(crate) fn take_text(cursor: &mut Cursor<'_>) -> std::result::Result<String, Malformed> {
    let bytes = cursor.take_bytes("a text")?;
    String::from_utf8(bytes.to_vec()).map_err(|_| cursor.malformed("UTF-8", bytes.escape_ascii()))
}

/// Takes what [`put_texts`] wrote.
pub(crate) fn take_texts(cursor: &mut Cursor<'_>) -> std::result::Result<Vec<String>, Malformed> {
    let count = cursor.take_varint("the number of texts")?;
    if count > cursor.remaining() as u64 {
        return Err(cursor.malformed("at most as many texts as fit", count));
    }
    (0..count).map(|_| take_text(cursor)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use varve_lsm::Revision;

    fn entry(revision: u64, meta: Meta) -> Entry {
        Entry {
            key: Bytes::from_static(b"k"),
            revision: Revision { main: revision, sub: 0 },
            kind: Kind::Put,
            meta,
            value: Bytes::new(),
            value_bytes: 0,
        }
    }

    #[test]
    fn a_meta_has_these_bytes() {
        let bytes = |create_revision, version, lease, revision| {
            let meta = KeyMeta { create_revision, version, lease }.encode(revision);
            assert_eq!(
                KeyMeta::of(&entry(revision, meta)).unwrap(),
                KeyMeta { create_revision, version, lease }
            );
            meta.as_slice().to_vec()
        };
        assert_eq!(bytes(7, 1, 0, 7), [0, 1]);
        assert_eq!(bytes(7, 200, 0, 307), [0xac, 0x02, 0xc8, 0x01]);
        assert_eq!(bytes(7, 2, 0x0102, 8), [1, 2, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes(7, 1, -1, 7), [0, 1, 255, 255, 255, 255, 255, 255, 255, 255]);
        assert_eq!(bytes(1, i64::MAX as u64, i64::MIN, i64::MAX as u64).len(), 9 + 9 + 8);
    }

    #[test]
    fn a_meta_that_cannot_be_is_refused() {
        for bytes in
            [&[][..], &[0], &[0, 0], &[7, 1], &[0, 1, 9], &[0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]]
        {
            let meta = Meta::new(bytes).unwrap();
            assert!(KeyMeta::of(&entry(7, meta)).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn rows_have_these_keys() {
        assert_eq!(id_row(MEMBER_PREFIX, 0x0102), b"member/\0\0\0\0\0\0\x01\x02");
        assert_eq!(lease_row(LeaseId(-2)), b"lease/\xff\xff\xff\xff\xff\xff\xff\xfe");
        assert_eq!(lease_left_row(LeaseId(1)), b"lease_left/\0\0\0\0\0\0\0\x01");
        assert_eq!(lease_key_row(LeaseId(1), b"a/b"), b"lease_key/\0\0\0\0\0\0\0\x01/a/b");
        assert_eq!(
            attachment(&lease_key_row(LeaseId(-7), b"a/b").into()).unwrap(),
            (LeaseId(-7), Bytes::from_static(b"a/b"))
        );
        assert!(attachment(&lease_keys_prefix(LeaseId(1)).into()).is_err());
        assert!(rows_of(LEASE_PREFIX).contains(&lease_row(LeaseId(-1))));
        assert!(!rows_of(LEASE_PREFIX).contains(&lease_key_row(LeaseId(-1), b"a")));
        assert!(
            rows_of(&lease_keys_prefix(LeaseId(1))).contains(&lease_key_row(LeaseId(1), b"\xff"))
        );
    }

    #[test]
    fn a_number_row_has_these_bytes() {
        assert_eq!(encode_number(0x0102), [1, 2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_number(b"r", &encode_number(9)).unwrap(), 9);
        let error = decode_number(b"r\0", &[2, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap_err();
        assert_eq!(error.to_string(), "row r\\x00: expected version 1, found \"2\"");
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        let range = |key: &'static [u8], end: &'static [u8]| {
            key_range(&Bytes::from_static(key), &Bytes::from_static(end))
        };
        assert_eq!(range(b"b", b"a"), None);
        assert_eq!(range(b"b", b"b"), None);
        assert_eq!(range(b"b", b""), Some(KeyRange::one(Bytes::from_static(b"b"))));
        assert_eq!(range(b"b", b"\0"), Some(KeyRange::from(Bytes::from_static(b"b"))));
        assert_eq!(range(b"\0", b"\0"), Some(KeyRange::from(Bytes::from_static(b"\0"))));
    }
}
