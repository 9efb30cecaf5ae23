//! Log lines as etcd writes them: one JSON object a line, or tab-separated text.
//!
//! One idea: a `tracing` layer that formats straight into one buffer and writes it with one call,
//! so lines of different threads do not mix. Field names are etcd's (zap's):
//! `{"level":"info","ts":"2006-01-02T15:04:05.999999Z","caller":"server/raft.rs:42","msg":"..."}`.
//!
//! What it does not do: write to journald (`default` is stderr).

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use varve_disk::{Disk, File};

mod rotate;

use rotate::Rotated;
pub use rotate::Rotation;

/// What flags decide about logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// `--log-level`.
    pub level: LogLevel,
    /// `--log-format`.
    pub format: LogFormat,
    /// `--log-outputs`: `default`, `stderr`, `stdout`, or paths; at least one.
    pub outputs: Vec<String>,
    /// `--enable-log-rotation` and `--log-rotation-config-json`; for the one path in `outputs`.
    pub rotation: Option<Rotation>,
}

impl Default for LogOptions {
    fn default() -> Self {
        let outputs = vec!["default".to_owned()];
        Self { level: LogLevel(Level::INFO), format: LogFormat::Json, outputs, rotation: None }
    }
}

/// The least level that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevel(pub Level);

impl LogLevel {
    /// Reads a value of `--log-level`. There are no levels above error here.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(match text {
            "debug" => Level::DEBUG,
            "info" => Level::INFO,
            "warn" => Level::WARN,
            "error" | "dpanic" | "panic" | "fatal" => Level::ERROR,
            _ => return None,
        }))
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object.
    Json,
    /// Columns separated by tabs, then the fields as JSON.
    Console,
}

impl LogFormat {
    /// Reads a value of `--log-format`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "json" | "" => Some(Self::Json),
            "console" => Some(Self::Console),
            _ => None,
        }
    }
}

/// Starts logging for the whole process. Only the first call counts: a second (in tests) is
/// without effect.
///
/// # Errors
/// If a file cannot be opened.
pub fn start(options: &LogOptions, disk: &dyn Disk) -> Result<(), String> {
    let open = |output: &String| open(output, options.rotation, disk);
    let outputs = options.outputs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let lines = Lines { level: options.level.0, format: options.format, outputs };
    let subscriber = tracing_subscriber::registry().with(lines);
    // Fails only if logging was started before.
    let _already = tracing::subscriber::set_global_default(subscriber);
    Ok(())
}

/// The field whose text is a run of JSON fields already, made by [`json_fields`]: `tracing` only
/// knows names that are in the program's text.
const JSON_FIELDS: &str = "json_fields";

/// Names and values known only at run time, for `tracing::info!(json_fields = json_fields(..))`.
pub fn json_fields<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (name, value) in fields {
        text.push(',');
        push_json_string(&mut text, name);
        text.push(':');
        push_json_string(&mut text, value);
    }
    text
}

/// The layer that writes lines.
struct Lines {
    level: Level,
    format: LogFormat,
    outputs: Vec<Output>,
}

/// The journal of systemd, as `--log-outputs` names it. It reads our stderr when it started us, and
/// there is no other way to it here; configuring it gives a warning.
pub const JOURNAL: &str = "systemd/journal";

enum Output {
    Stderr,
    Stdout,
    /// Appended at the offset in the mutex; not synced: a crash may lose the last lines.
    File(Arc<dyn File>, Mutex<u64>),
    /// As `File`, but put aside when it is full.
    Rotated(Mutex<Rotated>),
}

fn open(output: &str, rotation: Option<Rotation>, disk: &dyn Disk) -> Result<Output, String> {
    match output {
        "default" | "stderr" | JOURNAL => return Ok(Output::Stderr),
        "stdout" => return Ok(Output::Stdout),
        _ => {}
    }
    let path = Path::new(output);
    let opened = match rotation {
        Some(rotation) => {
            Rotated::open(path, rotation).map(|file| Output::Rotated(Mutex::new(file)))
        }
        None => disk.exists(path).and_then(|exists| {
            let file = if exists { disk.open(path)? } else { disk.create(path)? };
            let length = file.len()?;
            Ok(Output::File(file, Mutex::new(length)))
        }),
    };
    opened.map_err(|error| format!("couldn't open sink {output:?}: {error}"))
}

impl<S: Subscriber> Layer<S> for Lines {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _context: Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(self.level.into())
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let line = format_line(self.format, event.metadata(), SystemTime::now(), &fields);
        for output in &self.outputs {
            output.write(line.as_bytes());
        }
    }
}

impl Output {
    /// A log that cannot be written has nobody to tell: the line is lost.
    fn write(&self, line: &[u8]) {
        let _lost = match self {
            Self::Stderr => std::io::stderr().lock().write_all(line).is_err(),
            Self::Stdout => std::io::stdout().lock().write_all(line).is_err(),
            Self::File(file, end) => {
                let mut end = end.lock().unwrap_or_else(PoisonError::into_inner);
                let written = file.write_at(*end, line);
                *end += line.len() as u64;
                written.is_err()
            }
            Self::Rotated(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.write(line, SystemTime::now()).is_err()
            }
        };
    }
}

