//! Linux security modules: what confines a program beside its capabilities and its seccomp program.
//!
//! A profile or label is given to the kernel before the program is executed, through a procfs that is verified to be one:
//! what an image has at `/proc` may pretend (CVE-2019-16884).

pub mod apparmor;
pub mod selinux;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use gantry_linux::mount::filesystem;
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use crate::config::{Mount, Process};
use crate::error::{Error, Result};
use crate::paths;
use crate::protection::intact;

/// The inode of every procfs's root.
const PROC_ROOT: u64 = 1;

/// Refuses a profile or label that this host cannot apply; for the caller, before anything is done.
pub fn check(process: &Process) -> Result<()> {
    if let Some(profile) = &process.apparmor_profile {
        apparmor::check(profile)?;
    }
    match &process.selinux_label {
        Some(label) if !selinux::enabled() => Err(selinux::refused(label)),
        _ => Ok(()),
    }
}

/// Has the files of the container's own file systems carry an SELinux label; those that the kernel makes up have theirs.
/// A kernel without SELinux knows no labels: there it is left out, as other runtimes do, and what is to be said is returned.
pub(crate) fn label_mounts(mounts: &mut [Mount], label: &str) -> Result<Option<String>> {
    if label.is_empty() {
        return Ok(None);
    }
    if selinux::enabled() {
        selinux::label(mounts, label);
        return Ok(None);
    }
    if selinux::absent() {
        return Ok(Some(format!("mount label {label}: this host's kernel has no SELinux; files are not labelled")));
    }
    Err(selinux::refused(label))
}

/// Has the kernel confine the program that this process will execute; to be called in the container, after `/` is its
/// own.
pub(crate) fn confine_program(process: &Process) -> Result<()> {
    if let Some(profile) = process.apparmor_profile.as_deref().filter(|name| apparmor::needed(name)) {
        let places = ["attr/apparmor/exec", "attr/exec"];
        write_attribute(&places, &format!("exec {profile}")).map_err(|error| apparmor::explain(profile, error))?;
    }
    if let Some(label) = &process.selinux_label {
        write_attribute(&["attr/exec"], label).map_err(|error| match error {
            Error::System(system) if system.errno() == libc::EINVAL => selinux::refused(label),
            other => other,
        })?;
    }
    Ok(())
}

/// Confines this process itself, which will execute nothing: the minimal init. SELinux does not let a process change its
/// own label so; there it keeps that of its maker.
pub(crate) fn confine_self(process: &Process) -> Result<()> {
    match process.apparmor_profile.as_deref().filter(|name| apparmor::needed(name)) {
        Some(profile) => confine_thread(profile),
        None => Ok(()),
    }
}

/// Confines the calling thread by this AppArmor profile.
fn confine_thread(profile: &str) -> Result<()> {
    let places = ["attr/apparmor/current", "attr/current"];
    write_attribute(&places, &format!("changeprofile {profile}")).map_err(|error| apparmor::explain(profile, error))
}

/// Writes to the first of these attributes of the calling thread that there is.
fn write_attribute(places: &[&str], value: &str) -> Result<()> {
    let proc = own_procfs()?;
    let mut missing = None;
    for place in places {
        match open_attribute(&proc, place) {
            Ok(attribute) => {
                return Ok(gantry_linux::socket::write_all(&attribute, value.as_bytes())
                    .during("write security attribute", format_args!("{place}: {value}"))?);
            }
            Err(error) if error.errno() == libc::ENOENT => missing = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    Err(missing.map_or_else(|| Error::Invalid("no security attribute to write to".into()), Error::from))
}

fn open_attribute(proc: &OwnedFd, place: &str) -> std::result::Result<OwnedFd, SystemError> {
    let path = format!("thread-self/{place}");
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    if !intact("lsm-procfs-verified") {
        let path = format!("/proc/{path}");
        return openat(CWD, &path, flags, Mode::empty()).during("open", path);
    }
    // No mount on the way: somebody may have put another file there.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
    openat2(proc, &path, flags, Mode::empty(), resolve).during("open in procfs", path)
}

/// A procfs of this process's pid namespace: a private one with nothing but processes in it, so that nobody who gets hold
/// of it has more of the kernel than the container shows; or, where that may not be made, the container's own, verified.
fn own_procfs() -> Result<OwnedFd> {
    match filesystem("proc", &[("subset".into(), Some("pid".into()))], 0) {
        Err(error) if matches!(error.errno(), libc::EPERM | libc::EINVAL) => {}
        other => return Ok(other?),
    }
    let root =
        openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).during("open", "/")?;
    let proc = paths::open(&root, Path::new("/proc"), OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
    verify(&proc)?;
    Ok(proc)
}

fn verify(proc: impl AsFd) -> Result<()> {
    let kind = rustix::fs::fstatfs(&proc).during("look at", "/proc of the container")?.f_type;
    let stat = rustix::fs::fstat(&proc).during("look at", "/proc of the container")?;
    if kind == rustix::fs::PROC_SUPER_MAGIC && stat.st_ino == PROC_ROOT {
        return Ok(());
    }
    let text = "/proc of the container is not a procfs: a security profile cannot be applied through it; mount one";
    Err(Error::Invalid(text.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_root_of_a_procfs_passes_for_one() {
        let open = |path: &str| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        verify(open("/proc")).unwrap();
        verify(own_procfs().unwrap()).unwrap();
        for path in ["/proc/self", "/sys", "/tmp", "/proc/sys"] {
            assert!(verify(open(path)).unwrap_err().to_string().contains("not a procfs"), "{path}");
        }
    }

    #[test]
    fn profiles_and_labels_are_refused_on_a_host_without_their_module() {
        if apparmor::enabled() || selinux::enabled() {
            crate::skipped("this host has a security module");
            return;
        }
        let with = |apparmor: Option<&str>, selinux: Option<&str>| Process {
            apparmor_profile: apparmor.map(str::to_owned),
            selinux_label: selinux.map(str::to_owned),
            ..Process::default()
        };
        check(&with(None, None)).unwrap();
        check(&with(Some("unconfined"), None)).unwrap();
        let error = check(&with(Some("some"), None)).unwrap_err().to_string();
        assert!(error.contains("apparmor is not enabled"), "{error}");
        let error = check(&with(None, Some("a_u:a_r:a_t:s0"))).unwrap_err().to_string();
        assert!(error.contains("selinux is not enabled"), "{error}");
    }
}
