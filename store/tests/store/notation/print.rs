//! From answers to text.

use super::auth;
use varve_api::Status;
use varve_api::etcdserverpb::response_op::Response;
use varve_api::etcdserverpb::{RangeResponse, ResponseHeader, TxnResponse};
use varve_api::mvccpb::event::EventType;
use varve_api::mvccpb::{Event, KeyValue};
use varve_store::{Applied, LeaseChange, Reply};

pub fn text(bytes: &[u8]) -> String {
    match bytes {
        b"" => "''".into(),
        bytes => bytes.escape_ascii().to_string().replace("\\x00", "\\0"),
    }
}

pub fn status(status: &Status) -> String {
    format!("{}: {}", status.code, status.message)
}

pub fn key_value(kv: &KeyValue) -> String {
    let KeyValue { create_revision, mod_revision, version, .. } = kv;
    let lease = if kv.lease == 0 { String::new() } else { format!(", lease {}", kv.lease) };
    let (key, value) = (text(&kv.key), text(&kv.value));
    format!(
        "{key}={value} (create {create_revision}, mod {mod_revision}, version {version}{lease})"
    )
}

pub fn event(event: &Event) -> String {
    assert_eq!(event.prev_kv, None);
    let kv = event.kv.as_ref().expect("an event has a kv");
    match event.r#type() {
        EventType::Put => format!("event put {}", key_value(kv)),
        EventType::Delete => {
            let (key, mod_revision) = (kv.key.clone(), kv.mod_revision);
            let bare = KeyValue { key, mod_revision, ..KeyValue::default() };
            assert_eq!(kv, &bare, "a deletion has key and revision only");
            format!("event delete {} (mod {mod_revision})", text(&kv.key))
        }
    }
}

/// All that an entry did, a line each.
pub fn applied(applied: &Applied) -> Vec<String> {
    let replies = applied.replies.iter().map(|(_, outcome)| match outcome {
        Ok(done) => reply(done),
        Err(refused) => status(refused),
    });
    let leases = applied.leases.iter().map(|change| match change {
        LeaseChange::Granted { id, ttl_seconds } => {
            format!("lease {} granted for {ttl_seconds} s", id.0)
        }
        LeaseChange::Checkpointed { id, left_seconds } => {
            format!("lease {} has {left_seconds} s left", id.0)
        }
        LeaseChange::Revoked { id } => format!("lease {} revoked", id.0),
    });
    let alarms = applied.alarms.iter().map(|change| {
        let verb = if change.is_raised { "raised" } else { "taken away" };
        format!("alarm {} of member {} {verb}", change.alarm.name(), change.alarm.member_id)
    });
    let compacted = applied.compacted.map(|revision| format!("compacted {revision}"));
    let auth = applied.auth.iter().map(auth::change);
    let events = applied.events.iter().map(event);
    replies.chain(events).chain(leases).chain(alarms).chain(auth).chain(compacted).collect()
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Put(put) => response(&Response::ResponsePut(put.clone())),
        Reply::DeleteRange(deleted) => response(&Response::ResponseDeleteRange(deleted.clone())),
        Reply::Txn(done) => txn(done),
        Reply::Compact(done) => format!("compact, revision {}", revision(&done.header)),
        Reply::LeaseGrant(lease) => {
            let at = revision(&lease.header);
            format!("grant {} for {} s, revision {at}", lease.id, lease.ttl)
        }
        Reply::LeaseRevoke(done) => format!("revoke, revision {}", revision(&done.header)),
        Reply::Published => "published".into(),
        Reply::Downgraded | Reply::LeaseCheckpointed => "done".into(),
        Reply::Alarm(done) => {
            let each = done.alarms.iter().map(|alarm| {
                format!(", {} of member {}", alarm.alarm().as_str_name(), alarm.member_id)
            });
            format!("alarms{}", each.collect::<String>())
        }
        Reply::Auth(done) => auth::reply(done),
        Reply::Members(members) => format!("{} members", members.len()),
    }
}

pub fn txn(done: &TxnResponse) -> String {
    let outcome = if done.succeeded { "succeeded" } else { "failed" };
    let mut line = format!("txn {outcome}, revision {}", revision(&done.header));
    for op in &done.responses {
        let nested = op.response.as_ref().map_or("nothing".into(), response);
        line += &format!(" [{nested}]");
    }
    line
}

fn response(done: &Response) -> String {
    match done {
        Response::ResponseRange(done) => range(done),
        Response::ResponsePut(done) => {
            let previous = done.prev_kv.as_ref().map(|kv| format!(", before {}", key_value(kv)));
            format!("put, revision {}{}", revision(&done.header), previous.unwrap_or_default())
        }
        Response::ResponseDeleteRange(done) => {
            let mut line = format!("del {}, revision {}", done.deleted, revision(&done.header));
            for kv in &done.prev_kvs {
                line += &format!(", before {}", key_value(kv));
            }
            line
        }
        Response::ResponseTxn(done) => txn(done),
    }
}

pub fn range(done: &RangeResponse) -> String {
    let more = if done.more { ", more" } else { "" };
    let mut line = match &done.header {
        Some(_) => {
            format!("range, revision {}, count {}{more}", revision(&done.header), done.count)
        }
        None => {
            assert_eq!(
                (done.count, done.more),
                (0, false),
                "without a header there is nothing else"
            );
            "chunk".into()
        }
    };
    for kv in &done.kvs {
        line += &format!(", {}", key_value(kv));
    }
    line
}

/// The revision of a header, which has nothing else: ids and term are the server's.
fn revision(header: &Option<ResponseHeader>) -> i64 {
    let header = header.as_ref().expect("a header");
    let bare = ResponseHeader { revision: header.revision, ..ResponseHeader::default() };
    assert_eq!(header, &bare);
    header.revision
}
