//! Who belongs to the cluster, as replicated data.
//!
//! One idea: ids and peer URLs are fixed when the cluster is founded or a member is added
//! (`member_change.rs`); name and client URLs are told by each member itself once it has started
//! ([`MemberPublish`]), as in etcd. The id of a removed member stays known for ever. Layout of rows and of
//! the command: `docs/FORMAT.md`, sections 3.3 and 3.5.
//!
//! What it does not do: count votes. Raft's configuration follows from these rows and stands in the
//! mark of every commit ([`Configuration`]), so that the two cannot be apart.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use varve_api::Code;
use varve_api::Status;
use varve_api::error as api;
use varve_lsm::{Delta, Snapshot};

use crate::error::{Error, Outcome, Result};
use crate::mark::Configuration;
use crate::schema::{self, MEMBER_PREFIX, REMOVED_PREFIX};
use crate::state::{self, State};
use crate::wire::{self, Cursor, Malformed};

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id, computed by the server as etcd computes it.
    pub id: u64,
    /// Its name; empty until it has published it, unless the founding names it.
    pub name: String,
    /// Where its peers reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; empty until it has published them.
    pub client_urls: Vec<String>,
    /// Receives the log and has no vote.
    pub is_learner: bool,
}

/// What an empty engine is founded with: the same on every founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founding {
    /// The cluster's id.
    pub cluster_id: u64,
    /// The first members; none if this member joins a cluster and gets all from a snapshot.
    pub members: Vec<Member>,
}

/// Body of [`crate::CommandKind::MemberPublish`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPublish {
    /// Whose name and URLs these are.
    pub member_id: u64,
    /// Its name from now on.
    pub name: String,
    /// Its client URLs from now on.
    pub client_urls: Vec<String>,
}

const PUBLISH_VERSION: u8 = 1;

impl MemberPublish {
    /// The body of the command.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![PUBLISH_VERSION];
        out.extend_from_slice(&self.member_id.to_le_bytes());
        wire::put_bytes(&mut out, self.name.as_bytes());
        schema::put_texts(&mut out, &self.client_urls);
        out.into()
    }

    /// Reads what [`MemberPublish::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Command`] when the bytes are something else.
    pub fn decode(body: &[u8]) -> Result<Self> {
        let decode = || -> std::result::Result<Self, Malformed> {
            let mut cursor = Cursor::new(body);
            let version = cursor.take_u8("a version")?;
            if version != PUBLISH_VERSION {
                return Err(cursor.malformed("version 1", version));
            }
            let publish = Self {
                member_id: cursor.take_u64("a member id")?,
                name: schema::take_text(&mut cursor)?,
                client_urls: schema::take_texts(&mut cursor)?,
            };
            cursor.finish()?;
            Ok(publish)
        };
        decode().map_err(Error::in_command)
    }
}

/// Applies a [`MemberPublish`]; all members.
pub(crate) fn publish(state: &mut State, body: &[u8]) -> Outcome<Vec<Member>> {
    // The same bytes fail on every member: a reply, not an end.
    let publish = MemberPublish::decode(body)
        .map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
    let mut member = state.members.get(&publish.member_id).cloned().ok_or(api::MEMBER_NOT_FOUND)?;
    member.name = publish.name;
    member.client_urls = publish.client_urls;
    store(state, member);
    Ok(state.members.values().cloned().collect())
}

/// Writes a member's row and remembers it.
pub(crate) fn store(state: &mut State, member: Member) {
    let is_new = !state.members.contains_key(&member.id);
    let delta = if is_new { Delta::Plus } else { Delta::Zero };
    state.put_row(&schema::id_row(MEMBER_PREFIX, member.id), delta, &encode(&member));
    state.members.insert(member.id, member);
    state.configuration = configuration(&state.members);
}

/// Removes a member's row; its id is not used again.
pub(crate) fn remove(state: &mut State, id: u64) {
    state.delete_row(&schema::id_row(MEMBER_PREFIX, id));
    state.put_row(&schema::id_row(REMOVED_PREFIX, id), Delta::Plus, &[schema::ROW_VERSION]);
    state.members.remove(&id);
    state.removed.insert(id);
    state.configuration = configuration(&state.members);
}

/// Who votes, of these members.
pub(crate) fn configuration(members: &BTreeMap<u64, Member>) -> Configuration {
    let ids = |is_learner: bool| {
        let of_kind = members.values().filter(move |member| member.is_learner == is_learner);
        of_kind.map(|member| member.id).collect()
    };
    Configuration { voters: ids(false), learners: ids(true) }
}

/// Reads the ids of all removed members.
pub(crate) fn load_removed(snapshot: &Snapshot) -> Result<BTreeSet<u64>> {
    let mut removed = BTreeSet::new();
    state::for_each_row(snapshot, REMOVED_PREFIX, |row, value| {
        schema::decode_row(row, value, |_| Ok(()))?;
        removed.insert(schema::row_id(REMOVED_PREFIX, row)?);
        Ok(())
    })?;
    Ok(removed)
}

/// Reads all members.
pub(crate) fn load(snapshot: &Snapshot) -> Result<BTreeMap<u64, Member>> {
    let mut members = BTreeMap::new();
    state::for_each_row(snapshot, MEMBER_PREFIX, |row, value| {
        let id = schema::row_id(MEMBER_PREFIX, row)?;
        members.insert(id, decode(id, row, value)?);
        Ok(())
    })?;
    Ok(members)
}

fn encode(member: &Member) -> Vec<u8> {
    let mut out = vec![schema::ROW_VERSION, u8::from(member.is_learner)];
    wire::put_bytes(&mut out, member.name.as_bytes());
    schema::put_texts(&mut out, &member.peer_urls);
    schema::put_texts(&mut out, &member.client_urls);
    out
}

fn decode(id: u64, row: &[u8], value: &[u8]) -> Result<Member> {
    schema::decode_row(row, value, |cursor| {
        let is_learner = match cursor.take_u8("whether it is a learner")? {
            0 => false,
            1 => true,
            other => return Err(cursor.malformed("0 or 1", other)),
        };
        Ok(Member {
            id,
            is_learner,
            name: schema::take_text(cursor)?,
            peer_urls: schema::take_texts(cursor)?,
            client_urls: schema::take_texts(cursor)?,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_row_has_these_bytes() {
        let member = Member {
            id: 7,
            name: "a".into(),
            peer_urls: vec!["p".into(), "qq".into()],
            client_urls: vec![],
            is_learner: true,
        };
        let value = encode(&member);
        assert_eq!(value, b"\x01\x01\x01a\x02\x01p\x02qq\x00");
        assert_eq!(decode(7, b"r", &value).unwrap(), member);
        for length in 0..value.len() {
            assert!(decode(7, b"r", &value[..length]).is_err(), "cut at {length}");
        }
        assert!(decode(7, b"r", b"\x01\x02\x00\x00\x00").is_err());
        assert!(decode(7, b"r", b"\x01\x00\x01\xff\x00\x00").is_err());
    }

    #[test]
    fn a_publish_has_these_bytes() {
        let publish =
            MemberPublish { member_id: 2, name: "a".into(), client_urls: vec!["u".into()] };
        let body = publish.encode();
        assert_eq!(body.as_ref(), b"\x01\x02\0\0\0\0\0\0\0\x01a\x01\x01u");
        assert_eq!(MemberPublish::decode(&body).unwrap(), publish);
        for length in 0..body.len() {
            assert!(MemberPublish::decode(&body[..length]).is_err(), "cut at {length}");
        }
    }
}
