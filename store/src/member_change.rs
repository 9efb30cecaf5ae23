//! Changes of who belongs to the cluster, and of where a member listens.
//!
//! One idea: the rules that every member must judge alike are judged here, when the change is
//! applied, with etcd's answers; what only the leader can know (who is healthy, who has caught up)
//! was asked before it was proposed. An accepted change and Raft's configuration are one commit.
//! Layout of the body: `docs/FORMAT.md`, section 3.7.
//!
//! What it does not do: reach anybody. The server connects to members as they come and go.

use bytes::Bytes;
use varve_api::error as api;
use varve_api::{Code, Status};

use crate::error::{Error, Outcome, Result};
use crate::member::{self, Member};
use crate::schema;
use crate::state::State;
use crate::wire::{self, Cursor, Malformed};

/// Body of [`crate::CommandKind::MemberChange`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A new member.
    Add {
        /// Its id, computed by the server as etcd computes it.
        id: u64,
        /// Where its peers will reach it.
        peer_urls: Vec<String>,
        /// Whether it has no vote.
        is_learner: bool,
        /// `--max-learners` of the member that proposes it.
        learners_max: u64,
    },
    /// A member goes, for ever.
    Remove {
        /// Who.
        id: u64,
    },
    /// A learner becomes a voter.
    Promote {
        /// Who.
        id: u64,
    },
    /// A member listens elsewhere. Raft does not mind: this one is a command like others.
    Update {
        /// Who.
        id: u64,
        /// Where its peers reach it from now on.
        peer_urls: Vec<String>,
    },
}

/// What an entry of the log says to Raft about one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteChange {
    /// It has a vote.
    AddVoter(u64),
    /// It receives the log and has no vote.
    AddLearner(u64),
    /// It is no member any more.
    Remove(u64),
}

const VERSION: u8 = 1;
const ADD: u8 = 1;
const REMOVE: u8 = 2;
const PROMOTE: u8 = 3;
const UPDATE: u8 = 4;

impl MemberChange {
    /// What it means for who votes: a change with such a meaning travels as one of Raft's own, and
    /// Raft must be told the same.
    pub fn vote_change(&self) -> Option<VoteChange> {
        match self {
            Self::Add { id, is_learner: true, .. } => Some(VoteChange::AddLearner(*id)),
            Self::Add { id, .. } | Self::Promote { id } => Some(VoteChange::AddVoter(*id)),
            Self::Remove { id } => Some(VoteChange::Remove(*id)),
            Self::Update { .. } => None,
        }
    }

    /// The body of the command.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![VERSION];
        let mut head = |kind: u8, id: u64| {
            out.push(kind);
            out.extend_from_slice(&id.to_le_bytes());
        };
        match self {
            Self::Add { id, peer_urls, is_learner, learners_max } => {
                head(ADD, *id);
                out.push(u8::from(*is_learner));
                wire::put_varint(&mut out, *learners_max);
                schema::put_texts(&mut out, peer_urls);
            }
            Self::Remove { id } => head(REMOVE, *id),
            Self::Promote { id } => head(PROMOTE, *id),
            Self::Update { id, peer_urls } => {
                head(UPDATE, *id);
                schema::put_texts(&mut out, peer_urls);
            }
        }
        out.into()
    }

    /// Reads what [`MemberChange::encode`] wrote.
    ///
    /// # Errors
    /// [`Error::Command`] when the bytes are something else.
    pub fn decode(body: &[u8]) -> Result<Self> {
        decode(body).map_err(Error::in_command)
    }
}

fn decode(body: &[u8]) -> std::result::Result<MemberChange, Malformed> {
    let mut cursor = Cursor::new(body);
    let version = cursor.take_u8("a version")?;
    if version != VERSION {
        return Err(cursor.malformed("version 1", version));
    }
    let kind = cursor.take_u8("a kind of change")?;
    let id = cursor.take_u64("a member id")?;
    let change = match kind {
        ADD => {
            let is_learner = match cursor.take_u8("whether it is a learner")? {
                0 => false,
                1 => true,
                other => return Err(cursor.malformed("0 or 1", other)),
            };
            let learners_max = cursor.take_varint("the most learners")?;
            let peer_urls = schema::take_texts(&mut cursor)?;
            MemberChange::Add { id, peer_urls, is_learner, learners_max }
        }
        REMOVE => MemberChange::Remove { id },
        PROMOTE => MemberChange::Promote { id },
        UPDATE => MemberChange::Update { id, peer_urls: schema::take_texts(&mut cursor)? },
        other => return Err(cursor.malformed("a kind of change from 1 to 4", other)),
    };
    cursor.finish()?;
    Ok(change)
}

