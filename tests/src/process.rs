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

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

pub use crate::program::{
    Program, find_in_path, free_port, fresh_directory, scratch_directory, skip_or_fail,
};

/// How long a server may take until it serves clients.
pub const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a server may take to end after SIGTERM.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Lines of log kept of each server; older ones are dropped.
const LOG_LINES_MAX: usize = 20_000;
/// What both programs log once they serve clients.
const READY_TEXT: &str = "ready to serve client requests";
/// How often a start is repeated because another process took the port.
const START_ATTEMPTS_MAX: usize = 3;

/// How to start one member. Made by [`Options::single`] or by [`Cluster::start`].
#[derive(Clone, Debug)]
pub struct Options {
    /// `--name`.
    pub name: String,
    /// The address it listens on and advertises.
    pub host: String,
    /// Port of `--listen-client-urls`.
    pub client_port: u16,
    /// Port of `--listen-peer-urls`.
    pub peer_port: u16,
    /// `--data-dir`.
    pub data_directory: PathBuf,
    /// `--initial-cluster`; not given if it is empty.
    pub initial_cluster: String,
    /// `--initial-cluster-state`: `new` or `existing`.
    pub initial_cluster_state: String,
    /// `--initial-cluster-token`.
    pub token: String,
    /// Further flags, as given.
    pub extra_flags: Vec<String>,
    /// Variables of its environment besides those of the test; of those, none begins with `ETCD_`.
    pub environment: Vec<(String, String)>,
    /// Words in front of the program, empty for none. What they start must become the program
    /// (exec), or else signals do not reach it.
    pub launcher: Vec<String>,
}

impl Options {
    /// A cluster of one member, on free ports and with a fresh data directory.
    pub fn single(label: &str) -> Options {
        let peer_port = free_port();
        let name = "default".to_owned();
        Options {
            host: "127.0.0.1".into(),
            client_port: free_port(),
            peer_port,
            data_directory: fresh_directory(label),
            initial_cluster: format!("{name}=http://127.0.0.1:{peer_port}"),
            initial_cluster_state: "new".into(),
            token: "etcd-cluster".into(),
            extra_flags: Vec::new(),
            environment: Vec::new(),
            launcher: Vec::new(),
            name,
        }
    }

    /// The URL other members use.
    pub fn peer_url(&self) -> String {
        format!("http://{}:{}", self.host, self.peer_port)
    }

    /// The command line without the program.
    pub fn flags(&self) -> Vec<String> {
        let client = format!("http://{}:{}", self.host, self.client_port);
        let peer = self.peer_url();
        let mut flags = Vec::new();
        for (flag, value) in [
            ("--name", self.name.as_str()),
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster-token", &self.token),
            ("--data-dir", &self.data_directory.display().to_string()),
            ("--initial-cluster", &self.initial_cluster),
            ("--initial-cluster-state", &self.initial_cluster_state),
        ] {
            // Founders that find each other are not named.
            if flag != "--initial-cluster" || !value.is_empty() {
                flags.push(flag.to_owned());
                flags.push(value.to_owned());
            }
        }
        flags.extend(self.extra_flags.iter().cloned());
        flags
    }
}

/// The lines a process wrote to its standard error, gathered by a thread.
#[derive(Default)]
struct Log {
    lines: Mutex<(VecDeque<String>, bool)>,
    grown: Condvar,
}

impl Log {
    fn follow(self: &Arc<Log>, source: impl Read + Send + 'static) {
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

    /// Waits until a line contains `text`; `false` when time is over or the process has ended.
    fn wait_for(&self, text: &str, timeout: Duration) -> bool {
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
    fn wait_end(&self, timeout: Duration) {
        let guard = self.lines.lock().expect("no panic under this lock");
        let waited = self.grown.wait_timeout_while(guard, timeout, |(_, ended)| !*ended);
        drop(waited.expect("no panic under this lock"));
    }

    fn text(&self) -> String {
        let guard = self.lines.lock().expect("no panic under this lock");
        guard.0.iter().map(|line| format!("{line}\n")).collect()
    }
}

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
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut guard = log.lines.lock().expect("no panic under this lock");
                if guard.0.len() < LOG_LINES_MAX {
                    guard.0.push_back(line);
                }
                log.grown.notify_all();
            }
        });
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

/// Several members that know each other from the start.
pub struct Cluster {
    /// The members, named `m0`, `m1`, ...
    pub servers: Vec<Server>,
}

impl Cluster {
    /// Starts `count` members with further flags and waits until all serve.
    ///
    /// # Panics
    ///
    /// If one does not serve in [`READY_TIMEOUT`].
    pub fn start(program: &Program, count: usize, extra_flags: &[&str]) -> Cluster {
        for _ in 1..START_ATTEMPTS_MAX {
            let cluster = Cluster::spawn(program, count, extra_flags);
            let is_ready = |server: &Server| server.log.wait_for(READY_TEXT, READY_TIMEOUT);
            let waiting = cluster.servers.iter().find(|server| !is_ready(server));
            match waiting {
                None => return cluster,
                Some(server) if server.log().contains("address already in use") => {}
                Some(server) => server.wait_ready(),
            }
        }
        let cluster = Cluster::spawn(program, count, extra_flags);
        cluster.servers.iter().for_each(Server::wait_ready);
        cluster
    }

    fn spawn(program: &Program, count: usize, extra_flags: &[&str]) -> Cluster {
        let mut members: Vec<Options> = (0..count)
            .map(|number| Options { name: format!("m{number}"), ..Options::single(&program.label) })
            .collect();
        let initial_cluster: Vec<String> = members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer_port))
            .collect();
        for member in &mut members {
            member.initial_cluster = initial_cluster.join(",");
            member.extra_flags = extra_flags.iter().map(|flag| (*flag).to_owned()).collect();
        }
        let servers = members.into_iter().map(|options| Server::spawn(program, options)).collect();
        Cluster { servers }
    }

    /// Starts all members again that were stopped, at the same time: none is ready before a quorum
    /// runs.
    ///
    /// # Panics
    ///
    /// If one does not serve in [`READY_TIMEOUT`].
    pub fn restart_all(&mut self) {
        for server in &mut self.servers {
            assert!(server.child.is_none(), "stop the members before they are started again");
            server.spawn_child();
        }
        self.servers.iter().for_each(Server::wait_ready);
    }

    /// The addresses of all members, separated by commas, as `--endpoints` takes them.
    pub fn endpoints(&self) -> String {
        let addresses: Vec<String> = self.servers.iter().map(Server::client_address).collect();
        addresses.join(",")
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
