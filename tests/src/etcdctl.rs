//! etcd's command line client: one call, or one that runs in the background.
//!
//! One idea: what a call does is told by its standard output, its standard error and its exit
//! code; [`Outcome`] has the three and nothing else. The client finds its server through the
//! environment, so that the command line is the one a person would type.
//!
//! What it does not do: judge or compare an outcome.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process::{find_in_path, wait_bounded};

/// How long a call may take.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// When the client gives up by itself; on a busy machine its own 5 s are too short for a password.
const COMMAND_TIMEOUT: &str = "60s";
/// When it gives up connecting; its own are 2 s.
const DIAL_TIMEOUT: &str = "30s";
/// Exit code reported for a call that was killed, by us or by a signal.
pub const KILLED: i32 = -1;

/// What a call left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code, or [`KILLED`].
    pub exit_code: i32,
}

/// The program `etcdctl` with the server it talks to.
#[derive(Clone, Debug)]
pub struct Etcdctl {
    program: PathBuf,
    endpoints: String,
}

impl Etcdctl {
    /// The file in `VARVE_PEER_ETCDCTL`, or the first `etcdctl` in `PATH`; `None` if there is none.
    pub fn find() -> Option<PathBuf> {
        match std::env::var_os("VARVE_PEER_ETCDCTL") {
            Some(path) => Some(PathBuf::from(path)),
            None => find_in_path("etcdctl"),
        }
    }

    /// A client of the server at `endpoints` (`host:port`, separated by commas).
    pub fn new(program: &Path, endpoints: &str) -> Etcdctl {
        Etcdctl { program: program.to_path_buf(), endpoints: endpoints.to_owned() }
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCDCTL_") {
                command.env_remove(name);
            }
        }
        command.env("ETCDCTL_API", "3");
        // The client refuses a flag that is in the environment as well.
        for (flag, variable, value) in [
            ("--endpoints", "ETCDCTL_ENDPOINTS", self.endpoints.as_str()),
            ("--command-timeout", "ETCDCTL_COMMAND_TIMEOUT", COMMAND_TIMEOUT),
            ("--dial-timeout", "ETCDCTL_DIAL_TIMEOUT", DIAL_TIMEOUT),
        ] {
            if !arguments.iter().any(|argument| argument.starts_with(flag)) {
                command.env(variable, value);
            }
        }
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Makes a call with `input` as its standard input and waits for its end.
    ///
    /// # Panics
    ///
    /// If the client cannot be started.
    pub fn call(&self, arguments: &[String], input: &[u8]) -> Outcome {
        let mut running = self.start(arguments);
        running.type_text(input);
        running.finish(CALL_TIMEOUT)
    }

    /// Starts a call that goes on in the background.
    ///
    /// # Panics
    ///
    /// If the client cannot be started.
    pub fn start(&self, arguments: &[String]) -> Running {
        let mut child = self
            .command(arguments)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let stderr = child.stderr.take().expect("standard error is a pipe");
        Running {
            stdin: child.stdin.take(),
            stdout: Gathered::follow(stdout),
            stderr: Gathered::follow(stderr),
            child,
        }
    }
}

/// What a pipe gave so far, whether it has ended, and the signal that either has changed.
type Pipe = (Mutex<(Vec<u8>, bool)>, Condvar);

/// Bytes of a pipe, gathered by a thread until its end.
struct Gathered {
    state: Arc<Pipe>,
    thread: JoinHandle<()>,
}

impl Gathered {
    fn follow(mut source: impl Read + Send + 'static) -> Gathered {
        let state: Arc<Pipe> = Arc::default();
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            loop {
                let length = source.read(&mut chunk).unwrap_or(0);
                let mut guard = shared.0.lock().expect("no panic under this lock");
                guard.0.extend_from_slice(&chunk[..length]);
                guard.1 = length == 0;
                shared.1.notify_all();
                if length == 0 {
                    return;
                }
            }
        });
        Gathered { state, thread }
    }

    fn wait_until(&self, timeout: Duration, enough: impl Fn(&[u8]) -> bool) -> bool {
        let guard = self.state.0.lock().expect("no panic under this lock");
        let (guard, _) = self
            .state
            .1
            .wait_timeout_while(guard, timeout, |(bytes, ended)| !*ended && !enough(bytes))
            .expect("no panic under this lock");
        enough(&guard.0)
    }

    fn into_bytes(self) -> Vec<u8> {
        self.thread.join().expect("reading a pipe does not panic");
        std::mem::take(&mut self.state.0.lock().expect("no panic under this lock").0)
    }
}

/// A call in the background. Dropping it kills it.
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Gathered,
    stderr: Gathered,
}

impl Running {
    /// Writes to its standard input. If it no longer reads, that shows in its outcome.
    pub fn type_text(&mut self, text: &[u8]) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(text);
            let _ = stdin.flush();
        }
    }

    /// Waits until it has written `count` lines; `false` when `timeout` is over or it has ended.
    pub fn wait_for_lines(&self, count: usize, timeout: Duration) -> bool {
        self.stdout.wait_until(timeout, |bytes| {
            bytes.iter().filter(|byte| **byte == b'\n').count() >= count
        })
    }

    /// Waits until it has written `text`; `false` when `timeout` is over or it has ended.
    pub fn wait_for_text(&self, text: &str, timeout: Duration) -> bool {
        self.stdout.wait_until(timeout, |bytes| String::from_utf8_lossy(bytes).contains(text))
    }

    /// Kills it; its exit code is not part of the outcome.
    pub fn stop(mut self) -> Outcome {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let mut outcome = self.finish(CALL_TIMEOUT);
        outcome.exit_code = 0;
        outcome
    }

    /// Closes its standard input and waits for its end; kills it when `timeout` is over.
    pub fn finish(mut self, timeout: Duration) -> Outcome {
        drop(self.stdin.take());
        let status: Option<ExitStatus> = wait_bounded(&mut self.child, timeout);
        if status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        Outcome {
            stdout: self.stdout.into_bytes(),
            stderr: self.stderr.into_bytes(),
            exit_code: status.and_then(|status| status.code()).unwrap_or(KILLED),
        }
    }
}
