//! The log of a server process, followed by a thread: what it said, and waiting until it says
//! something. Bounded: older lines are dropped.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Lines of log kept of each server; older ones are dropped.
const LOG_LINES_MAX: usize = 20_000;

/// The lines a process wrote to its standard error, gathered by a thread.
#[derive(Default)]
pub(super) struct Log {
    lines: Mutex<(VecDeque<String>, bool)>,
    grown: Condvar,
}

impl Log {
    pub(super) fn follow(self: &Arc<Log>, source: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            let mut reader = BufReader::new(source);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(length) if length > 0) {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                let mut guard = log.lines.lock().expect("no panic under this lock");
                if guard.0.len() == LOG_LINES_MAX {
                    guard.0.pop_front();
                }
                guard.0.push_back(text);
                log.grown.notify_all();
            }
            log.lines.lock().expect("no panic under this lock").1 = true;
            log.grown.notify_all();
        });
    }

    /// Keeps another output, too, which does not say when the process ends.
    pub(super) fn follow_beside(self: &Arc<Log>, source: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        std::thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                let mut guard = log.lines.lock().expect("no panic under this lock");
                if guard.0.len() < LOG_LINES_MAX {
                    guard.0.push_back(line);
                }
                log.grown.notify_all();
            }
        });
    }

    /// Waits until a line contains `text`; `false` when time is over or the process has ended.
    pub(super) fn wait_for(&self, text: &str, timeout: Duration) -> bool {
        let guard = self.lines.lock().expect("no panic under this lock");
        let (guard, _) = self
            .grown
            .wait_timeout_while(guard, timeout, |(lines, ended)| {
                !*ended && !lines.iter().any(|line| line.contains(text))
            })
            .expect("no panic under this lock");
        guard.0.iter().any(|line| line.contains(text))
    }

    /// Waits until the process has closed its standard error.
    pub(super) fn wait_end(&self, timeout: Duration) {
        let guard = self.lines.lock().expect("no panic under this lock");
        let waited = self.grown.wait_timeout_while(guard, timeout, |(_, ended)| !*ended);
        drop(waited.expect("no panic under this lock"));
    }

    pub(super) fn text(&self) -> String {
        let guard = self.lines.lock().expect("no panic under this lock");
        guard.0.iter().map(|line| format!("{line}\n")).collect()
    }
}
