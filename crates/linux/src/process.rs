//! Processes: cloned with new namespaces, replaced by a program, awaited. Fork is offered to single-threaded
//! processes only, where it is an ordinary copy.
#![allow(unsafe_code, reason = "clone3, execve, signalfd and sigprocmask have no safe wrapper")]

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::process::{Pid, WaitOptions};

use crate::{Error, Result, ResultExt};

/// Which side of a [`clone`] goes on here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clone {
    /// The new process.
    Child,
    /// The caller; the pid is the child's as the caller's pid namespace has it.
    Parent(Pid),
}

/// The namespaces and the parentage of a new process: `CLONE_NEW*` bits, and `CLONE_PARENT`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloneFlags(u64);

impl CloneFlags {
    #![allow(clippy::cast_sign_loss, reason = "the kernel's flags are 32 bits, libc's type is signed")]
    /// A copy of the caller, in its namespaces.
    pub const NONE: Self = Self(0);
    /// The caller's parent becomes the parent.
    pub const PARENT: Self = Self(libc::CLONE_PARENT as u32 as u64);
    /// A new mount namespace.
    pub const NEWNS: Self = Self(libc::CLONE_NEWNS as u32 as u64);
    /// A new pid namespace.
    pub const NEWPID: Self = Self(libc::CLONE_NEWPID as u32 as u64);
    /// A new UTS namespace.
    pub const NEWUTS: Self = Self(libc::CLONE_NEWUTS as u32 as u64);
    /// A new IPC namespace.
    pub const NEWIPC: Self = Self(libc::CLONE_NEWIPC as u32 as u64);
    /// A new network namespace.
    pub const NEWNET: Self = Self(libc::CLONE_NEWNET as u32 as u64);
    /// A new cgroup namespace, rooted in the cgroups that the caller is in.
    pub const NEWCGROUP: Self = Self(libc::CLONE_NEWCGROUP as u32 as u64);
    /// A new user namespace, which owns the others made with it.
    pub const NEWUSER: Self = Self(libc::CLONE_NEWUSER as u32 as u64);
    /// A new time namespace. Not for [`clone`]: [`unshare`] makes one for the children, and who made it may enter it.
    pub const NEWTIME: Self = Self(libc::CLONE_NEWTIME as u32 as u64);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of the other's are in it.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The bits, to travel in a message.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// From bits that travelled; unknown ones are dropped.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        let namespaces = [Self::NEWNS, Self::NEWPID, Self::NEWUTS, Self::NEWIPC, Self::NEWNET, Self::NEWCGROUP];
        let known = [Self::PARENT, Self::NEWUSER, Self::NEWTIME];
        Self(known.iter().chain(&namespaces).fold(0, |all, flag| all | (bits & flag.0)))
    }
}

/// Whether the calling process has one thread only.
#[must_use]
pub fn is_single_threaded() -> bool {
    // SAFETY: CLONE_THREAD alone changes nothing; the kernel refuses it when there are other threads.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// A thread that was joined leaves the process a moment later, and nothing tells when.
fn is_single_threaded_soon() -> bool {
    (0..200).any(|_| {
        is_single_threaded() || {
            std::thread::yield_now();
            false
        }
    })
}

/// Copies the calling process, which must have a single thread: only then is every lock free in the copy, and ordinary
/// code may run in it.
pub fn clone(flags: CloneFlags) -> Result<Clone> {
    clone_into(flags, None)
}

/// `CLONE_INTO_CGROUP`, which does not fit in libc's type.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// As [`clone`]; the new process is born in the v2 cgroup whose directory is given.
pub fn clone_into(flags: CloneFlags, cgroup: Option<BorrowedFd<'_>>) -> Result<Clone> {
    if !is_single_threaded_soon() {
        let error = std::io::Error::from_raw_os_error(libc::EDEADLK);
        return Err(Error::new("clone", "a process with several threads", error));
    }
    // With CLONE_PARENT the exit signal is the caller's own and must not be given.
    let exit_signal = if flags.0 & CloneFlags::PARENT.0 == 0 { libc::SIGCHLD } else { 0 };
    // SAFETY: all-zero is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags.0;
    if let Some(cgroup) = cgroup {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    arguments.exit_signal = exit_signal.unsigned_abs().into();
    // SAFETY: no memory is shared and no stack is given, so the child continues here on a copy of this stack; the
    // process has one thread, so the copy is consistent.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Clone::Child),
        1.. => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            Ok(Clone::Parent(pid.ok_or_else(|| Error::new("clone", "process", rustix::io::Errno::RANGE))?))
        }
        _ => Err(Error::new("clone", format!("process with flags {:x}", flags.0), std::io::Error::last_os_error())),
    }
}

