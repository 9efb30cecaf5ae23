//! What a figure needs to be understood: the machine, the versions, how busy it was.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

/// Where the versions of the others are pinned.
const MANIFEST: &str = include_str!("../Cargo.toml");

/// The version of a crate that this one pins; empty if there is none.
pub fn version_of(name: &str) -> &'static str {
    let line = MANIFEST.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    let after = line.and_then(|line| line.split_once("\"="));
    after.and_then(|(_, rest)| rest.split('"').next()).unwrap_or_default()
}

/// What is known of one run.
pub struct Machine {
    facts: Vec<(&'static str, String)>,
}

impl Machine {
    /// This machine, with data in `directory`.
    pub fn now(directory: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = read("/proc/cpuinfo");
        let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let memory = read("/proc/meminfo");
        let kilobytes = memory.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let facts = vec![
            ("arguments", arguments.join(" ")),
            ("processor", format!("{cores} x {}", cpu.trim_start_matches([' ', '\t', ':']))),
            ("memory", format!("{} MiB", kilobytes.unwrap_or(0) >> 10)),
            ("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease").trim())),
            ("file system", file_system_of(directory)),
            ("load average before", load_average()),
        ];
        Self { facts }
    }

    /// Adds one.
    pub fn fact(&mut self, name: &'static str, text: impl Into<String>) {
        self.facts.push((name, text.into()));
    }

    /// Adds how busy the machine is now that the run is over.
    pub fn end(&mut self) {
        self.facts.push(("load average after", load_average()));
    }

    /// As a list in Markdown.
    pub fn markdown(&self) -> String {
        self.facts.iter().map(|(name, text)| format!("- {name}: {text}\n")).collect()
    }

    /// As an object.
    pub fn json(&self) -> Value {
        let pairs = self.facts.iter().map(|(name, text)| ((*name).to_owned(), json!(text)));
        Value::Object(pairs.collect())
    }
}

fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The type of the file system that a directory lies on, by its device number.
pub fn file_system_of(directory: &Path) -> String {
    let Ok(metadata) = std::fs::metadata(directory) else { return "unknown".to_owned() };
    let device = format!("{}:{}", libc::major(metadata.dev()), libc::minor(metadata.dev()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        let is_ours = line.split_whitespace().nth(2) == Some(device.as_str());
        if let (true, Some((_, rest))) = (is_ours, line.split_once(" - ")) {
            return rest.split_whitespace().next().unwrap_or_default().to_owned();
        }
    }
    "unknown".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_manifest() {
        for name in ["okaywal", "raft-engine", "fjall", "redb", "heed", "rocksdb"] {
            let version = version_of(name);
            assert!(version.starts_with(|c: char| c.is_ascii_digit()), "{name}: {version}");
        }
        assert_eq!(version_of("nothing"), "");
    }
}
