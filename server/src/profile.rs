//! Where the processor's time goes: a profile of this process, as `go tool pprof` reads it.
//!
//! One idea: the crate `pprof` samples (a timer that runs while the process computes, a signal, the
//! stack of the thread that it meets); here is what is around it: the time that it takes, on a
//! thread of its own, and the bytes. These are the protobuf message `perftools.profiles.Profile`,
//! compressed with gzip, with names, files and lines in it, so that whoever reads them needs no
//! program beside.
//!
//! Invariants: one profile at a time. Who no longer waits ends it.
//!
//! What it does not do: heap or lock profiles; time in which threads wait.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use pprof::{ProfilerGuardBuilder, Report, Symbol};
use prost::Message as _;
use tokio::sync::oneshot;

use crate::read_pool::lower_priority;

/// Samples a second and processor; Go's number.
const SAMPLES_PER_SECOND: i32 = 100;
const NANOS_PER_SAMPLE: i64 = 1_000_000_000 / SAMPLES_PER_SECOND as i64;

/// Libraries in whose code no stack is read: what reads stacks, and the kernel's page, whose notes for
/// that are not always right.
const UNREADABLE: [&str; 2] = ["libgcc", "vdso"];

/// Profiles this process for so long; the bytes for `go tool pprof`. Dropped earlier, it ends.
///
/// # Errors
/// Another profile is under way, or the system refuses.
pub async fn record(duration: Duration) -> Result<Vec<u8>, String> {
    let turn = Turn::take().ok_or("another profile is under way")?;
    let (sender, receiver) = oneshot::channel();
    // Stopped when this future is done or dropped.
    let (waits, stop) = crate::queue::bounded::<()>(1);
    let work = move || {
        let builder = ProfilerGuardBuilder::default().frequency(SAMPLES_PER_SECOND);
        let guard = match builder.blocklist(&UNREADABLE).build() {
            Ok(guard) => guard,
            Err(error) => {
                let _gone = sender.send(Err(error.to_string()));
                return;
            }
        };
        let _turn = turn;
        let _stopped = stop.recv_timeout(duration);
        if sender.is_closed() {
            return;
        }
        // Finding names takes long, and nobody needs it soon.
        lower_priority();
        let report = guard.report().build().map_err(|error| error.to_string());
        drop(guard);
        let _gone = sender.send(report.and_then(|report| encode(&report)));
    };
    let thread = std::thread::Builder::new().name("profile".into()).spawn(work);
    thread.map_err(|error| error.to_string())?;
    let answer = receiver.await.map_err(|_| "the profile's thread has ended".to_owned())?;
    drop(waits);
    answer
}

/// The right to profile, which one at a time has. (The crate would let the others spin.)
struct Turn;

static IS_TAKEN: AtomicBool = AtomicBool::new(false);

