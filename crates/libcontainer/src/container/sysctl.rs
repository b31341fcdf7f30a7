//! Kernel parameters of the new namespaces, written through a procfs that nobody else has.

use std::path::PathBuf;

use gantry_linux::mount::filesystem;
use gantry_linux::{Error as SystemError, ResultExt};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::error::{Error, Result};

/// Writes all of them. The container's own `/proc` is not used: whatever the image has there does not matter.
pub fn write_all(sysctls: &[(String, String)]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let proc = filesystem("proc", &[], 0)?;
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
