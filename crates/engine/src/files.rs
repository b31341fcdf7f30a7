//! The files that the daemon writes for a container and binds into it: `resolv.conf`, `hostname`, `hosts`.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_linux::{ResultExt as _, fs};
use gantry_networkdriver::files;
use tracing::warn;

use crate::container::Record;
use crate::engine::Engine;
use crate::error::Result;
use crate::networks;

/// File below the container's directory, and where it is bound.
pub const FILES: [(&str, &str); 3] =
    [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")];

/// So many containers can share a namespace one through the other: no more than anybody needs, and not for ever.
pub const LONGEST_CHAIN: usize = 8;

/// The outermost container that is there of those through which another one shares a network (`--network container:`).
pub fn outermost(engine: &Engine, record: &Record) -> Option<Arc<Record>> {
    let next = |record: &Record| {
        let other = record.host_config.network_mode.strip_prefix("container:")?;
        Some(engine.containers.get(other).ok()?.record())
    };
    std::iter::successors(next(record), |other| next(other)).take(LONGEST_CHAIN).last()
}

/// The container whose files another one shares with its network: one set of them, as names belong to the network. None
/// where their owner is gone, and whoever still has the network has them no more in a place of the host's.
pub fn keeper(engine: &Engine, record: &Record) -> Option<Arc<Record>> {
    let has_files =
        |keeper: &Arc<Record>| fs::metadata(keeper.directory(&engine.options.data_root).join("hosts")).is_ok();
    outermost(engine, record).filter(has_files)
}

/// Where a container's files are.
pub fn directory(engine: &Engine, record: &Record) -> PathBuf {
    keeper(engine, record).as_deref().unwrap_or(record).directory(&engine.options.data_root)
}

/// Writes the files into a container's directory for a start. `names_arrive`: where the resolver can be asked.
///
/// # Errors
/// An `--add-host` that is no address; the disk.
pub fn write(engine: &Engine, record: &Record, names_arrive: bool) -> Result<()> {
    let directory = record.directory(&engine.options.data_root);
    fs::write(directory.join("resolv.conf"), resolv_conf(engine, record, names_arrive))?;
    fs::write(directory.join("hostname"), files::hostname(record.hostname()))?;
    Ok(fs::write(directory.join("hosts"), hosts(engine, record)?)?)
}

/// What the container's `resolv.conf` says.
fn resolv_conf(engine: &Engine, record: &Record, names_arrive: bool) -> String {
    let host_config = &record.host_config;
    let pick = |own: &Option<Vec<String>>, default: &[String]| match own {
        Some(list) if !list.is_empty() => list.clone(),
        _ => default.to_vec(),
    };
    let main = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let search = pick(&host_config.dns_search, &engine.options.dns_search);
    let options = pick(&host_config.dns_options, &engine.options.dns_options);
    if names_arrive && networks::names::asks(engine, record) {
        return files::resolver_conf(&main, &search, &options);
    }
    let host_resolv_conf = match files::host_resolv_conf_path(&main) {
        "/etc/resolv.conf" => main,
        other => fs::read_to_string(other).unwrap_or_default(),
    };
    let servers = pick(&host_config.dns, &engine.options.dns);
    files::resolv_conf(&host_resolv_conf, &servers, &search, &options, host_config.network_mode == "host")
}

/// Follows a change of networks in `resolv.conf`, in place, unless something has been written there since.
///
/// # Errors
/// The disk's.
pub fn refresh_resolv_conf(engine: &Engine, before: &Record, after: &Record) -> Result<()> {
    let path = after.directory(&engine.options.data_root).join("resolv.conf");
    let (old, new) = (resolv_conf(engine, before, true), resolv_conf(engine, after, true));
    if old != new && fs::read_to_string(&path)? == old {
        write_over(&path, old.len(), new.as_bytes())?;
    }
    Ok(())
}

/// No `hosts` that is longer is changed; a container may have written it.
const LONGEST_HOSTS: usize = 1024 * 1024;

/// Follows a change in `hosts` of a container that runs, in place, as it has the file bound: the lines of ours change, of which
/// there was `old`, and what else stands there stays.
///
/// # Errors
/// As [`write()`].
pub fn refresh_hosts(engine: &Engine, record: &Record, old: &str) -> Result<()> {
    let path = record.directory(&engine.options.data_root).join("hosts");
    let current = fs::read_up_to(&path, LONGEST_HOSTS)?;
    if current.len() == LONGEST_HOSTS {
        warn!("{} is too long to be changed", path.display());
        return Ok(());
    }
    // The address that a linked container had is not known any more.
    let linked = networks::links::hosts(engine, record);
    let mut names: Vec<&str> = linked.iter().map(|(_, names)| names.as_str()).collect();
    // Nor is the gateway that an older daemon, or one with another bridge, wrote.
    names.extend(files::names_of_the_gateway(record.host_config.extra_hosts.as_deref().unwrap_or_default()));
    let merged = files::merge_hosts(&current, old, &hosts(engine, record)?, &names);
    if merged != current {
        write_over(&path, current.len(), &merged)?;
    }
    Ok(())
}

/// Writes over a file of that length in place. Where the disk is full, all that was there still is.
fn write_over(path: &Path, length: usize, data: &[u8]) -> Result<()> {
    let file = fs::open_with(path, OpenOptions::new().write(true))?;
    // What needs new room comes first.
    let (within, beyond) = data.split_at(length.min(data.len()));
    let grown = file.write_all_at(beyond, within.len() as u64);
    if grown.is_err() {
        file.set_len(length as u64).during("truncate", path.display())?;
    }
    grown.and_then(|()| file.write_all_at(within, 0)).during("write", path.display())?;
    Ok(file.set_len(data.len() as u64).during("truncate", path.display())?)
}

/// What `hosts` says of us.
///
/// # Errors
/// As [`write()`].
pub fn hosts(engine: &Engine, record: &Record) -> Result<String> {
    let addresses = networks::addresses(record);
    // Where there is a default bridge, programs of the host that are there for containers listen on its address.
    let mut gateways = record.endpoints.values().map(|endpoint| endpoint.gateway);
    let gateway = engine.networks.gateway(engine);
    let gateway = gateway.or_else(|| gateways.find(|gateway| !gateway.is_unspecified()));
    let extra = record.host_config.extra_hosts.as_deref().unwrap_or_default();
    if record.host_config.network_mode == "host" {
        return Ok(files::hosts_beside(&all_of("/etc/hosts".as_ref())?, extra, gateway)?);
    }
    let linked = networks::links::hosts(engine, record);
    Ok(files::hosts(&addresses, &linked, record.hostname(), &record.config.domainname, extra, gateway)?)
}

/// What a file of the host's says, however long it is; nothing where there is none.
fn all_of(path: &Path) -> Result<String> {
    match fs::read(path) {
        Err(error) if !error.is_not_found() => Err(error.into()),
        read => Ok(String::from_utf8_lossy(&read.unwrap_or_default()).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::MetadataExt as _;

    use rustix::fs::{MemfdFlags, SealFlags, memfd_create};

    use super::*;

    #[test]
    fn a_file_is_written_over_in_place_longer_and_shorter() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        fs::write(&path, "one\n").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        for (length, data) in [(4, "one\ntwo\n"), (8, "two\n"), (4, ""), (0, "one\n")] {
            write_over(&path, length, data.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), data);
        }
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    }

    #[test]
    fn a_hosts_file_of_the_host_is_read_to_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        assert_eq!(all_of(&path).unwrap(), "", "there is none");
        let long = "192.0.2.1\tblocked\n".repeat(LONGEST_HOSTS / 10) + "192.0.2.2\tlast\n";
        fs::write(&path, &long).unwrap();
        assert_eq!(all_of(&path).unwrap(), long);
    }

    #[test]
    fn a_file_that_cannot_grow_stays_as_it_was() {
        let file = memfd_create("hosts", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::write(&path, "one\n").unwrap();
        gantry_linux::socket::add_seals(&file, SealFlags::GROW).unwrap();
        assert!(write_over(path.as_ref(), 4, b"two\none\n").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\n");
    }
}
