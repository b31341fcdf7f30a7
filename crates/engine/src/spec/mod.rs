//! From a container's record to libcontainer's description of it.

pub mod apparmor;
pub mod confinement;
pub mod host;
pub mod mounts;
pub mod resources;
pub mod seccomp;
pub mod security;
pub mod storage;
pub mod users;
pub mod validate;

use std::collections::HashMap;
use std::path::Path;

use gantry_api::exec::ExecConfig;
use gantry_api::hostconfig::HostConfig;
use gantry_api::hostconfig::Ulimit;
use gantry_linux::mount::RootMount;
use libcontainer::config::{
    CapSet, Capabilities, Config, Mount, MountFlags, MountKind, Namespace, Namespaces, Process, Propagation,
};

use crate::container::Record;
use crate::container::store::Store;
use crate::engine::Engine;
use crate::error::{Error, Result};

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Describes a container that is about to start. `files`: where those are that the daemon wrote for it.
///
/// # Errors
/// A setting that cannot be had.
pub fn build(engine: &Engine, record: &Record, root: RootMount, files: &Path) -> Result<Config> {
    let host_config = &record.host_config;
    let (devices, device_rules) = security::devices(host_config)?;
    let namespaces = namespaces(host_config, &engine.containers)?;
    let mut sysctls: Vec<(String, String)> = Vec::new();
    if namespaces.net == Namespace::New {
        // Ports below 1024 and ping need no privilege inside a network namespace of one's own.
        sysctls.push(("net.ipv4.ip_unprivileged_port_start".into(), "0".into()));
        sysctls.push(("net.ipv4.ping_group_range".into(), users::EVERY_GROUP.into()));
    }
    for (name, value) in host_config.sysctls.iter().flatten() {
        sysctls.retain(|(other, _)| other != name);
        sysctls.push((name.clone(), value.clone()));
    }
    let mut config = Config {
        id: record.id.clone(),
        hostname: record.hostname().to_owned(),
        domainname: record.config.domainname.clone(),
        root,
        readonly_root: host_config.readonly_rootfs,
        marks: vec!["/.dockerenv".into()],
        mounts: all_mounts(engine, record, &namespaces, files)?,
        namespaces,
        devices,
        masked_paths: security::masked_paths(host_config),
        readonly_paths: security::readonly_paths(host_config),
        sysctls,
        resources: libcontainer::config::Resources { device_rules, ..resources::resources(host_config) },
        process: process(engine, record)?,
        init: host_config.init.unwrap_or(engine.options.init),
        ..Config::default()
    };
    users::apply(engine, record, &mut config)?;
    Ok(config)
}

fn process(engine: &Engine, record: &Record) -> Result<Process> {
    let (config, host_config) = (&record.config, &record.host_config);
    let security = confinement::SecurityOptions::new(host_config, &engine.options.security)?;
    let apparmor_profile = engine.apparmor.profile(security.apparmor.as_deref(), host_config.privileged)?;
    let capabilities = security::capabilities(host_config)?;
    let module = engine.apparmor.refuses_sockets(apparmor_profile.as_deref());
    let seccomp = engine.seccomp.get(&security.seccomp, &capabilities, module)?;
    let mut args = vec![record.path.clone()];
    args.extend(record.args.iter().cloned());
    Ok(Process {
        args,
        env: environment(engine, record, config.tty),
        cwd: working_directory(&config.working_dir).into(),
        user: config.user.clone().into(),
        additional_groups: host_config.group_add.clone().unwrap_or_default(),
        terminal: config.tty,
        console_size: Some(host_config.console_size).filter(|size| *size != [0, 0]).map(|[rows, cols]| (rows, cols)),
        seccomp_flags: seccomp.as_ref().map_or(0, |program| program.flags),
        seccomp: seccomp.map(|program| program.bytes),
        apparmor_profile,
        capabilities: Capabilities::plain(&capabilities).map_err(|error| Error::invalid(error.to_string()))?,
        no_new_privileges: security.no_new_privileges,
        keyring: Some(format!("_ses.{}", record.id)),
        rlimits: resources::rlimits(&ulimits(host_config, &engine.options.ulimits))?,
        oom_score_adj: Some(host_config.oom_score_adj).filter(|score| *score != 0),
        ..Process::default()
    })
}

