//! A limit on this process's memory, the page cache included, as a container has it.
//!
//! One idea: the kernel's control groups know it; a group is made below the one that the process is
//! in, for this process alone, and removed with the limit. Both versions of control groups are known.
//! Whoever may not make a group measures without: [`Limit::new`] says why.

use std::fs;
use std::path::{Path, PathBuf};

/// Beginning of the names of groups.
const NAME: &str = "varve-peers-";

/// The limit, as long as it lives.
#[derive(Debug)]
pub struct Limit {
    group: PathBuf,
    parent: PathBuf,
}

impl Limit {
    /// Limits this process to `bytes`. What it has touched before stays with the group it was in.
    ///
    /// # Errors
    /// There are no control groups for memory, or they may not be made.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let (parent, file) = parent()?;
        remove_left(&parent);
        let group = parent.join(format!("{NAME}{}", std::process::id()));
        let fail = |error: std::io::Error| format!("{}: {error}", group.display());
        fs::create_dir(&group).map_err(fail)?;
        let limit = Self { group: group.clone(), parent };
        fs::write(group.join(file), bytes.to_string()).map_err(fail)?;
        fs::write(group.join("cgroup.procs"), std::process::id().to_string()).map_err(fail)?;
        Ok(limit)
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // A group that could not be removed is empty and harmless.
        _ = fs::write(self.parent.join("cgroup.procs"), std::process::id().to_string());
        _ = fs::remove_dir(&self.group);
    }
}

/// Removes groups of processes that were killed; those of others that run cannot be removed.
fn remove_left(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(NAME) {
            _ = fs::remove_dir(entry.path());
        }
    }
}

/// The group that this process is in, and the name of the file that limits a group below it.
fn parent() -> Result<(PathBuf, &'static str), String> {
    let groups = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    let of = |controller: &str| {
        groups.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            let is_it = controllers.split(',').any(|name| name == controller);
            is_it.then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let first = Path::new("/sys/fs/cgroup/memory");
    if let Some(path) = of("memory")
        && first.is_dir()
    {
        return Ok((first.join(path), "memory.limit_in_bytes"));
    }
    let second = Path::new("/sys/fs/cgroup");
    match of("") {
        Some(path) if second.join("cgroup.controllers").exists() => {
            Ok((second.join(path), "memory.max"))
        }
        _ => Err("expected control groups with a memory controller, found none".to_owned()),
    }
}
