//! `--memory-mlock`: what the process has touched stays in memory.
//!
//! One idea: pages are locked when they are first used, so that mapped files that nobody reads cost
//! nothing. Memory that is mapped later counts too, which is why a limit of any size would sooner or
//! later end the process: it must be unlimited, and that is checked before anything is locked.

use std::io;

/// Locks the process's memory, now and from now on. Raises the limit if the process may.
///
/// # Errors
/// With the limit in the text, if there is one that cannot be raised.
pub fn lock_memory() -> io::Result<()> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the pointer is to a live `rlimit`, which the call only reads.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } != 0 {
        let text = format!(
            "--memory-mlock needs an unlimited RLIMIT_MEMLOCK (LimitMEMLOCK=infinity, ulimit -l \
             unlimited), found {} bytes that this process may not raise",
            limit()
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    // SAFETY: no pointers; pages that stay in memory change nothing that a program can see.
    if unsafe { libc::mlockall(flags) } != 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("--memory-mlock: mlockall: {error}")));
    }
    Ok(())
}

/// The limit that no process without privileges can pass.
fn limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live `rlimit`, which the call only writes.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if outcome == 0 { limit.rlim_max } else { 0 }
}