/// The process of an exec: the container's own policy, the caller's program.
///
/// # Errors
/// As [`build`].
pub fn exec_process(engine: &Engine, record: &Record, exec: &ExecConfig) -> Result<Process> {
    let mut process = process(engine, record)?;
    process.args = exec.cmd.clone().unwrap_or_default();
    process.env = environment(engine, record, exec.tty);
    merge_environment(&mut process.env, exec.env.as_deref().unwrap_or_default());
    if !exec.user.is_empty() {
        process.user = exec.user.clone().into();
    }
    if !exec.working_dir.is_empty() {
        process.cwd = working_directory(&exec.working_dir).into();
    }
    process.terminal = exec.tty;
    process.console_size = exec.console_size.filter(|size| *size != [0, 0]).map(|[rows, cols]| (rows, cols));
    if exec.privileged {
        process.capabilities = Capabilities::of(CapSet::ALL);
        process.seccomp = None;
        // A profile that the container names holds for all of its processes.
        let named = confinement::SecurityOptions::new(&record.host_config, &engine.options.security)?.apparmor;
        process.apparmor_profile = engine.apparmor.profile(named.as_deref(), true)?;
    }
    Ok(process)
}

fn working_directory(asked: &str) -> &str {
    if asked.is_empty() { "/" } else { asked }
}

/// Docker's order: PATH, HOSTNAME, TERM, what links tell, then what image and caller say.
fn environment(engine: &Engine, record: &Record, tty: bool) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", record.hostname())];
    if tty {
        env.push("TERM=xterm".into());
    }
    env.extend(crate::networks::links::environment(engine, record));
    merge_environment(&mut env, record.config.env.as_deref().unwrap_or_default());
    env
}

/// Replaces variables of the same name; one without `=` is taken away.
pub fn merge_environment(env: &mut Vec<String>, more: &[String]) {
    let name = |text: &str| text.split_once('=').map_or(text, |(name, _)| name).to_owned();
    let mut places: HashMap<String, usize> = env.iter().enumerate().map(|(at, have)| (name(have), at)).collect();
    let mut merged: Vec<Option<String>> = env.drain(..).map(Some).collect();
    for addition in more {
        let key = name(addition);
        match (places.get(&key), addition.contains('=')) {
            (Some(at), true) => merged[*at] = Some(addition.clone()),
            (Some(at), false) => {
                merged[*at] = None;
                places.remove(&key);
            }
            (None, true) => {
                places.insert(key, merged.len());
                merged.push(Some(addition.clone()));
            }
            (None, false) => {}
        }
    }
    env.extend(merged.into_iter().flatten());
}

fn ulimits(host_config: &HostConfig, defaults: &[Ulimit]) -> Vec<Ulimit> {
    let mut all = host_config.ulimits.clone().unwrap_or_default();
    for default in defaults {
        if !all.iter().any(|ulimit| ulimit.name == default.name) {
            all.push(default.clone());
        }
    }
    all
}

/// Puts the ids of the containers whose namespaces a container is to share for what they were called: another one may have
/// the name tomorrow.
///
/// # Errors
/// A container that is not there.
pub fn identify(host_config: &mut HostConfig, store: &Store) -> Result<()> {
    for mode in shared_modes(host_config) {
        store.identify(mode)?;
    }
    Ok(())
}

/// The modes that can be another container's.
pub fn shared_modes(host_config: &mut HostConfig) -> [&mut String; 3] {
    [&mut host_config.network_mode, &mut host_config.pid_mode, &mut host_config.ipc_mode]
}

