//! What a container or an old kernel refuses, refused for real: a seccomp filter on the thread
//! that opens the file, as container runtimes install it.
//!
//! One idea: a filter is a table of system calls and the error that each gets. It holds for one
//! thread and for good, so each test has a thread of its own.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::path::Path;

use varve_disk::Disk;
use varve_disk::durable::Backend::{self, BufferedDsync, Dsync, Fdatasync, Uring};
use varve_disk::os::OsDisk;

/// A call that fails with `errno`; if `flag` is not 0, only when argument `argument` has it.
#[derive(Clone, Copy)]
struct Refusal {
    call: libc::c_long,
    argument: u32,
    flag: u32,
    errno: i32,
}

fn refuse(call: libc::c_long, errno: i32) -> Refusal {
    Refusal { call, argument: 0, flag: 0, errno }
}

/// Opening with `O_DIRECT`, which is in the third argument of `openat`.
fn refuse_direct(errno: i32) -> Refusal {
    Refusal { call: libc::SYS_openat, argument: 2, flag: libc::O_DIRECT as u32, errno }
}

/// Makes the kernel refuse these calls to this thread from now on.
fn install(refusals: &[Refusal]) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump =
        |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let give = |value| statement(libc::BPF_RET | libc::BPF_K, value);
    let mut program = Vec::new();
    for refusal in refusals {
        // The number of the call is first in what the filter sees, arguments begin at 16.
        program.push(load(0));
        program.push(jump(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, refusal.call as u32, 0, 3));
        program.push(load(16 + 8 * refusal.argument));
        let flag = if refusal.flag == 0 { 0 } else { refusal.flag };
        let test = if flag == 0 { libc::BPF_JGE } else { libc::BPF_JSET };
        program.push(jump(libc::BPF_JMP | test | libc::BPF_K, flag, 0, 1));
        program.push(give(libc::SECCOMP_RET_ERRNO | refusal.errno as u32));
    }
    program.push(give(libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).unwrap(),
        filter: program.as_mut_ptr(),
    };
    // SAFETY: no memory is passed; it only takes privileges from this thread.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `filter` points at `program`, which outlives the call; the kernel copies it.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// What each backend says on a thread with these refusals: the error number of its first failure.
fn outcomes(refusals: &[Refusal]) -> Vec<(Backend, Option<i32>)> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = dir.path().join("a");
    let file = OsDisk::new().create(&path).unwrap();
    file.write_at(0, &[0; 8192]).unwrap();
    file.sync().unwrap();
    std::thread::scope(|scope| {
        let attempts = scope.spawn(|| {
            install(refusals);
            let attempt = |backend| (backend, attempt(&path, backend));
            Backend::ALL.map(attempt).to_vec()
        });
        attempts.join().unwrap()
    })
}

fn attempt(path: &Path, backend: Backend) -> Option<i32> {
    let memory = vec![7u8; 8192];
    let start = memory.as_ptr().align_offset(4096);
    let outcome = OsDisk::new()
        .open_durable(path, backend)
        .and_then(|mut writer| writer.write_durable_at(4096, &memory[start..start + 4096]));
    outcome.err().map(|error| error.source.raw_os_error().expect("a number of the system"))
}

/// Direct writes, where the file system of the build directory has them.
fn direct_here() -> Option<i32> {
    outcomes(&[])[0].1
}

#[test]
fn without_io_uring_everything_else_works() {
    for errno in [libc::EPERM, libc::ENOSYS] {
        let found = outcomes(&[refuse(libc::SYS_io_uring_setup, errno)]);
        let uring = direct_here().or(Some(errno));
        let expected =
            [(Dsync, direct_here()), (BufferedDsync, None), (Uring, uring), (Fdatasync, None)];
        assert_eq!(found, expected);
    }
}

#[test]
fn without_direct_writes_the_page_cache_is_left() {
    let found = outcomes(&[refuse_direct(libc::EINVAL)]);
    let refused = Some(libc::EINVAL);
    let expected = [(Dsync, refused), (BufferedDsync, None), (Uring, refused), (Fdatasync, None)];
    assert_eq!(found, expected);
}

#[test]
fn without_durable_writes_in_one_call_two_are_left() {
    for errno in [libc::EOPNOTSUPP, libc::EINVAL] {
        let found = outcomes(&[
            refuse(libc::SYS_pwritev2, errno),
            refuse(libc::SYS_io_uring_setup, libc::EPERM),
            refuse_direct(libc::EINVAL),
        ]);
        let expected = [
            (Dsync, Some(libc::EINVAL)),
            (BufferedDsync, Some(errno)),
            (Uring, Some(libc::EINVAL)),
            (Fdatasync, None),
        ];
        assert_eq!(found, expected);
    }
}

#[test]
fn without_statx_the_largest_alignment_is_taken() {
    let found = outcomes(&[refuse(libc::SYS_statx, libc::ENOSYS)]);
    assert_eq!(found, outcomes(&[]));
}

#[test]
fn a_file_system_in_memory_has_a_backend_that_works() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = dir.path().join("a");
    OsDisk::new().create(&path).unwrap().write_at(0, &[0; 8192]).unwrap();
    assert_eq!(attempt(&path, Fdatasync), None);
    for backend in Backend::ALL {
        // Refused or done, by the kernel's version; never half.
        let refused = attempt(&path, backend);
        assert!(matches!(refused, None | Some(libc::EINVAL | libc::EPERM | libc::ENOSYS)));
    }
}