/// Applies a [`MemberChange`]. `voted` is what the entry says to Raft: who votes is changed by such
/// entries only, and only in the way that Raft is told, or the two would be apart for ever.
pub(crate) fn apply(
    state: &mut State,
    body: &[u8],
    voted: Option<VoteChange>,
) -> Outcome<Vec<Member>> {
    // The same bytes fail on every member: a reply, not an end.
    let invalid = |text: String| Status::new(Code::InvalidArgument, text);
    let change = MemberChange::decode(body).map_err(|error| invalid(error.to_string()))?;
    if change.vote_change() != voted {
        return Err(invalid(format!("{change:?} in an entry that tells Raft {voted:?}")).into());
    }
    match change {
        MemberChange::Add { id, peer_urls, is_learner, learners_max } => {
            require_never_removed(state, id)?;
            if state.members.contains_key(&id) {
                return Err(api::MEMBER_EXIST.into());
            }
            require_new_urls(state, id, &peer_urls)?;
            let learners = state.configuration.learners.len() as u64;
            if is_learner && learners >= learners_max {
                return Err(api::TOO_MANY_LEARNERS.into());
            }
            let (name, client_urls) = (String::new(), Vec::new());
            member::store(state, Member { id, name, peer_urls, client_urls, is_learner });
        }
        MemberChange::Remove { id } => {
            let going = member(state, id)?;
            if !going.is_learner && state.configuration.voters.len() == 1 {
                return Err(api::MEMBER_NOT_ENOUGH_STARTED.into());
            }
            member::remove(state, id);
        }
        MemberChange::Promote { id } => {
            let learner = member(state, id)?;
            if !learner.is_learner {
                return Err(api::MEMBER_NOT_LEARNER.into());
            }
            member::store(state, Member { is_learner: false, ..learner });
        }
        MemberChange::Update { id, peer_urls } => {
            let known = member(state, id)?;
            require_new_urls(state, id, &peer_urls)?;
            member::store(state, Member { peer_urls, ..known });
        }
    }
    Ok(state.members.values().cloned().collect())
}

fn member(state: &State, id: u64) -> Outcome<Member> {
    require_never_removed(state, id)?;
    Ok(state.members.get(&id).cloned().ok_or(api::MEMBER_NOT_FOUND)?)
}

/// etcd's answer for an id that was removed is the one for an id that never was.
fn require_never_removed(state: &State, id: u64) -> Outcome<()> {
    if state.removed.contains(&id) { Err(api::MEMBER_NOT_FOUND.into()) } else { Ok(()) }
}

fn require_new_urls(state: &State, id: u64, urls: &[String]) -> Outcome<()> {
    let mut others = state.members.values().filter(|other| other.id != id);
    let is_taken = others.any(|other| other.peer_urls.iter().any(|url| urls.contains(url)));
    if is_taken { Err(api::PEER_URL_EXIST.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_have_these_bytes() {
        let peer_urls = vec!["p".to_owned()];
        for (change, bytes) in [
            (
                MemberChange::Add {
                    id: 2,
                    peer_urls: peer_urls.clone(),
                    is_learner: true,
                    learners_max: 1,
                },
                &b"\x01\x01\x02\0\0\0\0\0\0\0\x01\x01\x01\x01p"[..],
            ),
            (MemberChange::Remove { id: 2 }, b"\x01\x02\x02\0\0\0\0\0\0\0"),
            (MemberChange::Promote { id: 2 }, b"\x01\x03\x02\0\0\0\0\0\0\0"),
            (MemberChange::Update { id: 2, peer_urls }, b"\x01\x04\x02\0\0\0\0\0\0\0\x01\x01p"),
        ] {
            assert_eq!(change.encode().as_ref(), bytes, "{change:?}");
            assert_eq!(MemberChange::decode(bytes).unwrap(), change);
            for length in 0..bytes.len() {
                assert!(MemberChange::decode(&bytes[..length]).is_err(), "cut at {length}");
            }
        }
        assert!(MemberChange::decode(b"\x01\x05\x02\0\0\0\0\0\0\0").is_err());
    }
}
