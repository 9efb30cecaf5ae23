//! What a request may add to the data, in bytes, as etcd estimates it.
//!
//! One idea: the estimate belongs to the request alone, so that every member agrees on whether a
//! transaction grows (which decides under a `NOSPACE` alarm); how much is left is a question of the
//! member that is asked, and is not asked here.

use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{PutRequest, RequestOp, TxnRequest};

/// What a lease takes; etcd's number.
pub const LEASE_BYTES: usize = 64;
/// What a key takes beside key and value; etcd's number.
const KEY_OVERHEAD_BYTES: usize = 256;

/// What a put may add.
pub fn put_bytes(request: &PutRequest) -> usize {
    KEY_OVERHEAD_BYTES + request.key.len() + request.value.len()
}

/// What a transaction may add: the larger of its branches. 0 if it puts nothing.
pub fn txn_bytes(request: &TxnRequest) -> usize {
    let branch = |ops: &[RequestOp]| ops.iter().map(op_bytes).sum::<usize>();
    branch(&request.success).max(branch(&request.failure))
}

fn op_bytes(op: &RequestOp) -> usize {
    match &op.request {
        Some(Request::RequestPut(request)) => put_bytes(request),
        Some(Request::RequestTxn(request)) => txn_bytes(request),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_costs_what_its_dearer_branch_puts() {
        let put = |value: &'static [u8]| RequestOp {
            request: Some(Request::RequestPut(PutRequest {
                key: b"k".as_slice().into(),
                value: value.into(),
                ..PutRequest::default()
            })),
        };
        let nested = TxnRequest { success: vec![put(b"12")], ..TxnRequest::default() };
        let request = TxnRequest {
            success: vec![put(b"1"), RequestOp { request: Some(Request::RequestTxn(nested)) }],
            failure: vec![put(b"123")],
            ..TxnRequest::default()
        };
        assert_eq!(txn_bytes(&request), (256 + 1 + 1) + (256 + 1 + 2));
        assert_eq!(txn_bytes(&TxnRequest::default()), 0);
    }
}
