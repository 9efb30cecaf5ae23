//! Random numbers for ids and seeds, from the system. Nothing replicated depends on them except
//! through a proposed command.

/// A random number.
///
/// # Panics
/// If the system has no randomness to give, which Linux excludes after boot.
pub fn u64() -> u64 {
    let mut bytes = [0_u8; 8];
    // SAFETY: the buffer is valid for its whole length for the duration of the call.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    assert_eq!(filled, 8, "getrandom gives up to 256 bytes at once");
    u64::from_le_bytes(bytes)
}
