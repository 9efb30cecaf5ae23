//! Runs a script against two servers and says where they differ.
//!
//! One idea: each call leaves a transcript of text lines (output, errors with `! `, `exit n` if
//! not 0); after normalisation the two transcripts must be equal, line by line. Where etcd 3.4 is
//! known to do otherwise, the script carries the expected transcript, and both sides are held to
//! it: varve must give it, and a peer from before 3.7 must not, so that no note outlives its cause.
//!
//! What it does not do: decide which servers; see `tests/differential.rs`.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::etcdctl::{Etcdctl, Outcome, Running};
use crate::etcdctl_normalise::{Normaliser, last_id};
use crate::etcdctl_script::{Action, Script, Step, substitute};
use crate::process::{Program, Server};

/// How long `await` waits.
const AWAIT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long `[until empty]` repeats, and `finish` waits.
const UNTIL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a new watcher may take to show in the server's metrics.
const WATCHER_TIMEOUT: Duration = Duration::from_secs(5);
/// The gauge in which both servers count watchers.
const WATCHERS_METRIC: &str = "etcd_debugging_mvcc_watcher_total";

/// What one side did in one step, made comparable.
pub type Transcript = Vec<String>;

/// A program and what is known of it.
#[derive(Clone, Debug)]
pub struct Side {
    /// The server.
    pub program: Program,
    /// It behaves as etcd 3.7 does, so notes do not excuse it.
    pub is_current: bool,
}

impl Side {
    /// Judges by the printed version; varve, and what prints none, counts as current.
    pub fn of(program: Program) -> Side {
        let is_current = program.version().is_none_or(|version| version >= (3, 7));
        Side { program, is_current }
    }
}

/// Runs a script against both and lists the differences, as text to read. With `VARVE_SCRIPT` in
/// the environment, what the subject does is printed too.
pub fn differences(script: &Script, etcdctl: &Path, subject: &Side, peer: &Side) -> Vec<String> {
    let run = |side: &Side| run_script(script, etcdctl, &side.program);
    let (ours, theirs) = std::thread::scope(|scope| {
        let peer_thread = scope.spawn(|| run(peer));
        let ours = run(subject);
        (ours, peer_thread.join().expect("the peer's side does not panic"))
    });
    if std::env::var_os("VARVE_SCRIPT").is_some() {
        for (step, transcript) in script.steps.iter().zip(&ours) {
            print!("{}: {}\n{}", step.line, step.source, block("subject", transcript));
        }
    }
    compare(script, &ours, &theirs, peer.is_current)
}

/// Lists the differences between two runs of a script.
pub fn compare(
    script: &Script,
    ours: &[Transcript],
    theirs: &[Transcript],
    peer_is_current: bool,
) -> Vec<String> {
    let steps = script.steps.iter().zip(ours.iter().zip(theirs));
    steps.filter_map(|(step, (ours, theirs))| judge(step, ours, theirs, peer_is_current)).collect()
}

fn judge(
    step: &Step,
    ours: &Transcript,
    theirs: &Transcript,
    peer_is_current: bool,
) -> Option<String> {
    let complaint = match &step.differs {
        None if ours == theirs => return None,
        None => "they differ".to_owned(),
        Some(note) if *ours != note.expected => {
            format!("not as noted ({}):\n{}", note.reason, block("expected", &note.expected))
        }
        Some(_) if peer_is_current && ours != theirs => "they differ".to_owned(),
        Some(note) if !peer_is_current && ours == theirs => {
            format!("they agree, so the note is stale ({})", note.reason)
        }
        Some(_) => return None,
    };
    Some(format!(
        "line {}: {}\n  {complaint}\n{}{}",
        step.line,
        step.source,
        block("subject", ours),
        block("peer", theirs)
    ))
}

fn block(title: &str, lines: &[String]) -> String {
    let body: String = lines.iter().map(|line| format!("    | {line}\n")).collect();
    format!("  {title}:\n{body}")
}

