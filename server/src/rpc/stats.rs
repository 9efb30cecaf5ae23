//! The log line "request stats": what a call took and how large it was, when that was longer than
//! `--warning-unary-request-duration`; at level debug, of every call.
//!
//! One idea: nothing is decoded unless the line is written, and what is stored is never in it: a
//! value is shown by its size. Names, counts and their meaning are etcd's: puts count as 1, a
//! transaction as the operations that were done, calls of other services as -1.
//!
//! What it does not do: streams; requests that ended before they were read whole.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;
use tracing::Level;
use varve_api::etcdserverpb::request_op::Request;
use varve_api::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse,
};
use varve_api::method;

use crate::grpc::{Answered, Encoded, Observer};
use crate::limits;

/// Writes the line for each call that took longer than `expected`.
pub fn observer(expected: Duration) -> Observer {
    std::rc::Rc::new(move |call| {
        if call.took > expected {
            let stats = Stats::of(call);
            tracing::warn!("time spent" = ?call.took, remote = %call.peer,
                "response type" = call.method.path, "request count" = stats.requests,
                "request size" = stats.request_bytes, "response count" = stats.responses,
                "response size" = stats.response_bytes, "request content" = stats.content,
                "request stats");
        } else if tracing::enabled!(Level::DEBUG) {
            let stats = Stats::of(call);
            tracing::debug!("time spent" = ?call.took, remote = %call.peer,
                "response type" = call.method.path, "request count" = stats.requests,
                "request size" = stats.request_bytes, "response count" = stats.responses,
                "response size" = stats.response_bytes, "request content" = stats.content,
                "request stats");
        }
    })
}

/// What the line says beside names and times; -1 where it says nothing.
#[derive(Debug, PartialEq, Eq)]
struct Stats {
    requests: i64,
    request_bytes: i64,
    responses: i64,
    response_bytes: i64,
    content: String,
}

impl Stats {
    fn of(call: &Answered) -> Self {
        let response = call.response.as_ref().map(message);
        let known = response.and_then(|response| {
            let request = call.request.clone();
            match call.method {
                method if *method == method::KV_RANGE => Self::range(request, &response),
                method if *method == method::KV_PUT => Self::put(request, &response),
                method if *method == method::KV_DELETE_RANGE => Self::delete(request, &response),
                method if *method == method::KV_TXN => Self::txn(request, &response),
                _ => None,
            }
        });
        known.unwrap_or(Self {
            requests: -1,
            request_bytes: -1,
            responses: -1,
            response_bytes: -1,
            content: String::new(),
        })
    }

    fn new(requests: usize, request_bytes: usize, responses: i64, response: &[u8]) -> Self {
        Self {
            requests: requests as i64,
            request_bytes: request_bytes as i64,
            responses,
            response_bytes: response.len() as i64,
            content: String::new(),
        }
    }

    fn with(mut self, write: impl FnOnce(&mut String)) -> Self {
        write(&mut self.content);
        let mut end = limits::LOGGED_REQUEST_BYTES_MAX.min(self.content.len());
        while !self.content.is_char_boundary(end) {
            end -= 1;
        }
        self.content.truncate(end);
        self
    }

    fn range(request: Bytes, response: &[u8]) -> Option<Self> {
        let bytes = request.len();
        let request = RangeRequest::decode(request).ok()?;
        let count = RangeResponse::decode(response).ok()?.count;
        Some(Self::new(0, bytes, count, response).with(|text| range(text, &request)))
    }

    fn put(request: Bytes, response: &[u8]) -> Option<Self> {
        let bytes = request.len();
        let request = PutRequest::decode(request).ok()?;
        Some(Self::new(1, bytes, 0, response).with(|text| put(text, &request)))
    }

    fn delete(request: Bytes, response: &[u8]) -> Option<Self> {
        let bytes = request.len();
        let request = DeleteRangeRequest::decode(request).ok()?;
        let deleted = DeleteRangeResponse::decode(response).ok()?.deleted;
        Some(Self::new(0, bytes, deleted, response).with(|text| delete(text, &request)))
    }

    fn txn(request: Bytes, response: &[u8]) -> Option<Self> {
        let request = TxnRequest::decode(request).ok()?;
        let succeeded = TxnResponse::decode(response).ok()?.succeeded;
        let done = if succeeded { &request.success } else { &request.failure };
        let bytes = done.iter().map(RequestOp::encoded_len).sum();
        Some(Self::new(done.len(), bytes, 0, response).with(|text| txn(text, &request)))
    }
}

/// The bytes of a response, without prefix.
fn message(response: &Encoded) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(response.len());
    response.clone().into_parts().for_each(|part| bytes.extend_from_slice(&part));
    bytes.split_off(crate::grpc::PREFIX_BYTES)
}

fn range(text: &mut String, request: &RangeRequest) {
    keys(text, &request.key, &request.range_end);
    number(text, "limit", request.limit);
    number(text, "revision", request.revision);
    number(text, "sort_order", request.sort_order.into());
    number(text, "sort_target", request.sort_target.into());
    flag(text, "serializable", request.serializable);
    flag(text, "keys_only", request.keys_only);
    flag(text, "count_only", request.count_only);
    number(text, "min_mod_revision", request.min_mod_revision);
    number(text, "max_mod_revision", request.max_mod_revision);
    number(text, "min_create_revision", request.min_create_revision);
    number(text, "max_create_revision", request.max_create_revision);
}

