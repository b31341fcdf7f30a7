//! Attributes of the calling process that no library wraps: scheduling, I/O priority, processors, memory policy,
//! personality, session keyring.
#![allow(unsafe_code, reason = "these system calls have no safe wrapper")]

use crate::{Error, Result};

/// `struct sched_attr` of `sched_setattr(2)`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are sched_setattr(2)'s")]
pub struct SchedAttr {
    size: u32,
    pub policy: u32,
    pub flags: u64,
    pub nice: i32,
    pub priority: u32,
    pub runtime: u64,
    pub deadline: u64,
    pub period: u64,
    pub util_min: u32,
    pub util_max: u32,
}

fn answer(result: libc::c_long, operation: &'static str, subject: impl Into<String>) -> Result<libc::c_long> {
    if result < 0 {
        return Err(Error::new(operation, subject, std::io::Error::last_os_error()));
    }
    Ok(result)
}

fn size_of_attr() -> u32 {
    // 56: fits.
    u32::try_from(size_of::<SchedAttr>()).unwrap_or_default()
}

/// Sets how the calling thread is scheduled.
pub fn set_scheduler(attributes: &SchedAttr) -> Result<()> {
    let sized = SchedAttr { size: size_of_attr(), ..*attributes };
    // SAFETY: the structure lives through the call and says its own size.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const sized, 0) };
    answer(result, "set scheduler", format!("policy {} priority {}", sized.policy, sized.priority)).map(drop)
}

/// How the calling thread is scheduled.
pub fn scheduler() -> Result<SchedAttr> {
    let mut found = SchedAttr::default();
    // SAFETY: the kernel writes at most the size that is given, which is the structure's.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, size_of_attr(), 0) };
    answer(result, "read", "scheduler").map(|_| found)
}

const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_SHIFT: u32 = 13;

/// Sets class (1 real time, 2 best effort, 3 idle) and level (0–7) of the calling thread's I/O.
pub fn set_io_priority(class: u32, level: u32) -> Result<()> {
    let value = class << IOPRIO_CLASS_SHIFT | level;
    // SAFETY: only numbers are given.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, value) };
    answer(result, "set I/O priority", format!("class {class} level {level}")).map(drop)
}

/// Class and level of the calling thread's I/O.
pub fn io_priority() -> Result<(u32, u32)> {
    // SAFETY: only numbers are given.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) };
    let value = u32::try_from(answer(result, "read", "I/O priority")?).unwrap_or_default();
    Ok((value >> IOPRIO_CLASS_SHIFT, value & 0xff))
}

/// A bit for each number.
fn bits(numbers: &[u32]) -> Vec<libc::c_ulong> {
    const WIDTH: usize = libc::c_ulong::BITS as usize;
    let mut words = Vec::new();
    for number in numbers.iter().map(|number| *number as usize) {
        if words.len() <= number / WIDTH {
            words.resize(number / WIDTH + 1, 0);
        }
        words[number / WIDTH] |= 1 << (number % WIDTH);
    }
    words
}

/// Has the calling thread run on these processors only.
pub fn set_affinity(processors: &[u32]) -> Result<()> {
    let mask = bits(processors);
    // SAFETY: the kernel reads as many bytes as are given.
    let result = unsafe { libc::syscall(libc::SYS_sched_setaffinity, 0, size_of_val(mask.as_slice()), mask.as_ptr()) };
    answer(result, "set CPU affinity", format!("{processors:?}")).map(drop)
}

/// Sets where the calling thread's memory comes from: `MPOL_*` with its `MPOL_F_*`, and nodes.
pub fn set_memory_policy(mode: i32, nodes: &[u32]) -> Result<()> {
    let mask = bits(nodes);
    let pointer = if mask.is_empty() { std::ptr::null() } else { mask.as_ptr() };
    // The kernel takes one bit less than it is told of.
    let length = if mask.is_empty() { 0 } else { size_of_val(mask.as_slice()) * 8 + 1 };
    // SAFETY: the kernel reads `length` - 1 bits, which are there.
    let result = unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, length) };
    answer(result, "set memory policy", format!("mode {mode:#x} nodes {nodes:?}")).map(drop)
}

/// The calling thread's `MPOL_*` with its `MPOL_F_*`.
pub fn memory_policy() -> Result<i32> {
    let mut mode: libc::c_int = 0;
    // SAFETY: the kernel writes one integer; no mask is asked for.
    let result = unsafe {
        libc::syscall(libc::SYS_get_mempolicy, &raw mut mode, std::ptr::null_mut::<libc::c_ulong>(), 0, 0, 0)
    };
    answer(result, "read", "memory policy").map(|_| mode)
}

/// Sets the execution domain, which stays when a program is executed.
pub fn set_personality(persona: u32) -> Result<()> {
    // SAFETY: only a number is given; domains change how system calls answer, never this program's memory.
    let result = unsafe { libc::personality(libc::c_ulong::from(persona)) };
    answer(result.into(), "set", "personality").map(drop)
}

/// The execution domain.
pub fn personality() -> Result<u32> {
    // SAFETY: this value asks and changes nothing.
    let result = unsafe { libc::personality(0xffff_ffff) };
    Ok(u32::try_from(answer(result.into(), "read", "personality")?).unwrap_or_default())
}

const KEYCTL_DESCRIBE: libc::c_int = 6;
const KEY_SPEC_SESSION_KEYRING: libc::c_int = -3;

/// What the kernel says of the session keyring: `keyring;uid;gid;permissions;name`.
pub fn session_keyring() -> Result<String> {
    let mut text = [0u8; 256];
    // SAFETY: the kernel writes at most as many bytes as are given.
    let result = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, text.as_mut_ptr(), text.len())
    };
    let length = usize::try_from(answer(result, "describe", "session keyring")?).unwrap_or_default();
    let whole = &text[..length.min(text.len())];
    Ok(String::from_utf8_lossy(whole).trim_end_matches('\0').to_owned())
}
