//! Scenarios as text: each file in `tests/scripts/` is a story, named by what it shows.
//!
//! A line that begins with `> ` is a command; what it printed stands below it. `#` begins a comment.
//! `VARVE_BLESS=1 cargo test -p varve-wal script` writes what is printed now; read the difference.
//!
//! | command | does |
//! | --- | --- |
//! | `open [identity=N] [segment=BYTES]` | opens the log, in a new process; prints what it holds |
//! | `append [reset=N] [INDEX=TEXT or INDEX=TEXT*TIMES]... [state=TEXT]` | appends a batch |
//! | `truncate INDEX` | forgets entries up to the index |
//! | `status` | first and last index, state, and files |
//! | `entries LOW HIGH [BYTES]` | reads entries |
//! | `check` | the checker's report |
//! | `crash all/nothing/names/data` | power is lost; what was not synced is kept, lost, or in part |
//! | `power_out_after N` | power is lost before the Nth changing operation from now |
//! | `fail KIND` | the next `write`, `sync`, `rename`, `sync_dir`, `create` or `read` fails |
//! | `flip FILE BYTE` / `zero FILE FROM TO` / `cut FILE LENGTH` | damages a file |
//! | `copy FILE FROM TO LENGTH` | copies bytes within a file |
//! | `remove FILE` / `rename FILE NAME` | what an administrator does by mistake |

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use varve_disk::sim::{CrashStyle, Fault, FaultRule, OperationKind, SimDisk};
use varve_wal::{Batch, Options, Wal, check};

use crate::model::DIR;

#[test]
fn scripts_print_what_they_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let entries = std::fs::read_dir(&dir).unwrap();
    let mut paths = entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    paths.sort();
    assert!(paths.len() > 10, "{} scripts in {}", paths.len(), dir.display());
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        let printed = run(&text);
        if std::env::var_os("VARVE_BLESS").is_some() {
            std::fs::write(&path, &printed).unwrap();
        } else {
            assert_eq!(printed, text, "{}", path.display());
        }
    }
}

/// Runs a script; the result is the script with what its commands print now.
fn run(text: &str) -> String {
    let mut stage = Stage::new();
    let mut out = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let printed = stage.command(command);
            let _ = writeln!(out, "{line}\n{}", printed.trim_end());
        } else if line.starts_with('#') || line.is_empty() {
            let _ = writeln!(out, "{line}");
        }
    }
    out
}

/// The disk and the process that has the log open, if one has.
struct Stage {
    disk: SimDisk,
    wal: Option<Wal>,
}

impl Stage {
    fn new() -> Self {
        Self { disk: SimDisk::new(1), wal: None }
    }

    fn command(&mut self, line: &str) -> String {
        let mut words = line.split_whitespace();
        let command = words.next().expect("a command has a name");
        let arguments = words.collect::<Vec<_>>();
        match command {
            "open" => self.open(&arguments),
            "append" => {
                let result = self.wal().append(&batch(&arguments));
                result.map_or_else(|error| format!("error: {error}"), |()| "ok".to_owned())
            }
            "truncate" => {
                let result = self.wal().truncate_front(number(arguments[0]));
                result.map_or_else(|error| format!("error: {error}"), |()| "ok".to_owned())
            }
            "status" => self.status(),
            "entries" => self.entries(&arguments),
            "check" => self.check(),
            "crash" => self.crash(arguments[0]),
            "power_out_after" => {
                let stop = self.disk.operations() + number(arguments[0]);
                self.disk.stop_at_operation(stop);
                "ok".to_owned()
            }
            "fail" => self.fail(arguments[0]),
            _ => self.meddle(command, &arguments),
        }
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("the script opened the log")
    }

    fn open(&mut self, arguments: &[&str]) -> String {
        let identity = option(arguments, "identity").unwrap_or(1) as u8;
        let segment_bytes = option(arguments, "segment").unwrap_or(8 << 10);
        let options = Options {
            identity: [identity; 16],
            segment_bytes,
            cache_bytes_max: 1000,
            ..Options::default()
        };
        let disk = Arc::new(self.disk.clone());
        self.wal = None;
        match Wal::open_with_block_bytes(disk, Path::new(DIR), options, 512) {
            Ok(wal) => {
                self.wal = Some(wal);
                self.status()
            }
            Err(error) => format!("error: {error}"),
        }
    }

