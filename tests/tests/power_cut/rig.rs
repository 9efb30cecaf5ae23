//! A real file system on a medium whose power can be cut, and a second place to look at what is
//! found.
//!
//! One idea: the medium is served by a process of its own, this test program started once more.
//! What waits for the file system then never waits for a thread of its own process, so nothing can
//! hang for ever: when the medium's process ends, also by a signal, the kernel fails what is
//! outstanding, and everything above it can be unmounted.
//!
//! Invariants: every program that is run has a time limit. A rig that is dropped, also by a panic,
//! leaves no mount, no loop device and no process. Mounts are seen by the thread that made the rig
//! and by what it starts; when the last of these ends, they are gone in any case.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use varve_tests::process::{fresh_directory, wait_bounded};

use crate::medium::{Cut, Medium};

const IMAGE_BYTES: u64 = 512 << 20;
/// How long mkfs, mount and umount, and a cut under load, may take.
const LIMIT: Duration = Duration::from_secs(120);
/// Says to this test program that it is the medium, and of which directory.
const MEDIUM_OF: &str = "VARVE_POWER_CUT_MEDIUM";

/// A file system on a medium.
pub struct Rig {
    /// For images.
    pub directory: PathBuf,
    /// Where it is mounted.
    pub live: PathBuf,
    /// Where images may be mounted, too.
    pub found: PathBuf,
    /// How a copy is mounted beside the original.
    copy_options: &'static str,
    medium: Child,
    commands: BufReader<UnixStream>,
}

/// A cut that was made.
pub struct Made {
    /// Bytes that had been written and not flushed.
    pub at_stake_bytes: u64,
    /// Those of them that are found.
    pub kept_bytes: u64,
}

impl Rig {
    /// `None`, with a reason, where it cannot be had.
    pub fn new(make: &[&str]) -> Option<Rig> {
        // SAFETY: takes an integer; of this process only this thread is affected.
        let is_apart = unsafe { libc::unshare(libc::CLONE_NEWNS) } == 0;
        if !is_apart || !run("mount", &["--make-rprivate", "/"]) {
            eprintln!("SKIPPED: needs the right to mount (root)");
            return None;
        }
        let directory = fresh_directory("power-cut");
        for place in ["live", "found"] {
            std::fs::create_dir(directory.join(place)).expect("a fresh directory");
        }
        let fresh = directory.join("fresh");
        let image = std::fs::File::create(&fresh).expect("a fresh directory");
        image.set_len(IMAGE_BYTES).expect("a sparse file");
        let is_made = run(make[0], &[&make[1..], &[text(&fresh)]].concat());
        let (ours, theirs) = UnixStream::pair().expect("a pair of sockets");
        ours.set_read_timeout(Some(LIMIT)).expect("a limit above zero");
        let mut rig = Rig {
            live: directory.join("live"),
            found: directory.join("found"),
            medium: start_medium(&directory, theirs.into()),
            // XFS refuses two of the same name at a time, unless it is told to.
            copy_options: if make[0] == "mkfs.xfs" { "loop,nouuid" } else { "loop" },
            commands: BufReader::new(ours),
            directory,
        };
        let served = rig.answer();
        let disk = rig.directory.join("disk");
        let is_mounted = is_made
            && served == "served"
            && run("mount", &["-o", "loop", text(&disk), text(&rig.live)]);
        if !is_mounted {
            eprintln!("SKIPPED: needs {}, FUSE ({served}) and loop devices", make[0]);
            return None;
        }
        std::fs::remove_file(&fresh).expect("it was there");
        Some(rig)
    }

    /// Cuts the power at a write or flush to come, the next one or one of a few more, and leaves
    /// what is found in `image`. `note` is called at that instant, while the request waits: what
    /// was acknowledged by then must be found.
    pub fn cut<T>(
        &mut self,
        style: Cut,
        seed: u64,
        skip: u64,
        image: &Path,
        note: impl FnOnce() -> T,
    ) -> (T, Made) {
        self.command(&format!("{} {seed} {skip} {}", style as u8, text(image)));
        assert_eq!(self.answer(), "now");
        let noted = note();
        self.command("go");
        let answer = self.answer();
        let mut numbers = answer.split(' ').map(|number| number.parse().expect("two numbers"));
        let mut number = || numbers.next().expect("two numbers");
        (noted, Made { at_stake_bytes: number(), kept_bytes: number() })
    }

