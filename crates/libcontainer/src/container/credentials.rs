//! Who the program is and what it may do: user, groups, capabilities, privileges.

use std::os::fd::{AsFd, OwnedFd};

use gantry_linux::{Error as SystemError, ResultExt, seccomp};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::start::{Report, send};
use super::user::User;
use crate::config::{CapSet, Capabilities, Process};
use crate::error::{Error, Result};
use crate::protection::intact;

fn kernels(set: CapSet) -> CapabilitySet {
    CapabilitySet::from_bits_retain(set.bits())
}

/// Takes the user's identity; the capabilities are kept until [`drop_capabilities`]. Those that are not in `wanted`'s
/// bounding set are given up for ever. Returns `wanted` without what this process lacks: a process gives no more than it
/// has, and that is no error.
pub fn become_user(user: &User, wanted: &Capabilities) -> Result<Capabilities> {
    let held = rustix::thread::capabilities(None).during("read", "capabilities")?.permitted;
    if intact("bounding-set") {
        bound(wanted.bounding)?;
    }
    rustix::thread::set_keep_capabilities(true).during("keep", "capabilities")?;
    set_groups(user)?;
    let gid = Gid::from_raw(user.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|error| refused(error, "group", user.gid))?;
    let uid = Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|error| refused(error, "user", user.uid))?;
    rustix::thread::set_keep_capabilities(false).during("keep", "capabilities")?;
    // Leaving uid 0 cleared the effective set; the last steps still need it.
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).during("set", "capabilities")?;
    Ok(wanted.limited_to(CapSet::from(held.bits())))
}

fn bound(bounding: CapSet) -> Result<()> {
    let wanted = kernels(bounding);
    for number in 0..64u32 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if wanted.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel has no more.
            Err(Errno::INVAL) => break,
            other => other.during("give up for ever", format_args!("capability {number}"))?,
        }
    }
    Ok(())
}

fn refused(error: Errno, kind: &'static str, id: u32) -> Error {
    match error {
        Errno::INVAL => {
            Error::Invalid(format!("{kind} {id} is not in the mapping of the container's user namespace; map more ids"))
        }
        error => SystemError::new("become", format!("{kind} {id}"), error).into(),
    }
}

fn set_groups(user: &User) -> Result<()> {
    if !intact("groups-as-su") {
        return Ok(());
    }
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // In a user namespace whose maker had no right to set groups nobody has it: none are asked for, and the maker's
        // own give no rights inside.
        Err(Errno::PERM) if user.groups.iter().all(|gid| *gid == user.gid) && setgroups_denied() => Ok(()),
        other => Ok(other.during("set groups", format_args!("{:?}", user.groups))?),
    }
}

fn setgroups_denied() -> bool {
    gantry_linux::fs::read_to_string("/proc/self/setgroups").is_ok_and(|word| word.trim() == "deny")
}

/// Leaves exactly these capabilities.
pub fn drop_capabilities(left: &Capabilities) -> Result<()> {
    let mut left = *left;
    if !intact("ambient-empty") {
        // What CVE-2016-8867 did: a user who is not root kept everything.
        (left.inheritable, left.ambient) = (left.permitted, left.permitted);
    }
    let sets = CapabilitySets {
        effective: kernels(left.effective),
        permitted: kernels(left.permitted),
        inheritable: kernels(left.inheritable),
    };
    rustix::thread::clear_ambient_capability_set().during("clear", "ambient capabilities")?;
    set_capabilities(None, sets).during("set", "capabilities")?;
    // The kernel has no ambient capability that is not also permitted and inheritable.
    for number in (0..64u32).filter(|number| left.ambient.bits() >> number & 1 == 1) {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if sets.permitted.contains(one) && sets.inheritable.contains(one) {
            rustix::thread::configure_capability_in_ambient_set(one, true)
                .during("make ambient", format_args!("capability {number}"))?;
        }
    }
    Ok(())
}

/// Sets `no_new_privs` where asked, and the seccomp program last: without `no_new_privs` that needs `CAP_SYS_ADMIN`, so
/// then the capabilities go after it. A listener goes out by `report` at once, for every later call may need its answer.
pub fn confine(process: &Process, left: &Capabilities, report: &OwnedFd) -> Result<()> {
    if process.no_new_privileges && intact("no-new-privs") {
        rustix::thread::set_no_new_privs(true).during("set", "no_new_privs")?;
        drop_capabilities(left)?;
        install(process, report)
    } else {
        install(process, report)?;
        drop_capabilities(left)
    }
}

fn install(process: &Process, report: &OwnedFd) -> Result<()> {
    let Some(program) = process.seccomp.as_deref().filter(|_| intact("seccomp")) else { return Ok(()) };
    let flags = process.seccomp_flags;
    if process.seccomp_listener.is_none() {
        return Ok(seccomp::install_filter(program, flags).during("install", "seccomp program")?);
    }
    let listener = seccomp::install_filter_with_listener(program, flags)
        .during("install", "seccomp program that notifies a listener")?;
    Ok(send(report, &Report::SeccompListener, &[listener.as_fd()])?)
}
