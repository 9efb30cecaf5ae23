//! The rules of this code base, as tests.
//!
//! One idea: a rule that is not checked is a wish. Each test below is one rule of
//! `docs/STYLE.md`; its failure lists every violation with file and line. Exceptions are data
//! with a reason, and an exception that is no longer needed fails too, so the lists only shrink.
//!
//! What it does not do: what rustfmt and clippy do (see `clippy.toml` and `[workspace.lints]`).

use std::collections::{BTreeMap, BTreeSet};

use varve_api::method::METHODS;
use varve_tests::not_yet::is_not_yet;

#[path = "tidy/dependencies.rs"]
mod dependencies;
#[path = "tidy/documents.rs"]
mod documents;
#[path = "tidy/rust.rs"]
mod rust;
#[path = "tidy/tree.rs"]
mod tree;
#[path = "tidy/trials.rs"]
mod trials;

use rust::Rust;
use tree::{TextFile, text_files, with_extension};

/// Lines of a source file at most.
const FILE_LINES_MAX: usize = 800;
/// Lines of a source file that are fine; longer files are listed by `--nocapture`.
const FILE_LINES_TARGET: usize = 400;
/// Files of more than [`FILE_LINES_MAX`] lines: path, reason.
const LONG_FILES: [(&str, &str); 0] = [];
/// Lines of any function at most.
const FUNCTION_LINES_MAX: usize = 100;
/// Lines of a production function at most, but for [`LONG_FUNCTIONS`].
const FUNCTION_LINES_TARGET: usize = 70;

/// Production functions of more than [`FUNCTION_LINES_TARGET`] lines: file, name, reason.
const LONG_FUNCTIONS: [(&str, &str, &str); 0] = [];

/// Production files outside `disk` that touch files: path, reason.
const FILES_TOUCHED: [(&str, &str); 0] = [];

/// Crates whose `src` is production code.
const PRODUCTION: [&str; 8] = ["disk", "bolt", "wal", "lsm", "api", "store", "raftnode", "server"];

/// Sources: everything that the compiler reads and people wrote.
fn sources(files: &[TextFile]) -> Vec<&TextFile> {
    with_extension(files, "rs").into_iter().filter(|file| !file.is_generated()).collect()
}

/// All sources, with what is a test known across files.
fn rust_sources(files: &[TextFile]) -> Vec<Rust<'_>> {
    let sources = sources(files);
    let read = |file| Rust::new(file, false);
    let declared: Vec<String> = sources.iter().flat_map(|file| read(file).test_modules()).collect();
    let is_test = |file: &TextFile| {
        let stem = file.path.trim_end_matches(".rs");
        let is_module = |module: &String| {
            let module = module.trim_end_matches(".rs");
            stem == module || stem.starts_with(&format!("{module}/"))
        };
        let in_src = file.path.split('/').nth(1) == Some("src");
        !(PRODUCTION.contains(&file.top()) && in_src) || declared.iter().any(is_module)
    };
    sources.into_iter().map(|file| Rust::new(file, is_test(file))).collect()
}

fn assert_none(rule: &str, mut violations: Vec<String>) {
    violations.sort();
    assert!(
        violations.is_empty(),
        "{rule}: {} violations\n{}",
        violations.len(),
        violations.join("\n")
    );
}

/// Compares what was found with a list of exceptions, both ways.
fn assert_only(rule: &str, found: BTreeMap<String, String>, excepted: BTreeSet<String>) {
    let new =
        found.iter().filter(|(key, _)| !excepted.contains(*key)).map(|(_, text)| text.clone());
    let gone = excepted.iter().filter(|key| !found.contains_key(*key));
    let gone = gone.map(|key| format!("{key}: the exception is no longer needed, remove it"));
    assert_none(rule, new.chain(gone).collect());
}

#[test]
fn crates_depend_only_on_what_the_table_allows() {
    assert_none("dependencies", dependencies::violations());
}

#[test]
fn names_for_simulations_are_listed() {
    assert_none("trials", trials::violations(&text_files()));
}

#[test]
fn every_file_opens_with_what_it_is() {
    let files = text_files();
    let silent = sources(&files).into_iter().filter(|file| !file.text.starts_with("//!"));
    assert_none("first line is //!", silent.map(|file| file.path.clone()).collect());
}

#[test]
fn files_fit_a_sitting() {
    let files = text_files();
    let sources = sources(&files);
    let lengths = sources.iter().map(|file| (file.text.lines().count(), &file.path));
    let mut long: Vec<_> = lengths.filter(|(lines, _)| *lines > FILE_LINES_TARGET).collect();
    long.sort();
    for (lines, path) in &long {
        println!("{lines} lines, target {FILE_LINES_TARGET}: {path}");
    }
    let too_long = long.iter().filter(|(lines, _)| *lines > FILE_LINES_MAX);
    let too_long =
        too_long.map(|(lines, path)| (path.to_string(), format!("{path}: {lines} lines")));
    let excepted = LONG_FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_only("at most 800 lines a file", too_long.collect(), excepted);
}

