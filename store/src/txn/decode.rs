//! Decodes transactions, which are the only requests that nest.
//!
//! One idea: `prost` counts messages, and refuses what is nested deeper than 100 of them; a
//! transaction within a transaction is two. etcd allows as many levels as `--max-txn-ops` leaves,
//! 128 if nothing else is said. So the levels are walked and counted here, and everything within a
//! level that cannot nest is left to `prost`.
//!
//! Invariant: what is decoded has at most [`LEVELS_MAX`] levels, so whoever walks it by recursion
//! (validation, permissions, execution, dropping it) needs a bounded stack.

use bytes::{Buf, Bytes};
use prost::encoding::{
    DecodeContext, WireType, check_wire_type, decode_key, decode_varint, skip_field,
};
use prost::{DecodeError, Message};
use varve_api::error as api;
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{Compare, RequestOp, TxnRequest};
use varve_api::{Code, Status};

/// Levels of transactions within each other at most. Twice what etcd allows by default; a larger
/// `--max-txn-ops` does not raise it.
pub const LEVELS_MAX: usize = 256;

/// Why a transaction was not decoded.
#[derive(Debug)]
pub enum TxnDecodeError {
    /// It has more than [`LEVELS_MAX`] levels. Each level is an operation, hence etcd's word for it
    /// is that there are too many operations.
    TooDeep,
    /// The bytes are no transaction.
    Malformed(DecodeError),
}

impl From<DecodeError> for TxnDecodeError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error)
    }
}

impl From<TxnDecodeError> for Status {
    fn from(error: TxnDecodeError) -> Self {
        match error {
            TxnDecodeError::TooDeep => api::TOO_MANY_OPS.into(),
            TxnDecodeError::Malformed(error) => {
                Status::new(Code::InvalidArgument, error.to_string())
            }
        }
    }
}

/// Decodes a transaction in place: keys and values are slices of `body`.
///
/// # Errors
/// See [`TxnDecodeError`].
pub fn decode(body: Bytes) -> Result<TxnRequest, TxnDecodeError> {
    let mut txn = TxnRequest::default();
    merge_txn(&mut txn, body, 1)?;
    Ok(txn)
}

fn merge_txn(txn: &mut TxnRequest, mut body: Bytes, level: usize) -> Result<(), TxnDecodeError> {
    if level > LEVELS_MAX {
        return Err(TxnDecodeError::TooDeep);
    }
    while body.has_remaining() {
        let (tag, wire_type) = decode_key(&mut body)?;
        match tag {
            1 => txn.compare.push(Compare::decode(field(wire_type, &mut body)?)?),
            2 => txn.success.push(op(field(wire_type, &mut body)?, level)?),
            3 => txn.failure.push(op(field(wire_type, &mut body)?, level)?),
            _ => skip_field(wire_type, tag, &mut body, DecodeContext::default())?,
        }
    }
    Ok(())
}

/// One operation. As protobuf has it, of several requests the last one counts, and the same one
/// twice is merged.
fn op(mut body: Bytes, level: usize) -> Result<RequestOp, TxnDecodeError> {
    let mut request = None;
    while body.has_remaining() {
        let (tag, wire_type) = decode_key(&mut body)?;
        if !(1..=4).contains(&tag) {
            skip_field(wire_type, tag, &mut body, DecodeContext::default())?;
            continue;
        }
        let body = field(wire_type, &mut body)?;
        request = Some(match (tag, request) {
            (1, Some(Request::RequestRange(known))) => Request::RequestRange(merged(known, body)?),
            (1, _) => Request::RequestRange(Message::decode(body)?),
            (2, Some(Request::RequestPut(known))) => Request::RequestPut(merged(known, body)?),
            (2, _) => Request::RequestPut(Message::decode(body)?),
            (3, Some(Request::RequestDeleteRange(known))) => {
                Request::RequestDeleteRange(merged(known, body)?)
            }
            (3, _) => Request::RequestDeleteRange(Message::decode(body)?),
            (_, known) => {
                let mut nested = match known {
                    Some(Request::RequestTxn(known)) => known,
                    _ => TxnRequest::default(),
                };
                merge_txn(&mut nested, body, level + 1)?;
                Request::RequestTxn(nested)
            }
        });
    }
    Ok(RequestOp { request })
}

fn merged<M: Message>(mut known: M, body: Bytes) -> Result<M, DecodeError> {
    known.merge(body)?;
    Ok(known)
}

