//! Watches that go on after the server was gone.

use varve_api::etcdserverpb::{
    CompactionRequest, CompactionResponse, WatchCreateRequest, WatchResponse,
};
use varve_api::method;
use varve_api::mvccpb::{Event, event::EventType};
use varve_tests::grpc_client::Client;

use crate::session::{Answer, Session, delete, grant, prefix_end, put, put_leased, run};

fn create(prefix: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix).into(),
        start_revision,
        ..WatchCreateRequest::default()
    }
}

/// Opens a watch and waits until the server has it.
async fn open(client: &Client, request: WatchCreateRequest) -> tonic::Streaming<WatchResponse> {
    let mut stream = client.watch(request).await.expect("the stream opens");
    let created = stream.message().await.expect("no error").expect("not the end");
    assert!(created.created && !created.canceled, "{created:?}");
    stream
}

/// Reads until there are `count` events; fewer if the stream ends.
async fn collect(stream: &mut tonic::Streaming<WatchResponse>, count: usize) -> Answer<Vec<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        match stream.message().await? {
            Some(response) => events.extend(response.events),
            None => break,
        }
    }
    Ok(events)
}

fn values(events: &[Event]) -> Vec<String> {
    let text = |event: &Event| {
        let kv = event.kv.as_ref().expect("an event has a key");
        String::from_utf8(kv.value.to_vec()).expect("values are text")
    };
    events.iter().map(text).collect()
}

fn last_revision(events: &[Event]) -> i64 {
    events.last().and_then(|event| event.kv.as_ref()).expect("there are events").mod_revision
}

#[test]
fn a_watch_resumes_after_the_server_was_killed() {
    run(async {
        let mut session = Session::start(&[]);
        let mut seen = Vec::new();
        let mut next = 1;
        for round in 0..3 {
            let mut stream = open(&session.client, create("k", next)).await;
            for number in 0..20 {
                put(&session.client, "k", &format!("{round}-{number}")).await;
            }
            // A part only; the rest is read after the restart.
            let events = collect(&mut stream, 8).await.expect("the server runs");
            seen.extend(values(&events));
            next = last_revision(&events) + 1;
            session.server.kill();
            let rest = collect(&mut stream, usize::MAX).await;
            // What still arrived counts; then the stream ends with an error or without.
            if let Ok(events) = rest
                && !events.is_empty()
            {
                seen.extend(values(&events));
                next = last_revision(&events) + 1;
            }
            session.server.restart();
        }
        let mut stream = open(&session.client, create("k", next)).await;
        let events = collect(&mut stream, 60 - seen.len()).await.expect("the server runs");
        seen.extend(values(&events));
        let wanted: Vec<String> = (0..3)
            .flat_map(|round| (0..20).map(move |number| format!("{round}-{number}")))
            .collect();
        assert_eq!(seen, wanted);
    });
}

#[test]
fn a_watch_sees_deletions_of_ranges_and_leases_at_one_revision() {
    run(async {
        let session = Session::start(&[]);
        let client = &session.client;
        let lease = grant(client, 100).await;
        for key in ["kb", "ka", "kc"] {
            put_leased(client, key, lease).await.expect("the lease is there");
        }
        put(client, "kd", "free").await;
        let mut request = create("k", 0);
        request.prev_kv = true;
        let mut stream = open(client, request).await;
        let revoke = varve_api::etcdserverpb::LeaseRevokeRequest { id: lease };
        let _: varve_api::etcdserverpb::LeaseRevokeResponse =
            client.unary(&method::LEASE_REVOKE, revoke).await.expect("the lease is revoked");
        put(client, "ke", "free").await;
        delete(client, "k").await;
        let events = collect(&mut stream, 6).await.expect("the server runs");
        let told: Vec<(String, i64, bool)> = events
            .iter()
            .map(|event| {
                let kv = event.kv.as_ref().expect("an event has a key");
                let key = String::from_utf8(kv.key.to_vec()).expect("keys are text");
                assert_eq!(event.prev_kv.is_some(), event.r#type() == EventType::Delete);
                (key, kv.mod_revision, event.r#type() == EventType::Put)
            })
            .collect();
        let wanted = [
            ("ka", 6, false),
            ("kb", 6, false),
            ("kc", 6, false),
            ("ke", 7, true),
            ("kd", 8, false),
            ("ke", 8, false),
        ];
        let wanted: Vec<_> = wanted.map(|(key, rev, put)| (key.to_owned(), rev, put)).into();
        assert_eq!(told, wanted);
    });
}

#[test]
fn a_watch_of_the_compacted_past_is_canceled_also_after_a_restart() {
    run(async {
        let mut session = Session::start(&[]);
        for number in 0..10 {
            put(&session.client, "k", &number.to_string()).await;
        }
        let request = CompactionRequest { revision: 8, physical: true };
        let _: CompactionResponse =
            session.client.unary(&method::KV_COMPACT, request).await.expect("it is compacted");
        for _ in 0..2 {
            let mut stream = session.client.watch(create("k", 3)).await.expect("it opens");
            let first = stream.message().await.expect("no error").expect("not the end");
            let second = stream.message().await.expect("no error").expect("not the end");
            assert!(first.created && !first.canceled, "{first:?}");
            assert!(second.canceled && second.compact_revision == 8, "{second:?}");
            let mut kept = open(&session.client, create("k", 8)).await;
            let events = collect(&mut kept, 4).await.expect("the server runs");
            assert_eq!(values(&events), ["6", "7", "8", "9"]);
            session.server.kill();
            session.server.restart();
        }
    });
}
