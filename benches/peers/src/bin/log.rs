//! Measures varve's log beside others and beside the floor: see `log/mod.rs`.
//!
//! ```text
//! log [CONTESTANT...]              whose name contains one of these words; none: all
//!     [--dir target/peers-log]     where data go; a disk, not tmpfs
//!     [--seconds 3]                for each cell; a seventh of it is warm-up
//!     [--record-bytes 256,4096] [--appenders 1,16,64,256] [--batch 256]    (--batch 0: none)
//!     [--json FILE] [--plots DIRECTORY]     (log.svg in it)
//! ```
//!
//! Tables go to standard output as Markdown, progress to standard error. Contestants take turns:
//! for each size of records and each load, all of them, one after the other, on logs that stay open
//! and were filled with 200 MiB before.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;
use varve_benches::arguments::Arguments;
use varve_disk::Disk;
use varve_disk::os::OsDisk;
use varve_peers::log::measure::{Load, age, measure};
use varve_peers::log::report::{Report, Row};
use varve_peers::log::{self, APPENDERS_MAX, Log};
use varve_peers::machine::{Machine, file_system_of, version_of};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A mistake on the command line.
const EXIT_USAGE: u8 = 2;
/// Fewer free bytes are not enough: the contestants have some hundred MiB of files each.
const SPACE_BYTES_MIN: u64 = 6 << 30;

struct Plan {
    names: Vec<String>,
    directory: PathBuf,
    time: Duration,
    record_bytes: Vec<usize>,
    loads: Vec<Load>,
    json: Option<PathBuf>,
    plots: Option<PathBuf>,
}

fn main() -> ExitCode {
    let plan = match parse() {
        Ok(plan) => plan,
        Err(message) => {
            eprintln!("log: {message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match run(&plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("log: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Plan, String> {
    let mut arguments = Arguments::of_process()?;
    let words = arguments.words().to_vec();
    let mut names = log::names();
    if let Some(word) = words.iter().find(|word| !names.iter().any(|name| name.contains(*word))) {
        return Err(format!("no contestant has {word} in its name: {}", names.join(", ")));
    }
    names.retain(|name| words.is_empty() || words.iter().any(|word| name.contains(word)));
    let directory: PathBuf = arguments.value("dir", "target/peers-log".to_owned())?.into();
    let seconds = arguments.value("seconds", 3.0)?;
    let appenders = arguments.list("appenders", vec![1usize, 16, 64, 256])?;
    if let Some(count) = appenders.iter().find(|count| !(1..=APPENDERS_MAX).contains(*count)) {
        return Err(format!("--appenders: expected 1 to {APPENDERS_MAX}, found {count}"));
    }
    let mut loads: Vec<Load> = appenders.into_iter().map(Load::Appenders).collect();
    match arguments.value("batch", 256)? {
        0 => {}
        records @ 1..=APPENDERS_MAX => loads.push(Load::Batch(records)),
        records => return Err(format!("--batch: at most {APPENDERS_MAX}, found {records}")),
    }
    let plan = Plan {
        names,
        directory,
        time: Duration::try_from_secs_f64(seconds)
            .map_err(|error| format!("--seconds: {error}"))?,
        record_bytes: arguments.list("record-bytes", vec![256, 4096])?,
        loads,
        json: arguments.optional::<String>("json")?.map(PathBuf::from),
        plots: arguments.optional::<String>("plots")?.map(PathBuf::from),
    };
    if let Some(bytes) = plan.record_bytes.iter().find(|bytes| !(1..=4096).contains(*bytes)) {
        return Err(format!("--record-bytes: expected 1 to 4096, found {bytes}"));
    }
    arguments.finish()?;
    Ok(plan)
}

fn run(plan: &Plan) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", plan.directory.display());
    std::fs::create_dir_all(&plan.directory).map_err(fail)?;
    // Removed with all that is in it at the end.
    let home = tempfile::tempdir_in(&plan.directory).map_err(fail)?;
    check_place(home.path())?;
    let mut machine = Machine::now(home.path());
    for peer in ["raft-engine", "okaywal"] {
        machine.fact(peer, version_of(peer));
    }
    println!("## Logs, {:?} a row\n\n{}", plan.time, machine.markdown());
    let mut logs: Vec<(&str, PathBuf, Box<dyn Log>)> = Vec::new();
    for name in &plan.names {
        let directory = home.path().join(name);
        match log::open(name, &directory) {
            Ok(log) => {
                eprintln!("filling: {name}");
                age(&*log);
                logs.push((name, directory, log));
            }
            Err(message) => println!("- {name} cannot be measured here: {message}"),
        }
    }
    let mut report = Report::default();
    for &record_bytes in &plan.record_bytes {
        for &load in &plan.loads {
            for (name, directory, log) in &logs {
                eprintln!("{record_bytes} B, {load}: {name}");
                let measured = measure(&**log, directory, record_bytes, load, plan.time);
                let name = (*name).to_owned();
                report.row(Row { record_bytes, load, name, measured });
            }
            print!("{}", report.last_table());
        }
    }
    machine.end();
    println!("\n### Goals, for the backend with the lowest median\n\n{}", report.goals());
    if let Some(path) = &plan.json {
        let all = json!({ "machine": machine.json(), "rows": report.json() });
        write(path, &format!("{all:#}\n"))?;
    }
    if let Some(directory) = &plan.plots {
        write(&directory.join("log.svg"), &report.plot())?;
    }
    Ok(())
}

/// A sync costs nothing in memory, and a full disk is no fun for anybody.
fn check_place(directory: &Path) -> Result<(), String> {
    let file_system = file_system_of(directory);
    if file_system == "tmpfs" {
        return Err(format!("{}: expected a disk, found {file_system}", directory.display()));
    }
    let space = OsDisk::new().space_left(directory);
    let space = space.map_err(|error| error.to_string())?;
    if space < SPACE_BYTES_MIN {
        return Err(format!(
            "{}: expected {SPACE_BYTES_MIN} free bytes, found {space}",
            directory.display()
        ));
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let fail = |error| format!("{}: {error}", path.display());
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(fail)?;
    std::fs::write(path, text).map_err(fail)?;
    eprintln!("wrote {}", path.display());
    Ok(())
}
