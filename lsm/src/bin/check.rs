//! The program `varve-check DIR`: looks at every row and value of an engine that is not running.
//!
//! `DIR` is an engine's directory (with a file `CURRENT`), or a server's data directory, of which
//! the engine is looked at. Changes nothing there, but for the lock that keeps a server from
//! starting meanwhile. Prints what it saw, and each thing that is wrong, on stdout.
//!
//! Exit codes: 0 sound; 1 damaged; 2 could not look (wrong arguments, no engine, in use, an error
//! of the disk). A page that the disk cannot read, or that is cut off meanwhile, ends it by the
//! signal SIGBUS (135 in a shell), after a line on stderr with file and offset: damage, too.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use varve_disk::Disk;
use varve_disk::os::OsDisk;
use varve_lsm::{Error, Report, check_directory};

const DAMAGED: u8 = 1;
const COULD_NOT_LOOK: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let [dir] = arguments.as_slice() else {
        eprintln!("usage: varve-check DIR\nDIR: a data directory, or the directory of an engine");
        return ExitCode::from(COULD_NOT_LOOK);
    };
    if let Err(error) = varve_disk::os::stop_on_lost_pages() {
        eprintln!("could not look: no handler for lost pages: {error}");
        return ExitCode::from(COULD_NOT_LOOK);
    }
    let disk: Arc<dyn Disk> = Arc::new(OsDisk::new());
    match check_directory(&disk, &engine_of(&*disk, Path::new(dir))) {
        Ok(Some(report)) => print(&report),
        Ok(None) => {
            eprintln!("could not look: no engine in {}", Path::new(dir).display());
            ExitCode::from(COULD_NOT_LOOK)
        }
        Err(damage @ Error::Corrupt { .. }) => {
            println!("damaged: {damage}");
            ExitCode::from(DAMAGED)
        }
        Err(error) => {
            eprintln!("could not look: {error}");
            ExitCode::from(COULD_NOT_LOOK)
        }
    }
}

/// Where the engine is below a data directory.
fn engine_of(disk: &dyn Disk, dir: &Path) -> PathBuf {
    let below = dir.join("member").join("engine");
    if disk.exists(&below).unwrap_or(false) { below } else { dir.to_path_buf() }
}

fn print(report: &Report) -> ExitCode {
    println!(
        "{} tables, {} segments, {} rows, {} bytes of values",
        report.tables, report.segments, report.rows, report.value_bytes
    );
    for violation in &report.violations {
        println!("damaged: {violation}");
    }
    if report.violations.is_empty() {
        println!("sound");
        return ExitCode::SUCCESS;
    }
    ExitCode::from(DAMAGED)
}
