//! Kernel parameters of the new namespaces, written through a procfs that nobody else has.

use std::path::PathBuf;

use gantry_linux::mount::filesystem;
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::config::{Namespace, Namespaces};
use crate::error::{Error, Result};
use crate::protection::intact;

/// Refuses what is not of a namespace that is the container's own: everything else is the host's. Whoever made the
/// configuration has checked that; this is the last door.
fn check(name: &str, namespaces: &Namespaces) -> Result<()> {
    // As the path is made: a slash within a part is a dot there, so that the first dots alone separate.
    let (space, namespace) = match name {
        _ if name.starts_with("net.") => ("net", &namespaces.net),
        "kernel.hostname" | "kernel.domainname" => ("uts", &namespaces.uts),
        "kernel.sem" => ("ipc", &namespaces.ipc),
        _ if ["kernel.msg", "kernel.shm", "fs.mqueue."].iter().any(|start| name.starts_with(start)) => {
            ("ipc", &namespaces.ipc)
        }
        _ => return Err(Error::Invalid(format!("sysctl {name}: it is the whole host's; set it there"))),
    };
    if *namespace == Namespace::New {
        return Ok(());
    }
    Err(Error::Invalid(format!("sysctl {name}: it is the whole host's without a new {space} namespace; leave it out")))
}

/// Writes all of them. The container's own `/proc` is not used: whatever the image has there does not matter.
pub fn write_all(sysctls: &[(String, String)], namespaces: &Namespaces) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    for (name, _) in sysctls {
        check(name, namespaces)?;
    }
    let proc = if intact("procfs-verified") {
        filesystem("proc", &[], 0)?
    } else {
        rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open", "/proc")?
    };
    for (name, value) in sysctls {
        let path = path(name)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat2(&proc, &path, flags, Mode::empty(), resolve).map_err(|error| match error {
            rustix::io::Errno::NOENT => Error::Invalid(format!("sysctl {name}: this kernel does not have it")),
            error => SystemError::new("open sysctl", name.clone(), error).into(),
        })?;
        gantry_linux::socket::write_all(&file, value.as_bytes())
            .during("write sysctl", format_args!("{name}={value}"))?;
    }
    Ok(())
}

fn path(name: &str) -> Result<PathBuf> {
    // `net.ipv4.conf.eth0/1.forwarding`: as sysctl(8) has it, a slash stands for a dot within a name.
    let parts: Vec<String> = name.split('.').map(|part| part.replace('/', ".")).collect();
    if parts.iter().any(|part| part.is_empty() || part == "..") {
        return Err(Error::Invalid(format!("sysctl {name:?}: not a name of one")));
    }
    Ok(PathBuf::from("sys").join(parts.iter().collect::<PathBuf>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_host_are_refused() {
        let own = Namespaces::default();
        for name in ["net.core.somaxconn", "kernel.shmmax", "kernel.sem", "fs.mqueue.msg_max", "kernel.domainname"] {
            check(name, &own).unwrap();
        }
        let (net, ipc, uts) = (Namespace::Host, Namespace::Path("/x".into()), Namespace::Host);
        let shared = Namespaces { net, ipc, uts, ..Namespaces::default() };
        for name in ["net.core.somaxconn", "kernel.shmmax", "kernel.sem", "fs.mqueue.msg_max", "kernel.domainname"] {
            assert!(check(name, &shared).unwrap_err().to_string().contains("whole host's"), "{name}");
        }
        for name in ["kernel.core_pattern", "kernel.semx", "vm.swappiness", "kernel", "net", "network.x", "fs.mqueue"] {
            assert!(check(name, &own).is_err(), "{name}");
        }
    }
}
