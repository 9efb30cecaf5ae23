//! What is in a backup, as `etcdutl snapshot status` tells it.
//!
//! One idea: every page and row is read and checked, so a file that has a status can be restored.
//! Memory grows with the number of keys, which have to be told apart to be counted.

use std::collections::BTreeSet;

use prost::Message;
use varve_api::mvccpb::KeyValue;
use varve_bolt::Reader;
use varve_store::Crc32c;

use super::file::Backup;

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// CRC-32C of all names, keys and values.
    pub hash: u32,
    /// Newest revision of a key.
    pub revision: u64,
    /// Keys that live.
    pub keys: usize,
    /// Bytes of the database.
    pub bytes: u64,
    /// Storage version; empty before etcd 3.6.
    pub version: String,
}

/// Reads a backup.
///
/// # Errors
/// What is wrong with it.
pub fn status(file: &Backup) -> Result<Status, String> {
    let failed = |reason: String| format!("{}: {reason}", file.path().display());
    read(file).map_err(failed)
}

fn read(file: &Backup) -> Result<Status, String> {
    let text = |error: varve_bolt::Error| error.to_string();
    let reader = Reader::open(file).map_err(text)?;
    let (mut hash, mut keys) = (Crc32c::new(), BTreeSet::new());
    let (mut revision, mut version) = (0, String::new());
    for bucket in reader.buckets().map_err(text)? {
        hash.update(&bucket.name);
        let mut rows = reader.rows(&bucket).map_err(text)?;
        while let Some((key, value)) = rows.next_row().map_err(text)? {
            hash.update(key);
            hash.update(value);
            if bucket.name == b"meta" && key == b"storageVersion" {
                version = String::from_utf8_lossy(value).into_owned();
            }
            if bucket.name != b"key" {
                continue;
            }
            let main = key.first_chunk().filter(|_| matches!(key.len(), 17 | 18));
            let main = main.ok_or_else(|| {
                format!("bucket key: expected a revision, found {}", key.escape_ascii())
            })?;
            revision = u64::from_be_bytes(*main);
            let kv = KeyValue::decode(value).map_err(|error| {
                format!("row {}: expected a key with its value, found {error}", key.escape_ascii())
            })?;
            if key.len() == 18 {
                keys.remove(kv.key.as_ref());
            } else {
                keys.insert(Box::<[u8]>::from(kv.key.as_ref()));
            }
        }
    }
    let (hash, keys) = (hash.finish(), keys.len());
    Ok(Status { hash, revision, keys, bytes: reader.bytes(), version })
}

impl Status {
    /// As `-w simple`, `table`, `json` or `fields` print it. `None` for another form.
    pub fn format(&self, form: &str) -> Option<String> {
        let Self { hash, revision, keys, bytes, version } = self;
        let size = size_text(*bytes);
        Some(match form {
            "simple" => format!("{hash:x}, {revision}, {keys}, {size}, {version}\n"),
            "json" => {
                let version = serde_json::Value::from(version.as_str());
                format!(
                    "{{\"hash\":{hash},\"revision\":{revision},\"totalKey\":{keys},\
                     \"totalSize\":{bytes},\"version\":{version}}}\n"
                )
            }
            "fields" => format!(
                "\"Hash\" : {hash}\n\"Revision\" : {revision}\n\"Keys\" : {keys}\n\
                 \"Size\" : {bytes}\n\"Version\" : {version:?}\n"
            ),
            "table" => table(&[
                ("HASH", format!("{hash:x}")),
                ("REVISION", revision.to_string()),
                ("TOTAL KEYS", keys.to_string()),
                ("TOTAL SIZE", size),
                ("VERSION", version.clone()),
            ]),
            _ => return None,
        })
    }
}

/// One row under its titles, each in the middle of its column.
fn table(columns: &[(&str, String)]) -> String {
    let width = |(title, value): &(&str, String)| title.len().max(value.len());
    let line: String =
        columns.iter().map(|one| "+".to_owned() + &"-".repeat(width(one) + 2)).collect();
    let row = |text: &dyn Fn(&(&str, String)) -> String| -> String {
        columns.iter().map(|one| format!("| {:^1$} ", text(one), width(one))).collect()
    };
    let (titles, values) = (row(&|one| one.0.to_owned()), row(&|one| one.1.clone()));
    format!("{line}+\n{titles}|\n{line}+\n{values}|\n{line}+\n")
}

/// Bytes in thousands, with one digit behind the point below ten.
fn size_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut size, mut unit) = (bytes as f64 / 1000.0, 0);
    while size >= 999.5 && unit + 1 < UNITS.len() {
        size /= 1000.0;
        unit += 1;
    }
    let digits = usize::from(size < 9.95);
    format!("{size:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_readable() {
        let sizes = [(999, "999 B"), (20480, "20 kB"), (1_200_000, "1.2 MB"), (999_999, "1.0 MB")];
        for (bytes, text) in sizes {
            assert_eq!(size_text(bytes), text);
        }
    }

    #[test]
    fn forms_are_etcdutls() {
        let status =
            Status { hash: 0xcafe, revision: 7, keys: 2, bytes: 20480, version: "3.7.0".into() };
        assert_eq!(status.format("simple").unwrap(), "cafe, 7, 2, 20 kB, 3.7.0\n");
        let json =
            r#"{"hash":51966,"revision":7,"totalKey":2,"totalSize":20480,"version":"3.7.0"}"#;
        assert_eq!(status.format("json").unwrap().trim_end(), json);
        let table = "\
+------+----------+------------+------------+---------+
| HASH | REVISION | TOTAL KEYS | TOTAL SIZE | VERSION |
+------+----------+------------+------------+---------+
| cafe |    7     |     2      |   20 kB    |  3.7.0  |
+------+----------+------------+------------+---------+
";
        assert_eq!(status.format("table").unwrap(), table);
        assert_eq!(status.format("yaml"), None);
    }
}
