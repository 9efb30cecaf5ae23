//! The files of the repository, read once from the working tree.
//!
//! One idea: a rule sees what a fresh clone would hold. So everything is read but what
//! `.gitignore` names: build output and data directories.
//!
//! What it does not do: ask git, which a bare machine or a source archive may not have.

use std::path::{Path, PathBuf};

/// Directories, by path from the root, that are no part of the sources.
const LEFT_OUT: [&str; 8] = [
    ".git",
    "target",
    "benches/peers/target",
    "fuzz/target",
    "fuzz/artifacts",
    "fuzz/coverage",
    "data",
    "default.etcd",
];

/// One text file.
pub struct TextFile {
    /// Path from the root, with `/`.
    pub path: String,
    /// All of it.
    pub text: String,
}

impl TextFile {
    /// The first component of the path: the crate, for files of crates.
    pub fn top(&self) -> &str {
        self.path.split('/').next().expect("split yields at least one part")
    }

    /// Whether it is written by a program and only kept here.
    pub fn is_generated(&self) -> bool {
        self.path.contains("/generated/") || self.path == "Cargo.lock"
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the root").to_owned()
}

/// Whether a file or directory exists, by its path from the root.
pub fn exists(path: &str) -> bool {
    root().join(path).exists()
}

/// Reads one file by its path from the root.
pub fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files that are UTF-8 text, sorted by path.
pub fn text_files() -> Vec<TextFile> {
    let mut found = Vec::new();
    let mut directories = vec![root()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory of the tree can be read") {
            let path = entry.expect("a directory of the tree can be read").path();
            let relative = relative(&path);
            if LEFT_OUT.contains(&relative.as_str()) || path.is_symlink() {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                found.push(TextFile { path: relative, text });
            }
        }
    }
    found.sort_by(|left, right| left.path.cmp(&right.path));
    assert!(found.len() > 100, "only {} files below {}", found.len(), root().display());
    found
}

/// The files whose name ends with `.{extension}`.
pub fn with_extension<'a>(files: &'a [TextFile], extension: &str) -> Vec<&'a TextFile> {
    let ending = format!(".{extension}");
    files.iter().filter(|file| file.path.ends_with(&ending)).collect()
}

fn relative(path: &Path) -> String {
    let relative = path.strip_prefix(root()).expect("the walk began at the root");
    relative.to_str().expect("file names are UTF-8").replace('\\', "/")
}
