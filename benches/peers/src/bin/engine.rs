//! Measures varve's engine beside RocksDB, fjall, redb and LMDB: see `engine/mod.rs`.
//!
//! ```text
//! engine [ENGINE...]               none: all
//!     [--dir target/peers-engine]  where data go; a disk with room for six times the data
//!     [--keys 1000000] [--value-bytes 100,1024]     (4096 is the third size of the goals)
//!     [--trace-keys 200000] [--trace-updates 600000]    (--trace-keys 0: no trace)
//!     [--ingest-keys 200000] [--ingest-seconds 10]      (--ingest-seconds 0: no steady writer)
//!     [--larger-keys 1000000] [--larger-seconds 10]     (--larger-keys 0: nothing beyond memory)
//!     [--seconds 1]                for each row that goes on for a while
//!     [--json FILE] [--plots DIRECTORY]
//! ```
//!
//! First all engines must answer alike. Then each runs in a process of its own, one after another,
//! on the same disk; its data are removed when it is done.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use varve_benches::arguments::Arguments;
use varve_disk::Disk;
use varve_disk::os::OsDisk;
use varve_peers::engine::report::Section;
use varve_peers::engine::rows::{Plan, Row};
use varve_peers::engine::{NAMES, agree, ingest, larger, rows, trace};
use varve_peers::machine::{Machine, file_system_of, version_of};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A mistake on the command line.
const EXIT_USAGE: u8 = 2;
/// Room on the disk, in times of the data.
const SPACE_FACTOR: u64 = 6;