fn put(text: &mut String, request: &PutRequest) {
    keys(text, &request.key, &[]);
    number(text, "value_size", request.value.len() as i64);
    number(text, "lease", request.lease);
    flag(text, "prev_kv", request.prev_kv);
    flag(text, "ignore_value", request.ignore_value);
    flag(text, "ignore_lease", request.ignore_lease);
}

fn delete(text: &mut String, request: &DeleteRangeRequest) {
    keys(text, &request.key, &request.range_end);
    flag(text, "prev_kv", request.prev_kv);
}

fn txn(text: &mut String, request: &TxnRequest) {
    for compare in &request.compare {
        text.push_str("compare:<");
        write_name(text, "target", compare.target().as_str_name());
        write_name(text, "result", compare.result().as_str_name());
        keys(text, &compare.key, &compare.range_end);
        text.push_str("> ");
    }
    for (name, operations) in [("success", &request.success), ("failure", &request.failure)] {
        for operation in operations {
            if text.len() > limits::LOGGED_REQUEST_BYTES_MAX {
                return;
            }
            write!(text, "{name}:<").expect("writing to a String cannot fail");
            match &operation.request {
                Some(Request::RequestRange(request)) => {
                    nested(text, "range", |t| range(t, request))
                }
                Some(Request::RequestPut(request)) => nested(text, "put", |t| put(t, request)),
                Some(Request::RequestDeleteRange(request)) => {
                    nested(text, "delete_range", |t| delete(t, request));
                }
                Some(Request::RequestTxn(request)) => nested(text, "txn", |t| txn(t, request)),
                None => {}
            }
            text.push_str("> ");
        }
    }
}

fn nested(text: &mut String, name: &str, write: impl FnOnce(&mut String)) {
    write!(text, "request_{name}:<").expect("writing to a String cannot fail");
    write(text);
    text.push('>');
}

fn keys(text: &mut String, key: &[u8], range_end: &[u8]) {
    for (name, key) in [("key", key), ("range_end", range_end)] {
        if !key.is_empty() {
            write_name(text, name, &format!("\"{}\"", key.escape_ascii()));
        }
    }
}

fn number(text: &mut String, name: &str, value: i64) {
    if value != 0 {
        write_name(text, name, &value.to_string());
    }
}

fn flag(text: &mut String, name: &str, value: bool) {
    if value {
        write_name(text, name, "true");
    }
}

fn write_name(text: &mut String, name: &str, value: &str) {
    write!(text, "{name}:{value} ").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use varve_api::etcdserverpb::PutResponse;
    use varve_api::method::Method;

    use super::*;
    use crate::grpc::PeerAddress;

    fn stats(method: &'static Method, request: &impl Message, response: &impl Message) -> Stats {
        Stats::of(&Answered {
            method,
            peer: PeerAddress::Unix,
            took: Duration::from_secs(1),
            request: request.encode_to_vec().into(),
            response: Some(Encoded::message(response)),
        })
    }

    fn fruit() -> PutRequest {
        PutRequest { key: "fruit".into(), value: "secret".into(), lease: 7, ..Default::default() }
    }

    #[test]
    fn a_put_shows_the_size_of_its_value_only() {
        let found = stats(&method::KV_PUT, &fruit(), &PutResponse::default());
        assert_eq!(found.content, "key:\"fruit\" value_size:6 lease:7 ");
        assert_eq!((found.requests, found.request_bytes), (1, 17));
        assert_eq!((found.responses, found.response_bytes), (0, 0));
    }

    #[test]
    fn a_range_counts_what_it_found() {
        let request = RangeRequest {
            key: "a".into(),
            range_end: vec![0xff].into(),
            limit: 3,
            ..Default::default()
        };
        let response = RangeResponse { count: 5, ..Default::default() };
        let found = stats(&method::KV_RANGE, &request, &response);
        assert_eq!(found.content, "key:\"a\" range_end:\"\\xff\" limit:3 ");
        assert_eq!((found.requests, found.responses, found.response_bytes), (0, 5, 2));
    }

    #[test]
    fn a_transaction_counts_the_side_that_was_done() {
        let put = RequestOp { request: Some(Request::RequestPut(fruit())) };
        let request = TxnRequest {
            success: vec![put.clone(), put.clone()],
            failure: vec![put],
            ..Default::default()
        };
        let found = stats(
            &method::KV_TXN,
            &request,
            &TxnResponse { succeeded: true, ..Default::default() },
        );
        assert_eq!((found.requests, found.request_bytes), (2, 2 * 19));
        assert!(found.content.starts_with("success:<request_put:<key:\"fruit\" value_size:6 "));
        assert!(!found.content.contains("secret"));
        let found = stats(&method::KV_TXN, &request, &TxnResponse::default());
        assert_eq!((found.requests, found.request_bytes), (1, 19));
    }

    #[test]
    fn errors_and_other_calls_have_no_numbers() {
        let found = stats(&method::CLUSTER_MEMBER_LIST, &fruit(), &PutResponse::default());
        assert_eq!((found.requests, found.responses, found.content.as_str()), (-1, -1, ""));
    }

    #[test]
    fn a_long_request_is_cut() {
        let key = "\u{fc}".repeat(limits::LOGGED_REQUEST_BYTES_MAX).into();
        let request = PutRequest { key, ..Default::default() };
        let found = stats(&method::KV_PUT, &request, &PutResponse::default());
        assert_eq!(found.content.len(), limits::LOGGED_REQUEST_BYTES_MAX);
    }
}
