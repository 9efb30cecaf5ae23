//! Snapshots between two members on loopback, cut off and garbled anywhere.
//!
//! One idea: a proxy stands between the two and harms what the sender writes at one place.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use varve_store::Mark;

use super::*;
use crate::peer::frame::FrameError;

/// The leader's word that member 2 needs a snapshot (docs/FORMAT.md, section 4).
fn announcement(leader: u64, mark: Mark) -> Message {
    let mut bytes = vec![1, 10, 2, 0];
    let header = [2, leader, mark.term, 0, 0, 0, 0, 0, 0, 0];
    header.iter().for_each(|field: &u64| bytes.extend(field.to_le_bytes()));
    bytes.extend([0; 8]);
    [mark.index, mark.term].iter().for_each(|field| bytes.extend(field.to_le_bytes()));
    [2_u32, 0].iter().for_each(|count| bytes.extend(count.to_le_bytes()));
    [1_u64, 2].iter().for_each(|voter| bytes.extend(voter.to_le_bytes()));
    Message { to: NodeId(2), class: MessageClass::Snapshot, bytes: bytes.into() }
}

/// What happens to the bytes of one direction of a connection.
#[derive(Clone, Copy, Debug)]
enum Harm {
    None,
    CutAt(usize),
    FlipAt(usize),
}

/// Stands between the two, and harms what the sender writes. Counts it in `passed`.
async fn proxy(to: String, harm: Harm, passed: Arc<AtomicUsize>) -> String {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(to).await.unwrap();
        let (mut near_read, mut near_write) = near.into_split();
        let (mut far_read, mut far_write) = far.into_split();
        let back = tokio::spawn(async move {
            let _ = tokio::io::copy(&mut far_read, &mut near_write).await;
        });
        let mut buffer = vec![0; 4096];
        // A garbled length makes the receiver wait for more than will come, up to its own timeout:
        // the line is cut before.
        let silence =
            if matches!(harm, Harm::None) { PATIENCE } else { Duration::from_millis(300) };
        while let Ok(Ok(length @ 1..)) = timeout(silence, near_read.read(&mut buffer)).await {
            let start = passed.fetch_add(length, Ordering::Relaxed);
            let mut bytes = &mut buffer[..length];
            match harm {
                Harm::CutAt(at) if at < start + length => bytes = &mut bytes[..at - start],
                Harm::FlipAt(at) if (start..start + length).contains(&at) => {
                    bytes[at - start] ^= 0x20;
                }
                _ => {}
            }
            let is_cut = bytes.len() < length;
            if far_write.write_all(bytes).await.is_err() || is_cut {
                break;
            }
        }
        drop(far_write);
        let _ = timeout(PATIENCE, back).await;
    });
    address
}