/// Ends the calling process at once: no destructors, no `atexit`. For the children of [`clone`].
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit never returns and touches no memory of ours.
    unsafe { libc::_exit(code) }
}

/// Replaces the calling process by a program; returns only when the kernel refuses.
#[must_use]
pub fn execve(path: &CStr, arguments: &[CString], environment: &[CString]) -> std::io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(arguments), pointers(environment));
    // SAFETY: both arrays end with a null pointer, and the strings they point to outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    std::io::Error::last_os_error()
}

/// Gives every signal its default action and unblocks all: what a program expects to start with.
pub fn reset_signals() {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: the default action involves no code of ours; numbers that libc reserves are refused, harmlessly.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    set_mask(libc::SIG_SETMASK, &[]);
}

/// Ignores these signals.
pub fn ignore_signals(signals: &[i32]) {
    for &signal in signals {
        // SAFETY: ignoring involves no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

fn set_mask(how: i32, signals: &[i32]) -> libc::sigset_t {
    // SAFETY: sigemptyset initialises the set; sigaddset only sets bits in it; the mask is the calling thread's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for &signal in signals {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::sigprocmask(how, &raw const set, std::ptr::null_mut());
        set
    }
}

/// Blocks every signal that can be blocked.
pub fn block_all_signals() {
    let all: Vec<i32> = (1..=64).collect();
    set_mask(libc::SIG_BLOCK, &all);
}

/// Blocks these signals and returns a descriptor that is readable when one of them is pending.
pub fn signal_fd(signals: &[i32]) -> Result<OwnedFd> {
    for &signal in signals {
        // SAFETY: the default action involves no code of ours. An ignored SIGCHLD would lose exit statuses.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    blocked_fd(signals)
}

/// As [`signal_fd`], but signals that the caller's parent had ignored stay so, and never arrive: as `nohup` wants it. Only
/// SIGCHLD gets its default action.
pub fn signal_fd_as_inherited(signals: &[i32]) -> Result<OwnedFd> {
    // SAFETY: the default action involves no code of ours.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    blocked_fd(signals)
}

fn blocked_fd(signals: &[i32]) -> Result<OwnedFd> {
    let set = set_mask(libc::SIG_BLOCK, signals);
    // SAFETY: the set is initialised; the returned descriptor is owned by nobody else.
    unsafe {
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 {
            return Err(Error::new("make", "signalfd", std::io::Error::last_os_error()));
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Takes the next pending signal of a [`signal_fd`].
#[must_use]
pub fn next_signal(signals: &OwnedFd) -> Option<i32> {
    let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
    match rustix::io::read(signals, &mut info) {
        Ok(length) if length == info.len() => Some(i32::from_ne_bytes([info[0], info[1], info[2], info[3]])),
        _ => None,
    }
}

/// How a child ended, as Docker counts it: the exit code, or 128 + n for signal n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The child.
    pub pid: Pid,
    /// 0–255, 128 + n.
    pub code: i32,
}

/// Reaps one child that has ended; `None` when none has.
#[must_use]
pub fn reap() -> Option<Ended> {
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => return Some(Ended { pid, code: exit_code(status) }),
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Reaps this child if it has ended; `None` when it has not, or is no child of the caller's.
#[must_use]
pub fn reap_child(pid: Pid) -> Option<Ended> {
    let waited = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::NOHANG));
    waited.ok().flatten().map(|(pid, status)| Ended { pid, code: exit_code(status) })
}

/// Waits for one child.
pub fn wait_for(pid: Pid) -> Result<Ended> {
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((pid, status))) => return Ok(Ended { pid, code: exit_code(status) }),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::new("wait for", format!("process {pid:?}"), error)),
        }
    }
}

