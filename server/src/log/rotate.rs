//! A log file that is put aside when it is full: `--enable-log-rotation`.
//!
//! One idea: names are those that etcd's are given (`etcd-2006-01-02T15-04-05.000.log`, then `.gz`), so
//! that what collects them finds them. They sort by time as text, and time is compared as text.
//! What was put aside is compressed and removed on a thread of its own, one at a time; whoever logs
//! waits for a renaming only.
//!
//! A log that cannot be put aside goes on growing. Nothing here is synced.
//!
//! What it does not do: local time in names (`localtime`); they are in UTC.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_json::error::Category;
use varve_disk::os::OsDisk;
use varve_disk::{Disk, File, Result};

use super::timestamp;

/// What `maxsize` counts in, and how much no `maxsize` is.
const MEBIBYTE: u64 = 1 << 20;
const MEBIBYTES_DEFAULT: u64 = 100;
/// `2006-01-02T15-04-05.000`.
const TIME_BYTES: usize = 23;

/// `--log-rotation-config-json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// A file does not grow beyond this.
    pub bytes_max: u64,
    /// Files put aside that are kept; `None` is all.
    pub backups_max: Option<usize>,
    /// How long they are kept; `None` is for ever.
    pub age_max: Option<Duration>,
    /// Whether they are compressed with gzip.
    pub compresses: bool,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Fields {
    maxsize: i64,
    maxage: i64,
    maxbackups: i64,
    compress: bool,
    localtime: bool,
}

impl Rotation {
    /// Reads the flag. What is not above zero has no limit, but for the size.
    ///
    /// # Errors
    /// What etcd says, and why.
    pub fn parse(text: &str) -> std::result::Result<Self, String> {
        let Fields { maxsize, maxage, maxbackups, compress, localtime: _ } =
            serde_json::from_str(text).map_err(|error| match error.classify() {
                Category::Data => format!("invalid log rotation config: {error}"),
                _ => format!("improperly formatted log rotation config: {error}"),
            })?;
        let above_zero = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
        let days = |days: u64| Duration::from_secs(days.saturating_mul(24 * 60 * 60));
        Ok(Self {
            bytes_max: above_zero(maxsize).unwrap_or(MEBIBYTES_DEFAULT).saturating_mul(MEBIBYTE),
            backups_max: above_zero(maxbackups)
                .map(|number| usize::try_from(number).unwrap_or(usize::MAX)),
            age_max: above_zero(maxage).map(days),
            compresses: compress,
        })
    }
}

/// An old file is read in pieces of so many bytes.
const READ_BYTES: usize = 1 << 20;

/// The file that is written to.
pub(super) struct Rotated {
    names: Names,
    rotation: Rotation,
    file: Arc<dyn File>,
    length_bytes: u64,
    tidying: Option<JoinHandle<()>>,
}

impl Rotated {
    /// Goes on with the file at `path`, or begins one.
    pub(super) fn open(path: &Path, rotation: Rotation) -> Result<Self> {
        let disk = OsDisk::new();
        let file = if disk.exists(path)? { disk.open(path)? } else { disk.create(path)? };
        let length_bytes = file.len()?;
        Ok(Self { names: Names::new(path), rotation, file, length_bytes, tidying: None })
    }

    /// Appends a line.
    pub(super) fn write(&mut self, line: &[u8], now: SystemTime) -> Result<()> {
        let length_bytes = line.len() as u64;
        if self.length_bytes > 0 && self.length_bytes + length_bytes > self.rotation.bytes_max {
            // If it fails, the next line tries again.
            let _grows = self.rotate(now);
        }
        self.file.write_at(self.length_bytes, line)?;
        self.length_bytes += length_bytes;
        Ok(())
    }

