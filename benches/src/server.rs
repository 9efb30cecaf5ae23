//! Server processes: varve or etcd with the same flags, on loopback and a directory of a disk.
//!
//! One idea: the two programs take the same flags and log the same line when they are ready, so
//! one function starts either. The log goes to a file, so that nothing of this process has to run
//! while a server is measured.
//!
//! Invariants: a [`Server`] that is dropped leaves no process, and its directory goes with it; nor
//! does one outlive this process. Processes are ended by their own id only.

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use varve_api::etcdserverpb::{RangeRequest, RangeResponse};
use varve_api::method::KV_RANGE;

use crate::grpc::{self, Connection};
use crate::process::{self, Figures};

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
/// File system type of tmpfs (statfs(2)).
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Why a server could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or a process could not be handled.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ended or was not ready in time.
    #[error("{program} does not serve; its log ends with\n{log}")]
    NotReady {
        /// The program.
        program: String,
        /// The end of its log.
        log: String,
    },
    /// A figure of a disk was wanted, and there is none.
    #[error("{0} is on tmpfs: a sync costs nothing there")]
    NoDisk(PathBuf),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] grpc::Error),
    /// Calls failed that a scenario needs.
    #[error("{failed} calls failed, the first with: {first}")]
    Failed {
        /// How many.
        failed: u64,
        /// The first error.
        first: String,
    },
}

fn system(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Error {
    let what = what.to_string();
    move |source| Error::System { what, source }
}

/// A server program.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name in tables.
    pub label: String,
    /// The executable.
    pub path: PathBuf,
}

impl Program {
    /// The first two lines of `--version`, in one; empty if it cannot be run.
    pub fn version(&self) -> String {
        let output = Command::new(&self.path).arg("--version").output();
        let text = output.map(|output| output.stdout).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().take(2).collect::<Vec<_>>().join(", ")
    }
}

/// A running cluster of one member.
pub struct Server {
    program: Program,
    directory: PathBuf,
    client_port: u16,
    peer_port: u16,
    child: Option<Child>,
    /// When the running process was started.
    started: Instant,
}

/// How long a start took, from the start of the process.
#[derive(Clone, Copy, Debug)]
pub struct StartTimes {
    /// Until it logged that it is ready.
    pub ready: Duration,
    /// Until it answered a linearizable get.
    pub first_get: Duration,
}

impl Server {
    /// Starts a program on fresh data below `directory`, and waits until it answers.
    ///
    /// # Errors
    /// It does not serve, or the directory is not on a disk.
    pub fn start(program: &Program, directory: &Path) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(system(directory.display()))?;
        if file_system(directory)? == TMPFS_MAGIC {
            return Err(Error::NoDisk(directory.to_path_buf()));
        }
        let directory = directory.join(format!("{}-{}", program.label, std::process::id()));
        remove(&directory)?;
        std::fs::create_dir_all(&directory).map_err(system(directory.display()))?;
        let mut server = Self {
            program: program.clone(),
            directory,
            client_port: free_port()?,
            peer_port: free_port()?,
            child: None,
            started: Instant::now(),
        };
        server.spawn()?;
        Ok(server)
    }

    /// Starts the program again on the same data.
    ///
    /// # Errors
    /// As [`Server::start`].
    ///
    /// # Panics
    /// If it runs.
    pub fn restart(&mut self) -> Result<StartTimes, Error> {
        assert!(self.child.is_none(), "stop the server before it is started again");
        self.spawn()
    }

    fn spawn(&mut self) -> Result<StartTimes, Error> {
        // A log of its own for each start: the ready line must be this one's.
        let log_path = self.directory.join("log");
        let mut options = OpenOptions::new();
        let log = options.write(true).create(true).truncate(true).open(&log_path);
        let log = log.map_err(system(log_path.display()))?;
        let mut command = Command::new(&self.program.path);
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
        let child = command.spawn().map_err(system(self.program.path.display()))?;
        self.child = Some(child);
        let ready = self.wait_until_ready()?;
        let first_get = self.wait_for_get()?;
        Ok(StartTimes { ready, first_get })
    }

    fn flags(&self) -> Vec<String> {
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let pairs = [
            ("--name", "default".to_owned()),
            ("--data-dir", self.data_directory().display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer.clone()),
            ("--initial-advertise-peer-urls", peer.clone()),
            ("--initial-cluster", format!("default={peer}")),
            ("--quota-backend-bytes", QUOTA_BYTES.to_string()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    fn data_directory(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn not_ready(&self) -> Error {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(20).collect();
        let log = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        Error::NotReady { program: self.program.path.display().to_string(), log }
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

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.client_port))
    }

    /// Its process.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// Its process at this moment.
    ///
    /// # Errors
    /// It has ended.
    pub fn figures(&self) -> Result<Figures, Error> {
        Figures::of(self.pid()).map_err(system(&self.program.label))
    }

    /// Bytes that its data take on the disk.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        let directory = self.data_directory();
        process::disk_bytes(&directory).map_err(system(directory.display()))
    }

    /// Ends the process at once (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Asks the process to end (SIGTERM) and waits until it has.
    ///
    /// # Errors
    /// It did not end in time; it was killed then.
    pub fn terminate(&mut self) -> Result<Duration, Error> {
        let pid = libc::pid_t::try_from(self.pid()).expect("a process id fits pid_t");
        let asked = Instant::now();
        // SAFETY: kill(2) takes two integers and touches no memory of this process. The child was
        // not waited for, so the id is still its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        while asked.elapsed() < STOP_TIMEOUT {
            if self.has_ended() {
                self.child = None;
                return Ok(asked.elapsed());
            }
            std::thread::sleep(POLL);
        }
        let error = self.not_ready();
        self.kill();
        Err(error)
    }

    /// Ends the process and removes its data. Dropping a server does the same, without a word.
    ///
    /// # Errors
    /// The data cannot be removed.
    pub fn remove(mut self) -> Result<(), Error> {
        self.kill();
        remove(&self.directory)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            // What is left is removed by the next run of the same program.
            let _ = remove(&self.directory);
        }
    }
}

async fn get_once(address: SocketAddr) -> Result<RangeResponse, grpc::Error> {
    let connection = Connection::open(address).await?;
    let request = RangeRequest { key: "first".into(), ..Default::default() };
    connection.unary(&connection.target(&KV_RANGE), &request).await
}

fn remove(directory: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(system(directory.display())(error))
        }
        _ => Ok(()),
    }
}

/// A port of loopback that is free at the time of the call.
fn free_port() -> Result<u16, Error> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let address = bound.and_then(|listener| listener.local_addr());
    Ok(address.map_err(system("no free port"))?.port())
}

/// The type of the file system of a directory, as statfs(2) names it.
fn file_system(directory: &Path) -> Result<i64, Error> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(directory.as_os_str().as_bytes())
        .map_err(|error| system(directory.display())(error.into()))?;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the path ends with a zero byte and `found` has room for the answer.
    let result = unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) };
    if result != 0 {
        return Err(system(directory.display())(io::Error::last_os_error()));
    }
    // SAFETY: statfs(2) succeeded and has filled the struct.
    let found = unsafe { found.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "its width differs between platforms")]
    Ok(found.f_type as i64)
}