fn exit_code(status: rustix::process::WaitStatus) -> i32 {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(255)
}

/// Sends a signal by number, real-time ones included.
pub fn kill(pid: Pid, signal: i32) -> Result<()> {
    // SAFETY: kill touches no memory.
    if unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) } == 0 {
        return Ok(());
    }
    Err(Error::new("send signal to", format!("process {}", pid.as_raw_nonzero()), std::io::Error::last_os_error()))
}

/// Sends a signal by number to the process behind a pidfd.
pub fn pidfd_kill(pidfd: impl AsFd, signal: i32) -> Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo is allowed; no memory is touched.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0) };
    if result == 0 {
        return Ok(());
    }
    Err(Error::new("send signal to", format!("process of pidfd {fd}"), std::io::Error::last_os_error()))
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    close_range(first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Closes every descriptor but 0, 1, 2 and `keep`. For a process that was just cloned and that goes on with these alone:
/// whatever else it holds a descriptor in must never be used or dropped in it.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    close_but(3, keep)
}

/// As [`close_all_but`]; 3, 4 … of this number stay open as well, and stay open in the program.
pub fn close_all_but_passed(passed: u32, keep: &[BorrowedFd<'_>]) -> Result<()> {
    for number in 3..3 + passed {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        // SAFETY: changes a flag of a descriptor; one that is not open is refused.
        if unsafe { libc::fcntl(number, libc::F_SETFD, 0) } < 0 {
            return Err(Error::new("pass on descriptor", number.to_string(), std::io::Error::last_os_error()));
        }
    }
    close_but(3 + passed, keep)
}

/// Whether a descriptor of this number is open.
#[must_use]
pub fn is_open(number: u32) -> bool {
    // SAFETY: reads a flag.
    i32::try_from(number).is_ok_and(|number| unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0)
}

/// Makes `target`'s number a descriptor of what `source` is one of, close-on-exec.
pub fn replace(target: impl AsFd, source: impl AsFd) -> Result<()> {
    let (source, target) = (source.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    // SAFETY: the target stays an open descriptor of its owner.
    if unsafe { libc::dup3(source, target, libc::O_CLOEXEC) } >= 0 {
        return Ok(());
    }
    Err(Error::new("replace descriptor", target.to_string(), std::io::Error::last_os_error()))
}

/// Joins a new session keyring of this name: the caller's keys are out of reach. A kernel without keyrings is fine.
pub fn new_session_keyring(name: &CStr) -> Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    const SETPERM: libc::c_long = 5;
    // Its possessor may do everything with it, its owner look at it and search it, others nothing.
    const PERMISSIONS: libc::c_long = 0x3f1b_0000;
    // SAFETY: the kernel copies the name.
    let keyring = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) };
    let error = std::io::Error::last_os_error();
    if keyring < 0 {
        if error.raw_os_error() == Some(libc::ENOSYS) {
            return Ok(());
        }
        return Err(Error::new("join session keyring", name.to_string_lossy(), error));
    }
    // SAFETY: only numbers are given.
    let set = unsafe { libc::syscall(libc::SYS_keyctl, SETPERM, keyring, PERMISSIONS) };
    let error = std::io::Error::last_os_error();
    // One that is joined may belong to another user, who has set it.
    if set < 0 && error.raw_os_error() != Some(libc::EACCES) {
        return Err(Error::new("set permissions of session keyring", name.to_string_lossy(), error));
    }
    Ok(())
}

