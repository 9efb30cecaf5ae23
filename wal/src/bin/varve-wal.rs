//! The program `varve-wal`: checks a log that is not in use, or prints what is in it.
//!
//! ```text
//! varve-wal check DIR
//! varve-wal dump DIR [--from INDEX] [--limit N]
//! ```
//!
//! `DIR` is a log's directory, or a server's data directory, of which the log is looked at. Both
//! commands read and verify every byte that means something and change nothing, not even a torn
//! tail. `dump` prints each frame and record on the way: with `--from`, no entry before INDEX (and
//! no frame in which there is none from there on); with `--limit`, no more than N entries.
//!
//! Exit codes: 0 sound; 1 damaged, each finding is a line with file, offset, what was expected and
//! what was found; 2 could not look (wrong arguments, no log there, in use, written by a newer
//! program, an error of the disk).
//!
//! What it does not do: it repairs nothing, and cannot know whether the newest entries that once
//! were appended are still there.

use std::ffi::OsString;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use varve_disk::os::OsDisk;
use varve_disk::{Disk, LOCK_FILE_NAME};
use varve_wal::{Item, Report, inspect};

const DAMAGED: u8 = 1;
const COULD_NOT_LOOK: u8 = 2;

const USAGE: &str = "usage: varve-wal check DIR
       varve-wal dump DIR [--from INDEX] [--limit N]
DIR: a server's data directory, or the directory of a log";

/// Bytes of a payload that are printed.
const PREVIEW_BYTES: usize = 48;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match Command::parse(&arguments).and_then(|command| command.run()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(COULD_NOT_LOOK)
        }
    }
}

/// What is asked for.
struct Command {
    dir: PathBuf,
    dump: Option<Dump>,
}

/// Which part of a log is printed, and how much of it was.
struct Dump {
    from: u64,
    /// Entries that may still be printed.
    left: u64,
    /// What was seen of a frame of which no entry was printed yet.
    waiting: String,
    /// The output is closed, or another write to it failed: nothing more is printed.
    failed: Option<io::Error>,
}

impl Command {
    fn parse(arguments: &[OsString]) -> Result<Self, String> {
        let wrong = |what: String| format!("{what}\n{USAGE}");
        let [name, dir, rest @ ..] = arguments else {
            return Err(wrong("expected a command and a directory".to_owned()));
        };
        let dir = PathBuf::from(dir);
        let name = name.to_string_lossy();
        if name == "check" && rest.is_empty() {
            return Ok(Self { dir, dump: None });
        }
        if name != "dump" {
            let found = if name == "check" { rest[0].to_string_lossy() } else { name };
            return Err(wrong(format!("expected `check DIR` or `dump DIR`, found {found:?}")));
        }
        let mut dump = Dump { from: 0, left: u64::MAX, waiting: String::new(), failed: None };
        for option in rest.chunks(2) {
            let flag = option[0].to_string_lossy();
            let target = match flag.as_ref() {
                "--from" => &mut dump.from,
                "--limit" => &mut dump.left,
                _ => return Err(wrong(format!("expected --from or --limit, found {flag:?}"))),
            };
            let value = option.get(1).map(|value| value.to_string_lossy()).unwrap_or_default();
            *target = value
                .parse()
                .map_err(|_| wrong(format!("expected a number behind {flag}, found {value:?}")))?;
        }
        Ok(Self { dir, dump: Some(dump) })
    }

    fn run(self) -> Result<ExitCode, String> {
        let disk = OsDisk::new();
        let could_not = |error: &dyn std::fmt::Display| format!("could not look: {error}");
        let below = self.dir.join("member").join("log");
        let log = if disk.exists(&below).unwrap_or(false) { below } else { self.dir };
        let _lock = lock(&disk, &log)?;
        let names = disk.list(&log).map_err(|error| could_not(&error))?;
        if !names.iter().any(|name| name.ends_with(".wal")) {
            return Err(format!(
                "could not look: {} is not a log: expected segments (*.wal), found none",
                log.display()
            ));
        }
        let mut dump = self.dump;
        let report = inspect(&disk, &log, None, &mut |item| {
            if let Some(dump) = &mut dump {
                dump.see(&item);
            }
        });
        let report = report.map_err(|error| could_not(&error))?;
        if let Some(error) = dump.and_then(|dump| dump.failed) {
            return Err(format!("cannot print: {error}"));
        }
        print(&report).map_err(|error| format!("cannot print: {error}"))
    }
}

