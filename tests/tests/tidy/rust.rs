//! A Rust source as the rules see it: code apart from comments and texts, functions with their
//! lengths, and which lines are tests.
//!
//! One idea: comments and the insides of literals are blanked out byte for byte, so that every
//! offset and line number stays, and the rest can be searched as plain text.
//!
//! What it does not do: parse Rust. It counts brackets, which is enough for code that rustfmt
//! has laid out.

use crate::tree::TextFile;

/// One source.
pub struct Rust<'a> {
    /// The file.
    pub file: &'a TextFile,
    /// The text with comments and the insides of literals turned into spaces.
    pub code: String,
    /// For every line, from 0: whether it belongs to a test only.
    pub is_test: Vec<bool>,
}

/// One function with a body.
pub struct Function {
    /// Its name.
    pub name: String,
    /// Its first line, from 1.
    pub line: usize,
    /// Lines from `fn` to the closing bracket.
    pub lines: usize,
    /// Whether it is compiled for tests only.
    pub is_test: bool,
}

impl<'a> Rust<'a> {
    /// Reads a source. `is_test_file`: all of it is a test.
    pub fn new(file: &'a TextFile, is_test_file: bool) -> Self {
        let code = blanked(&file.text);
        let mut is_test = vec![is_test_file; code.lines().count() + 1];
        for (at, item) in test_attributes(&code) {
            let end = end_of_item(&code, item);
            let (first, last) = (line_of(&code, at), line_of(&code, end));
            is_test[first - 1..last].fill(true);
        }
        Self { file, code, is_test }
    }

    /// Lines of production code, from 1, in which `what` stands.
    pub fn production_lines(&self, what: &str) -> Vec<usize> {
        let lines = self.code.lines().enumerate();
        let hits = lines.filter(|(at, line)| !self.is_test[*at] && line.contains(what));
        hits.map(|(at, _)| at + 1).collect()
    }

    /// Paths from the root of the modules that are declared here for tests only.
    pub fn test_modules(&self) -> Vec<String> {
        let (directory, name) = self.file.path.rsplit_once('/').expect("sources lie in a crate");
        let stem = name.trim_end_matches(".rs");
        let is_root = matches!(stem, "mod" | "lib" | "main");
        let below = if is_root { directory.to_owned() } else { format!("{directory}/{stem}") };
        let mut found = Vec::new();
        for (at, item) in test_attributes(&self.code) {
            let end = end_of_item(&self.code, item);
            let item = &self.file.text[at..end];
            let Some(module) = item.split("mod ").nth(1).and_then(|rest| rest.strip_suffix(';'))
            else {
                continue;
            };
            match item.split("#[path = \"").nth(1).and_then(|rest| rest.split('"').next()) {
                Some(path) => found.push(format!("{directory}/{path}")),
                None => found.push(format!("{below}/{module}")),
            }
        }
        found
    }

    /// All functions that have a body.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            let before = self.code[..at].chars().next_back();
            let name: String = self.code[at + 3..]
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') || name.is_empty() {
                continue;
            }
            let end = end_of_item(&self.code, at);
            if !self.code[..end].ends_with('}') {
                continue;
            }
            let line = line_of(&self.code, at);
            let lines = line_of(&self.code, end) - line + 1;
            found.push(Function { name, line, lines, is_test: self.is_test[line - 1] });
        }
        found
    }
}

/// The line, from 1, of the byte before `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// Attributes by which an item is compiled for tests only, or for some: where each begins and ends.
fn test_attributes(code: &str) -> Vec<(usize, usize)> {
    let beginnings = ["#[cfg(test)]", "#[cfg(all(test,"];
    let starts = beginnings.iter().flat_map(|start| code.match_indices(start));
    let end = |at: usize| code[at..].find(")]").map_or(code.len(), |length| at + length + 2);
    starts.map(|(at, _)| (at, end(at))).collect()
}

