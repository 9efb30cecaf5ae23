//! One server process: its ports, its data, how it is started and ended, and when it answers.
//!
//! One idea: its log goes to a file, so that nothing of this process has to run while a server is
//! measured; it is ready when the log says so and a linearizable get is answered.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{RangeRequest, RangeResponse};
use varve_api::method::KV_RANGE;

use super::{Error, Program, StartTimes, system};
use crate::grpc::{self, Connection};
use crate::process;

/// How long a server may take until it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(600);
/// How long a server may take to end after SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a start is looked after.
const POLL: Duration = Duration::from_millis(1);
/// What both programs log once they serve.
const READY_TEXT: &str = "ready to serve client requests";
/// A quota that no comparison reaches; the default of etcd is smaller than a million objects.
const QUOTA_BYTES: u64 = 16 << 30;

/// A member of a cluster, running or not. One that is dropped does not run.
pub struct Member {
    program: PathBuf,
    name: String,
    directory: PathBuf,
    client_port: u16,
    peer_port: u16,
    /// As the flag of that name has it.
    initial_cluster: String,
    /// Whether it is added to a cluster that is there.
    joins: bool,
    child: Option<Child>,
    /// When the process was started.
    started: Instant,
}

impl Member {
    /// Members of a new cluster, each with a directory of its own below `directory`; none runs.
    pub(super) fn founders(
        program: &Program,
        directory: &Path,
        members: usize,
    ) -> Result<Vec<Self>, Error> {
        let founder = |number| Self::prepare(program, directory, number);
        let mut founders: Vec<Self> = (1..=members).map(founder).collect::<Result<_, Error>>()?;
        let urls: Vec<String> =
            founders.iter().map(|one| format!("{}={}", one.name, url(one.peer_port))).collect();
        founders.iter_mut().for_each(|one| one.initial_cluster = urls.join(","));
        Ok(founders)
    }

    /// One that will join them, once they are told its URL.
    pub(super) fn newcomer(
        program: &Program,
        directory: &Path,
        founders: &[Self],
    ) -> Result<Self, Error> {
        let mut member = Self::prepare(program, directory, founders.len() + 1)?;
        let known = founders.first().map_or("", |one| &one.initial_cluster);
        member.initial_cluster = format!("{known},{}={}", member.name, member.peer_url());
        member.joins = true;
        Ok(member)
    }

    fn prepare(program: &Program, directory: &Path, number: usize) -> Result<Self, Error> {
        let name = format!("m{number}");
        let directory = directory.join(&name);
        std::fs::create_dir_all(&directory).map_err(system(directory.display()))?;
        Ok(Self {
            program: program.path.clone(),
            name,
            directory,
            client_port: free_port()?,
            peer_port: free_port()?,
            initial_cluster: String::new(),
            joins: false,
            child: None,
            started: Instant::now(),
        })
    }

    /// Where other members reach it.
    pub fn peer_url(&self) -> String {
        url(self.peer_port)
    }

    /// Starts the process, and waits for nothing.
    ///
    /// # Errors
    /// The system starts no process, or a file cannot be made.
    ///
    /// # Panics
    /// If it runs.
    pub fn spawn(&mut self) -> Result<(), Error> {
        assert!(self.child.is_none(), "stop the server before it is started again");
        // A log of its own for each start: the ready line must be this one's.
        let log_path = self.directory.join("log");
        let mut options = OpenOptions::new();
        let log = options.write(true).create(true).truncate(true).open(&log_path);
        let log = log.map_err(system(log_path.display()))?;
        let mut command = Command::new(&self.program);
        command.args(self.flags());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // SAFETY: prctl(2) is async-signal-safe and touches no memory. Asked for is that the
        // server does not outlive the thread that started it.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            });
        }
        self.started = Instant::now();
        let child = command.spawn().map_err(system(self.program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// It does not in time, or has ended.
    pub fn wait(&mut self) -> Result<StartTimes, Error> {
        let ready = self.wait_until_ready()?;
        let first_get = self.wait_for_get()?;
        Ok(StartTimes { ready, first_get })
    }

    fn flags(&self) -> Vec<String> {
        let (client, peer) = (url(self.client_port), url(self.peer_port));
        let pairs = [
            ("--name", self.name.clone()),
            ("--data-dir", self.data_directory().display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer),
            ("--initial-cluster", self.initial_cluster.clone()),
            ("--initial-cluster-state", if self.joins { "existing" } else { "new" }.to_owned()),
            ("--quota-backend-bytes", QUOTA_BYTES.to_string()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Bytes that its data take on the disk.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        let directory = self.data_directory();
        process::disk_bytes(&directory).map_err(system(directory.display()))
    }

    /// What `/metrics` says of a name now, all its series together.
    ///
    /// # Errors
    /// It does not answer.
    pub fn metric(&self, name: &str) -> Result<f64, Error> {
        let page = || {
            let mut stream = TcpStream::connect(self.address())?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page)?;
            Ok(page)
        };
        let page = page().map_err(system(format!("/metrics of {}", self.name)))?;
        let series = page.lines().filter(|line| line.starts_with(name));
        let values = series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn not_ready(&self) -> Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        let log = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        Error::NotReady { program: self.program.display().to_string(), log }
    }

    fn has_ended(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    fn wait_until_ready(&mut self) -> Result<Duration, Error> {
        while self.started.elapsed() < READY_TIMEOUT {
            if self.log().contains(READY_TEXT) {
                return Ok(self.started.elapsed());
            }
            if self.has_ended() {
                break;
            }
            std::thread::sleep(POLL);
        }
        Err(self.not_ready())
    }

    fn wait_for_get(&mut self) -> Result<Duration, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(system("runtime"))?;
        while self.started.elapsed() < READY_TIMEOUT {
            match runtime.block_on(get_once(self.address())) {
                Ok(_) => return Ok(self.started.elapsed()),
                Err(_) if !self.has_ended() => std::thread::sleep(POLL),
                Err(_) => break,
            }
        }
        Err(self.not_ready())
    }

    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.client_port))
    }

    /// # Panics
    /// If it does not run.
    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Ends the process at once (SIGKILL).
    pub(super) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to end (SIGTERM) and waits until it has; one that does not is killed.
    ///
    /// # Errors
    /// It did not end in time.
    ///
    /// # Panics
    /// If it does not run.
    pub fn terminate(&mut self) -> Result<(), Error> {
        let pid = libc::pid_t::try_from(self.pid()).expect("a process id fits pid_t");
        let asked = Instant::now();
        // SAFETY: kill(2) takes two integers and touches no memory of this process. The child was
        // not waited for, so the id is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        while asked.elapsed() < STOP_TIMEOUT {
            if self.has_ended() {
                self.child = None;
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
        let error = self.not_ready();
        self.kill();
        Err(error)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

async fn get_once(address: SocketAddr) -> Result<RangeResponse, grpc::Error> {
    let connection = Connection::open(address).await?;
    let request = RangeRequest { key: "first".into(), ..Default::default() };
    connection.unary(&connection.target(&KV_RANGE), &request).await
}

/// A port of loopback that is free at the time of the call.
fn free_port() -> Result<u16, Error> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = bound.and_then(|listener| listener.local_addr());
    Ok(address.map_err(system("no free port"))?.port())
}
