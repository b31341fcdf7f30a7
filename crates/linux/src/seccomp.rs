//! Puts a seccomp program on the calling thread: safe to call between clone and exec, nothing is allocated.
#![allow(unsafe_code, reason = "seccomp(2) takes a pointer to the program, and no library wraps it")]

use rustix::io::Errno;

/// The kernel's limit, in instructions.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Bytes of one instruction (`struct sock_filter`).
pub const INSTRUCTION_SIZE: usize = 8;

/// Installs `program`, an array of `struct sock_filter` in native byte order, for this thread and its children.
///
/// `flags` are `SECCOMP_FILTER_FLAG_*` that return no descriptor (LOG, SPEC_ALLOW, TSYNC). Needs `CAP_SYS_ADMIN` in
/// the user namespace or `no_new_privs`. The program may be at any address: it is only read by the kernel.
pub fn install_filter(program: &[u8], flags: u32) -> Result<(), Errno> {
    let length = program.len() / INSTRUCTION_SIZE;
    if program.is_empty() || !program.len().is_multiple_of(INSTRUCTION_SIZE) || length > MAX_INSTRUCTIONS {
        return Err(Errno::INVAL);
    }
    let header = libc::sock_fprog {
        len: u16::try_from(length).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `header` points to `length` whole instructions that live through the call; the kernel copies them and
    // writes nothing. It does not require alignment.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const header) };
    match result {
        0 => Ok(()),
        // With TSYNC: the id of a thread that could not follow.
        1.. => Err(Errno::SRCH),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_empty_and_oversized_programs_are_refused() {
        for program in [vec![], vec![0; 7], vec![0; INSTRUCTION_SIZE * (MAX_INSTRUCTIONS + 1)]] {
            assert_eq!(install_filter(&program, 0), Err(Errno::INVAL));
        }
    }
}
