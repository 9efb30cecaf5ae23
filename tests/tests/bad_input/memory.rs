//! `--memory-mlock`: memory is locked where that is allowed, and refused at the start where it is not.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use varve_tests::process::{Options, Program, Server, fresh_directory, wait_bounded};

use crate::{EXIT_TIMEOUT, FAILURE, assert_no_panic};

/// The capability that lets a process raise its limits.
const CAP_SYS_RESOURCE: libc::c_ulong = 24;

/// Makes what `command` starts a process that may lock little memory, and may not change that.
fn limit_locked_memory(command: &mut Command) {
    let limited = || {
        let limit = libc::rlimit { rlim_cur: 65_536, rlim_max: 65_536 };
        // SAFETY: the pointer is to a live `rlimit`, which the call only reads.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) } != 0 {
            return Err(std::io::Error::last_os_error());
        }
        // Who is not root has no such capability, and may not drop it.
        // SAFETY: a call with integers.
        let _dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYS_RESOURCE, 0, 0, 0) };
        Ok(())
    };
    // SAFETY: two system calls, no allocation and no lock between fork and exec.
    unsafe { command.pre_exec(limited) };
}

#[test]
fn a_limit_of_locked_memory_is_named() {
    let program = Program::varve();
    if !program.is_varve() {
        return;
    }
    let directory = fresh_directory("memory");
    let output = directory.join("output");
    let file = std::fs::File::create(&output).expect("a fresh directory");
    let mut command = Command::new(&program.path);
    command.args(["--memory-mlock", "--data-dir"]).arg(directory.join("data"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
    limit_locked_memory(&mut command);
    let mut child = command.spawn().expect("the program starts");
    let status = wait_bounded(&mut child, EXIT_TIMEOUT);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let text = std::fs::read_to_string(&output).expect("just written");
    assert_eq!(status.and_then(|status| status.code()), FAILURE, "{text}");
    let says = "unlimited RLIMIT_MEMLOCK (LimitMEMLOCK=infinity, ulimit -l unlimited), found 65536";
    assert!(text.contains(says), "expected {says:?} in:\n{text}");
    assert_no_panic(&text);
    assert!(!directory.join("data").exists(), "the data directory was touched");
    std::fs::remove_dir_all(&directory).expect("the test's own directory");
}

#[test]
fn what_is_touched_is_locked() {
    let program = Program::varve();
    if !program.is_varve() {
        return;
    }
    let mut options = Options::single("memory");
    options.extra_flags = vec!["--memory-mlock".to_owned()];
    let server = match Server::start_with(&program, options) {
        Ok(server) => server,
        Err(log) if log.contains("unlimited RLIMIT_MEMLOCK") => {
            println!("skipped: this process may not raise RLIMIT_MEMLOCK");
            return;
        }
        Err(log) => panic!("{log}"),
    };
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("it runs");
    let locked =
        status.lines().find_map(|line| line.strip_prefix("VmLck:")?.split(' ').rev().nth(1));
    let locked: u64 = locked.expect("the kernel tells").parse().expect("a number");
    assert!(locked > 1024, "{locked} KiB are locked");
}