struct Options {
    names: Vec<String>,
    directory: PathBuf,
    keys: u64,
    value_bytes: Vec<usize>,
    trace_keys: u64,
    trace_updates: u64,
    ingest_keys: u64,
    ingest_seconds: f64,
    larger_keys: u64,
    larger_seconds: f64,
    seconds: f64,
    json: Option<PathBuf>,
    plots: Option<PathBuf>,
    /// Which part this process runs, for its parent: `rows`, `reopen`, `trace`, `ingest` or
    /// `larger`.
    part: Option<String>,
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(message) => {
            eprintln!("engine: {message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let result = match &options.part {
        Some(part) => run_part(&options, part),
        None => run(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("engine: {message}");
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Options, String> {
    let mut arguments = Arguments::of_process()?;
    let words = arguments.words().to_vec();
    if let Some(word) = words.iter().find(|word| !NAMES.contains(&word.as_str())) {
        return Err(format!("no engine {word}; there are {}", NAMES.join(", ")));
    }
    let names = NAMES.map(str::to_owned).into_iter();
    let names = names.filter(|name| words.is_empty() || words.contains(name)).collect();
    let options = Options {
        names,
        directory: arguments.value("dir", "target/peers-engine".to_owned())?.into(),
        keys: arguments.value("keys", 1_000_000)?,
        value_bytes: arguments.list("value-bytes", vec![100, 1024])?,
        trace_keys: arguments.value("trace-keys", 200_000)?,
        trace_updates: arguments.value("trace-updates", 600_000)?,
        ingest_keys: arguments.value("ingest-keys", 200_000)?,
        ingest_seconds: arguments.value("ingest-seconds", 10.0)?,
        larger_keys: arguments.value("larger-keys", 1_000_000)?,
        larger_seconds: arguments.value("larger-seconds", 10.0)?,
        seconds: arguments.value("seconds", 1.0)?,
        json: arguments.optional::<String>("json")?.map(PathBuf::from),
        plots: arguments.optional::<String>("plots")?.map(PathBuf::from),
        part: arguments.optional("part")?,
    };
    arguments.finish()?;
    if options.keys < 1000 {
        return Err(format!("--keys: at least 1000, found {}", options.keys));
    }
    if let Some(bytes) = options.value_bytes.iter().find(|bytes| **bytes > 1 << 16) {
        return Err(format!("--value-bytes: at most {}, found {bytes}", 1 << 16));
    }
    for (name, seconds) in [
        ("seconds", options.seconds),
        ("ingest-seconds", options.ingest_seconds),
        ("larger-seconds", options.larger_seconds),
    ] {
        Duration::try_from_secs_f64(seconds).map_err(|error| format!("--{name}: {error}"))?;
    }
    Ok(options)
}

/// One engine, in a process of its own: rows go to standard output as JSON.
fn run_part(options: &Options, part: &str) -> Result<(), String> {
    let (name, directory) = (&options.names[0], &options.directory);
    let found = match part {
        "rows" | "reopen" => {
            let time = Duration::from_secs_f64(options.seconds);
            let value_bytes = options.value_bytes[0];
            let plan = Plan { keys: options.keys, value_bytes, time };
            if part == "rows" {
                rows::run(name, directory, plan)?
            } else {
                rows::reopen(name, directory, plan)?
            }
        }
        "trace" => trace::run(name, directory, options.trace_keys, options.trace_updates)?,
        "ingest" => {
            let time = Duration::from_secs_f64(options.ingest_seconds);
            ingest::run(name, directory, options.ingest_keys, time)?
        }
        "larger" => {
            let time = Duration::from_secs_f64(options.larger_seconds);
            larger::run(name, directory, options.larger_keys, time)?
        }
        _ => return Err(format!("--part {part}: expected rows, reopen, trace, ingest or larger")),
    };
    let found: Vec<Value> = found
        .iter()
        .map(|row| json!([row.name, row.unit, row.value, row.is_higher_better]))
        .collect();
    println!("{}", Value::Array(found));
    Ok(())
}

fn run(options: &Options) -> Result<(), String> {
    let fail = |error: std::io::Error| format!("{}: {error}", options.directory.display());
    std::fs::create_dir_all(&options.directory).map_err(fail)?;
    let mut machine = Machine::now(&options.directory);
    for (name, peer) in [("fjall", "fjall"), ("redb", "redb"), ("LMDB, by heed", "heed")] {
        machine.fact(name, version_of(peer));
    }
    machine.fact(
        "RocksDB",
        "the system's library, 7.x, by rocksdb ".to_owned() + version_of("rocksdb"),
    );
    check_place(options)?;
    for name in &options.names {
        eprintln!("checking the answers: {name}");
        let home = tempfile::tempdir_in(&options.directory).map_err(fail)?;
        agree::check(name, home.path())?;
    }
    println!("## Engines\n\n{}", machine.markdown());
    let mut sections = Vec::new();
    for bytes in &options.value_bytes {
        let title = format!("{} keys, values of {bytes} B", options.keys);
        let sized = ["--value-bytes".to_owned(), bytes.to_string()];
        let section = section(options, &options.names, title, &["rows", "reopen"], &sized)?;
        sections.push((format!("engine-{bytes}.svg"), section));
    }
    if options.trace_keys > 0 {
        let (keys, updates) = (options.trace_keys, options.trace_updates);
        let title = format!("Kubernetes-shaped trace: {keys} objects, {updates} changes");
        let section = section(options, &options.names, title, &["trace"], &[])?;
        sections.push(("engine-trace.svg".to_owned(), section));
    }
    if options.ingest_seconds > 0.0 {
        let title = format!("50 MB/s into {} keys, values of 1 KiB", options.ingest_keys);
        let section = section(options, &options.names, title, &["ingest"], &[])?;
        sections.push(("engine-ingest.svg".to_owned(), section));
    }
    let names = options.names.iter().filter(|name| larger::NAMES.contains(&name.as_str()));
    let names: Vec<String> = names.cloned().collect();
    if options.larger_keys > 0 && !names.is_empty() {
        let title = format!("{} keys of 1 KiB with memory for half of them", options.larger_keys);
        let section = section(options, &names, title, &["larger"], &[])?;
        sections.push(("engine-larger.svg".to_owned(), section));
    }
    machine.end();
    if let Some(path) = &options.json {
        let all: Vec<Value> = sections.iter().map(|(_, section)| section.json()).collect();
        let all = json!({ "machine": machine.json(), "sections": all });
        write(path, &format!("{all:#}\n"))?;
    }
    if let Some(directory) = &options.plots {
        for (name, section) in &sections {
            write(&directory.join(name), &section.plot())?;
        }
    }
    Ok(())
}

fn section(
    options: &Options,
    names: &[String],
    title: String,
    parts: &[&str],
    more: &[String],
) -> Result<Section, String> {
    let mut section = Section::new(title);
    for name in names {
        eprintln!("{}: {name}", section.title);
        let fail = |error: std::io::Error| format!("{name}: {error}");
        let home = tempfile::tempdir_in(&options.directory).map_err(fail)?;
        let mut rows = Vec::new();
        for part in parts {
            rows.extend(child(options, name, home.path(), part, more)?);
        }
        section.engine(name, rows);
    }
    print!("{}", section.markdown());
    Ok(section)
}

/// Runs a part with one engine, whose data are in `home`, in a process of its own.
fn child(
    options: &Options,
    name: &str,
    home: &Path,
    part: &str,
    more: &[String],
) -> Result<Vec<Row>, String> {
    let fail = |error: std::io::Error| format!("{name}: {error}");
    let program = std::env::current_exe().map_err(fail)?;
    let output = Command::new(program)
        .arg(name)
        .args(["--part", part])
        .args(more)
        .args(["--keys", &options.keys.to_string()])
        .args(["--trace-keys", &options.trace_keys.to_string()])
        .args(["--trace-updates", &options.trace_updates.to_string()])
        .args(["--ingest-keys", &options.ingest_keys.to_string()])
        .args(["--ingest-seconds", &options.ingest_seconds.to_string()])
        .args(["--larger-keys", &options.larger_keys.to_string()])
        .args(["--larger-seconds", &options.larger_seconds.to_string()])
        .args(["--seconds", &options.seconds.to_string()])
        .arg("--dir")
        .arg(home)
        .stderr(Stdio::inherit())
        .output()
        .map_err(fail)?;
    if !output.status.success() {
        return Err(format!("{name}: {}", output.status));
    }
    let found: Vec<(String, String, f64, bool)> = serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("{name}: expected rows, found {error}"))?;
    let row = |(name, unit, value, is_higher_better)| Row { name, unit, value, is_higher_better };
    Ok(found.into_iter().map(row).collect())
}

/// A sync costs nothing in memory, and a full disk is no fun for anybody.
fn check_place(options: &Options) -> Result<(), String> {
    let directory = &options.directory;
    let file_system = file_system_of(directory);
    if file_system == "tmpfs" {
        return Err(format!("{}: expected a disk, found {file_system}", directory.display()));
    }
    let bytes = options.value_bytes.iter().max().copied().unwrap_or(0) as u64 + 100;
    let needed = (options.keys * bytes)
        .max(options.trace_keys * 2000)
        .max(options.ingest_keys.max(options.larger_keys) * 1200)
        * SPACE_FACTOR
        + (1 << 30);
    let space = OsDisk::new().space_left(directory).map_err(|error| error.to_string())?;
    if space < needed {
        return Err(format!(
            "{}: expected {needed} free bytes, found {space}",
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
