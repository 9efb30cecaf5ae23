//! Used segments are used again: a log that is cut now and then fills no file with zeros any more.

use std::path::Path;

use varve_disk::sim::{Fault, FaultRule, OperationKind, SimDisk};
use varve_wal::check;

use crate::model::{DIR, IDENTITY, Shape, next_batch, to_batch};

const SHAPE: Shape = Shape { segment_bytes: 16 << 10, block_bytes: 4096, compress_bytes_min: None };
/// Frames of one block that a segment holds behind its header.
const FRAMES_OF_A_SEGMENT: u64 = 3;

#[test]
fn a_log_that_is_cut_now_and_then_fills_nothing_any_more() {
    // Cut often, and rarely and far: as many segments come back at once.
    for segments_a_cut in [1, 2, 8] {
        let disk = SimDisk::new(1);
        let mut wal = SHAPE.open(&disk).unwrap();
        for round in 0..6 {
            if round == 2 {
                let filled = FaultRule::new(Fault::Io).on(OperationKind::Create).always();
                disk.inject(filled);
            }
            for _ in 0..segments_a_cut * FRAMES_OF_A_SEGMENT {
                wal.append(&to_batch(&next_batch(&wal)))
                    .unwrap_or_else(|error| panic!("round {round} of {segments_a_cut}: {error}"));
            }
            wal.truncate_front(wal.last_index() - 1).unwrap();
        }
        disk.clear_faults();
        drop(wal);
        let wal = SHAPE.open(&disk).unwrap();
        assert_eq!(wal.last_index(), 6 * segments_a_cut * FRAMES_OF_A_SEGMENT);
        let report = check(&disk, Path::new(DIR), &IDENTITY).unwrap();
        assert_eq!(report.violations, Vec::<String>::new());
    }
}

#[test]
fn spares_take_no_more_than_eight_segments() {
    let disk = SimDisk::new(1);
    let mut wal = SHAPE.open(&disk).unwrap();
    for _ in 0..20 * FRAMES_OF_A_SEGMENT {
        wal.append(&to_batch(&next_batch(&wal))).unwrap();
    }
    assert!(wal.disk_bytes() >= 20 * SHAPE.segment_bytes);
    wal.truncate_front(wal.last_index()).unwrap();
    assert!(wal.disk_bytes() <= 10 * SHAPE.segment_bytes, "{}", wal.disk_bytes());
}
