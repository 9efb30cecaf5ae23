//! Makes outputs of two servers comparable: replaces what may differ, and nothing more.
//!
//! One idea: ids (cluster, member, lease, hexadecimal or decimal) are numbered in the order in
//! which a script shows them. So two servers agree only if the same id stands in the same places.
//!
//! | replaced | by |
//! | --- | --- |
//! | host:port of client and peer URLs, data directory | `<client>`, `<peer>`, `<data>` |
//! | ids: 13-16 hex digits, or 16-20 decimal digits | `<id 1>`, ... |
//! | Raft's term and indexes, sizes of the database, a lease's remaining time | `<n>` |
//! | the server's version in `endpoint status` | `<version>` |
//! | durations after `took = `, times and addresses in the client's own log lines | `<time>`, ... |
//! | padding and rules of tables | one space, `+-+` |
//!
//! What it does not do: hide keys, values, revisions, versions, counts, texts, codes, or order.

use std::collections::BTreeMap;

/// Names after which a number may differ.
const FREE_NUMBERS: &[&str] = &[
    "raft_term",
    "raftTerm",
    "RaftTerm",
    "raftIndex",
    "RaftIndex",
    "raftAppliedIndex",
    "RaftAppliedIndex",
    "dbSize",
    "DBSize",
    "dbSizeInUse",
    "DBSizeInUse",
    "dbSizeQuota",
    "DBSizeQuota",
    "ttl",
    "TTL",
    "remaining(",
];

/// What is known of one server, and the ids it has shown so far.
#[derive(Clone, Debug, Default)]
pub struct Normaliser {
    /// Texts of this server and their replacement, in order.
    texts: Vec<(String, String)>,
    /// Ids by value, numbered from 1.
    ids: BTreeMap<u64, usize>,
}

impl Normaliser {
    /// A normaliser that replaces these texts first.
    pub fn new(texts: Vec<(String, String)>) -> Normaliser {
        Normaliser { texts, ids: BTreeMap::new() }
    }

    /// Makes the output of one call comparable.
    pub fn normalise(&mut self, arguments: &[String], text: &str) -> String {
        let mut text = text.to_owned();
        for (from, to) in &self.texts {
            text = text.replace(from, to);
        }
        text = replace_between(&text, "took = ", &[',', '\n'], "<time>");
        text = replace_between(&text, "]. took ", &['\n'], "<time>");
        text = replace_between(&text, "\"took\":\"", &['"'], "<time>");
        text = replace_between(&text, "\"ts\":\"", &['"'], "<time>");
        text = replace_between(&text, "endpoint://client-", &['/'], "<client id>");
        text = replace_between(&text, "etcd-endpoints://0x", &['/'], "<address>");
        text = replace_between(&text, "LocalAddr: '", &['\''], "<local>");
        let status = arguments.iter().any(|argument| argument == "status");
        for name in FREE_NUMBERS {
            // A lease's remaining time is only free where it is asked for.
            if !name.eq_ignore_ascii_case("ttl") || arguments.iter().any(|a| a == "timetolive") {
                text = free_number(&text, name);
            }
        }
        if status {
            text = free_string(&text, "version");
            text = free_string(&text, "Version");
        }
        let lines: Vec<String> = text
            .split('\n')
            .map(|line| {
                if line.starts_with(['+', '|']) || line.starts_with("\\xe2\\x94") {
                    table_line(line)
                } else {
                    line.into()
                }
            })
            .map(|line| if status { status_line(&line) } else { line })
            .collect();
        self.number_ids(&lines.join("\n"))
    }

    fn number_ids(&mut self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while !rest.is_empty() {
            let word_length = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
            if word_length == 0 {
                let length = rest.chars().next().map_or(1, char::len_utf8);
                result.push_str(&rest[..length]);
                rest = &rest[length..];
                continue;
            }
            let word = &rest[..word_length];
            match self.id_of(word) {
                Some(value) => {
                    let next = self.ids.len() + 1;
                    let number = *self.ids.entry(value).or_insert(next);
                    result.push_str(&format!("<id {number}>"));
                }
                None => result.push_str(word),
            }
            rest = &rest[word_length..];
        }
        result
    }

    /// The value of a word that looks like an id.
    fn id_of(&self, word: &str) -> Option<u64> {
        let decimal = (16..=20).contains(&word.len()).then(|| word.parse().ok()).flatten();
        let lower_hex = word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            && word.bytes().any(|b| b.is_ascii_digit());
        let hex = ((13..=16).contains(&word.len()) && lower_hex)
            .then(|| u64::from_str_radix(word, 16).ok())
            .flatten();
        match (decimal, hex) {
            (Some(decimal), _) if self.ids.contains_key(&decimal) => Some(decimal),
            (_, Some(hex)) => Some(hex),
            (decimal, None) => decimal,
        }
    }
}