#[test]
fn functions_fit_a_screen() {
    let files = text_files();
    let (mut long, mut too_long) = (BTreeMap::new(), Vec::new());
    for source in rust_sources(&files) {
        let path = &source.file.path;
        for function in source.functions() {
            let (name, lines) = (&function.name, function.lines);
            let text = format!("{path}:{}: {name} has {lines} lines", function.line);
            if lines > FUNCTION_LINES_MAX {
                too_long.push(text.clone());
            }
            if lines > FUNCTION_LINES_TARGET && !function.is_test {
                long.insert(format!("{path} {name}"), text);
            }
        }
    }
    assert_none("at most 100 lines a function", too_long);
    let excepted = LONG_FUNCTIONS.iter().map(|(path, name, _)| format!("{path} {name}"));
    assert_only("at most 70 lines a production function", long, excepted.collect());
}

#[test]
fn no_file_is_named_after_nothing() {
    let names = ["utils", "util", "common", "helpers", "helper", "types", "misc"];
    let is_nothing = |part: &str| names.contains(&part.trim_end_matches(".rs"));
    let files = text_files();
    let found = with_extension(&files, "rs").into_iter().map(|file| file.path.clone());
    assert_none(
        "names say what is inside",
        found.filter(|p| p.split('/').any(is_nothing)).collect(),
    );
}

#[test]
fn sources_are_ascii() {
    let files = text_files();
    let is_source = |file: &&TextFile| {
        [".rs", ".toml", ".proto", ".md", ".go"].iter().any(|end| file.path.ends_with(end))
            || file.path == ".ci/run"
    };
    let mut found = Vec::new();
    for file in files.iter().filter(is_source) {
        for (at, line) in file.text.lines().enumerate().filter(|(_, line)| !line.is_ascii()) {
            found.push(format!("{}:{}: {line}", file.path, at + 1));
        }
    }
    assert_none("ASCII only", found);
}

