//! `varve snapshot restore` and `varve snapshot status`: etcdutl's flags, without a server.
//!
//! Exit codes: 0 done, 1 the file or the directory is refused (the reason is on stderr), 2 a mistake
//! on the command line.

use std::path::PathBuf;
use std::sync::Arc;

use varve_disk::Disk;

use super::file::Backup;
use super::{restore, status};
use crate::config::{self, ConfigError, Invocation, to_setup};
use crate::log::{self, LogOptions};

/// Printed after a mistake on the command line, and by `varve snapshot --help`.
pub const USAGE: &str = "\
Usage:

  varve snapshot status <file> [-w simple|table|json|fields]
    Check a snapshot file and print what is in it.

  varve snapshot restore <file> [flags]
    Make the data directory of a new member from a snapshot file, or from the data
    directory of a stopped etcd. Every member of a new cluster restores the same file.

    --name 'default'                           this member
    --data-dir '<name>.etcd'                   directory to make; must be empty or absent
    --wal-dir ''                               directory of the log, if it is elsewhere
    --initial-cluster 'default=http://localhost:2380'   all members of the new cluster
    --initial-cluster-token 'etcd-cluster'     gives the new cluster its id
    --initial-advertise-peer-urls 'http://localhost:2380'   where peers reach this member
    --skip-hash-check                          take a database without a hash
    --bump-revision N                          raise the newest revision by N ...
    --mark-compacted                           ... and compact there; both or neither
";

/// Flags of `restore` that a server has too.
const SERVER_FLAGS: [&str; 6] = [
    "name",
    "data-dir",
    "wal-dir",
    "initial-cluster",
    "initial-cluster-token",
    "initial-advertise-peer-urls",
];

/// Why a command ended.
#[derive(Debug, PartialEq, Eq)]
pub enum CommandError {
    /// Not understood: exit code 2.
    Usage(String),
    /// Understood and refused: exit code 1.
    Failed(String),
}

/// Runs what stands behind `varve snapshot`; gives what is to be printed.
///
/// # Errors
/// See [`CommandError`].
pub fn run(arguments: &[String], disk: Arc<dyn Disk>) -> Result<String, CommandError> {
    match arguments.split_first() {
        Some((command, rest)) if command == "status" => run_status(rest, disk.as_ref()),
        Some((command, rest)) if command == "restore" => run_restore(rest, &disk),
        Some((command, _)) if matches!(command.as_str(), "-h" | "--help" | "help") => {
            Ok(USAGE.to_owned())
        }
        Some((command, _)) => Err(CommandError::Usage(format!(
            "expected restore or status behind snapshot, found {command:?}"
        ))),
        None => Err(CommandError::Usage("expected restore or status behind snapshot".into())),
    }
}

/// The only word that is no flag, and the flags with their values.
struct Words {
    file: PathBuf,
    flags: Vec<(String, String)>,
}

impl Words {
    /// Reads `--flag value`, `--flag=value`, and switches, which have no value.
    fn parse(
        arguments: &[String],
        flags: &[&str],
        switches: &[&str],
    ) -> Result<Self, CommandError> {
        let usage = |text: String| Err(CommandError::Usage(text));
        let (mut files, mut found) = (Vec::new(), Vec::new());
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            if !word.starts_with('-') {
                files.push(PathBuf::from(word));
                continue;
            }
            let (name, value) = match word.trim_start_matches('-').split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (word.trim_start_matches('-'), None),
            };
            let value = if switches.contains(&name) {
                value.unwrap_or_else(|| "true".to_owned())
            } else if flags.contains(&name) {
                match value.or_else(|| rest.next().cloned()) {
                    Some(value) => value,
                    None => return usage(format!("flag needs an argument: {word}")),
                }
            } else {
                return usage(format!("unknown flag: {word}"));
            };
            found.push((name.to_owned(), value));
        }
        match <[PathBuf; 1]>::try_from(files) {
            Ok([file]) => Ok(Self { file, flags: found }),
            Err(files) => usage(format!("expected one snapshot file, found {}", files.len())),
        }
    }

    fn value(&self, name: &str) -> Option<&str> {
        let found = self.flags.iter().rfind(|(flag, _)| flag == name);
        found.map(|(_, value)| value.as_str())
    }

    fn is_set(&self, name: &str) -> Result<bool, CommandError> {
        let text = self.value(name).unwrap_or("false");
        config::flag::parse_bool(text).ok_or_else(|| {
            CommandError::Usage(format!("--{name}: expected true or false, found {text:?}"))
        })
    }
}

