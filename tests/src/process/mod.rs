//! Server processes: start varve or etcd on loopback, wait until it serves, stop it, read its log.
//!
//! One idea: the two programs take the same flags and print the same line when they are ready, so
//! one function starts either. Ports are free ones, found by binding port 0 first; another process
//! may still take them in between, so a start that fails for this reason is repeated.
//!
//! Invariants: a [`Server`] that is dropped leaves no process and no data behind, unless the test
//! panics: then the data directory stays and its path is printed. Every wait has a limit.
//!
//! What it does not do: speak to the server, apart from plain HTTP GET for health and metrics.

mod cluster;
mod log;
mod options;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::cluster::Cluster;
use self::log::Log;
pub use self::options::Options;
pub use crate::program::{
    Program, find_in_path, free_port, fresh_directory, scratch_directory, skip_or_fail,
};

/// How long a server may take until it serves clients.
pub const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a server may take to end after SIGTERM.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// What both programs log once they serve clients.
const READY_TEXT: &str = "ready to serve client requests";
/// How often a start is repeated because another process took the port.
const START_ATTEMPTS_MAX: usize = 3;

/// A running member.
pub struct Server {
    program: Program,
    options: Options,
    child: Option<Child>,
    log: Arc<Log>,
}

impl Server {
    /// Starts a cluster of one member with further flags and waits until it serves.
    ///
    /// # Panics
    ///
    /// If it does not serve in [`READY_TIMEOUT`]; the message has its log.
    pub fn start(program: &Program, extra_flags: &[&str]) -> Server {
        for _ in 0..START_ATTEMPTS_MAX {
            let mut options = Options::single(&program.label);
            options.extra_flags = extra_flags.iter().map(|flag| (*flag).to_owned()).collect();
            match Server::start_with(program, options) {
                Ok(server) => return server,
                Err(log) if log.contains("address already in use") => {}
                Err(log) => panic!("{} does not serve:\n{log}", program.path.display()),
            }
        }
        panic!("{START_ATTEMPTS_MAX} times another process took the port");
    }

    /// Starts a member and waits until it serves.
    ///
    /// # Errors
    ///
    /// The member's log, if it ended or was not ready in [`READY_TIMEOUT`].
    pub fn start_with(program: &Program, options: Options) -> Result<Server, String> {
        let server = Server::spawn(program, options);
        if server.log.wait_for(READY_TEXT, READY_TIMEOUT) {
            return Ok(server);
        }
        Err(server.log.text())
    }

    /// Starts a member without waiting.
    pub fn spawn(program: &Program, options: Options) -> Server {
        let mut server =
            Server { program: program.clone(), options, child: None, log: Arc::default() };
        server.spawn_child();
        server
    }