/// The lock of the server whose log this is, where one left its lock file. A log that a server
/// writes to would look damaged now and then.
fn lock(disk: &OsDisk, log: &Path) -> Result<Option<Box<dyn varve_disk::DirLock>>, String> {
    let Some(root) = log.parent().and_then(Path::parent) else { return Ok(None) };
    if !log.ends_with("member/log") || !disk.exists(&root.join(LOCK_FILE_NAME)).unwrap_or(false) {
        return Ok(None);
    }
    match disk.lock(root) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Err(format!("could not look: {} is in use; stop the server first", root.display()))
        }
        // On a file system that cannot be written to, nobody writes.
        Err(_) => Ok(None),
    }
}

impl Dump {
    fn see(&mut self, item: &Item<'_>) {
        if self.failed.is_none() {
            self.failed = self.show(item).err();
        }
    }

    fn show(&mut self, item: &Item<'_>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let line = match *item {
            Item::Segment { path, generation, first_sequence, segment_bytes, block_bytes } => {
                return writeln!(
                    out,
                    "{}: {segment_bytes} bytes, blocks of {block_bytes}, generation {generation}, \
                     from frame {first_sequence}",
                    path.display()
                );
            }
            Item::Frame { offset, sequence, records, stored_bytes, is_compressed } => {
                let coding = if is_compressed { ", compressed" } else { "" };
                let records = format!("{records} records, {stored_bytes} bytes{coding}");
                self.waiting = format!("  frame {sequence} at {offset}: {records}\n");
                return Ok(());
            }
            Item::Entry { index, payload } => {
                if index < self.from || self.left == 0 {
                    return Ok(());
                }
                self.left -= 1;
                format!("entry {index}: {}", preview(payload))
            }
            Item::State { payload } => format!("state: {}", preview(payload)),
            Item::Reset { next_index } => format!("reset: next {next_index}"),
            Item::Base { first_index, next_index } => {
                format!("base: first {first_index}, next {next_index}")
            }
        };
        self.waiting += &format!("    {line}\n");
        // Beside entries, all is printed from which nothing was cut.
        let is_due = matches!(item, Item::Entry { .. }) || (self.from == 0 && self.left > 0);
        if is_due { out.write_all(std::mem::take(&mut self.waiting).as_bytes()) } else { Ok(()) }
    }
}

/// Length and first bytes of a payload.
fn preview(payload: &[u8]) -> String {
    let shown = payload[..payload.len().min(PREVIEW_BYTES)].escape_ascii();
    let more = if payload.len() > PREVIEW_BYTES { "..." } else { "" };
    format!("{} bytes \"{shown}\"{more}", payload.len())
}

fn print(report: &Report) -> io::Result<ExitCode> {
    let mut out = io::stdout().lock();
    let identity: String = report.identity.iter().map(|byte| format!("{byte:02x}")).collect();
    writeln!(
        out,
        "log {identity}: {} segments, {} frames, {} records, entries {} to {}",
        report.segments, report.frames, report.records, report.first_index, report.last_index
    )?;
    if report.is_newer {
        for violation in &report.violations {
            writeln!(out, "could not look: {violation}")?;
        }
        return Ok(ExitCode::from(COULD_NOT_LOOK));
    }
    if report.stale_tail {
        writeln!(
            out,
            "bytes behind the last frame: a write that a crash cut short, or what a recycled file \
             held; not damage, the next start overwrites them"
        )?;
    }
    for violation in &report.violations {
        writeln!(out, "damaged: {violation}")?;
    }
    if report.violations.is_empty() {
        writeln!(out, "sound")?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::from(DAMAGED))
}
