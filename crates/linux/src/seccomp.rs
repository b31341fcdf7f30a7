//! Puts a seccomp program on the calling thread (safe to call between clone and exec, nothing is allocated), and answers for
//! its listener.
#![allow(unsafe_code, reason = "seccomp(2) takes a pointer to the program, and no library wraps it")]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, opcode};

/// The kernel's limit, in instructions.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Bytes of one instruction (`struct sock_filter`).
pub const INSTRUCTION_SIZE: usize = 8;

/// `SECCOMP_FILTER_FLAG_*` of `linux/seccomp.h`.
#[allow(missing_docs, reason = "the names are seccomp(2)'s")]
pub mod flags {
    pub const TSYNC: u32 = 1;
    pub const LOG: u32 = 2;
    pub const SPEC_ALLOW: u32 = 4;
    pub const NEW_LISTENER: u32 = 8;
    pub const TSYNC_ESRCH: u32 = 16;
    /// Only with a listener: a call that the agent has received waits for it in spite of signals that do not kill.
    pub const WAIT_KILLABLE_RECV: u32 = 32;
}

/// Installs `program`, an array of `struct sock_filter` in native byte order, for this thread and its children.
///
/// `given` are [`flags`] that return no descriptor. Needs `CAP_SYS_ADMIN` in the user namespace or `no_new_privs`. The
/// program may be at any address: it is only read by the kernel.
///
/// # Errors
/// `EINVAL` for a program that is torn, empty, too long or refused by the kernel; `ESRCH` when with TSYNC a thread could
/// not follow.
pub fn install_filter(program: &[u8], given: u32) -> Result<(), Errno> {
    // Waiting for an agent means nothing without one: the kernel would refuse it.
    match install(program, given & !flags::NEW_LISTENER & !flags::WAIT_KILLABLE_RECV)? {
        0 => Ok(()),
        _ => Err(Errno::SRCH),
    }
}

/// Installs `program` as [`install_filter`] does, and returns the descriptor from which its `SECCOMP_RET_USER_NOTIF` calls
/// are received; it is closed by exec.
///
/// # Errors
/// As [`install_filter`]; `EBUSY` when this process has a listener already.
pub fn install_filter_with_listener(program: &[u8], given: u32) -> Result<OwnedFd, Errno> {
    // The result is the descriptor: a thread that could not follow must be told as an error.
    let follow = if given & flags::TSYNC == 0 { 0 } else { flags::TSYNC_ESRCH };
    let fd = install(program, given | flags::NEW_LISTENER | follow)?;
    // SAFETY: with NEW_LISTENER the kernel returns a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn install(program: &[u8], flags: u32) -> Result<i32, Errno> {
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
    match i32::try_from(result) {
        Ok(value @ 0..) => Ok(value),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL)),
    }
}

/// A call that waits for the listener's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The kernel's name for this one call.
    id: u64,
    /// The thread that called, as the listener's pid namespace numbers it.
    pub thread: u32,
    /// The call's number, of the architecture that the program let through.
    pub number: i64,
    /// Its arguments: numbers, and addresses in the caller.
    pub arguments: [u64; 6],
}

const RECEIVE: Opcode = opcode::read_write::<libc::seccomp_notif>(b'!', 0);
const SEND: Opcode = opcode::read_write::<libc::seccomp_notif_resp>(b'!', 1);

/// Waits for the next call; `None` when nobody is under the program any more.
///
/// # Errors
/// `ENOENT` when the caller was killed before its call was received: the next one may be waited for.
pub fn receive(listener: &OwnedFd) -> Result<Option<Call>, Errno> {
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut waiting, None)?;
    if !waiting[0].revents().contains(PollFlags::IN) {
        return Ok(None);
    }
    // SAFETY: plain numbers; the kernel wants them to be zero.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the code reads and writes this structure, which outlives the call.
    unsafe { rustix::ioctl::ioctl(listener.as_fd(), Updater::<RECEIVE, _>::new(&mut notice)) }?;
    let libc::seccomp_notif { id, pid, data, .. } = notice;
    Ok(Some(Call { id, thread: pid, number: i64::from(data.nr), arguments: data.args }))
}

/// Lets the kernel do the call.
///
/// # Errors
/// `ENOENT` when its thread has been killed meanwhile.
pub fn let_through(listener: &OwnedFd, call: &Call) -> Result<(), Errno> {
    // `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
    answer(listener, call, 0, 1)
}

/// Fails the call, which the kernel never sees.
///
/// # Errors
/// `ENOENT` when its thread has been killed meanwhile.
pub fn fail(listener: &OwnedFd, call: &Call, with: Errno) -> Result<(), Errno> {
    answer(listener, call, -with.raw_os_error(), 0)
}

fn answer(listener: &OwnedFd, call: &Call, error: i32, flags: u32) -> Result<(), Errno> {
    let mut answer = libc::seccomp_notif_resp { id: call.id, val: 0, error, flags };
    // SAFETY: the code reads this structure, which outlives the call.
    unsafe { rustix::ioctl::ioctl(listener.as_fd(), Updater::<SEND, _>::new(&mut answer)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_empty_and_oversized_programs_are_refused() {
        for program in [vec![], vec![0; 7], vec![0; INSTRUCTION_SIZE * (MAX_INSTRUCTIONS + 1)]] {
            assert_eq!(install_filter(&program, 0), Err(Errno::INVAL));
            assert_eq!(install_filter_with_listener(&program, 0).unwrap_err(), Errno::INVAL);
        }
    }
}