/// Offset behind the item that begins at or after `from`: behind its `;` or closing bracket.
fn end_of_item(code: &str, from: usize) -> usize {
    let (mut round, mut curly) = (0_usize, 0_usize);
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => round += 1,
            b')' | b']' => round = round.saturating_sub(1),
            b'{' => curly += 1,
            b'}' => {
                curly = curly.saturating_sub(1);
                if curly == 0 && round == 0 {
                    return at + 1;
                }
            }
            b';' if round == 0 && curly == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The text with everything but code turned into spaces; line breaks stay.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => {
                text[at..].find('\n').map_or(bytes.len(), |length| at + length)
            }
            b'/' if bytes[at..].starts_with(b"/*") => end_of_block_comment(bytes, at),
            b'r' | b'b' if !is_word(bytes, at) => match end_of_raw(text, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            b'"' => end_of_quoted(bytes, at, b'"'),
            b'\'' => match end_of_char(text, at) {
                Some(end) => end,
                None => {
                    at += 1;
                    continue;
                }
            },
            _ => {
                at += 1;
                continue;
            }
        };
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("whole characters were replaced")
}

/// Whether the byte before `at` continues a word.
fn is_word(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_')
}

fn end_of_block_comment(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut at) = (0, from);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// End of a raw string such as `r#"..."#` or `br"..."`; none if there is none at `at`.
fn end_of_raw(text: &str, at: usize) -> Option<usize> {
    let prefix = if text[at..].starts_with("br") { 2 } else { 1 };
    if !text[at..at + prefix].ends_with('r') {
        return None;
    }
    let hashes = text[at + prefix..].bytes().take_while(|byte| *byte == b'#').count();
    let open = at + prefix + hashes;
    if text.as_bytes().get(open) != Some(&b'"') {
        return None;
    }
    let close = format!("\"{}", "#".repeat(hashes));
    let length = text[open + 1..].find(&close).unwrap_or(text.len() - open - 1 - close.len());
    Some(open + 1 + length + close.len())
}

fn end_of_quoted(bytes: &[u8], from: usize, quote: u8) -> usize {
    let mut at = from + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// End of a character literal; none if the quote begins a lifetime.
fn end_of_char(text: &str, at: usize) -> Option<usize> {
    let mut rest = text[at + 1..].chars();
    let first = rest.next()?;
    if first == '\\' {
        return Some(end_of_quoted(text.as_bytes(), at, b'\''));
    }
    (rest.next()? == '\'').then(|| at + 1 + first.len_utf8() + 1)
}

#[test]
fn code_is_told_from_comments_texts_and_tests() {
    let text = concat!(
        "fn one<'a>(x: &'a str) -> char { /* fn no() {} */ let c = '\"'; c }\n",
        "// fn two() {}\n",
        "fn three() -> [u8; 2] {\n    let _ = r#\"fn four() { \"}\"#;\n    [b'{', b'\\'']\n}\n",
        "#[cfg(all(test, not(x)))]\nmod tests {\n    fn five() {}\n}\n",
        "#[cfg(test)]\n#[path = \"x.rs\"]\nmod six;\n#[cfg(test)]\nmod seven;\nfn eight();\n",
    );
    let file = TextFile { path: "lsm/src/table.rs".to_owned(), text: text.to_owned() };
    let rust = Rust::new(&file, false);
    assert_eq!(rust.code.len(), text.len());
    let functions: Vec<(String, usize, usize, bool)> =
        rust.functions().into_iter().map(|f| (f.name, f.line, f.lines, f.is_test)).collect();
    let expected = [("one", 1, 1, false), ("three", 3, 4, false), ("five", 9, 1, true)];
    let expected: Vec<_> =
        expected.map(|(name, line, lines, test)| (name.to_owned(), line, lines, test)).into();
    assert_eq!(functions, expected);
    assert_eq!(rust.test_modules(), ["lsm/src/x.rs", "lsm/src/table/seven"]);
    assert_eq!(rust.production_lines("fn "), [1, 3, 16]);
}
