//! What a follower asks its leader to do for a client: change the membership.
//!
//! Only the leader knows who is connected and who has caught up, so a change is judged and proposed
//! there, whichever member the client asked. Layouts: docs/FORMAT.md section 5.
//!
//! What it does not do: send again. A call whose answer does not come may have been carried out.

use bytes::{BufMut, Bytes, BytesMut};
use varve_api::{Code, Status};

use super::frame::{Fields, FrameError};

/// What is asked: a [`varve_store::MemberChange`], encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Comes back with the answer.
    pub request: u64,
    /// The change.
    pub change: Bytes,
}

/// How it went. Members are read from the own state: by then it has them, or waits for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallAnswer {
    /// From the call.
    pub request: u64,
    /// The index up to which the asker must have applied the log, or why nothing was changed.
    pub outcome: Result<u64, Status>,
}

impl Call {
    /// The call's bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(8 + self.change.len());
        bytes.put_u64_le(self.request);
        bytes.put_slice(&self.change);
        bytes.freeze()
    }

    /// Parses a call.
    ///
    /// # Errors
    /// It is too short.
    pub fn decode(bytes: &Bytes) -> Result<Self, FrameError> {
        let mut fields = Fields::new("a call", bytes);
        Ok(Self { request: fields.u64()?, change: bytes.slice(8..) })
    }
}

impl CallAnswer {
    /// The answer's bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.put_u64_le(self.request);
        match &self.outcome {
            Ok(index) => {
                bytes.put_u8(Code::Ok.number());
                bytes.put_u64_le(*index);
            }
            Err(status) => {
                bytes.put_u8(status.code.number());
                bytes.put_slice(status.message.as_bytes());
            }
        }
        bytes.freeze()
    }

    /// Parses an answer.
    ///
    /// # Errors
    /// It is too short, or no text.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let mut fields = Fields::new("an answer to a call", bytes);
        let (request, [code]) = (fields.u64()?, fields.take()?);
        let outcome = match Code::from_number(code) {
            None => return Err(FrameError::malformed("a status code", code.to_string())),
            Some(Code::Ok) => Ok(fields.u64()?),
            Some(code) => {
                let text = String::from_utf8(fields.rest().to_vec()).map_err(|error| {
                    FrameError::malformed("the text of a status", error.to_string())
                })?;
                Err(Status::new(code, text))
            }
        };
        Ok(Self { request, outcome })
    }
}

#[cfg(test)]
mod tests {
    use varve_api::error;

    use super::*;

    #[test]
    fn calls_and_answers_have_these_bytes() {
        let call = Call { request: 2, change: Bytes::from_static(b"x") };
        assert_eq!(call.encode(), &b"\x02\0\0\0\0\0\0\0x"[..]);
        assert_eq!(Call::decode(&call.encode()).unwrap(), call);
        assert!(Call::decode(&Bytes::from_static(b"short")).is_err());
        let done = CallAnswer { request: 2, outcome: Ok(3) };
        assert_eq!(done.encode(), &b"\x02\0\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0"[..]);
        assert_eq!(CallAnswer::decode(&done.encode()).unwrap(), done);
        let refused = CallAnswer { request: 2, outcome: Err(error::MEMBER_NOT_FOUND.into()) };
        let expected = b"\x02\0\0\0\0\0\0\0\x05etcdserver: member not found";
        assert_eq!(refused.encode(), &expected[..]);
        assert_eq!(CallAnswer::decode(&refused.encode()).unwrap(), refused);
        for length in 0..17 {
            assert!(CallAnswer::decode(&done.encode()[..length]).is_err());
        }
    }
}
