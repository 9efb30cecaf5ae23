//! Clusters of server processes: varve or etcd with the same flags, on loopback and a directory of a
//! disk.
//!
//! One idea: the two programs take the same flags and log the same line when they are ready, so
//! one function starts either; what one process is asked for is in `member.rs`. Mostly a cluster has
//! one member. What is told of a cluster is the sum of its members.
//!
//! Invariants: a [`Server`] that is dropped leaves no process, and its directory goes with it; nor
//! does one outlive this process. Processes are ended by their own id only.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::grpc;
use crate::process::Figures;

mod member;

pub use member::Member;

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

/// A running cluster.
pub struct Server {
    label: String,
    directory: PathBuf,
    members: Vec<Member>,
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
    /// Starts a program as so many members, on fresh data below `directory`, and waits until all
    /// answer.
    ///
    /// # Errors
    /// It does not serve, or the directory is not on a disk.
    pub fn start(program: &Program, directory: &Path, members: usize) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(system(directory.display()))?;
        if file_system(directory)? == TMPFS_MAGIC {
            return Err(Error::NoDisk(directory.to_path_buf()));
        }
        let directory = directory.join(format!("{}-{}", program.label, std::process::id()));
        remove(&directory)?;
        let members = Member::founders(program, &directory, members)?;
        let mut server = Self { label: program.label.clone(), directory, members };
        server.restart()?;
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
        // None is ready before a majority runs.
        self.members.iter_mut().try_for_each(Member::spawn)?;
        let mut times = StartTimes { ready: Duration::ZERO, first_get: Duration::ZERO };
        for member in &mut self.members {
            let own = member.wait()?;
            times.ready = times.ready.max(own.ready);
            times.first_get = times.first_get.max(own.first_get);
        }
        Ok(times)
    }

    /// Where clients connect.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.members.iter().map(Member::address).collect()
    }

    /// Its processes.
    ///
    /// # Panics
    /// If it does not run.
    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().map(Member::pid).collect()
    }

    /// Its processes at this moment.
    ///
    /// # Errors
    /// One has ended.
    pub fn figures(&self) -> Result<Figures, Error> {
        Figures::of_all(&self.pids()).map_err(system(&self.label))
    }

    /// Bytes that its data take on the disk.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        self.members.iter().map(Member::disk_bytes).sum()
    }

    /// Takes its last member away, running.
    ///
    /// # Panics
    /// If it has no other.
    pub fn split_off(&mut self) -> Member {
        assert!(self.members.len() > 1, "a cluster of one");
        self.members.pop().expect("there are several")
    }

    /// What `/metrics` says of a name now, all series of all members together.
    ///
    /// # Errors
    /// One does not answer.
    pub fn metric(&self, name: &str) -> Result<f64, Error> {
        self.members.iter().map(|member| member.metric(name)).sum()
    }

    /// A member that will join, once this cluster is told of it; its data are below this one's.
    ///
    /// # Errors
    /// No directory or no port is to be had.
    pub fn newcomer(&self, program: &Program) -> Result<Member, Error> {
        Member::newcomer(program, &self.directory, &self.members)
    }

    /// Ends its processes at once (SIGKILL).
    pub fn kill(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
    }

    /// Asks its processes to end (SIGTERM), one after the other, and waits until they have.
    ///
    /// # Errors
    /// One did not end in time; it was killed then.
    pub fn terminate(&mut self) -> Result<Duration, Error> {
        let asked = Instant::now();
        self.members.iter_mut().try_for_each(Member::terminate)?;
        Ok(asked.elapsed())
    }

    /// Ends the processes and removes their data. Dropping a server does the same, without a word.
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

fn remove(directory: &Path) -> Result<(), Error> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(system(directory.display())(error))
        }
        _ => Ok(()),
    }
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