    fn rotate(&mut self, now: SystemTime) -> Result<()> {
        let disk = OsDisk::new();
        let aside = self.names.directory.join(self.names.aside(now));
        // Two in one millisecond: the second waits for the next line.
        if disk.exists(&aside)? {
            return Ok(());
        }
        // It is gone when only the creation failed before, or when somebody else moved it.
        if disk.exists(&self.names.path)? {
            disk.rename(&self.names.path, &aside)?;
        }
        self.file = disk.create(&self.names.path)?;
        self.length_bytes = 0;
        if self.tidying.as_ref().is_none_or(JoinHandle::is_finished) {
            let (names, rotation) = (self.names.clone(), self.rotation);
            // Without a thread, or if it fails: the next rotation sees to it.
            self.tidying = std::thread::Builder::new()
                .name("log-tidy".into())
                .spawn(move || {
                    let _left = tidy(&names, rotation, now);
                })
                .ok();
        }
        Ok(())
    }
}

/// How files that were put aside are called.
#[derive(Clone, Debug)]
struct Names {
    path: PathBuf,
    directory: PathBuf,
    /// In front of the time, and behind it.
    stem: String,
    extension: String,
}

impl Names {
    fn new(path: &Path) -> Self {
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new(".")).to_owned();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (stem, extension) = match name.rfind('.') {
            Some(dot) => (&name[..dot], &name[dot..]),
            None => (name.as_str(), ""),
        };
        let (stem, extension) = (format!("{stem}-"), extension.to_owned());
        Self { path: path.to_owned(), directory, stem, extension }
    }

    fn aside(&self, now: SystemTime) -> String {
        format!("{}{}{}", self.stem, time(now), self.extension)
    }

    /// The time in a name; `None` if it is none of ours.
    fn time_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        let rest = name.strip_prefix(&self.stem)?;
        let rest = rest.strip_suffix(".gz").unwrap_or(rest);
        let time = rest.strip_suffix(&self.extension)?;
        let is_like = |(byte, like): (u8, u8)| match like {
            b'0' => byte.is_ascii_digit(),
            _ => byte == like,
        };
        let pattern = b"0000-00-00T00-00-00.000";
        (time.len() == TIME_BYTES && time.bytes().zip(*pattern).all(is_like)).then_some(time)
    }
}

/// As it stands in names.
fn time(now: SystemTime) -> String {
    timestamp(now)[..TIME_BYTES].replace(':', "-")
}

/// Removes what is too old or too much, and compresses the rest.
fn tidy(names: &Names, rotation: Rotation, now: SystemTime) -> Result<()> {
    let disk = OsDisk::new();
    let all = disk.list(&names.directory)?;
    let mut aside: Vec<(&str, &str)> =
        all.iter().filter_map(|name| Some((names.time_of(name)?, name.as_str()))).collect();
    aside.sort_unstable();
    let mut times: Vec<&str> = aside.iter().map(|(time, _)| *time).collect();
    times.dedup();
    let surplus = rotation.backups_max.map_or(0, |kept| times.len().saturating_sub(kept));
    let first_kept = times.get(surplus).copied();
    let oldest = rotation.age_max.and_then(|age| now.checked_sub(age)).map(time);
    for (time, name) in aside {
        let path = names.directory.join(name);
        let is_surplus = first_kept.is_none_or(|first| time < first);
        if is_surplus || oldest.as_deref().is_some_and(|oldest| time < oldest) {
            disk.remove(&path)?;
        } else if rotation.compresses && !name.ends_with(".gz") {
            compress(&disk, &path)?;
        }
    }
    Ok(())
}

