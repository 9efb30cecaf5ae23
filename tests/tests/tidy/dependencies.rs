//! Who may depend on whom: the table of `docs/ARCHITECTURE.md`, held against the manifests.
//!
//! One idea: "must never know" is enforced by what is not there. A crate that cannot name tokio
//! cannot wait, and one that cannot name the log cannot write to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree;

/// A crate of the workspace: what production code may use of the others, and which external
/// crates must not be reachable from it, not even through others.
pub struct Rule {
    /// The crate's directory; its package is `varve-{name}`.
    pub name: &'static str,
    /// Crates of the workspace that it may use.
    pub uses: &'static [&'static str],
    /// External crates that it must never reach.
    pub never: &'static [&'static str],
}

const OUTSIDE: &[&str] = &["tokio", "hyper", "h2", "http", "tonic", "socket2", "mio"];
const STORAGE: &[&str] =
    &["tokio", "hyper", "h2", "http", "tonic", "socket2", "mio", "raft", "protobuf", "prost"];
const STATE: &[&str] = &[
    "tokio",
    "hyper",
    "h2",
    "http",
    "tonic",
    "socket2",
    "mio",
    "raft",
    "protobuf",
    "rand",
    "getrandom",
    "fastrand",
];

/// The table, lowest first. `tests`, `sim`, `benches` and `fuzz` may use anything below them.
pub const RULES: [Rule; 9] = [
    Rule { name: "disk", uses: &[], never: STORAGE },
    Rule { name: "bolt", uses: &[], never: STORAGE },
    Rule { name: "wal", uses: &["disk"], never: STORAGE },
    Rule { name: "lsm", uses: &["disk"], never: STORAGE },
    Rule { name: "api", uses: &[], never: OUTSIDE },
    Rule { name: "store", uses: &["lsm", "api"], never: STATE },
    Rule { name: "raftnode", uses: &["wal"], never: OUTSIDE },
    Rule {
        name: "server",
        uses: &["disk", "bolt", "wal", "lsm", "api", "store", "raftnode"],
        never: &["tonic", "axum"],
    },
    Rule { name: "judge", uses: &["api", "store"], never: STATE },
];

/// External crates that one crate of the workspace alone may name, so that its types stay there.
const NAMED_ONCE: [(&str, &str); 6] = [
    ("raft", "raftnode"),
    ("protobuf", "raftnode"),
    ("slog", "raftnode"),
    ("io-uring", "disk"),
    ("memmap2", "disk"),
    ("tokio", "server"),
];

/// External crates that build scripts alone use: nothing of them gets into a program. A lock file does
/// not tell.
const BUILD_ONLY: [&str; 2] = ["cc", "pkg-config"];

/// What the sections of a manifest depend on.
pub struct Manifest {
    /// `[dependencies]` and `[build-dependencies]`.
    pub production: BTreeSet<String>,
    /// `[dev-dependencies]`.
    pub tests: BTreeSet<String>,
    /// Whether it has `[lints] workspace = true`.
    pub has_lints: bool,
}

/// Reads a manifest of the workspace, which keeps each dependency on one line or in a table of
/// its own.
pub fn manifest(text: &str) -> Manifest {
    let (mut production, mut tests, mut has_lints) = (BTreeSet::new(), BTreeSet::new(), false);
    let mut section = String::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            if let Some(name) = section.strip_prefix("dependencies.") {
                production.insert(name.to_owned());
            }
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let name = key.trim().split('.').next().expect("split yields a part").to_owned();
        let of_target = section.starts_with("target.") && section.ends_with(".dependencies");
        match section.as_str() {
            "dependencies" | "build-dependencies" => _ = production.insert(name),
            "dev-dependencies" => _ = tests.insert(name),
            "lints" if key.trim() == "workspace" => has_lints = value.trim() == "true",
            _ if of_target => _ = production.insert(name),
            _ => {}
        }
    }
    Manifest { production, tests, has_lints }
}

/// All that is wrong with the dependencies, one line each.
pub fn violations() -> Vec<String> {
    let locked = locked(&tree::read("Cargo.lock"));
    let mut found = Vec::new();
    for rule in &RULES {
        let path = format!("{}/Cargo.toml", rule.name);
        let manifest = manifest(&tree::read(&path));
        for name in &manifest.production {
            if let Some(other) = name.strip_prefix("varve-")
                && !rule.uses.contains(&other)
            {
                found.push(format!("{path}: {} must not use {other}", rule.name));
            }
            for (once, owner) in NAMED_ONCE {
                if name == once && rule.name != owner {
                    found.push(format!("{path}: only {owner} names {once}"));
                }
            }
        }
        if !manifest.has_lints {
            found.push(format!("{path}: [lints] workspace = true is missing"));
        }
        let reached = reached(&manifest.production, &locked);
        for name in rule.never.iter().filter(|name| reached.contains(**name)) {
            found.push(format!("{path}: {} must never reach {name}", rule.name));
        }
    }
    found
}

/// Everything that production code is built from; crates of the workspace by their manifests,
/// for the lock file does not tell their tests' needs apart.
fn reached(
    production: &BTreeSet<String>,
    locked: &BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    let mut waiting: Vec<String> = production.iter().cloned().collect();
    while let Some(name) = waiting.pop() {
        if BUILD_ONLY.contains(&name.as_str()) || !reached.insert(name.clone()) {
            continue;
        }
        match name.strip_prefix("varve-") {
            Some(own) => {
                waiting.extend(manifest(&tree::read(&format!("{own}/Cargo.toml"))).production);
            }
            None => {
                let next = locked.get(&name);
                waiting.extend(next.unwrap_or_else(|| panic!("{name} is not locked")).clone());
            }
        }
    }
    reached
}

/// Packages of a lock file and what they need; versions of one name are taken together.
fn locked(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in text.split("[[package]]").skip(1) {
        let name = package.lines().find_map(|line| line.strip_prefix("name = "));
        let name = name.expect("a locked package has a name").trim_matches('"');
        let needs = packages.entry(name.to_owned()).or_default();
        let list = package.split("dependencies = [").nth(1).and_then(|rest| rest.split(']').next());
        for need in list.unwrap_or_default().lines() {
            let need = need.trim().trim_matches(|c| c == '"' || c == ',');
            if let Some(name) = need.split(' ').next().filter(|name| !name.is_empty()) {
                needs.insert(name.to_owned());
            }
        }
    }
    packages
}

#[test]
fn a_manifest_is_read() {
    let text = "[package]\nname = \"varve-x\"\n[dependencies]\nvarve-disk.workspace = true\n\
                raft = { version = \"1\" }\n[dependencies.tokio]\nversion = \"1\"\n\
                [dev-dependencies]\ntempfile.workspace = true\n[lints]\nworkspace = true\n";
    let manifest = manifest(text);
    let production: Vec<&str> = manifest.production.iter().map(String::as_str).collect();
    assert_eq!(production, ["raft", "tokio", "varve-disk"]);
    assert_eq!(manifest.tests.len(), 1);
    assert!(manifest.has_lints);
}