    fn status(&mut self) -> String {
        let wal = self.wal();
        let state = wal.state().map(|state| String::from_utf8_lossy(state).into_owned());
        let state = state.unwrap_or_else(|| "none".to_owned());
        let (first, last) = (wal.first_index(), wal.last_index());
        let names = self.disk.current_files().into_keys();
        let names = names.map(|path| name_of(&path)).collect::<Vec<_>>();
        format!("first {first} last {last} state {state} files {}", names.join(" "))
    }

    fn entries(&mut self, arguments: &[&str]) -> String {
        let bytes_max = arguments.get(2).map_or(u64::MAX, |word| number(word));
        match self.wal().entries(number(arguments[0]), number(arguments[1]), bytes_max) {
            Ok(entries) if entries.is_empty() => "none".to_owned(),
            Ok(entries) => entries.iter().map(shortened).collect::<Vec<_>>().join(" "),
            Err(error) => format!("error: {error}"),
        }
    }

    fn check(&self) -> String {
        let report = check(&self.disk, Path::new(DIR), &[1; 16]).expect("the disk works");
        let mut out = format!(
            "{} segments, {} frames, {} records, entries {} to {}{}\n",
            report.segments,
            report.frames,
            report.records,
            report.first_index,
            report.last_index,
            if report.stale_tail { ", stale tail" } else { "" },
        );
        for violation in report.violations {
            let _ = writeln!(out, "{violation}");
        }
        out
    }

    fn crash(&mut self, what_is_kept: &str) -> String {
        self.wal = None;
        self.disk = self.disk.crash_with(match what_is_kept {
            "all" => CrashStyle::KeepAll,
            "nothing" => CrashStyle::LoseAll,
            "names" => CrashStyle::KeepNames,
            "data" => CrashStyle::KeepData,
            other => panic!("crash {other}"),
        });
        "ok".to_owned()
    }

    fn fail(&mut self, kind: &str) -> String {
        let kind = match kind {
            "write" => OperationKind::Write,
            "sync" => OperationKind::Sync,
            "rename" => OperationKind::Rename,
            "sync_dir" => OperationKind::SyncDir,
            "create" => OperationKind::Create,
            "read" => OperationKind::Read,
            other => panic!("fail {other}"),
        };
        self.disk.inject(FaultRule::new(Fault::Io).on(kind));
        "ok".to_owned()
    }

    /// Changes a file behind the log's back; the process that had the log open is gone.
    fn meddle(&mut self, command: &str, arguments: &[&str]) -> String {
        self.wal = None;
        let mut files: BTreeMap<PathBuf, Vec<u8>> = self.disk.current_files();
        let path = Path::new(DIR).join(arguments[0]);
        let mut bytes = files.remove(&path).expect("the file exists");
        let at = |position: usize| number(arguments[position]) as usize;
        let mut name = arguments[0];
        match command {
            "flip" => bytes[at(1)] ^= 1,
            "zero" => bytes[at(1)..at(2)].fill(0),
            "cut" => bytes.truncate(at(1)),
            "copy" => bytes.copy_within(at(1)..at(1) + at(3), at(2)),
            "rename" => name = arguments[1],
            "remove" => name = "",
            other => panic!("unknown command {other}"),
        }
        if !name.is_empty() {
            files.insert(Path::new(DIR).join(name), bytes);
        }
        self.disk = SimDisk::from_files(1, &files).expect("the files are valid");
        "ok".to_owned()
    }
}

fn batch(arguments: &[&str]) -> Batch {
    let mut batch = Batch::default();
    for argument in arguments {
        let (key, value) = argument.split_once('=').expect("arguments are key=value");
        match key {
            "reset" => batch.reset(number(value)),
            "state" => batch.state(Bytes::copy_from_slice(value.as_bytes())),
            index => batch.entry(number(index), payload(value)),
        }
    }
    batch
}

fn payload(text: &str) -> Bytes {
    match text.split_once('*') {
        Some((text, times)) => Bytes::from(text.repeat(number(times) as usize)),
        None => Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn shortened(bytes: &Bytes) -> String {
    let text = String::from_utf8_lossy(bytes);
    if text.len() <= 20 { text.into_owned() } else { format!("{}..({})", &text[..8], text.len()) }
}

fn option(arguments: &[&str], name: &str) -> Option<u64> {
    arguments.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')).map(number)
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
