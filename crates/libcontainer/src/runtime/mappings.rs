//! User and group ids of a new user namespace: written by the parent of its first process, or by the setuid programs
//! `newuidmap` and `newgidmap` where the parent may not.

use std::path::Path;
use std::process::{Command, Stdio};

use gantry_linux::fs;
use rustix::process::{Pid, getegid, geteuid};

use crate::config::{Config, IdMapping};
use crate::error::{Error, Result};

/// Where the two programs are looked for: the caller's `PATH` is not asked.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin"];

/// Writes both maps of the process's namespace.
pub fn write(pid: Pid, config: &Config) -> Result<()> {
    let directory = format!("/proc/{}", pid.as_raw_nonzero());
    let write_text = |name: &str, maps: &[IdMapping]| fs::write(format!("{directory}/{name}"), text(maps));
    match write_text("gid_map", &config.gid_mappings) {
        Ok(()) => {}
        Err(error) if error.errno() == libc::EPERM => {
            write_group_unprivileged(pid, &directory, &config.gid_mappings)?;
        }
        Err(error) => return Err(error.into()),
    }
    match write_text("uid_map", &config.uid_mappings) {
        Err(error) if error.errno() == libc::EPERM => with_program("newuidmap", pid, &config.uid_mappings),
        other => Ok(other?),
    }
}

/// Everybody may map the own group, once the namespace can give up no group any more; others take the program.
fn write_group_unprivileged(pid: Pid, directory: &str, maps: &[IdMapping]) -> Result<()> {
    let own = maps.len() == 1 && maps[0].count == 1 && maps[0].outside == getegid().as_raw();
    if !own {
        return with_program("newgidmap", pid, maps);
    }
    fs::write(format!("{directory}/setgroups"), "deny")?;
    Ok(fs::write(format!("{directory}/gid_map"), text(maps))?)
}

fn text(maps: &[IdMapping]) -> String {
    maps.iter().map(|map| format!("{} {} {}\n", map.inside, map.outside, map.count)).collect()
}

fn with_program(name: &str, pid: Pid, maps: &[IdMapping]) -> Result<()> {
    let user = geteuid().as_raw();
    let shown = text(maps).trim().replace('\n', ", ");
    let refused = |why: String| {
        Error::Invalid(format!(
            "mapping ids {shown} as user {user} with {name}: {why}; see /etc/subuid and /etc/subgid"
        ))
    };
    let program = DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.exists());
    let program = program.ok_or_else(|| refused("it is not installed (package uidmap)".into()))?;
    let numbers = maps.iter().flat_map(|map| [map.inside, map.outside, map.count]).map(|number| number.to_string());
    let output = Command::new(&program)
        .arg(pid.as_raw_nonzero().to_string())
        .args(numbers)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .map_err(|error| gantry_linux::Error::new("run", program.display().to_string(), error))?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}