/// Runs a script against one fresh server; one transcript a step.
pub fn run_script(script: &Script, etcdctl: &Path, program: &Program) -> Vec<Transcript> {
    let flags: Vec<&str> = script.server_flags.iter().map(String::as_str).collect();
    let mut server = Server::start(program, &flags);
    let options = server.options();
    let texts = vec![
        (server.client_address(), "<client>".to_owned()),
        (format!("127.0.0.1:{}", options.peer_port), "<peer>".to_owned()),
        (options.data_directory.display().to_string(), "<data>".to_owned()),
    ];
    let mut run = Run {
        etcdctl: Etcdctl::new(etcdctl, &server.client_address()),
        server: &mut server,
        normaliser: Normaliser::new(texts),
        variables: BTreeMap::new(),
        running: BTreeMap::new(),
        awaited: BTreeMap::new(),
    };
    script.steps.iter().map(|step| run.step(&step.action)).collect()
}

/// A script in progress on one server.
struct Run<'a> {
    etcdctl: Etcdctl,
    server: &'a mut Server,
    normaliser: Normaliser,
    variables: BTreeMap<String, String>,
    running: BTreeMap<String, (Running, Vec<String>)>,
    /// Lines that were last awaited, by name.
    awaited: BTreeMap<String, usize>,
}