/// Calls a container that is in the host's network, and was given no name, as the host is called.
pub fn host_name(config: &mut gantry_api::container::Config, host_config: &HostConfig) {
    if host_config.network_mode == "host" && config.hostname.is_empty() {
        config.hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
}

/// Which namespaces are new, the host's, or another container's.
///
/// # Errors
/// A mode that does not exist; a container that is not there or does not run.
pub fn namespaces(host_config: &HostConfig, store: &Store) -> Result<Namespaces> {
    let of = |kind: &str, mode: &str, file: &str| -> Result<Namespace> {
        match mode {
            "host" => Ok(Namespace::Host),
            _ => match mode.strip_prefix("container:") {
                Some(other) => {
                    let other = store.get(other)?;
                    let Some(running) = other.running() else {
                        return Err(Error::conflict(format!(
                            "cannot join {kind} of a non running container: {}",
                            other.id()
                        )));
                    };
                    Ok(Namespace::Path(format!("/proc/{}/ns/{file}", running.pid()).into()))
                }
                None => Ok(Namespace::New),
            },
        }
    };
    match host_config.ipc_mode.as_str() {
        "" | "private" | "shareable" | "none" | "host" => {}
        mode if mode.starts_with("container:") => {
            return Err(Error::not_implemented(format!("--ipc {mode} is not supported yet")));
        }
        mode => return Err(Error::invalid(format!("invalid IPC mode: {mode}"))),
    }
    if !matches!(host_config.uts_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid UTS mode: {}", host_config.uts_mode)));
    }
    if !matches!(host_config.pid_mode.as_str(), "" | "host") && !host_config.pid_mode.starts_with("container:") {
        return Err(Error::invalid(format!("invalid PID mode: {}", host_config.pid_mode)));
    }
    if !matches!(host_config.userns_mode.as_str(), "" | "host") {
        return Err(Error::invalid(format!("invalid user namespace mode: {}", host_config.userns_mode)));
    }
    let cgroup = match host_config.cgroupns_mode.as_str() {
        "" | "private" => Namespace::New,
        "host" => Namespace::Host,
        mode => return Err(Error::invalid(format!("invalid cgroup namespace mode: {mode}"))),
    };
    Ok(Namespaces {
        pid: of("PID", &host_config.pid_mode, "pid")?,
        uts: of("UTS", &host_config.uts_mode, "uts")?,
        ipc: of("IPC", &host_config.ipc_mode, "ipc")?,
        net: of("network", &host_config.network_mode, "net")?,
        cgroup: if host_config.privileged && host_config.cgroupns_mode.is_empty() { Namespace::Host } else { cgroup },
        ..Namespaces::default()
    })
}

const NO_SUID_DEV_EXEC: MountFlags = MountFlags { nosuid: true, nodev: true, noexec: true, ..MountFlags::NONE };

fn filesystem(destination: &str, fstype: &str, options: &[(&str, Option<&str>)], flags: MountFlags) -> Mount {
    let owned = |(name, value): &(&str, Option<&str>)| ((*name).to_owned(), value.map(str::to_owned));
    Mount {
        destination: destination.into(),
        kind: MountKind::Filesystem { fstype: fstype.into(), options: options.iter().map(owned).collect() },
        flags,
        ..Mount::default()
    }
}

fn all_mounts(engine: &Engine, record: &Record, namespaces: &Namespaces, files: &Path) -> Result<Vec<Mount>> {
    let host_config = &record.host_config;
    let read_only = MountFlags { read_only: !host_config.privileged, ..NO_SUID_DEV_EXEC };
    let no_exec = NO_SUID_DEV_EXEC;
    let security = confinement::SecurityOptions::new(host_config, &engine.options.security)?;
    let cgroup = MountFlags { read_only: read_only.read_only && !security.writable_cgroups, ..read_only };
    let device = MountFlags { nodev: false, ..no_exec };
    let mut own = mounts::mounts(&record.mounts, host_config)?;
    if record.exact_binds {
        // Where volumes lie is the daemon's own affair, links on the way to its data root included.
        let named = record.mounts.iter().filter(|point| point.kind == "bind");
        let named: Vec<&Path> = named.map(|point| Path::new(&point.destination)).collect();
        for mount in own.iter_mut().filter(|mount| named.contains(&mount.destination.as_path())) {
            mount.exact = true;
        }
    }
    let taken = |destination: &str| own.iter().any(|mount| mount.destination == Path::new(destination));
    let mut all = vec![
        filesystem("/proc", "proc", &[], no_exec),
        filesystem(
            "/dev",
            "tmpfs",
            &[("mode", Some("755")), ("size", Some("65536k"))],
            MountFlags { nosuid: true, strictatime: true, ..MountFlags::default() },
        ),
        filesystem(
            "/dev/pts",
            "devpts",
            &[("newinstance", None), ("ptmxmode", Some("0666")), ("mode", Some("0620")), ("gid", Some("5"))],
            MountFlags { nosuid: true, noexec: true, ..MountFlags::default() },
        ),
        filesystem("/sys", "sysfs", &[], read_only),
        Mount { destination: "/sys/fs/cgroup".into(), kind: MountKind::Cgroup, flags: cgroup, ..Mount::default() },
    ];
    if namespaces.ipc == Namespace::Host {
        for path in ["/dev/mqueue", "/dev/shm"].into_iter().filter(|path| Path::new(path).is_dir() && !taken(path)) {
            all.push(bind(path.into(), path, MountFlags { nodev: true, ..device }));
        }
    } else {
        all.push(filesystem("/dev/mqueue", "mqueue", &[], no_exec));
        if host_config.ipc_mode != "none" && !taken("/dev/shm") {
            let size = host_config.shm_size.to_string();
            all.push(filesystem("/dev/shm", "tmpfs", &[("mode", Some("1777")), ("size", Some(&size))], no_exec));
        }
    }
    for (file, destination) in crate::files::FILES {
        if !taken(destination) {
            let flags = MountFlags { read_only: host_config.readonly_rootfs, ..MountFlags::default() };
            all.push(bind(files.join(file), destination, flags));
        }
    }
    all.extend(own);
    Ok(all)
}

fn bind(source: std::path::PathBuf, destination: &str, flags: MountFlags) -> Mount {
    Mount {
        destination: destination.into(),
        kind: MountKind::Bind { source, recursive: true, propagation: Propagation::RPrivate },
        flags,
        ..Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_replaced_in_place_and_a_bare_name_takes_it_away() {
        let mut env = vec!["A=1".to_owned(), "B=2".to_owned()];
        merge_environment(&mut env, &["A=3".into(), "B".into(), "C=4".into(), "D".into()]);
        assert_eq!(env, ["A=3", "C=4"]);
    }
}