/// The fields of an event: the message, and the others as `,"name":value`.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn raw(&mut self, field: &Field, value: std::fmt::Arguments<'_>) {
        self.rest.push(',');
        push_json_string(&mut self.rest, &field.name().replace('_', "-"));
        write!(self.rest, ":{value}").expect("writing to a String cannot fail");
    }

    fn text(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
            return;
        }
        if field.name() == JSON_FIELDS {
            self.rest.push_str(value);
            return;
        }
        let mut quoted = String::with_capacity(value.len() + 2);
        push_json_string(&mut quoted, value);
        self.raw(field, format_args!("{quoted}"));
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.raw(field, format_args!("{value}"));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.raw(field, format_args!("{value}"));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.raw(field, format_args!("{value}"));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.raw(field, format_args!("{value}"));
        } else {
            self.text(field, &value.to_string());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.text(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

fn format_line(
    format: LogFormat,
    metadata: &tracing::Metadata<'_>,
    now: SystemTime,
    fields: &Fields,
) -> String {
    let level = match *metadata.level() {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG | Level::TRACE => "debug",
    };
    let time = timestamp(now);
    let caller = caller(metadata);
    let mut line = String::with_capacity(128 + fields.message.len() + fields.rest.len());
    match format {
        LogFormat::Json => {
            write!(
                line,
                "{{\"level\":\"{level}\",\"ts\":\"{time}\",\"caller\":\"{caller}\",\"msg\":"
            )
            .expect("writing to a String cannot fail");
            push_json_string(&mut line, &fields.message);
            line.push_str(&fields.rest);
            line.push_str("}\n");
        }
        LogFormat::Console => {
            write!(line, "{time}\t{level}\t{caller}\t{}", fields.message)
                .expect("writing to a String cannot fail");
            if let Some(rest) = fields.rest.strip_prefix(',') {
                write!(line, "\t{{{rest}}}").expect("writing to a String cannot fail");
            }
            line.push('\n');
        }
    }
    line
}

/// The last folder, the file and the line, as zap's short caller.
fn caller(metadata: &tracing::Metadata<'_>) -> String {
    let file = metadata.file().unwrap_or("unknown");
    let start = file.rmatch_indices('/').nth(1).map_or(0, |(position, _)| position + 1);
    format!("{}:{}", &file[start..], metadata.line().unwrap_or(0))
}

/// UTC with microseconds, as `2006-01-02T15:04:05.999999Z`.
fn timestamp(now: SystemTime) -> String {
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, micros) = (since_epoch.as_secs(), since_epoch.subsec_micros());
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z")
}

/// Year, month and day of a number of days since 1970-01-01, in the Gregorian calendar. Counts
/// from 0000-03-01, so that leap days come last in their year (after Howard Hinnant,
/// "chrono-Compatible Low-Level Date Algorithms").
fn civil_date(days_since_epoch: u64) -> (u64, u64, u64) {
    let days = days_since_epoch + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

/// Appends a JSON string with its quotes.
fn push_json_string(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                write!(out, "\\u{:04x}", u32::from(control))
                    .expect("writing to a String cannot fail");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use varve_disk::os::OsDisk;

    use super::*;

    #[test]
    fn times_are_written_as_etcd_writes_them() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_795_224_025, "2026-11-21T01:20:25.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(timestamp(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        let fraction = UNIX_EPOCH + Duration::from_micros(1_000_007);
        assert_eq!(timestamp(fraction), "1970-01-01T00:00:01.000007Z");
    }

    #[test]
    fn the_journal_is_no_file() {
        let opened = open("systemd/journal", None, &OsDisk::new());
        assert!(matches!(opened, Ok(Output::Stderr)));
    }

    fn logged(format: LogFormat) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let disk = OsDisk::new();
        let output = open(path.to_str().unwrap(), None, &disk).unwrap();
        let lines = Lines { level: Level::INFO, format, outputs: vec![output] };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::info!(member_id = "8e9e", term = 2_u64, ok = true, "became \"leader\"");
            tracing::info!(json_fields = json_fields([("some-name", "a\"b")]), "");
            tracing::debug!("not written");
        });
        let bytes = disk.map(&path).unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[test]
    fn a_json_line_has_etcds_fields_in_etcds_order() {
        let text = logged(LogFormat::Json);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let [line, second] = &lines[..] else { panic!("two lines, found {text}") };
        assert_eq!(second["some-name"], "a\"b");
        assert_eq!(line["level"], "info");
        assert_eq!(line["msg"], "became \"leader\"");
        assert_eq!(line["member-id"], "8e9e");
        assert_eq!(line["term"], 2);
        assert_eq!(line["ok"], true);
        assert!(line["caller"].as_str().unwrap().starts_with("src/log.rs:"));
        let positions: Vec<usize> = ["\"level\"", "\"ts\"", "\"caller\"", "\"msg\"", "\"term\""]
            .iter()
            .map(|name| text.find(name).unwrap())
            .collect();
        assert!(positions.is_sorted());
    }

    #[test]
    fn a_console_line_has_columns() {
        let text = logged(LogFormat::Console);
        let columns: Vec<&str> = text.lines().next().unwrap().split('\t').collect();
        assert_eq!(columns[1], "info");
        assert_eq!(columns[3], "became \"leader\"");
        assert_eq!(columns[4], "{\"member-id\":\"8e9e\",\"term\":2,\"ok\":true}");
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        push_json_string(&mut out, "a\"b\\c\nd\u{1}\u{f6}");
        assert_eq!(out, "\"a\\\"b\\\\c\\nd\\u0001\u{f6}\"");
    }
}
