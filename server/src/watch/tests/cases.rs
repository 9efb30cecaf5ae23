//! What goes wrong easily, one sentence each.

use std::path::Path;
use std::sync::Arc;

use varve_api::Code;
use varve_disk::Disk;
use varve_disk::sim::SimDisk;

use super::world::{World, delete, put, put_all, run, spec};
use crate::watch::batch::WatchEvent;
use crate::watch::hub::{IdTaken, WatchSpec};

#[test]
fn a_watcher_created_while_batches_wait_gets_neither_too_much_nor_too_little() {
    run(async {
        let mut world = World::new(1);
        world.put("a", "1");
        world.put("a", "2");
        // Nothing is delivered yet: the mailbox holds revisions 2 and 3.
        let stream = world.open();
        let now = world.watch(stream, None, 0, spec("a", "")).unwrap();
        let past = world.watch(stream, None, 2, spec("a", "")).unwrap();
        let last = world.watch(stream, None, 3, spec("a", "")).unwrap();
        tokio::task::yield_now().await;
        world.put("a", "3");
        world.settle().await;
        world.check();
        assert_eq!(world.received(stream, now), [4]);
        assert_eq!(world.received(stream, past), [2, 3, 4]);
        assert_eq!(world.received(stream, last), [3, 4]);
    });
}

#[test]
fn an_event_whose_previous_value_is_damaged_is_not_encoded_without_it() {
    let disk = Arc::new(SimDisk::new(1));
    let mut world = World::on(Arc::clone(&disk));
    world.put("a", &"x".repeat(4096));
    world.work();
    world.put("a", "2");
    world.work();
    let directory = Path::new("/engine");
    let names = disk.list(directory).unwrap();
    let segment = names.iter().find(|name| name.ends_with(".vs")).expect("values of 4 KiB");
    disk.flip_bit(&directory.join(segment), 2048, 0).unwrap();
    drop(world);

    let world = World::on(disk);
    let view = world.store.view();
    let mut history = view.history(&"a".into(), &"".into(), 3, 3).unwrap();
    let event = WatchEvent::new(history.next().expect("the second put").unwrap());
    for _ in 0..2 {
        let status = event.encoded_with_previous(&view).expect_err("it was there");
        assert_eq!(status.code, Code::DataLoss, "{status:?}");
    }
}

#[test]
fn a_watcher_of_the_future_gets_nothing_before_it_whatever_happens() {
    run(async {
        let mut world = World::new(1);
        let stream = world.open();
        let wish = WatchSpec { progress_notify: true, ..spec("a", "") };
        let soon = world.watch(stream, None, 6, wish.clone()).unwrap();
        let never = world.watch(stream, None, i64::MAX, wish).unwrap();
        // As after a snapshot was installed, or when events were lost.
        world.post_resync();
        world.settle().await;
        for value in ["2", "3", "4", "5", "6", "7"] {
            world.hub.notify_progress();
            world.request_progress(stream);
            world.put("a", value);
            world.post_resync();
            world.settle().await;
        }
        world.check();
        assert_eq!(world.received(stream, soon), [6, 7]);
        assert_eq!(world.received(stream, never), [0_i64; 0]);
        assert_eq!(world.streams[stream].client.watchers[&never].progress, [0_i64; 0]);
    });
}

#[test]
fn progress_is_told_when_it_is_reached_and_not_before() {
    run(async {
        let mut world = World::new(1);
        let stream = world.open();
        world.watch(stream, None, 0, spec("a", "")).unwrap();
        world.put("b", "1");
        // The client knows of revision 2 and asks before this thread has heard of it.
        world.request_progress(stream);
        while world.read(stream) {}
        assert_eq!(world.streams[stream].client.progress, [0_i64; 0]);
        world.settle().await;
        assert_eq!(world.streams[stream].client.progress, [2]);
        // Told once, not whenever something happens.
        world.put("b", "2");
        world.settle().await;
        assert_eq!(world.streams[stream].client.progress, [2]);
    });
}

#[test]
fn an_idle_watcher_is_told_its_progress_from_the_first_interval_on() {
    run(async {
        let mut world = World::new(1);
        let stream = world.open();
        let wish = WatchSpec { progress_notify: true, ..spec("a", "") };
        let idle = world.watch(stream, None, 0, wish).unwrap();
        world.settle().await;
        world.hub.notify_progress();
        world.settle().await;
        assert_eq!(world.streams[stream].client.watchers[&idle].progress, [1]);
        // What it got in the interval tells as much.
        world.put("a", "1");
        world.settle().await;
        for expected in [&[1_i64][..], &[1, 2]] {
            world.hub.notify_progress();
            world.settle().await;
            assert_eq!(world.streams[stream].client.watchers[&idle].progress, expected);
        }
    });
}

#[test]
fn a_stream_without_watchers_has_no_progress() {
    run(async {
        let mut world = World::new(1);
        let stream = world.open();
        world.request_progress(stream);
        world.settle().await;
        assert_eq!(world.streams[stream].client.progress, [0_i64; 0]);
    });
}