/// The last word that looks like an id, in hexadecimal as etcdctl takes it. The last, since a
/// header with other ids comes before what it heads.
pub fn last_id(text: &str) -> Option<String> {
    let normaliser = Normaliser::default();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    words.rev().find_map(|word| normaliser.id_of(word)).map(|id| format!("{id:x}"))
}

/// Replaces what stands between `prefix` and the first of `ends`, wherever it occurs.
fn replace_between(text: &str, prefix: &str, ends: &[char], with: &str) -> String {
    let mut parts = text.split(prefix);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(ends).unwrap_or(part.len());
        result.push_str(prefix);
        result.push_str(with);
        result.push_str(&part[end..]);
    }
    result
}

/// Replaces the positive number after `name`, `"name":`, `"name" : ` or `name(`.
fn free_number(text: &str, name: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(position) = rest.find(name) {
        let alone = !rest[..position].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '-');
        let (before, after) = rest.split_at(position + name.len());
        result.push_str(before);
        let digits = after.trim_start_matches(['"', ' ', ':']);
        let gap = &after[..after.len() - digits.len()];
        let length = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        rest = after;
        if alone && length > 0 && (gap.contains(':') || name.ends_with('(')) {
            result.push_str(gap);
            result.push_str("<n>");
            rest = &digits[length..];
        }
    }
    result.push_str(rest);
    result
}

/// Replaces the string after `"name":"` or `"name" : "`.
fn free_string(text: &str, name: &str) -> String {
    let text = replace_between(text, &format!("\"{name}\":\""), &['"'], "<version>");
    replace_between(&text, &format!("\"{name}\" : \""), &['"'], "<version>")
}

/// A line of a table without padding. Newer clients draw tables with box characters, which come
/// here as escaped bytes: E2 94 82 is the vertical one.
fn table_line(line: &str) -> String {
    let line = line.replace("\\xe2\\x94\\x82", "|");
    if line.starts_with("\\xe2\\x94") {
        return "+-+".into();
    }
    if line.starts_with('+') {
        return "+-+".into();
    }
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    format!("| {} |", cells.join(" | "))
}

/// In `endpoint status`: the version, the size and Raft's numbers of a line or a row.
fn status_line(line: &str) -> String {
    let separator = if line.starts_with("| <client>") { " | " } else { ", " };
    let mut cells: Vec<String> = line.split(separator).map(str::to_owned).collect();
    if cells.len() < 8 || !cells[0].ends_with("<client>") {
        return line.to_owned();
    }
    cells[2] = "<version>".into();
    cells[3] = "<size>".into();
    for cell in &mut cells[4..] {
        if cell.ends_with('B') || cell.ends_with('%') {
            *cell = "<size>".into();
        } else if !cell.is_empty() && cell.bytes().all(|byte| byte.is_ascii_digit()) {
            *cell = "<n>".into();
        }
    }
    cells.join(separator)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalise(arguments: &str, text: &str) -> String {
        let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
        let texts = vec![("127.0.0.1:4444".to_owned(), "<client>".to_owned())];
        Normaliser::new(texts).normalise(&arguments, text)
    }

    #[test]
    fn ids_are_numbered_in_order_of_appearance_in_hexadecimal_and_decimal() {
        let text = "lease 694d8f1234567890 of 7587878255539419280 and 8e9e05c52164694d again";
        assert_eq!(normalise("x", text), "lease <id 1> of <id 1> and <id 2> again");
    }

    #[test]
    fn revisions_values_and_codes_stay() {
        let text =
            "\"revision\":12,\"raft_term\":3},\"key\":\"Zm9v\",\"version\":1 code = NotFound";
        let expected =
            "\"revision\":12,\"raft_term\":<n>},\"key\":\"Zm9v\",\"version\":1 code = NotFound";
        assert_eq!(normalise("get", text), expected);
    }

    #[test]
    fn status_hides_version_size_and_numbers_of_raft_only() {
        let line = "127.0.0.1:4444, 8e9e05c52164694d, 3.4.23, 20 kB, true, false, 2, 4, 4, ";
        let expected = "<client>, <id 1>, <version>, <size>, true, false, <n>, <n>, <n>, ";
        assert_eq!(normalise("endpoint status", line), expected);
    }

    #[test]
    fn remaining_time_is_free_and_absence_is_not() {
        let text = "granted with TTL(60s), remaining(59s)\nremaining(-1s)\n\"ttl\":-1 \"granted-ttl\":5 \"ttl\":5";
        let expected = "granted with TTL(60s), remaining(<n>s)\nremaining(-1s)\n\"ttl\":-1 \"granted-ttl\":5 \"ttl\":<n>";
        assert_eq!(normalise("lease timetolive", text), expected);
    }

    #[test]
    fn tables_lose_their_padding() {
        let text = "+----+----+\n| a  |  b |\n";
        assert_eq!(normalise("member list", text), "+-+\n| a | b |\n");
    }
}
