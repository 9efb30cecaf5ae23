//! Reads and makes message frames from `docs/FORMAT.md` alone, so that the traces show what
//! travels and not what the code thinks.

use bytes::Bytes;

const NAMES: [&str; 14] = [
    "",
    "propose",
    "append",
    "append-response",
    "vote",
    "vote-response",
    "pre-vote",
    "pre-vote-response",
    "heartbeat",
    "heartbeat-response",
    "snapshot",
    "timeout-now",
    "read-index",
    "read-index-response",
];

/// A field of eight bytes by its name.
pub fn field_offset(name: &str) -> usize {
    match name {
        "to" => 4,
        "from" => 12,
        "term" => 20,
        "log_term" => 28,
        "index" => 36,
        "commit" => 44,
        "commit_term" => 52,
        "reject_hint" => 60,
        "request_snapshot" => 68,
        other => panic!("no field {other}"),
    }
}

/// The code of a type by its name.
pub fn type_code(name: &str) -> u8 {
    let code = NAMES.iter().position(|known| *known == name);
    code.unwrap_or_else(|| panic!("no type {name}")) as u8
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

/// The contexts that a message carries, of 24 bytes each, in order.
pub fn contexts(bytes: &[u8]) -> Vec<[u64; 3]> {
    let context = match bytes[1] {
        8 | 9 => &bytes[92..92 + u32_at(bytes, 84)],
        12 | 13 => &bytes[92 + 25..],
        _ => &[],
    };
    let parts = context.chunks_exact(24);
    parts.map(|part| [u64_at(part, 0), u64_at(part, 8), u64_at(part, 16)]).collect()
}

/// One line about a message.
pub fn describe(bytes: &Bytes) -> String {
    let field = |name: &str| u64_at(bytes, field_offset(name));
    let name = NAMES[usize::from(bytes[1])];
    let mut text = format!("{}->{} {name}", field("from"), field("to"));
    let mut add = |part: String| {
        text.push(' ');
        text.push_str(&part);
    };
    if field("term") != 0 {
        add(format!("term {}", field("term")));
    }
    let rejected = bytes[2] & 1 == 1;
    match name {
        "append" => {
            add(format!("after {}/{}", field("index"), field("log_term")));
            add(format!("entries {} commit {}", u32_at(bytes, 88), field("commit")));
        }
        "append-response" if rejected => {
            add(format!("rejects {}", field("index")));
            add(format!("hint {}/{}", field("reject_hint"), field("log_term")));
        }
        "append-response" => add(format!("accepts {}", field("index"))),
        "vote" | "pre-vote" => add(format!("log {}/{}", field("index"), field("log_term"))),
        "vote-response" | "pre-vote-response" => {
            add(if rejected { "rejected" } else { "granted" }.to_string());
        }
        "heartbeat" => add(format!("commit {}", field("commit"))),
        "snapshot" => add(format!("at {}/{}", u64_at(bytes, 92), u64_at(bytes, 100))),
        "read-index-response" => add(format!("index {}", field("index"))),
        _ => {}
    }
    for [node, boot, counter] in contexts(bytes) {
        add(format!("context {node}.{boot}.{counter}"));
    }
    text
}

/// A frame of a type with fields, and nothing behind the header.
pub fn make(kind: &str, fields: &[(&str, u64)]) -> Bytes {
    let mut bytes = vec![0; 92];
    bytes[0] = 1;
    bytes[1] = type_code(kind);
    for (name, value) in fields {
        if *name == "flags" {
            bytes[2] = *value as u8;
            continue;
        }
        let at = field_offset(name);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    bytes.into()
}

/// An entry as it follows the header: type, index, term, context length, data.
pub fn push_entry(bytes: &mut Vec<u8>, kind: u8, index: u64, term: u64, data: &[u8]) {
    bytes.push(kind);
    bytes.extend_from_slice(&index.to_le_bytes());
    bytes.extend_from_slice(&term.to_le_bytes());
    bytes.extend_from_slice(&0u32.to_le_bytes());
    bytes.extend_from_slice(&(data.len() as u32).to_le_bytes());
    bytes.extend_from_slice(data);
}
