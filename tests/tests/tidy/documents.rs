//! The documents: links and names of files in them must be true.
//!
//! One idea: a document that names a file is wrong the moment the file moves, so every link and
//! every path in backquotes that begins with a directory of the repository is looked up.

use std::collections::BTreeSet;

use crate::tree::{self, TextFile};

/// Directories whose files are named in documents by their path from the root.
const TOPS: [&str; 14] = [
    "api", "benches", "disk", "docs", "fuzz", "judge", "lsm", "raftnode", "server", "sim", "store",
    "tests", "wal", ".ci",
];

/// What lies directly in a crate's directory. Other paths, such as `api/v3rpc`, are etcd's.
const IN_CRATES: [&str; 8] =
    ["src", "tests", "proto", "benches", "differential", "go", "Cargo.toml", "clippy.toml"];

/// Links of one document that lead nowhere, one line each.
pub fn broken_links(file: &TextFile) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in outside_fences(&file.text) {
        for target in links(line) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let resolved = if path.is_empty() { file.path.clone() } else { beside(file, path) };
            if !tree::exists(&resolved) {
                found.push(format!("{}:{number}: no file {resolved}", file.path));
            } else if !anchor.is_empty() && !anchors(&tree::read(&resolved)).contains(anchor) {
                found.push(format!("{}:{number}: no heading #{anchor} in {resolved}", file.path));
            }
        }
    }
    found
}

/// Paths in backquotes that do not exist, one line each; `a/{b,c}.rs` names two files, and
/// `a/b.rs::name` a function in a file.
pub fn missing_paths(file: &TextFile) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in outside_fences(&file.text) {
        for quoted in line.split('`').skip(1).step_by(2) {
            let (path, function) = quoted.split_once("::").unwrap_or((quoted, ""));
            if !is_path(path) {
                continue;
            }
            for path in alternatives(path) {
                // A crate may name its own files as seen from its directory.
                let own = format!("{}/{path}", file.top());
                let path = if tree::exists(&path) { path } else { own };
                if !tree::exists(&path) {
                    found.push(format!("{}:{number}: no file {quoted}", file.path));
                } else if !function.is_empty()
                    && !tree::read(&path).contains(&format!("fn {function}("))
                {
                    found.push(format!("{}:{number}: no function {function} in {path}", file.path));
                }
            }
        }
    }
    found
}

/// The sections `## ` of a document: heading and number of lines that are not blank.
pub fn sections(text: &str) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            found.push((heading.to_owned(), 0));
        } else if let Some((_, lines)) = found.last_mut() {
            *lines += usize::from(!line.trim().is_empty());
        }
    }
    found
}

/// Lines that are not in a fenced block, with their numbers from 1.
fn outside_fences(text: &str) -> Vec<(usize, &str)> {
    let mut is_fenced = false;
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let content = line.trim_start().trim_start_matches("//!").trim_start_matches("///");
        if content.trim_start().starts_with("```") {
            is_fenced = !is_fenced;
        } else if !is_fenced {
            found.push((at + 1, line));
        }
    }
    found
}

/// Targets of `[text](target)`.
fn links(line: &str) -> Vec<&str> {
    let after = line.split("](").skip(1);
    after.filter_map(|rest| rest.split(')').next()).collect()
}

/// A relative path in a document, from the root.
fn beside(file: &TextFile, path: &str) -> String {
    let directory = file.path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/') {
        match part {
            "." | "" => {}
            ".." => _ = parts.pop(),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Headings as GitHub turns them into anchors.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let words = headings.map(|line| line.trim_start_matches('#').trim().to_lowercase());
    let kept = words.map(|heading| {
        heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect()
    });
    kept.map(|heading: String| heading.replace(' ', "-")).collect()
}

/// Whether a quoted word is a path of this repository: one of its directories, something behind
/// it, and no pattern.
fn is_path(word: &str) -> bool {
    let Some((top, rest)) = word.split_once('/') else { return false };
    let second = rest.split('/').next().expect("split yields a part");
    let is_ours = matches!(top, "docs" | "fuzz" | ".ci") || IN_CRATES.contains(&second);
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-{},".contains(c);
    TOPS.contains(&top) && is_ours && !rest.is_empty() && rest.chars().all(plain)
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`; a path without brackets as itself.
fn alternatives(path: &str) -> Vec<String> {
    let Some((before, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let (inner, after) = rest.split_once('}').unwrap_or((rest, ""));
    inner.split(',').map(|part| format!("{before}{}{after}", part.trim())).collect()
}

#[test]
fn links_and_paths_are_found() {
    let text = "# A heading, `here`\nsee [this](#a-heading-here), [that](missing.md#x)\n\
                `docs/{FORMAT,NOWHERE}.md`, `docs/*`, `tests/tests/tidy.rs::no_such_rule`\n\
                ```\n`docs/unseen.md`\n```\n## B\n\nline\n";
    let file = TextFile { path: "docs/self.md".to_owned(), text: text.to_owned() };
    assert_eq!(links(text), ["#a-heading-here", "missing.md#x"]);
    assert!(anchors(text).contains("a-heading-here"));
    let missing = missing_paths(&file);
    assert_eq!(missing.len(), 2, "{missing:?}");
    assert_eq!(sections(text), [("B".to_owned(), 1)]);
}
