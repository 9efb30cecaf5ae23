//! What spans say of calls and their requests, under the names that etcd gives it.
//!
//! That of a call itself is what OpenTelemetry's conventions for RPCs ask of a server (1.40, which etcd
//! 3.7.1 follows); inner spans have etcd's own words.

use std::net::SocketAddr;

use varve_api::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest, WatchCreateRequest, request_op::Request,
};
use varve_store::validate;

use super::{Attribute, Value};

/// A call of the method with this path, without its first slash.
pub fn call(path: &str, local: Option<SocketAddr>) -> Vec<Attribute> {
    let mut attributes = vec![
        ("rpc.method", Value::Text(path.to_owned())),
        ("rpc.system.name", Value::Text("grpc".to_owned())),
    ];
    if let Some(local) = local {
        let address = local.ip().to_canonical().to_string();
        attributes.push(("server.address", Value::Text(address)));
        attributes.push(("server.port", Value::Number(i64::from(local.port()))));
    }
    attributes
}

/// Of the span `range`.
pub fn range(request: &RangeRequest) -> Vec<Attribute> {
    let mut attributes = range_stream(request);
    attributes.push(("keys_only", Value::Flag(request.keys_only)));
    attributes
}

/// Of the span `range_streaming`.
pub fn range_stream(request: &RangeRequest) -> Vec<Attribute> {
    vec![
        ("range_begin", Value::key(&request.key)),
        ("range_end", Value::key(&request.range_end)),
        ("rev", Value::Number(request.revision)),
        ("limit", Value::Number(request.limit)),
        ("count_only", Value::Flag(request.count_only)),
    ]
}

/// Of the span `put`.
pub fn put(request: &PutRequest) -> Vec<Attribute> {
    vec![("key", Value::key(&request.key))]
}

/// Of the span `delete_range`.
pub fn delete_range(request: &DeleteRangeRequest) -> Vec<Attribute> {
    vec![("range_begin", Value::key(&request.key)), ("range_end", Value::key(&request.range_end))]
}

/// Of the span `txn`.
pub fn txn(request: &TxnRequest) -> Vec<Attribute> {
    let compared = request.compare.iter().map(|compare| compare.key.as_ref());
    let written = request.success.iter().map(key_of);
    let count = |length: usize| Value::Number(length as i64);
    vec![
        ("compare_first_key", first_key(compared)),
        ("success_first_key", first_key(written)),
        ("success_first_type", Value::Text(first_type(&request.success).to_owned())),
        ("success_first_lease", Value::Number(first_lease(&request.success))),
        ("compare_len", count(request.compare.len())),
        ("success_len", count(request.success.len())),
        ("failure_len", count(request.failure.len())),
        ("read_only", Value::Flag(validate::is_read_only(request))),
    ]
}

/// Of the span `compact`.
pub fn compact(request: &CompactionRequest) -> Vec<Attribute> {
    vec![("is_physical", Value::Flag(request.physical)), ("rev", Value::Number(request.revision))]
}

/// Of the span `lease_grant`.
pub fn lease_grant(request: &LeaseGrantRequest) -> Vec<Attribute> {
    vec![("id", Value::Number(request.id)), ("ttl", Value::Number(request.ttl))]
}

/// Of the spans `lease_revoke` and `lease_renew`.
pub fn lease(id: i64) -> Vec<Attribute> {
    vec![("id", Value::Number(id))]
}

/// Of the span `watch`; of an empty `key` the first possible one.
pub fn watch(key: &[u8], request: &WatchCreateRequest) -> Vec<Attribute> {
    // As etcd: an end that means "all from the key on" is told as an empty one.
    let range_end = Some(request.range_end.as_ref()).filter(|end| *end != [0]);
    vec![
        ("key", Value::key(key)),
        ("range_end", Value::key(range_end.unwrap_or_default())),
        ("start_rev", Value::Number(request.start_revision)),
        ("progress_notify", Value::Flag(request.progress_notify)),
        ("prev_kv", Value::Flag(request.prev_kv)),
        ("fragment", Value::Flag(request.fragment)),
    ]
}

/// The first that is not empty.
fn first_key<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> Value {
    Value::key(keys.find(|key| !key.is_empty()).unwrap_or_default())
}

fn key_of(op: &RequestOp) -> &[u8] {
    match &op.request {
        Some(Request::RequestRange(range)) => &range.key,
        Some(Request::RequestPut(put)) => &put.key,
        Some(Request::RequestDeleteRange(delete)) => &delete.key,
        Some(Request::RequestTxn(_)) | None => &[],
    }
}

fn first_type(ops: &[RequestOp]) -> &'static str {
    match ops.iter().find_map(|op| op.request.as_ref()) {
        Some(Request::RequestRange(_)) => "range",
        Some(Request::RequestPut(_)) => "put",
        Some(Request::RequestDeleteRange(_)) => "delete_range",
        Some(Request::RequestTxn(_)) => "txn",
        None => "",
    }
}

/// That of the first put; -1 without one.
fn first_lease(ops: &[RequestOp]) -> i64 {
    let lease = ops.iter().find_map(|op| match &op.request {
        Some(Request::RequestPut(put)) => Some(put.lease),
        _ => None,
    });
    lease.unwrap_or(-1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(request: Request) -> RequestOp {
        RequestOp { request: Some(request) }
    }

    #[test]
    fn a_transaction_is_told_by_its_first_parts() {
        let put = PutRequest { key: "k".into(), lease: 7, ..PutRequest::default() };
        let request = TxnRequest {
            success: vec![
                op(Request::RequestTxn(TxnRequest::default())),
                op(Request::RequestPut(put)),
            ],
            ..TxnRequest::default()
        };
        let text = |text: &str| Value::Text(text.to_owned());
        let expected = [
            ("compare_first_key", text("")),
            ("success_first_key", text("k")),
            ("success_first_type", text("txn")),
            ("success_first_lease", Value::Number(7)),
            ("compare_len", Value::Number(0)),
            ("success_len", Value::Number(2)),
            ("failure_len", Value::Number(0)),
            ("read_only", Value::Flag(false)),
        ];
        assert_eq!(txn(&request), expected);
        let empty = txn(&TxnRequest::default());
        assert_eq!(
            empty[2..4],
            [("success_first_type", text("")), ("success_first_lease", Value::Number(-1))]
        );
    }

    #[test]
    fn an_address_of_both_kinds_is_told_as_the_older() {
        let local = "[::ffff:127.0.0.1]:2379".parse().expect("an address");
        let attributes = call("a.B/C", Some(local));
        assert_eq!(attributes[2], ("server.address", Value::Text("127.0.0.1".into())));
        assert_eq!(attributes[3], ("server.port", Value::Number(2379)));
        assert_eq!(call("a.B/C", None).len(), 2);
    }
}
