//! The rows in which etcd keeps a state: buckets, keys and values.
//!
//! ```text
//! bucket            key                                    value
//! alarm             AlarmMember, encoded                   nothing
//! auth              authEnabled; authRevision              1 byte; u64
//! authRoles         name                                   authpb.Role
//! authUsers         name                                   authpb.User
//! cluster           clusterVersion; downgrade              text; JSON
//! key               revision, see below                    mvccpb.KeyValue
//! lease             id, u64                                Lease
//! members           id, hexadecimal                        JSON
//! members_removed   id, hexadecimal                        "removed"
//! meta              consistent_index, term                 u64
//!                   confState                              JSON
//!                   finishedCompactRev, scheduledCompactRev  revision
//!                   storageVersion                         text
//! ```
//!
//! Numbers are big-endian. A revision is main (8 bytes), `_`, sub (8 bytes); the key of a deletion
//! has a `t` behind it. What it does not do: know in what file the rows lie.

use varve_lsm::{Kind, Revision};

pub(crate) const ALARM: &str = "alarm";
pub(crate) const AUTH: &str = "auth";
pub(crate) const AUTH_ROLES: &str = "authRoles";
pub(crate) const AUTH_USERS: &str = "authUsers";
pub(crate) const CLUSTER: &str = "cluster";
pub(crate) const KEY: &str = "key";
pub(crate) const LEASE: &str = "lease";
pub(crate) const MEMBERS: &str = "members";
pub(crate) const MEMBERS_REMOVED: &str = "members_removed";
pub(crate) const META: &str = "meta";

pub(crate) const AUTH_ENABLED: &[u8] = b"authEnabled";
pub(crate) const AUTH_REVISION: &[u8] = b"authRevision";
pub(crate) const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
pub(crate) const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";

/// The value of each row of [`MEMBERS_REMOVED`].
pub(crate) const REMOVED: &[u8] = b"removed";

/// Bytes of a revision.
const REVISION_BYTES: usize = 17;

/// A lease as etcd stores it.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(crate) struct LeaseRow {
    #[prost(int64, tag = "1")]
    pub id: i64,
    #[prost(int64, tag = "2")]
    pub ttl_seconds: i64,
    /// What is left of it; 0 is all.
    #[prost(int64, tag = "3")]
    pub remaining_seconds: i64,
}

/// The bytes of a revision.
pub(crate) fn revision(revision: Revision) -> [u8; REVISION_BYTES] {
    let mut bytes = [b'_'; REVISION_BYTES];
    bytes[..8].copy_from_slice(&revision.main.to_be_bytes());
    bytes[9..].copy_from_slice(&u64::from(revision.sub).to_be_bytes());
    bytes
}

/// The key of a version.
pub(crate) fn version_key(at: Revision, kind: Kind) -> Vec<u8> {
    let mut key = revision(at).to_vec();
    if kind == Kind::Delete {
        key.push(b't');
    }
    key
}

/// Reads what [`version_key`] wrote, or a revision. `None` if it is something else.
pub(crate) fn parse_version_key(key: &[u8]) -> Option<(Revision, Kind)> {
    let (revision, kind) = match key.len() {
        REVISION_BYTES => (key, Kind::Put),
        _ => (key.strip_suffix(b"t")?, Kind::Delete),
    };
    let bytes: &[u8; REVISION_BYTES] = revision.try_into().ok()?;
    let (main, rest) = bytes.split_first_chunk()?;
    let (mark, sub) = rest.split_first()?;
    let main = u64::from_be_bytes(*main);
    let sub = u64::from_be_bytes(sub.try_into().ok()?);
    let is_sound = *mark == b'_' && i64::try_from(main).is_ok();
    is_sound.then_some((Revision { main, sub: u32::try_from(sub).ok()? }, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_versions_have_these_bytes() {
        let at = Revision { main: 0x0102, sub: 3 };
        let put = version_key(at, Kind::Put);
        assert_eq!(put, b"\0\0\0\0\0\0\x01\x02_\0\0\0\0\0\0\0\x03");
        assert_eq!(version_key(at, Kind::Delete), [&put[..], b"t"].concat());
        assert_eq!(parse_version_key(&put), Some((at, Kind::Put)));
        assert_eq!(parse_version_key(&version_key(at, Kind::Delete)), Some((at, Kind::Delete)));
        for length in 0..put.len() {
            assert_eq!(parse_version_key(&put[..length]), None, "cut at {length}");
        }
        assert_eq!(parse_version_key(&[0xff; 17]), None);
        assert_eq!(parse_version_key(b"\x80\0\0\0\0\0\0\0_\0\0\0\0\0\0\0\0"), None);
        assert_eq!(parse_version_key(b"\0\0\0\0\0\0\0\x01_\0\0\0\x01\0\0\0\0"), None);
    }
}