    /// Mounts an image, and removes it afterwards.
    pub fn look(&self, image: &Path, at: &Path, see: impl FnOnce()) {
        let is_mounted = run("mount", &["-o", self.copy_options, text(image), text(at)]);
        assert!(is_mounted, "the file system of {} is broken", image.display());
        see();
        assert!(run("umount", &[text(at)]), "{}", at.display());
        std::fs::remove_file(image).expect("the test's own file");
    }

    /// Unmounts the file system, so that an image can take its place.
    pub fn unmount_live(&self) {
        assert!(run("umount", &[text(&self.live)]), "nobody uses it");
    }

    fn command(&mut self, line: &str) {
        writeln!(self.commands.get_mut(), "{line}").expect("the medium listens");
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.commands.read_line(&mut line).expect("the medium answers in time");
        line.trim_end().to_owned()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // In order: each is beneath the one before. On a medium that does not answer any more they
        // end at their limits, and then it is killed, which fails all that waits for it.
        let is_stuck = std::thread::panicking();
        if is_stuck {
            let _ = self.medium.kill();
            let _ = self.medium.wait();
        }
        for place in ["found", "live", "disk"] {
            let _ = run("umount", &["--lazy", text(&self.directory.join(place))]);
        }
        if !is_stuck && wait_bounded(&mut self.medium, LIMIT).is_none() {
            let _ = self.medium.kill();
            let _ = self.medium.wait();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// The process that serves the medium: this program, asked for the one test below.
fn start_medium(directory: &Path, commands: OwnedFd) -> Child {
    let program = std::env::current_exe().expect("a test program knows its path");
    let mut command = Command::new(program);
    command.args(["--exact", "rig::medium", "--ignored", "--nocapture", "--test-threads", "1"]);
    command.env(MEDIUM_OF, directory).stdin(commands).stdout(Stdio::null());
    command.spawn().expect("this program can be started")
}

/// Serves the file `disk` of a directory, with what `fresh` holds, until it is unmounted, and cuts
/// when told so on standard input.
#[test]
#[ignore = "the process that serves the medium, not a test"]
fn medium() {
    let Some(directory) = std::env::var_os(MEDIUM_OF).map(PathBuf::from) else { return };
    let commands = std::io::stdin().as_fd().try_clone_to_owned().expect("a descriptor more");
    let mut commands = UnixStream::from(commands);
    let medium = Medium::of_image(&directory.join("fresh"));
    let lines = BufReader::new(commands.try_clone().expect("a descriptor more")).lines();
    match medium.serve(&directory.join("disk")) {
        Err(error) => writeln!(commands, "{error}").expect("the test listens"),
        Ok(serving) => {
            writeln!(commands, "served").expect("the test listens");
            // It ends with the mount, or with the test.
            std::thread::spawn(move || take_commands(&medium, lines, &mut commands));
            serving.join().expect("no panic there");
        }
    }
}

fn take_commands(
    medium: &Medium,
    mut lines: impl Iterator<Item = std::io::Result<String>>,
    commands: &mut UnixStream,
) {
    while let Some(Ok(line)) = lines.next() {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("style, seed, requests to skip, image");
        let style = Cut::ALL[word().parse::<usize>().expect("a number")];
        let seed = word().parse().expect("a number");
        let skip = word().parse().expect("a number");
        let image = PathBuf::from(word());
        let (at_stake, kept) = medium.cut_after(skip, style, seed, &image, || {
            writeln!(commands, "now").expect("the test listens");
            lines.next().expect("the test answers").expect("the test answers");
        });
        writeln!(commands, "{at_stake} {kept}").expect("the test listens");
    }
}

/// Runs a program to its end, or to its limit; whether it succeeded.
pub fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null());
    // Of a second unmount nobody wants to hear.
    let is_quiet = arguments.first() == Some(&"--lazy");
    command.stderr(if is_quiet { Stdio::null() } else { Stdio::inherit() });
    let Ok(mut child) = command.spawn() else { return false };
    match wait_bounded(&mut child, LIMIT) {
        Some(status) => status.success(),
        None => {
            eprintln!("{program} {arguments:?}: still runs after {LIMIT:?}");
            // Not waited for: it ends when what it waits for does.
            let _ = child.kill();
            false
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path of this test")
}