impl Turn {
    fn take() -> Option<Self> {
        (!IS_TAKEN.swap(true, Ordering::AcqRel)).then_some(Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        IS_TAKEN.store(false, Ordering::Release);
    }
}

fn encode(report: &Report) -> Result<Vec<u8>, String> {
    let mut tables = Tables::default();
    let (samples, cpu) = (tables.kind("samples", "count"), tables.kind("cpu", "nanoseconds"));
    let thread = tables.text("thread");
    let mut profile = Profile {
        sample_type: vec![samples, cpu],
        period_type: Some(cpu),
        period: NANOS_PER_SAMPLE,
        time_nanos: nanos(report.timing.start_time.duration_since(UNIX_EPOCH).unwrap_or_default()),
        duration_nanos: nanos(report.timing.duration),
        ..Profile::default()
    };
    for (stack, count) in &report.data {
        let count = *count as i64;
        profile.sample.push(Sample {
            location: stack.frames.iter().map(|frame| tables.location(frame)).collect(),
            value: vec![count, count * NANOS_PER_SAMPLE],
            label: vec![Label { key: thread, text: tables.text(&stack.thread_name_or_id()) }],
        });
    }
    let Tables { texts, functions, locations } = tables;
    profile.string_table = texts.into_order();
    profile.function = functions.into_order();
    profile.location = locations.into_order();
    for (function, number) in profile.function.iter_mut().zip(1..) {
        function.id = number;
    }
    for (location, number) in profile.location.iter_mut().zip(1..) {
        location.id = number;
    }
    let mut compressed = GzEncoder::new(Vec::new(), Compression::fast());
    compressed.write_all(&profile.encode_to_vec()).map_err(|error| error.to_string())?;
    compressed.finish().map_err(|error| error.to_string())
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// What samples refer to by number. The first text is the empty one; functions and locations are
/// counted from 1, and get their numbers in the end.
struct Tables {
    texts: Numbered<String>,
    functions: Numbered<Function>,
    locations: Numbered<Location>,
}

impl Default for Tables {
    fn default() -> Self {
        let mut texts = Numbered::default();
        texts.number(String::new());
        Self { texts, functions: Numbered::default(), locations: Numbered::default() }
    }
}

impl Tables {
    fn text(&mut self, text: &str) -> i64 {
        self.texts.number(text.to_owned()) as i64
    }

    fn kind(&mut self, name: &str, unit: &str) -> ValueType {
        ValueType { name: self.text(name), unit: self.text(unit) }
    }

    /// The number of a place in the program: a function, and those that were put into it, innermost
    /// first.
    fn location(&mut self, frame: &[Symbol]) -> u64 {
        let line = frame.iter().map(|symbol| self.line(symbol)).collect();
        1 + self.locations.number(Location { id: 0, line }) as u64
    }

    fn line(&mut self, symbol: &Symbol) -> Line {
        let function = Function {
            id: 0,
            name: self.text(&symbol.name()),
            system_name: self.text(&symbol.sys_name()),
            file_name: self.text(&symbol.filename()),
        };
        let function = 1 + self.functions.number(function) as u64;
        Line { function, line: i64::from(symbol.lineno()) }
    }
}

/// Different things in the order in which they came.
struct Numbered<T>(HashMap<T, usize>);

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Eq + Hash> Numbered<T> {
    fn number(&mut self, thing: T) -> usize {
        let next = self.0.len();
        *self.0.entry(thing).or_insert(next)
    }

    fn into_order(self) -> Vec<T> {
        let mut things: Vec<(T, usize)> = self.0.into_iter().collect();
        things.sort_unstable_by_key(|(_, number)| *number);
        things.into_iter().map(|(thing, _)| thing).collect()
    }
}

/// The parts of `perftools.profiles.Profile` that are used here; numbers of texts are positions in
/// `string_table`.
#[derive(Clone, PartialEq, prost::Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    name: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

/// The innermost location is the first.
#[derive(Clone, PartialEq, prost::Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    text: i64,
}

#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    file_name: i64,
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::GzDecoder;

    use super::*;

    /// Burns the processor's time under a name that can be looked for.
    #[inline(never)]
    fn spin_until(done: &AtomicBool) -> u64 {
        let mut number = 1_u64;
        while !done.load(Ordering::Relaxed) {
            number = std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005));
        }
        number
    }

    /// One test, as there is one profile at a time.
    #[test]
    fn a_profile_names_what_took_the_time_and_a_second_one_is_refused() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let done = AtomicBool::new(false);
        let bytes = std::thread::scope(|scope| {
            scope.spawn(|| spin_until(&done));
            runtime.block_on(async {
                // Refused itself while a short one is under way.
                let long = async {
                    while record(Duration::from_secs(600)).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                // Refused as soon as the long one has begun, which is then given up.
                let refused = async {
                    while record(Duration::ZERO).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                };
                tokio::select! {
                    () = long => panic!("it has not been ten minutes"),
                    () = refused => {}
                }
            });
            let bytes = runtime.block_on(async {
                // The one that was given up ends by itself, soon.
                for _ in 0..1_000 {
                    match record(Duration::from_secs(1)).await {
                        Ok(bytes) => return bytes,
                        Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                    }
                }
                panic!("a profile that nobody waits for goes on");
            });
            done.store(true, Ordering::Relaxed);
            bytes
        });
        let mut message = Vec::new();
        GzDecoder::new(&bytes[..]).read_to_end(&mut message).unwrap();
        let profile = Profile::decode(&message[..]).unwrap();
        let text = |number: i64| profile.string_table[usize::try_from(number).unwrap()].as_str();
        assert_eq!(text(0), "");
        let kinds: Vec<_> =
            profile.sample_type.iter().map(|kind| (text(kind.name), text(kind.unit))).collect();
        assert_eq!(kinds, [("samples", "count"), ("cpu", "nanoseconds")]);
        let mut spinning = 0;
        for sample in &profile.sample {
            assert_eq!(sample.value[1], sample.value[0] * profile.period);
            let names = sample.location.iter().flat_map(|number| {
                let location = &profile.location[usize::try_from(*number).unwrap() - 1];
                assert_eq!(location.id, *number);
                location.line.iter().map(|line| {
                    let function = &profile.function[usize::try_from(line.function).unwrap() - 1];
                    assert_eq!(function.id, line.function);
                    text(function.name)
                })
            });
            if names.into_iter().any(|name| name.contains("spin_until")) {
                spinning += sample.value[0];
            }
        }
        assert!(spinning > 0, "{profile:?}");
    }
}