/// As [`close_all_but`], and 0, 1, 2 as well.
pub fn close_everything_but(keep: &[BorrowedFd<'_>]) -> Result<()> {
    close_but(0, keep)
}

fn close_but(mut first: u32, keep: &[BorrowedFd<'_>]) -> Result<()> {
    let mut kept: Vec<u32> = keep.iter().filter_map(|fd| u32::try_from(fd.as_raw_fd()).ok()).collect();
    kept.sort_unstable();
    for fd in kept {
        if fd > first {
            close_range(first, fd - 1, 0)?;
        }
        first = first.max(fd + 1);
    }
    close_range(first, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: u32) -> Result<()> {
    // SAFETY: the caller gives up these descriptors; documented on the public functions.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } == 0 {
        return Ok(());
    }
    Err(Error::new("close_range", format!("{first}-{last}"), std::io::Error::last_os_error()))
}

/// Moves standard input, output and error to the given descriptors.
pub fn set_stdio(fds: [BorrowedFd<'_>; 3]) -> Result<()> {
    if fds.iter().all(|fd| fd.as_raw_fd() > 2) {
        return fds.iter().zip(0..).try_for_each(|(fd, target)| become_stdio(fd, target));
    }
    // Copies first: a source is one of 0, 1, 2 itself.
    let copies = fds.map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3));
    for (target, copy) in (0..).zip(copies) {
        let copy = copy.during("duplicate", format_args!("standard stream {target}"))?;
        become_stdio(&copy, target)?;
    }
    Ok(())
}

fn become_stdio(fd: impl AsFd, target: RawFd) -> Result<()> {
    // SAFETY: 0, 1 and 2 belong to the process as a whole, which is what is being changed.
    if unsafe { libc::dup2(fd.as_fd().as_raw_fd(), target) } < 0 {
        return Err(Error::new("duplicate", format!("standard stream {target}"), std::io::Error::last_os_error()));
    }
    Ok(())
}

/// Takes a descriptor by its number, as a parent process gave it; closed numbers are refused.
pub fn inherited_fd(number: RawFd) -> Result<OwnedFd> {
    // SAFETY: the number is checked to be open by duplicating it; the duplicate belongs to nobody else.
    let duplicate = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    if duplicate < 0 {
        return Err(Error::new("take descriptor", number.to_string(), std::io::Error::last_os_error()));
    }
    // SAFETY: see above.
    Ok(unsafe { OwnedFd::from_raw_fd(duplicate) })
}

/// Takes a socket over by the number that a parent process gave it, so that nothing else keeps it open. To be asked before
/// this process has opened anything itself.
pub fn take_socket(number: RawFd) -> Result<OwnedFd> {
    let refused = |error| Error::new("take socket", number.to_string(), error);
    // SAFETY: asks about a number, and changes nothing of memory.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(refused(std::io::Error::last_os_error()));
    }
    // SAFETY: the number is open, and nothing else runs yet that could close it.
    let status = rustix::fs::fstat(unsafe { BorrowedFd::borrow_raw(number) }).map_err(|errno| refused(errno.into()))?;
    if rustix::fs::FileType::from_raw_mode(status.st_mode) != rustix::fs::FileType::Socket {
        return Err(refused(std::io::Error::other("it is no socket")));
    }
    // SAFETY: the parent gave it, and this process has opened nothing that it could be instead.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Leaves the calling process's namespaces of the given kinds for new ones.
pub fn unshare(flags: CloneFlags) -> Result<()> {
    let bits = i32::try_from(flags.0).unwrap_or(0);
    // SAFETY: only namespace bits can be in the flags: no memory or descriptor table is unshared.
    if unsafe { libc::unshare(bits) } == 0 {
        return Ok(());
    }
    Err(Error::new("unshare", format!("{bits:x}"), std::io::Error::last_os_error()))
}

/// Enters namespaces: those of a process (`fd` is its pidfd, `flags` says which), or the one that `fd` is of.
pub fn setns(fd: impl AsFd, flags: CloneFlags, name: impl std::fmt::Display) -> Result<()> {
    let bits = i32::try_from(flags.0).unwrap_or(0);
    // SAFETY: setns touches no memory of the process.
    if unsafe { libc::setns(fd.as_fd().as_raw_fd(), bits) } == 0 {
        return Ok(());
    }
    Err(Error::new("enter namespace of", name.to_string(), std::io::Error::last_os_error()))
}

/// The number of descriptors that are open in the calling process, for tests of leaks.
pub fn open_descriptors() -> Result<usize> {
    Ok(crate::fs::list("/proc/self/fd")?.len().saturating_sub(1))
}