#[test]
fn watchers_of_one_batch_share_bytes_only_if_they_want_the_same_pieces() {
    run(async {
        let mut world = World::new(1);
        let pairs: Vec<_> = (0..8).map(|number| (vec![b'a' + number], vec![b'v'; 200])).collect();
        let fragmented = WatchSpec { fragment: true, ..spec("a", "z") };
        // Both orders, each on streams of their own so that their ids are the same.
        let mut watchers = Vec::new();
        for wish in [spec("a", "z"), fragmented.clone(), fragmented, spec("a", "z")] {
            let stream = world.open();
            watchers.push((stream, world.watch(stream, None, 0, wish).unwrap()));
        }
        world.apply(&[put_all(&pairs)], true);
        // The clients check sizes and flags.
        world.settle().await;
        world.check();
        for (stream, id) in watchers {
            assert_eq!(world.received(stream, id), [2; 8]);
        }
    });
}

#[test]
fn a_client_that_reads_nothing_costs_a_bounded_amount_and_others_nothing() {
    run(async {
        let mut world = World::new(1);
        let slow = world.open();
        let quick = world.open();
        let of_slow = world.watch(slow, None, 0, spec("a", "")).unwrap();
        let of_quick = world.watch(quick, None, 0, spec("a", "")).unwrap();
        for _ in 0..200 {
            world.put("a", &"v".repeat(500));
            world.deliver(1);
            tokio::task::yield_now().await;
            while world.read(quick) {}
            let buffered = world.streams[slow].client.outgoing.buffered_bytes();
            assert!(buffered < 3_000, "{buffered} bytes wait for a client that reads nothing");
        }
        assert_eq!(world.received(quick, of_quick).len(), 200);
        assert_eq!(world.received(slow, of_slow), [0_i64; 0]);
        world.settle().await;
        world.check();
        assert_eq!(world.received(slow, of_slow).len(), 200);
    });
}

#[test]
fn the_word_created_is_first_and_canceled_is_last_though_the_stream_is_full() {
    run(async {
        let mut world = World::new(1);
        let stream = world.open();
        let first = world.watch(stream, None, 0, spec("a", "")).unwrap();
        for _ in 0..20 {
            world.put("a", &"v".repeat(500));
            world.deliver(1);
        }
        // The client checks the order.
        let second = world.watch(stream, None, 2, spec("a", "")).unwrap();
        world.cancel(stream, first);
        world.put("a", "last");
        world.settle().await;
        world.check();
        assert!(world.streams[stream].client.watchers[&first].has_ended);
        assert_eq!(world.received(stream, second).len(), 21);
    });
}

#[test]
fn a_large_event_waits_for_room_without_reading_history_again_and_again() {
    run(async {
        let mut world = World::new(1);
        let stream = world.open();
        world.put("a", &"v".repeat(900));
        world.put("a", &"w".repeat(1_900));
        world.deliver(usize::MAX);
        let id = world.watch(stream, None, 2, spec("a", "")).unwrap();
        // Up to half of the bound is queued now, and the next piece is larger than the rest.
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        let polls = world.streams[stream].polls.get();
        assert!(polls < 10, "{polls} attempts while the client reads nothing");
        world.settle().await;
        world.check();
        assert_eq!(world.received(stream, id), [2, 3]);
    });
}

#[test]
fn a_compaction_ends_only_watchers_whose_past_is_gone() {
    run(async {
        let mut world = World::new(1);
        for value in ["1", "2", "3", "4"] {
            world.put("a", value);
        }
        world.delete("a", "");
        let revision = world.revision();
        world.compact(revision);
        let stream = world.open();
        assert_eq!(world.compacted(), revision);
        let gone = world.watch(stream, None, revision - 1, spec("a", "")).unwrap();
        let kept = world.watch(stream, None, revision, spec("a", "")).unwrap();
        world.settle().await;
        world.check();
        assert_eq!(world.streams[stream].client.watchers[&gone].compacted, Some(revision));
        assert_eq!(world.received(stream, kept), [revision], "the deletion at the revision itself");
    });
}

#[test]
fn an_id_is_taken_while_its_watcher_lives_and_free_afterwards() {
    run(async {
        let mut world = World::new(1);
        let stream = world.open();
        assert_eq!(world.watch(stream, None, 0, spec("a", "")), Ok(0));
        assert_eq!(world.watch(stream, Some(1), 0, spec("a", "")), Ok(1));
        assert_eq!(world.watch(stream, Some(1), 0, spec("a", "")), Err(IdTaken));
        assert_eq!(world.watch(stream, None, 0, spec("a", "")), Ok(2));
        world.settle().await;
        world.cancel(stream, 1);
        world.settle().await;
        assert_eq!(world.watch(stream, Some(1), 0, spec("a", "")), Ok(1));
        world.put("a", "seen");
        world.settle().await;
        world.check();
        assert_eq!(world.received(stream, 1), [2]);
    });
}

#[test]
fn a_closed_stream_leaves_nothing_behind() {
    run(async {
        let mut world = World::new(1);
        for _ in 0..3 {
            let stream = world.open();
            for range in ["", "z"] {
                world.watch(stream, None, 0, spec("a", range)).unwrap();
                world.watch(stream, None, 1, spec("a", range)).unwrap();
            }
            world.request_progress(stream);
        }
        assert_eq!(world.hub.counts(), (12, 3, 6));
        world.streams.clear();
        tokio::task::yield_now().await;
        assert_eq!(world.hub.counts(), (0, 0, 0));
        world.apply(&[put(b"a", b"1"), delete(b"a", b"")], true);
        world.deliver(1);
    });
}
