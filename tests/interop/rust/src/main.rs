//! The public crate `etcd-client` against the server at the address given: prints a line for each
//! check that held and ends with code 1 at the first that did not.
//!
//! It checks that calls go through this client as they are and mean what they say; what each
//! answer is in all its forms is checked by the differential test.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, Error, EventType, GetOptions, LeaseGrantOptions,
    PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};

type Outcome = Result<(), Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let endpoint = std::env::args().nth(1).expect("the address of a server: host:port");
    let mut client = Client::connect([endpoint], None).await?;
    put_get_and_delete(&mut client).await?;
    println!("PASS put, get and delete");
    transactions(&mut client).await?;
    println!("PASS transactions");
    watches_resume(&mut client).await?;
    println!("PASS a watch resumes behind what it saw, and ends at what is compacted");
    leases(&mut client).await?;
    println!("PASS leases");
    errors(&mut client).await?;
    println!("PASS errors");
    cluster(&mut client).await?;
    println!("PASS members and status");
    Ok(())
}

async fn put_get_and_delete(client: &mut Client) -> Outcome {
    for number in 0..5 {
        client.put(format!("kv/{number}"), format!("value {number}"), None).await?;
    }
    let previous = client.put("kv/0", "new", Some(PutOptions::new().with_prev_key())).await?;
    assert_eq!(previous.prev_key().expect("asked for").value(), b"value 0");

    let one = client.get("kv/0", None).await?;
    let kv = &one.kvs()[0];
    assert_eq!((kv.value(), kv.version()), (b"new".as_slice(), 2));
    assert!(kv.create_revision() < kv.mod_revision());

    let some = GetOptions::new()
        .with_prefix()
        .with_limit(2)
        .with_sort(SortTarget::Key, SortOrder::Descend);
    let some = client.get("kv/", Some(some)).await?;
    let keys: Vec<_> = some.kvs().iter().map(|kv| kv.key_str().expect("text")).collect();
    assert_eq!((keys, some.count(), some.more()), (vec!["kv/4", "kv/3"], 5, true));

    let past = GetOptions::new().with_revision(kv.create_revision());
    assert_eq!(client.get("kv/0", Some(past)).await?.kvs()[0].value(), b"value 0");
    let count = client.get("kv/", Some(GetOptions::new().with_prefix().with_count_only())).await?;
    assert_eq!((count.count(), count.kvs().len()), (5, 0));

    let all = DeleteOptions::new().with_prefix().with_prev_key();
    let gone = client.delete("kv/", Some(all)).await?;
    assert_eq!((gone.deleted(), gone.prev_kvs().len()), (5, 5));
    assert_eq!(client.delete("kv/0", None).await?.deleted(), 0);
    Ok(())
}

async fn transactions(client: &mut Client) -> Outcome {
    client.put("txn/a", "1", None).await?;
    let swap = |expected: &str, new: &str| {
        Txn::new()
            .when([Compare::value("txn/a", CompareOp::Equal, expected)])
            .and_then([TxnOp::put("txn/a", new, None), TxnOp::get("txn/a", None)])
            .or_else([TxnOp::get("txn/a", None)])
    };
    let done = client.txn(swap("1", "2")).await?;
    assert!(done.succeeded());
    // A read sees what was written before it in the same transaction.
    match &done.op_responses()[1] {
        TxnOpResponse::Get(get) => assert_eq!(get.kvs()[0].value(), b"2"),
        other => panic!("expected a get, found {other:?}"),
    }
    let refused = client.txn(swap("1", "3")).await?;
    assert!(!refused.succeeded());
    assert_eq!(client.get("txn/a", None).await?.kvs()[0].value(), b"2");

    let nested = Txn::new()
        .when([Compare::version("txn/new", CompareOp::Equal, 0)])
        .and_then([TxnOp::txn(Txn::new().and_then([TxnOp::put("txn/new", "x", None)]))]);
    assert!(client.txn(nested.clone()).await?.succeeded());
    assert!(!client.txn(nested).await?.succeeded());
    Ok(())
}

async fn watches_resume(client: &mut Client) -> Outcome {
    let first = client.put("watch/0", "0", None).await?.header().expect("a header").revision();
    for number in 1..20 {
        client.put(format!("watch/{number}"), number.to_string(), None).await?;
    }
    client.delete("watch/0", None).await?;
    let mut seen = Vec::new();
    let mut next = first;
    // Two watchers, the second behind the first: together every change once, in order.
    for wanted in [7, 21] {
        let from = WatchOptions::new().with_prefix().with_start_revision(next).with_prev_key();
        let mut stream = client.watch("watch/", Some(from)).await?;
        while seen.len() < wanted {
            let response = stream.message().await?.expect("the stream goes on");
            for event in response.events() {
                let kv = event.kv().expect("an event has a key");
                if kv.mod_revision() >= next {
                    seen.push((event.event_type(), kv.mod_revision()));
                    next = kv.mod_revision() + 1;
                }
            }
        }
    }
    let revisions: Vec<_> = seen.iter().map(|(_, revision)| *revision).collect();
    assert_eq!(revisions, (first..first + 21).collect::<Vec<_>>());
    assert_eq!(seen[20].0, EventType::Delete);

    client.compact(next - 1, None).await?;
    let gone = WatchOptions::new().with_start_revision(first);
    let mut stream = client.watch("watch/1", Some(gone)).await?;
    loop {
        let response = stream.message().await?.expect("the stream goes on");
        if response.canceled() {
            assert_eq!(response.compact_revision(), next - 1);
            return Ok(());
        }
    }
}

async fn leases(client: &mut Client) -> Outcome {
    let granted = client.lease_grant(60, Some(LeaseGrantOptions::new().with_id(4711))).await?;
    assert_eq!((granted.id(), granted.ttl()), (4711, 60));
    client.put("lease/a", "1", Some(PutOptions::new().with_lease(4711))).await?;
    let (mut keeper, mut answers) = client.lease_keep_alive(4711).await?;
    keeper.keep_alive().await?;
    assert_eq!(answers.message().await?.expect("an answer").ttl(), 60);
    let left = client.lease_time_to_live(4711, None).await?;
    assert!(left.ttl() <= 60 && left.ttl() >= 50 && left.granted_ttl() == 60);
    client.lease_revoke(4711).await?;
    assert_eq!(client.get("lease/a", None).await?.count(), 0);

    let short = client.lease_grant(1, None).await?;
    client.put("lease/b", "1", Some(PutOptions::new().with_lease(short.id()))).await?;
    for _ in 0..200 {
        if client.get("lease/b", None).await?.count() == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("a lease of {} s and its key were there after 20 s", short.ttl());
}

async fn errors(client: &mut Client) -> Outcome {
    let message = |error: Error| match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => panic!("expected a status, found {other}"),
    };
    let no_key = client.put("", "x", None).await.expect_err("a key is needed");
    assert_eq!(message(no_key), "etcdserver: key is not provided");
    let no_lease = client.put("x", "x", Some(PutOptions::new().with_lease(1))).await;
    assert_eq!(message(no_lease.expect_err("no lease")), "etcdserver: requested lease not found");
    let future = client.get("x", Some(GetOptions::new().with_revision(1 << 40))).await;
    assert_eq!(
        message(future.expect_err("the future")),
        "etcdserver: mvcc: required revision is a future revision"
    );
    Ok(())
}

async fn cluster(client: &mut Client) -> Outcome {
    let members = client.member_list().await?;
    let status = client.status().await?;
    assert!(members.members().iter().any(|member| member.id() == status.leader()));
    Ok(())
}
