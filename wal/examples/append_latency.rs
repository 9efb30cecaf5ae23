//! How long an append takes by each backend, beside the floor: a bare loop of writes to a file
//! that was opened with `O_DIRECT` and `O_DSYNC`.
//!
//! `cargo run --release -p varve-wal --example append_latency -- <directory> [<rounds>]`
//!
//! On a busy machine, run what was built with `chrt -f 10` before it.
//!
//! One idea: everything takes turns, one append each, so that whatever else the machine does meets
//! all of them alike. It prints the minimum and percentiles in microseconds; on a busy machine the
//! minimum and the median say the most.
//!
//! What it does not do: it does not find out what many appenders at once get (that is one frame
//! for all of them), and what a device does after hours of writing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use varve_disk::os::OsDisk;
use varve_wal::{Backend, BackendChoice, Batch, Options, Wal};

/// Bytes of an entry. With headers they make frames of 1, 2, 17 and 65 blocks.
const PAYLOADS: [usize; 4] = [256, 4 << 10, 64 << 10, 256 << 10];
const FLOOR_FILE_BYTES: usize = 64 << 20;
const BLOCK_BYTES: usize = 4096;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let parent = arguments.next().expect("the first argument is a directory");
    let rounds = arguments.next().map_or(2000, |text| text.parse().expect("a number of rounds"));
    let home = tempfile::tempdir_in(parent).expect("the directory can be written to");
    println!("{:>8} {:<16} {:>8} {:>8} {:>8} {:>8}", "bytes", "", "min", "p50", "p90", "p99");
    for payload_bytes in PAYLOADS {
        let mut contestants = contestants(home.path(), payload_bytes);
        // The first turns allocate and fill what later ones overwrite.
        for round in 0..rounds + 20 {
            // Another one begins each time: who follows whom matters to a device.
            contestants.rotate_left(round % 2 + 1);
            for contestant in &mut contestants {
                let took = contestant.turn();
                if round >= 20 {
                    contestant.times.push(took);
                }
            }
        }
        contestants.sort_by(|one, other| one.name.cmp(&other.name));
        for contestant in &mut contestants {
            contestant.print(payload_bytes);
        }
    }
    let options = Options { backend: BackendChoice::Auto, ..Options::default() };
    let wal = Wal::open(Arc::new(OsDisk::new()), &home.path().join("auto"), options);
    let wal = wal.expect("the log opens");
    let probe = wal.probe().expect("a real disk has a choice");
    println!("probe in {:?}: {probe}\nchosen: {}", probe.elapsed, wal.backend());
}

struct Contestant {
    name: String,
    step: Box<dyn FnMut()>,
    times: Vec<Duration>,
}

impl Contestant {
    fn turn(&mut self) -> Duration {
        let began = Instant::now();
        (self.step)();
        began.elapsed()
    }

    fn print(&mut self, payload_bytes: usize) {
        self.times.sort_unstable();
        let at = |permille: usize| {
            self.times[(self.times.len() - 1) * permille / 1000].as_nanos() as f64 / 1000.0
        };
        let (name, min, p50, p90, p99) = (&self.name, at(0), at(500), at(900), at(990));
        println!("{payload_bytes:>8} {name:<16} {min:>8.1} {p50:>8.1} {p90:>8.1} {p99:>8.1}");
    }
}

fn contestants(home: &Path, payload_bytes: usize) -> Vec<Contestant> {
    let mut contestants = Vec::new();
    let floor = home.join(format!("floor-{payload_bytes}"));
    contestants.push(Contestant {
        name: "O_DSYNC".to_owned(),
        step: Box::new(floor_loop(&floor, payload_bytes)),
        times: Vec::new(),
    });
    for backend in Backend::ALL {
        let dir = home.join(format!("{backend}-{payload_bytes}"));
        let choice = BackendChoice::Only(backend);
        let options = Options { backend: choice, cache_bytes_max: 1 << 20, ..Options::default() };
        match Wal::open(Arc::new(OsDisk::new()), &dir, options) {
            Ok(wal) => contestants.push(contestant(backend.to_string(), wal, payload_bytes)),
            Err(error) => println!("{backend}: {error}"),
        }
    }
    let options = Options {
        backend: BackendChoice::Only(Backend::BufferedDsync),
        cache_bytes_max: 1 << 20,
        compress_bytes_min: Some(4096),
        ..Options::default()
    };
    let dir = home.join(format!("zstd-{payload_bytes}"));
    let wal = Wal::open(Arc::new(OsDisk::new()), &dir, options).expect("the log opens");
    contestants.push(contestant("buffered + zstd".to_owned(), wal, payload_bytes));
    contestants
}

fn contestant(name: String, wal: Wal, payload_bytes: usize) -> Contestant {
    Contestant { name, step: Box::new(appends(wal, payload_bytes)), times: Vec::new() }
}

/// Text such as a control plane stores: names and numbers that differ, words that do not. zstd
/// makes about a fourth of it.
fn text(payload_bytes: usize) -> Bytes {
    let mut text = String::new();
    let mut number = 1u64;
    while text.len() < payload_bytes {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text += &format!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"web-{:x}\",\
             \"uid\":\"{number:016x}\",\"resourceVersion\":\"{}\"}},\"spec\":{{\"nodeName\":\
             \"node-{}\",\"restartPolicy\":\"Always\"}},\"status\":{{\"phase\":\"Running\"}}}},",
            number >> 44,
            number >> 40,
            number >> 58,
        );
    }
    text.truncate(payload_bytes);
    Bytes::from(text)
}

fn appends(mut wal: Wal, payload_bytes: usize) -> impl FnMut() {
    let payload = text(payload_bytes);
    let mut index = 0;
    move || {
        index += 1;
        let mut batch = Batch::default();
        batch.entry(index, payload.clone());
        wal.append(&batch).expect("the disk works");
        if index % 64 == 0 {
            // So that files are used again, as in a server.
            wal.truncate_front(index - 32).expect("the disk works");
        }
    }
}

/// Overwrites a file in blocks, as many as the frame of such an entry has.
fn floor_loop(path: &Path, payload_bytes: usize) -> impl FnMut() + use<> {
    let length = (payload_bytes + 100).next_multiple_of(BLOCK_BYTES);
    let open = |flags| -> File {
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).custom_flags(flags);
        options.open(path).expect("the directory can be written to, and directly")
    };
    let filler = open(0);
    filler.write_all_at(&vec![0; FLOOR_FILE_BYTES], 0).expect("the disk works");
    filler.sync_all().expect("the disk works");
    let file = open(libc::O_DIRECT | libc::O_DSYNC);
    let memory = vec![7; length + BLOCK_BYTES];
    let start = memory.as_ptr().align_offset(BLOCK_BYTES);
    let mut offset = 0;
    move || {
        if offset + length > FLOOR_FILE_BYTES {
            offset = 0;
        }
        let data = &memory[start..start + length];
        file.write_all_at(data, offset as u64).expect("the disk works");
        offset += length;
    }
}