/// The bytes of a message within a message.
fn field(wire_type: WireType, body: &mut Bytes) -> Result<Bytes, DecodeError> {
    check_wire_type(WireType::LengthDelimited, wire_type)?;
    let length = decode_varint(body)?;
    if length > body.remaining() as u64 {
        // What `prost` says about a message that is cut, which only it can make.
        return Err(TxnRequest::decode(&b"\x0a\x01"[..]).expect_err("one byte is missing"));
    }
    Ok(body.split_to(length as usize))
}

#[cfg(test)]
mod tests {
    use varve_api::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest};

    use super::*;

    fn ops(request: Request) -> Vec<RequestOp> {
        vec![RequestOp { request: Some(request) }]
    }

    fn put(key: &'static str) -> Request {
        Request::RequestPut(PutRequest { key: key.into(), lease: 7, ..PutRequest::default() })
    }

    /// Encoded from the inside: `prost` would need a stack.
    fn nested(levels: usize) -> Bytes {
        let mut body =
            TxnRequest { success: ops(put("k")), ..TxnRequest::default() }.encode_to_vec();
        for _ in 1..levels {
            for tag in [4 << 3 | 2, 2 << 3 | 2] {
                let mut outer = vec![tag];
                prost::encoding::encode_varint(body.len() as u64, &mut outer);
                outer.append(&mut body);
                body = outer;
            }
        }
        body.into()
    }

    fn depth(txn: &TxnRequest) -> usize {
        match &txn.success[0].request {
            Some(Request::RequestTxn(nested)) => 1 + depth(nested),
            _ => 1,
        }
    }

    #[test]
    fn what_prost_decodes_is_decoded_the_same() {
        let inner = TxnRequest {
            compare: vec![Compare { key: "c".into(), result: 3, ..Compare::default() }],
            success: ops(Request::RequestRange(RangeRequest {
                limit: 5,
                ..RangeRequest::default()
            })),
            failure: ops(put("f")),
        };
        let delete = DeleteRangeRequest { key: "d".into(), ..DeleteRangeRequest::default() };
        let mut failure = ops(Request::RequestTxn(inner.clone()));
        failure.push(RequestOp { request: None });
        failure.extend(ops(Request::RequestDeleteRange(delete)));
        let txn = TxnRequest { failure, ..inner };
        let body: Bytes = txn.encode_to_vec().into();
        assert_eq!(decode(body.clone()).unwrap(), txn);
        for length in 0..body.len() {
            let body = body.slice(..length);
            let ours = decode(body.clone()).ok();
            assert_eq!(ours, TxnRequest::decode(body).ok(), "cut at {length}");
        }
    }

    #[test]
    fn bytes_that_are_changed_anywhere_mean_what_they_mean_to_prost() {
        let body = nested(3);
        for position in 0..body.len() {
            for value in 0..=u8::MAX {
                let mut changed = body.to_vec();
                changed[position] = value;
                let changed = Bytes::from(changed);
                let ours = decode(changed.clone()).ok();
                assert_eq!(ours, TxnRequest::decode(changed).ok(), "{value} at {position}");
            }
        }
    }

    #[test]
    fn an_operation_told_twice_is_merged_or_replaced() {
        let one = ops(put("k")).remove(0).encode_to_vec();
        let value = PutRequest { value: "v".into(), ..PutRequest::default() };
        let two = ops(Request::RequestPut(value)).remove(0).encode_to_vec();
        let range = ops(Request::RequestRange(RangeRequest::default())).remove(0).encode_to_vec();
        let txn = |name| {
            let inner = TxnRequest { success: ops(put(name)), ..TxnRequest::default() };
            ops(Request::RequestTxn(inner)).remove(0).encode_to_vec()
        };
        for parts in [vec![&one, &two], vec![&one, &range, &two], vec![&txn("a"), &txn("b")]] {
            let op: Vec<u8> = parts.into_iter().flatten().copied().collect();
            let mut body = vec![2 << 3 | 2, op.len() as u8];
            body.extend(op);
            let body = Bytes::from(body);
            assert_eq!(decode(body.clone()).unwrap(), TxnRequest::decode(body).unwrap());
        }
    }

    #[test]
    fn levels_are_counted_and_no_depth_overflows_a_small_stack() {
        let small = std::thread::Builder::new().stack_size(1 << 20);
        let test = || {
            for levels in [1, 49, 50, 128, LEVELS_MAX] {
                assert_eq!(depth(&decode(nested(levels)).unwrap()), levels);
            }
            for levels in [LEVELS_MAX + 1, 20_000] {
                let error = decode(nested(levels)).unwrap_err();
                assert!(Status::from(error) == api::TOO_MANY_OPS, "{levels}");
            }
        };
        small.spawn(test).unwrap().join().unwrap();
    }
}