/// Sends one snapshot from member 1 to member 2 through harm. The turn of the one before is over
/// only when its files are gone, so a refusal for that reason is tried again.
async fn transfer(from: &Side, to: &str, harm: Harm) -> (Result<u64, FrameError>, usize) {
    for _ in 0..500 {
        let passed = Arc::new(AtomicUsize::new(0));
        let address = proxy(to.to_owned(), harm, Arc::clone(&passed)).await;
        let peer = PeerAddress { id: 2, addresses: vec![address] };
        let message = announcement(1, from.store.applied());
        let sent = snapshot::send::send(&from.context, &peer, &message);
        let outcome = timeout(PATIENCE, sent).await.expect("a transfer ends, one way or another");
        match outcome {
            Err(FrameError::Refused(reason)) if reason.contains("one snapshot at a time") => {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            outcome => return (outcome, passed.load(Ordering::Relaxed)),
        }
    }
    panic!("the turn before is never over");
}

/// The right to receive is one for the process.
static RECEIVING: Mutex<()> = Mutex::new(());

/// Two members of which the first has values of 4 KiB under so many keys, in several files.
fn filled(keys: usize) -> (Side, Side) {
    let (mut from, mut to) = (side(1), side(2));
    for number in 0..keys {
        from.put(number, 4 << 10);
        if number % (keys / 5) == 0 {
            from.flush();
        }
    }
    from.flush();
    to.flush();
    (from, to)
}

/// Sends a snapshot and installs it; how many bytes of files went over the line.
async fn install(from: &Side, to: &mut Side, address: &str) -> u64 {
    let (outcome, _) = transfer(from, address, Harm::None).await;
    let staged = to.staged().unwrap_or_else(|| panic!("nothing was handed over: {outcome:?}"));
    to.store.install(&staged.manifest, &staged.dir).unwrap();
    assert_eq!(to.store.applied(), from.store.applied());
    outcome.unwrap()
}

#[test]
fn a_member_that_missed_a_tenth_gets_less_than_a_quarter() {
    let _turn = RECEIVING.lock().unwrap_or_else(PoisonError::into_inner);
    run(async {
        let (mut from, mut to) = filled(1_000);
        let (peers, _) = Peers::new(vec![unreachable(1)], Arc::clone(&to.context.metrics));
        let address = to.listen(peers);
        let sent = install(&from, &mut to, &address).await;
        assert_eq!(sent, from.snapshot_bytes(), "it had nothing");
        let told = from.context.metrics.peer_sent_bytes.with_label_values(&["2"]).get();
        assert!(told >= sent, "files count among what was sent: {told} of {sent}");
        let told = to.context.metrics.peer_received_bytes.with_label_values(&["1"]).get();
        assert!(told >= sent, "and among what was received: {told} of {sent}");

        // A tenth of all keys, old and new ones, from everywhere.
        (0..100).for_each(|number| from.put(number * 11, 4 << 10));
        from.flush();
        let sent = install(&from, &mut to, &address).await;
        let all = from.snapshot_bytes();
        println!("{sent} of {all} bytes, {} %", sent * 100 / all);
        assert!(sent > 0 && sent * 4 <= all, "{sent} of {all} bytes");
    });
}

#[test]
fn a_transfer_that_broke_off_goes_on_where_it_was() {
    let _turn = RECEIVING.lock().unwrap_or_else(PoisonError::into_inner);
    run(async {
        let (from, mut to) = filled(500);
        let (peers, _) = Peers::new(vec![unreachable(1)], Arc::clone(&to.context.metrics));
        let address = to.listen(peers);
        let all = from.snapshot_bytes();
        let cut = Harm::CutAt(all as usize * 3 / 5);
        let (outcome, _) = transfer(&from, &address, cut).await;
        outcome.expect_err("it was cut off");
        let (outcome, _) = transfer(&from, &address, Harm::None).await;
        let rest = outcome.unwrap();
        println!("cut at 60 %; then {rest} of {all} bytes, {} %", rest * 100 / all);
        assert!(rest > 0 && rest < all * 3 / 4, "{rest} of {all} bytes were sent again");
        drop(to.staged().expect("it was handed over"));

        // What is kept and has rotted since costs one transfer, and then everything is sent.
        let (outcome, _) = transfer(&from, &address, cut).await;
        outcome.expect_err("it was cut off");
        let parts = Path::new(INCOMING).join("parts");
        let kept = to.disk.list(&parts).unwrap();
        let kept = kept.iter().find(|name| *name != "draft").expect("a whole file");
        to.disk.flip_bit(&parts.join(kept), 100, 1).unwrap();
        let (outcome, _) = transfer(&from, &address, Harm::None).await;
        let error = outcome.expect_err("a file has another digest");
        assert!(error.to_string().contains("digest"), "{error}");
        assert!(to.staged().is_none());
        assert_eq!(install(&from, &mut to, &address).await, all);
    });
}

#[test]
fn a_file_that_is_not_what_was_announced_is_refused_and_not_kept() {
    let _turn = RECEIVING.lock().unwrap_or_else(PoisonError::into_inner);
    run(async {
        let (from, mut to) = filled(500);
        let (peers, _) = Peers::new(vec![unreachable(1)], Arc::clone(&to.context.metrics));
        let address = to.listen(peers);
        let peer = PeerAddress { id: 2, addresses: vec![address.clone()] };
        let checkpoint = from.context.db.checkpoint();
        let mut stream =
            outbound::connect(&from.context, &peer, StreamKind::Snapshot).await.unwrap();
        let offer = snapshot::offer::encode_offer(&checkpoint);
        frame::write(&mut stream, FrameKind::SnapshotOffer, &offer).await.unwrap();
        frame::expect(&mut stream, FrameKind::SnapshotWanted).await.unwrap();
        let [first, second, ..] = &checkpoint.files[..] else { panic!("there are several files") };
        for (index, file) in [(0_u32, first), (1, second)] {
            let mut payload = [&index.to_le_bytes()[..], &[0; 8], &file.content].concat();
            // The frame's checksum is right: it came so from the sender's disk.
            let last = payload.len() - 1;
            payload[last] ^= index as u8;
            frame::write(&mut stream, FrameKind::SnapshotChunk, &payload).await.unwrap();
        }
        frame::write(&mut stream, FrameKind::SnapshotEnd, &[]).await.unwrap();
        let answered = frame::expect(&mut stream, FrameKind::SnapshotDone);
        let error = timeout(PATIENCE, answered).await.unwrap().expect_err("it is refused");
        let expected = format!("digest {:032x} of {}", second.digest, second.name);
        assert!(error.to_string().contains(&expected), "{error}");
        assert!(to.staged().is_none());
        let rest = from.snapshot_bytes() - first.content.len() as u64;
        assert_eq!(install(&from, &mut to, &address).await, rest, "the first file was kept");
    });
}

#[test]
fn a_snapshot_that_is_cut_off_or_garbled_anywhere_changes_nothing_and_the_next_one_arrives() {
    let _turn = RECEIVING.lock().unwrap_or_else(PoisonError::into_inner);
    run(async {
        let (mut from, mut to) = (side(1), side(2));
        (0..200).for_each(|number| from.put(number, 100));
        from.flush();
        to.flush();
        let (peers, _) = Peers::new(vec![unreachable(1)], Arc::clone(&to.context.metrics));
        let address = to.listen(peers);

        let (outcome, whole_bytes) = transfer(&from, &address, Harm::None).await;
        assert!(outcome.unwrap() > 0, "it had none of the files");
        drop(to.staged().expect("it was handed over"));

        let step = whole_bytes / 40;
        let places = (0..whole_bytes).step_by(step).chain([1, 9, 44, whole_bytes - 1]);
        let harms = places.flat_map(|at| [Harm::CutAt(at), Harm::FlipAt(at)]);
        for harm in harms {
            to.forget_parts();
            let (outcome, _) = transfer(&from, &address, harm).await;
            // Bytes that nobody checks do not exist: every frame has a checksum.
            assert!(outcome.is_err(), "{harm:?}: confirmed");
            assert!(to.staged().is_none(), "{harm:?}: handed over");
        }

        let (outcome, _) = transfer(&from, &address, Harm::None).await;
        outcome.unwrap();
        let staged = to.staged().expect("it was handed over");
        to.store.install(&staged.manifest, &staged.dir).unwrap();
        drop(staged);
        assert_eq!(to.store.applied(), from.store.applied());
        assert_eq!(to.store.view().revision(), from.store.view().revision());
        for _ in 0..500 {
            if to.disk.list(Path::new(INCOMING)).unwrap().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("staged files are left: {:?}", to.disk.list(Path::new(INCOMING)));
    });
}

#[test]
fn a_snapshot_is_taken_in_the_name_of_a_member_and_of_nobody_else() {
    let _turn = RECEIVING.lock().unwrap_or_else(PoisonError::into_inner);
    run(async {
        let (from, to) = filled(50);
        let known = vec![unreachable(1), unreachable(9)];
        let (peers, _) = Peers::new(known, Arc::clone(&to.context.metrics));
        let peer = PeerAddress { id: 2, addresses: vec![to.listen(peers)] };
        let mark = from.store.applied();
        let nobody = announcement(8, mark);
        let error = snapshot::send::send(&from.context, &peer, &nobody).await;
        let error = error.expect_err("8 is no member").to_string();
        assert!(error.contains("a snapshot in the name of a member"), "{error}");
        let leader = announcement(9, mark);
        let ends_soon = async {
            // The turn of the one before is over only when its files are gone.
            while snapshot::send::send(&from.context, &peer, &leader).await.is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        timeout(PATIENCE, ends_soon).await.expect("9 is one");
        let handed_over = to.inbox.try_recv();
        let is_leaders = matches!(&handed_over, Ok(RaftInput::Snapshot { from: NodeId(9), .. }));
        assert!(is_leaders, "who is answered is the leader");

        // What is older than what is asked for, or lacks the receiver, is declined.
        let newer = Mark { index: mark.index + 1, ..mark };
        let send = |message: Message| {
            let (context, peer) = (Arc::clone(&from.context), peer.clone());
            async move { snapshot::send::send(&context, &peer, &message).await }
        };
        let error = send(announcement(9, newer)).await.expect_err("older");
        assert!(error.to_string().contains("a mark at or above"), "{error}");
        let stranger = Message { to: NodeId(7), ..announcement(9, mark) };
        let error = send(stranger).await.expect_err("it is no member");
        assert!(error.to_string().contains("a state in which 7 is a member"), "{error}");
    });
}

#[test]
fn a_file_without_content_arrives_without_a_piece() {
    run(async {
        let side = side(2);
        let parts = parts::Parts::new(&side.context.disk, Path::new(INCOMING));
        let empty = snapshot::offer::OfferedFile {
            name: "a0.kt".to_owned(),
            digest: xxhash_rust::xxh3::xxh3_128(b""),
            bytes: 0,
        };
        let lacking = [(7, empty)];
        let missing = parts.missing(&lacking).unwrap();
        let (mut near, far) = tokio::io::duplex(1 << 10);
        frame::write(&mut near, FrameKind::SnapshotEnd, b"all").await.unwrap();
        let mut far: stream::PeerStream = Box::new(far);
        let received = timeout(PATIENCE, parts.receive(&mut far, &missing)).await.unwrap();
        assert_eq!(received.unwrap().as_ref(), b"all");
        let staged = Path::new(INCOMING).join("0");
        side.disk.create_dir_all(&staged).unwrap();
        parts.hand_over(&lacking, &staged).unwrap();
        assert_eq!(side.disk.list(&staged).unwrap(), ["a0.kt"]);
    });
}