#[test]
fn nothing_is_left_to_do() {
    // In two parts, so that this file does not hold them.
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|parts| parts.concat());
    let calls = [["dbg", "!("], ["todo", "!("], ["unimplemented", "!("]].map(|p| p.concat());
    let files = text_files();
    let mut found = Vec::new();
    for file in sources(&files) {
        for (at, line) in file.text.lines().enumerate() {
            let has_word = words.iter().any(|word| {
                line.match_indices(word.as_str()).any(|(at, _)| is_whole_word(line, at, word.len()))
            });
            if has_word || calls.iter().any(|call| line.contains(call.as_str())) {
                found.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    assert_none("nothing unfinished", found);
}

fn is_whole_word(line: &str, at: usize, length: usize) -> bool {
    let is_letter = |c: char| c.is_alphanumeric() || c == '_';
    !line[..at].ends_with(is_letter) && !line[at + length..].starts_with(is_letter)
}

#[test]
fn production_code_does_not_unwrap() {
    let files = text_files();
    let mut found = Vec::new();
    for source in rust_sources(&files) {
        for line in source.production_lines(".unwrap()") {
            found.push(format!("{}:{line}: expect() says which invariant", source.file.path));
        }
    }
    assert_none("no unwrap in production code", found);
}

#[test]
fn only_disk_touches_files() {
    let files = text_files();
    let mut found = BTreeMap::new();
    for source in rust_sources(&files) {
        let path = &source.file.path;
        let lines: Vec<usize> = ["std::fs", "tokio::fs", "File::open("]
            .iter()
            .flat_map(|what| source.production_lines(what))
            .collect();
        if let Some(line) = lines.iter().min().filter(|_| source.file.top() != "disk") {
            found.insert(path.clone(), format!("{path}:{line}: goes past varve_disk::Disk"));
        }
    }
    let excepted = FILES_TOUCHED.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_only("files are touched by disk only", found, excepted);
}

#[test]
fn unsafe_is_where_it_is_the_point() {
    let document = tree::read("docs/UNSAFE.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let mut listed: BTreeMap<&str, &str> =
        rows.map(|(path, rest)| (path, rest.split(" |").next().unwrap_or_default())).collect();
    let files = text_files();
    let mut wrong = Vec::new();
    for source in rust_sources(&files) {
        let path = &source.file.path;
        let forms = ["unsafe {", "unsafe impl", "unsafe fn"];
        let places: BTreeSet<usize> =
            forms.iter().flat_map(|form| source.production_lines(form)).collect();
        let expected = listed.remove(path.as_str()).unwrap_or("0");
        if expected != places.len().to_string() {
            wrong.push(format!("{path}: {} places, listed {expected}: {places:?}", places.len()));
        }
    }
    wrong.extend(listed.keys().map(|path| format!("{path} is listed and is no source")));
    assert_none("docs/UNSAFE.md lists all unsafe code", wrong);
}

#[test]
fn documents_lead_somewhere() {
    let files = text_files();
    let mut found = Vec::new();
    for file in with_extension(&files, "md") {
        found.extend(documents::broken_links(file));
        // The history names what was there at the time.
        if file.path != "CHANGELOG.md" {
            found.extend(documents::missing_paths(file));
        }
    }
    for file in sources(&files) {
        // Its own tests name files that are not there.
        if file.path != "tests/tests/tidy/documents.rs" {
            found.extend(documents::missing_paths(file));
        }
    }
    assert_none("links and paths exist", found);
}

#[test]
fn every_format_has_its_section() {
    let sections = documents::sections(&tree::read("docs/FORMAT.md"));
    let mut found = Vec::new();
    for name in ["wal", "lsm", "store", "raftnode", "server"] {
        let section = sections.iter().find(|(heading, _)| heading.contains(&format!("`{name}`")));
        match section {
            None => found.push(format!("docs/FORMAT.md: no section of {name}")),
            Some((heading, lines)) if *lines < 10 => {
                found.push(format!("docs/FORMAT.md: {heading}: {lines} lines"));
            }
            Some(_) => {}
        }
    }
    assert_none("every format is specified", found);
}

#[test]
fn compatibility_has_a_true_row_for_every_call() {
    let document = tree::read("docs/COMPATIBILITY.md");
    let mut found = Vec::new();
    for method in METHODS {
        let sections = document.split("\n### ");
        let mut of_service = sections.filter(|section| {
            section.lines().next().is_some_and(|heading| heading.contains(method.service))
        });
        let section = of_service.next().unwrap_or_default();
        let row = format!("| `{}` | ", method.name);
        let state = section.lines().find_map(|line| line.strip_prefix(&row));
        let state = state.and_then(|rest| rest.split(" |").next());
        let is_true = match state {
            Some("missing") => is_not_yet(method),
            Some("works" | "part") => !is_not_yet(method),
            _ => false,
        };
        if !is_true {
            found.push(format!("docs/COMPATIBILITY.md: {}: {state:?}", method.path));
        }
    }
    assert_none("every call has a true row", found);
}

#[test]
fn compatibility_has_a_row_for_every_flag() {
    let table = tree::read("server/src/config/flags.rs");
    let document = tree::read("docs/COMPATIBILITY.md");
    let mut found = Vec::new();
    let mut flags = 0;
    for line in table.lines().map(str::trim) {
        let Some((support, rest)) = line.split_once("(\"") else { continue };
        if !matches!(support, "works" | "later" | "ignored" | "refused") {
            continue;
        }
        flags += 1;
        let name = rest.split('"').next().expect("split yields a part");
        let row = document.lines().find_map(|line| line.strip_prefix(&format!("| `{name}` | ")));
        let state = row.and_then(|row| row.split(" |").next());
        let is_true = match support {
            "works" => matches!(state, Some("works" | "part")),
            "later" => state == Some("without effect yet"),
            "ignored" => state == Some("without effect"),
            _ => state == Some("refused"),
        };
        if !is_true {
            found.push(format!("docs/COMPATIBILITY.md: `{name}` is {support}, its row: {state:?}"));
        }
    }
    assert!(flags > 100, "only {flags} flags in the table");
    assert_none("every flag has a true row", found);
}

#[test]
fn every_variable_is_explained() {
    let document = tree::read("docs/TESTING.md");
    let files = text_files();
    let mut found = BTreeSet::new();
    for file in sources(&files) {
        for rest in file.text.split("\"VARVE_").skip(1) {
            let rest = rest.split('"').next().expect("split yields a part");
            // Texts that only mention a variable are not the name of one.
            let is_name = rest.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_');
            let name = format!("VARVE_{rest}");
            if is_name && !rest.is_empty() && !document.contains(&format!("`{name}`")) {
                found.insert(format!("docs/TESTING.md: nothing on {name} ({})", file.path));
            }
        }
    }
    assert_none("every variable is explained", found.into_iter().collect());
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let roots = [["/wo", "rk/"], ["/ro", "ot/"], ["/op", "t/"], ["/ho", "me/"]];
    let roots = roots.map(|parts| parts.concat());
    let files = text_files();
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path != "Cargo.lock") {
        for (at, line) in file.text.lines().enumerate() {
            // Behind a letter it is a part of a longer, relative path or of an address.
            let is_root = |root: &String| {
                line.match_indices(root.as_str()).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}".contains(c))
                })
            };
            if roots.iter().any(is_root) {
                found.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    assert_none("no paths of a machine", found);
}
