//! Members ask each other for the hash of their keys: docs/FORMAT.md section 5.
//!
//! One idea: a hash reads everything, so it is computed apart from the peer thread's streams, one at
//! a time for each stream; a question that comes meanwhile is not answered, and who asked hears
//! nothing.

use bytes::Bytes;
use varve_api::error as api;
use varve_store::KvHash;

use super::frame::{Fields, FrameError};

/// What a member asks another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashQuestion {
    /// Comes back with the answer.
    pub request: u64,
    /// At which revision; 0 is the newest.
    pub revision: i64,
}

/// What it hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashAnswer {
    /// From the question.
    pub request: u64,
    /// The hash, or why there is none.
    pub outcome: Result<KvHash, NoHash>,
}

/// Why a member has no hash at a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NoHash {
    /// The revision is compacted there.
    Compacted = 1,
    /// The member has not come that far.
    Future = 2,
    /// Its data cannot be read.
    Unreadable = 3,
}

impl HashQuestion {
    /// The payload.
    pub fn encode(&self) -> Bytes {
        [self.request.to_le_bytes(), self.revision.to_le_bytes()].concat().into()
    }

    /// Reads what [`HashQuestion::encode`] wrote.
    ///
    /// # Errors
    /// It is too short.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("a question for a hash", bytes);
        Ok(Self { request: fields.u64()?, revision: fields.u64()?.cast_signed() })
    }

    /// The answer of the member whose keys these are. Reads everything.
    pub fn answer(&self, view: &varve_store::View) -> HashAnswer {
        let outcome = view.hash_kv(self.revision).map_err(|status| match status {
            status if status == api::COMPACTED => NoHash::Compacted,
            status if status == api::FUTURE_REV => NoHash::Future,
            _ => NoHash::Unreadable,
        });
        HashAnswer { request: self.request, outcome }
    }
}

impl HashAnswer {
    /// The payload.
    pub fn encode(&self) -> Bytes {
        let mut out = self.request.to_le_bytes().to_vec();
        match self.outcome {
            Err(reason) => out.push(reason as u8),
            Ok(hash) => {
                out.push(0);
                out.extend_from_slice(&hash.hash.to_le_bytes());
                for revision in [hash.hash_revision, hash.compact_revision, hash.current_revision] {
                    out.extend_from_slice(&revision.to_le_bytes());
                }
            }
        }
        out.into()
    }

    /// Reads what [`HashAnswer::encode`] wrote.
    ///
    /// # Errors
    /// It is too short, or says something unknown.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("a hash", bytes);
        let request = fields.u64()?;
        let [kind] = fields.take()?;
        let outcome = match kind {
            0 => Ok(KvHash {
                hash: fields.u32()?,
                hash_revision: fields.u64()?.cast_signed(),
                compact_revision: fields.u64()?.cast_signed(),
                current_revision: fields.u64()?.cast_signed(),
            }),
            1 => Err(NoHash::Compacted),
            2 => Err(NoHash::Future),
            3 => Err(NoHash::Unreadable),
            other => {
                return Err(FrameError::malformed("a reason from 0 to 3", other.to_string()));
            }
        };
        Ok(Self { request, outcome })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_survive_the_wire() {
        let question = HashQuestion { request: 1, revision: -2 };
        assert_eq!(HashQuestion::decode(&question.encode()).expect("own bytes"), question);
        let hash = KvHash { hash: 7, hash_revision: 5, compact_revision: -1, current_revision: 6 };
        for outcome in
            [Ok(hash), Err(NoHash::Compacted), Err(NoHash::Future), Err(NoHash::Unreadable)]
        {
            let answer = HashAnswer { request: 9, outcome };
            let bytes = answer.encode();
            assert_eq!(HashAnswer::decode(&bytes).expect("own bytes"), answer);
            assert!(HashAnswer::decode(&bytes[..bytes.len() - 1]).is_err());
        }
        assert!(HashAnswer::decode(&[0, 0, 0, 0, 0, 0, 0, 0, 4]).is_err());
    }
}