fn run_status(arguments: &[String], disk: &dyn Disk) -> Result<String, CommandError> {
    let words = Words::parse(arguments, &["w", "write-out"], &[])?;
    let form = words.value("write-out").or(words.value("w")).unwrap_or("simple");
    let file = Backup::open(disk, &words.file).map_err(CommandError::Failed)?;
    let status = status::status(&file).map_err(CommandError::Failed)?;
    status.format(form).ok_or_else(|| {
        let expected = "expected simple, table, json or fields behind -w";
        CommandError::Usage(format!("{expected}, found {form:?}"))
    })
}

fn run_restore(arguments: &[String], disk: &Arc<dyn Disk>) -> Result<String, CommandError> {
    let own = ["bump-revision"];
    let flags: Vec<&str> = SERVER_FLAGS.iter().chain(&own).copied().collect();
    let words = Words::parse(arguments, &flags, &["skip-hash-check", "mark-compacted"])?;
    let bump = bump(&words)?;
    let skips_hash = words.is_set("skip-hash-check")?;
    let server: Vec<String> = (words.flags.iter())
        .filter(|(name, _)| SERVER_FLAGS.contains(&name.as_str()))
        .map(|(name, value)| format!("--{name}={value}"))
        .collect();
    let setup = match config::load(&server, &[], disk.as_ref(), &mut Vec::new()) {
        Ok(Invocation::Run(config)) => {
            to_setup::setup(&config, disk.as_ref()).map_err(CommandError::Failed)?
        }
        Ok(Invocation::Print(_)) => unreachable!("no flag asks for help"),
        Err(ConfigError::Usage(text)) => return Err(CommandError::Usage(text)),
        Err(error) => return Err(CommandError::Failed(error.to_string())),
    };
    log::start(&LogOptions::default(), disk.as_ref()).map_err(CommandError::Failed)?;
    let file = Backup::open(disk.as_ref(), &words.file).map_err(CommandError::Failed)?;
    tracing::info!(
        path = %file.path().display(),
        data_dir = %setup.data_dir.display(),
        "restoring snapshot"
    );
    if !skips_hash {
        file.check_hash().map_err(CommandError::Failed)?;
    }
    let imported = restore::restore(disk, &file, &setup, bump).map_err(CommandError::Failed)?;
    tracing::info!(
        path = %file.path().display(),
        data_dir = %setup.data_dir.display(),
        cluster_id = %format!("{:x}", setup.identity.cluster_id),
        member_id = %format!("{:x}", setup.identity.member_id),
        revision = imported.revision,
        compacted = imported.compacted,
        keys = imported.keys,
        versions = imported.versions,
        "restored snapshot"
    );
    Ok(String::new())
}

/// By how much revisions are raised; 0 is not at all.
fn bump(words: &Words) -> Result<u64, CommandError> {
    let text = words.value("bump-revision").unwrap_or("0");
    let number = text.parse().map_err(|_| {
        CommandError::Usage(format!("--bump-revision: expected a number, found {text:?}"))
    })?;
    match (number, words.is_set("mark-compacted")?) {
        (0, true) => {
            Err(CommandError::Usage("--mark-compacted needs --bump-revision above 0".into()))
        }
        (1.., false) => Err(CommandError::Usage("--bump-revision needs --mark-compacted".into())),
        _ => Ok(number),
    }
}

/// Whether the command line is one for [`run`].
pub fn is_snapshot(arguments: &[String]) -> bool {
    arguments.first().is_some_and(|first| first == "snapshot")
}