impl Run<'_> {
    fn step(&mut self, action: &Action) -> Transcript {
        match action {
            Action::Call { .. } => self.call(action),
            Action::Restart { crash } => {
                if *crash {
                    self.server.kill();
                } else {
                    self.server.terminate();
                }
                self.server.restart();
                Transcript::new()
            }
            Action::Start { name, arguments } => {
                let arguments = self.fill(arguments);
                let before = self.server.metric(WATCHERS_METRIC);
                let running = self.etcdctl.start(&arguments);
                if arguments.first().is_some_and(|verb| verb == "watch")
                    && !arguments.iter().any(|word| word == "-i")
                {
                    self.wait_for_watcher(before);
                }
                let replaced = self.running.insert(name.clone(), (running, arguments));
                assert!(replaced.is_none(), "{name} is started twice");
                Transcript::new()
            }
            Action::Type { name, words } => {
                let mut line = self.fill(words).join(" ");
                line.push('\n');
                self.running_mut(name).type_text(line.as_bytes());
                Transcript::new()
            }
            Action::AwaitLines { name, count } => {
                let arrived = self.running_mut(name).wait_for_lines(*count, AWAIT_TIMEOUT);
                self.awaited.insert(name.clone(), *count);
                vec![format!("{count} lines: {arrived}")]
            }
            Action::AwaitText { name, text } => {
                let text = substitute(text, &self.variables);
                let arrived = self.running_mut(name).wait_for_text(&text, AWAIT_TIMEOUT);
                vec![format!("{text}: {arrived}")]
            }
            Action::Stop { name } | Action::Finish { name } => {
                let (running, arguments) =
                    self.running.remove(name).unwrap_or_else(|| panic!("{name} is not started"));
                let outcome = match action {
                    Action::Stop { .. } => {
                        let outcome = running.stop();
                        self.assert_awaited(name, &outcome);
                        outcome
                    }
                    _ => running.finish(UNTIL_TIMEOUT),
                };
                self.transcript(&arguments, &outcome)
            }
        }
    }

    /// What is stopped while it still prints leaves now more, now less.
    fn assert_awaited(&mut self, name: &str, outcome: &Outcome) {
        let printed = outcome.stdout.iter().filter(|byte| **byte == b'\n').count();
        if let Some(awaited) = self.awaited.remove(name) {
            let text = "what it prints must be awaited to the end";
            assert!(
                printed <= awaited,
                "{name} is stopped after {awaited} of {printed} lines: {text}"
            );
        }
    }

    fn call(&mut self, action: &Action) -> Transcript {
        let Action::Call { arguments, input, capture, unordered, exit_code_only, until_empty } =
            action
        else {
            unreachable!("only calls come here: {action:?}")
        };
        let arguments = self.fill(arguments);
        let input = substitute(input, &self.variables);
        let deadline = Instant::now() + UNTIL_TIMEOUT;
        let mut outcome = self.etcdctl.call(&arguments, input.as_bytes());
        while *until_empty && !outcome.stdout.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            outcome = self.etcdctl.call(&arguments, input.as_bytes());
        }
        if let Some(name) = capture {
            let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
            let id = last_id(&text).unwrap_or_else(|| "0".into());
            self.variables.insert(name.clone(), id);
        }
        if *exit_code_only {
            return vec![format!("exit {}", outcome.exit_code)];
        }
        let mut transcript = self.transcript(&arguments, &outcome);
        if *unordered {
            transcript = sorted_words(&transcript);
        }
        transcript
    }

    fn transcript(&mut self, arguments: &[String], outcome: &Outcome) -> Transcript {
        let mut lines = Transcript::new();
        for (bytes, mark) in [(&outcome.stdout, ""), (&outcome.stderr, "! ")] {
            let text = self.normaliser.normalise(arguments, &printable(bytes));
            let mut parts: Vec<&str> = text.split('\n').collect();
            // What follows the last newline; if there is something, the newline is missing.
            match parts.pop() {
                Some("") | None => lines.extend(parts.iter().map(|part| format!("{mark}{part}"))),
                Some(last) => {
                    lines.extend(parts.iter().map(|part| format!("{mark}{part}")));
                    lines.push(format!("{mark}{last}\\c"));
                }
            }
        }
        if outcome.exit_code != 0 {
            lines.push(format!("exit {}", outcome.exit_code));
        }
        lines.iter_mut().for_each(shorten);
        lines
    }

    fn fill(&self, words: &[String]) -> Vec<String> {
        words.iter().map(|word| substitute(word, &self.variables)).collect()
    }

    fn running_mut(&mut self, name: &str) -> &mut Running {
        &mut self.running.get_mut(name).unwrap_or_else(|| panic!("{name} is not started")).0
    }

    /// Returns once the server counts one watcher more; events from now on reach it.
    fn wait_for_watcher(&self, before: Option<f64>) {
        let Some(before) = before else {
            // A server without the metric: give it the time a watcher usually takes.
            std::thread::sleep(Duration::from_millis(500));
            return;
        };
        let deadline = Instant::now() + WATCHER_TIMEOUT;
        while Instant::now() < deadline {
            if self.server.metric(WATCHERS_METRIC).is_some_and(|count| count > before) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// The words of all lines, sorted, as one line: equal for two outputs that differ in order only.
fn sorted_words(lines: &[String]) -> Transcript {
    let separators = |c: char| c.is_whitespace() || "[](){},".contains(c);
    let mut words: Vec<&str> = lines.iter().flat_map(|line| line.split(separators)).collect();
    words.retain(|word| !word.is_empty());
    words.sort_unstable();
    vec![words.join(" ")]
}

/// Text with everything that is not printable ASCII or a newline written as `\xNN`.
fn printable(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match byte {
            b'\n' | b' '..=b'~' => text.push(char::from(*byte)),
            other => text.push_str(&format!("\\x{other:02x}")),
        }
    }
    text
}

/// Long lines (large values) are shown by their start, length and checksum.
fn shorten(line: &mut String) {
    const SHOWN_BYTES: usize = 2000;
    if line.len() > SHOWN_BYTES {
        let sum = line.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let length = line.len();
        line.truncate(80);
        line.push_str(&format!("... ({length} bytes, {sum:x})"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(note: &str) -> Step {
        let script = Script::parse(&format!("get a\n{note}")).unwrap();
        script.steps.into_iter().next().unwrap()
    }

    fn lines(text: &str) -> Transcript {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_difference_is_reported_and_equality_is_not() {
        assert_eq!(judge(&step(""), &lines("1"), &lines("1"), false), None);
        let report = judge(&step(""), &lines("1"), &lines("2"), false).unwrap();
        assert!(report.contains("| 1\n") && report.contains("| 2\n"), "{report}");
    }

    #[test]
    fn a_note_is_held_against_both_sides() {
        let noted = step("differs: new\n| 1");
        assert_eq!(judge(&noted, &lines("1"), &lines("2"), false), None);
        assert!(judge(&noted, &lines("3"), &lines("2"), false).is_some(), "not as noted");
        assert!(judge(&noted, &lines("1"), &lines("1"), false).is_some(), "stale");
        assert_eq!(judge(&noted, &lines("1"), &lines("1"), true), None);
        assert!(judge(&noted, &lines("1"), &lines("2"), true).is_some(), "a current peer differs");
    }
}