    fn spawn_child(&mut self) {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.path.display()));
        self.log = Arc::default();
        self.log.follow(child.stderr.take().expect("standard error is a pipe"));
        // A server writes its log to standard error; what it prints here is kept with it.
        let stdout = child.stdout.take().expect("standard output is a pipe");
        self.log.follow_beside(stdout);
        self.child = Some(child);
    }

    fn command(&self) -> Command {
        let program = self.program.path.as_os_str();
        let mut command = match self.options.launcher.split_first() {
            None => Command::new(program),
            Some((launcher, arguments)) => {
                let mut command = Command::new(launcher);
                command.args(arguments).arg(program);
                command
            }
        };
        command.args(self.options.flags());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Waits until the member serves.
    ///
    /// # Panics
    ///
    /// If it does not in [`READY_TIMEOUT`].
    pub fn wait_ready(&self) {
        assert!(
            self.log.wait_for(READY_TEXT, READY_TIMEOUT),
            "{} does not serve:\n{}",
            self.program.path.display(),
            self.log.text()
        );
    }

    /// Waits until a line of its log contains `text`; `false` when `timeout` is over.
    pub fn wait_for_log(&self, text: &str, timeout: Duration) -> bool {
        self.log.wait_for(text, timeout)
    }

    /// What it wrote since it was last started.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// How it was started.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The address clients use, without a scheme: `127.0.0.1:port`.
    pub fn client_address(&self) -> String {
        format!("{}:{}", self.options.host, self.options.client_port)
    }

    /// The URL clients use.
    pub fn client_url(&self) -> String {
        format!("http://{}", self.client_address())
    }

    /// The process id.
    ///
    /// # Panics
    ///
    /// If it is not running.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Ends the process at once, as a power cut would (SIGKILL), and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to end (SIGTERM) and waits; its exit status, or `None` if it had to be
    /// killed after [`STOP_TIMEOUT`] or did not run.
    pub fn terminate(&mut self) -> Option<ExitStatus> {
        let mut child = self.child.take()?;
        send_signal(child.id(), libc::SIGTERM);
        let status = wait_bounded(&mut child, STOP_TIMEOUT);
        if status.is_none() {
            let _ = child.kill();
            let _ = child.wait();
        }
        status
    }

    /// Waits until the process ends by itself and its log is complete; its exit status, or `None`
    /// if it still runs after `timeout` or did not run.
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let status = wait_bounded(self.child.as_mut()?, timeout)?;
        self.child = None;
        self.log.wait_end(timeout);
        Some(status)
    }

    /// Starts it again on the same data and ports, and waits until it serves.
    ///
    /// # Panics
    ///
    /// If it runs, or does not serve in time.
    pub fn restart(&mut self) {
        self.restart_unawaited();
        self.wait_ready();
    }

    /// Starts it again on the same data and ports without waiting.
    ///
    /// # Panics
    ///
    /// If it runs.
    pub fn restart_unawaited(&mut self) {
        assert!(self.child.is_none(), "stop the server before it is started again");
        self.spawn_child();
    }

    /// Freezes the process (SIGSTOP) until [`Server::resume`].
    pub fn pause(&self) {
        send_signal(self.pid(), libc::SIGSTOP);
    }

    /// Ends a pause (SIGCONT).
    pub fn resume(&self) {
        send_signal(self.pid(), libc::SIGCONT);
    }

    /// Answer of `GET path` at the client port: status and body.
    ///
    /// # Errors
    ///
    /// If there is no connection or no HTTP answer in 5 s.
    pub fn http_get(&self, path: &str) -> Result<(u16, String), String> {
        let address = self.client_address();
        let attempt = || -> std::io::Result<Vec<u8>> {
            let mut stream = TcpStream::connect(&address)?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            Ok(answer)
        };
        let answer = attempt().map_err(|error| format!("{address}{path}: {error}"))?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) =
            text.split_once("\r\n\r\n").ok_or_else(|| format!("no HTTP answer: {text:?}"))?;
        let status = head.split(' ').nth(1).and_then(|number| number.parse().ok());
        Ok((status.ok_or_else(|| format!("no status in {head:?}"))?, body.to_owned()))
    }

    /// Value of a metric without labels; `None` if the server does not have it.
    pub fn metric(&self, name: &str) -> Option<f64> {
        let (_, body) = self.http_get("/metrics").ok()?;
        body.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("data of {}: {}", self.options.name, self.options.data_directory.display());
        } else {
            // What cannot be removed now is removed with target/.
            let _ = std::fs::remove_dir_all(&self.options.data_directory);
        }
    }
}

/// Sends a signal to a process this test started.
pub fn send_signal(pid: u32, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).expect("a pid fits pid_t");
    // SAFETY: kill(2) takes two integers and touches no memory of this process.
    let result = unsafe { libc::kill(pid, signal) };
    assert_eq!(result, 0, "signal {signal} to {pid}: {}", std::io::Error::last_os_error());
}

/// Waits for the end of a process; `None` when `timeout` is over.
pub fn wait_bounded(child: &mut Child, timeout: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return Some(status);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