fn compress(disk: &OsDisk, path: &Path) -> Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let target = PathBuf::from(target);
    // Half of one, if the process ended here before.
    if disk.exists(&target)? {
        disk.remove(&target)?;
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    // Read, not mapped: who shortens an old log must not end the server.
    let file = disk.open_to_read(path)?;
    let (mut buffer, mut offset) = (vec![0; READ_BYTES], 0);
    loop {
        let count = file.read_at(offset, &mut buffer)?;
        if count == 0 {
            break;
        }
        encoder.write_all(&buffer[..count]).expect("writing to a Vec cannot fail");
        offset += count as u64;
    }
    let compressed = encoder.finish().expect("writing to a Vec cannot fail");
    disk.create(&target)?.write_at(0, &compressed)?;
    disk.remove(path)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::UNIX_EPOCH;

    use flate2::read::GzDecoder;

    use super::*;

    const SMALL: Rotation =
        Rotation { bytes_max: 10, backups_max: None, age_max: None, compresses: false };

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn names_in(directory: &Path) -> Vec<String> {
        OsDisk::new().list(directory).unwrap()
    }

    fn wait(rotated: &mut Rotated) {
        if let Some(thread) = rotated.tidying.take() {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_full_file_is_put_aside_under_its_time() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.log");
        let mut rotated = Rotated::open(&path, SMALL).unwrap();
        // The first line is longer than a file may be, and is not lost for that.
        for (second, line) in
            [&b"a line that is long\n"[..], b"12345\n", b"678\n", b"9\n"].iter().enumerate()
        {
            rotated.write(line, at(second as u64)).unwrap();
        }
        let expected =
            ["etcd-1970-01-01T00-00-01.000.log", "etcd-1970-01-01T00-00-03.000.log", "etcd.log"];
        assert_eq!(names_in(directory.path()), expected);
        let contents =
            expected.map(|name| OsDisk::new().map(&directory.path().join(name)).unwrap());
        assert_eq!(contents, [&b"a line that is long\n"[..], b"12345\n678\n", b"9\n"]);
        // A restart goes on where it was.
        let mut rotated = Rotated::open(&path, SMALL).unwrap();
        rotated.write(b"0\n", at(9)).unwrap();
        assert_eq!(rotated.length_bytes, 4);
    }

    #[test]
    fn what_is_too_much_or_too_old_is_removed_and_the_rest_compressed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("etcd.log");
        let other = directory.path().join("etcd-notes.log");
        OsDisk::new().create(&other).unwrap();
        let rotation = Rotation { backups_max: Some(2), compresses: true, ..SMALL };
        let mut rotated = Rotated::open(&path, rotation).unwrap();
        for second in 0..5 {
            rotated.write(format!("line {second}...\n").as_bytes(), at(second)).unwrap();
            wait(&mut rotated);
        }
        let kept = |seconds: u64| format!("etcd-1970-01-01T00-00-0{seconds}.000.log.gz");
        let expected = [kept(3), kept(4), "etcd-notes.log".into(), "etcd.log".into()];
        assert_eq!(names_in(directory.path()), expected);
        let compressed = OsDisk::new().map(&directory.path().join(kept(4))).unwrap();
        let mut text = String::new();
        GzDecoder::new(&compressed[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text, "line 3...\n");

        let days = Duration::from_secs(2 * 24 * 60 * 60);
        let rotation = Rotation { age_max: Some(days), ..SMALL };
        tidy(&rotated.names, rotation, at(4) + days).unwrap();
        assert_eq!(names_in(directory.path()), expected[1..]);
    }

    #[test]
    fn the_flag_is_read_as_etcd_reads_it() {
        let default = r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#;
        let expected =
            Rotation { bytes_max: 100 << 20, backups_max: None, age_max: None, compresses: false };
        assert_eq!(Rotation::parse(default), Ok(expected));
        assert_eq!(Rotation::parse("{\"maxage\": -1, \"unknown\": 1}"), Ok(expected));
        let all = Rotation::parse(r#"{"maxsize":1,"maxage":2,"maxbackups":3,"compress":true}"#);
        let days = Duration::from_secs(2 * 86_400);
        let expected = Rotation {
            bytes_max: 1 << 20,
            backups_max: Some(3),
            age_max: Some(days),
            compresses: true,
        };
        assert_eq!(all, Ok(expected));
        for (text, start) in [
            ("", "improperly formatted log rotation config: "),
            ("{bad", "improperly formatted log rotation config: "),
            ("{\"maxsize\": \"x\"}", "invalid log rotation config: "),
        ] {
            let error = Rotation::parse(text).unwrap_err();
            assert!(error.starts_with(start), "{error}");
        }
    }
}
