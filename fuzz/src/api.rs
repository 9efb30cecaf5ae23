//! Requests as clients send them: decoded, checked, encoded again.
//!
//! What must hold: any bytes are decoded or refused; a check of a decoded request answers; a
//! request that was decoded means the same after encoding.

use bytes::Bytes;
use prost::Message;
use varve_api::etcdserverpb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, WatchCreateRequest, WatchRequest, request_op, watch_request,
};
use varve_store::validate;

/// etcd's default of `--max-txn-ops`.
const TXN_OPS_MAX: usize = 128;

/// Runs one input: a byte that says which request, then the request.
pub fn request(data: &[u8]) {
    let Some((kind, body)) = data.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    match kind % 6 {
        0 => with::<RangeRequest>(&body, |request| {
            let _ = validate::range(request);
            let _ = validate::range_stream(request);
        }),
        1 => with::<PutRequest>(&body, |request| drop(validate::put(request))),
        2 => with::<DeleteRangeRequest>(&body, |request| drop(validate::delete_range(request))),
        3 => with::<TxnRequest>(&body, |request| {
            let _ = validate::txn(request, TXN_OPS_MAX);
            if validate::is_read_only(request) {
                let _ = validate::is_serializable(request);
            }
        }),
        4 => with::<LeaseGrantRequest>(&body, |request| drop(validate::lease_grant(request))),
        _ => with::<WatchRequest>(&body, |_| {}),
    }
}

fn with<M: Message + Default + PartialEq + std::fmt::Debug>(body: &Bytes, check: impl Fn(&M)) {
    let Ok(message) = M::decode(body.clone()) else { return };
    check(&message);
    let again = M::decode(Bytes::from(message.encode_to_vec())).expect("what was encoded decodes");
    assert!(again == message, "{message:?} became {again:?}");
}

/// One request of each kind.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let key = Bytes::from_static(b"key");
    let end = Bytes::from_static(b"kez");
    let range = RangeRequest {
        key: key.clone(),
        range_end: end.clone(),
        limit: 3,
        revision: 9,
        sort_order: 1,
        sort_target: 2,
        ..RangeRequest::default()
    };
    let put = PutRequest {
        key: key.clone(),
        value: Bytes::from_static(b"value"),
        lease: -7,
        ..PutRequest::default()
    };
    let delete =
        DeleteRangeRequest { key: key.clone(), range_end: end.clone(), ..Default::default() };
    let compare = Compare { result: 1, target: 2, key: key.clone(), ..Compare::default() };
    let inner = TxnRequest {
        success: vec![op(request_op::Request::RequestRange(range.clone()))],
        ..TxnRequest::default()
    };
    let txn = TxnRequest {
        compare: vec![compare],
        success: vec![op(request_op::Request::RequestPut(put.clone()))],
        failure: vec![
            op(request_op::Request::RequestDeleteRange(delete.clone())),
            op(request_op::Request::RequestTxn(inner)),
        ],
    };
    let create = WatchCreateRequest { key, range_end: end, ..WatchCreateRequest::default() };
    let watch =
        WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let grant = LeaseGrantRequest { ttl: 60, id: 7 };
    vec![
        seed("range", 0, &range),
        seed("put", 1, &put),
        seed("delete-range", 2, &delete),
        seed("txn", 3, &txn),
        seed("lease-grant", 4, &grant),
        seed("watch", 5, &watch),
    ]
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn seed(name: &str, kind: u8, message: &impl Message) -> (String, Vec<u8>) {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&message.encode_to_vec());
    (name.to_owned(), bytes)
}
