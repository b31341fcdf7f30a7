//! What LXC is told: its configuration file, from a container's configuration; and what it cannot be told, refused.

use std::fmt::Write as _;
use std::path::Path;

use libcontainer::config::{Config, Namespace};

use crate::Error;

/// Where things are that the file names.
pub struct Places<'a> {
    /// The container's cgroup, the same in every hierarchy: `/gantry/<hash>/<id>`.
    pub cgroup: &'a str,
    /// That of LXC's own process while it starts.
    pub monitor: &'a str,
    /// Namespaces that are not new, by LXC's names: descriptors of the supervisor, as paths.
    pub shared: &'a [(&'static str, String)],
}

/// Refuses what the driver cannot do. Called before anything is made.
///
/// # Errors
/// [`Error::Invalid`], naming the option and the driver.
pub fn validate(config: &Config) -> Result<(), Error> {
    let spaces = &config.namespaces;
    let cannot = |what: &str, why: &str| Err(refusal(what, why));
    if spaces.user != Namespace::Host || !config.uid_mappings.is_empty() || !config.gid_mappings.is_empty() {
        return Err(no_user_namespace());
    }
    if spaces.time != Namespace::Host {
        return cannot("use a time namespace", "its further processes could not enter it");
    }
    if spaces.mount != Namespace::New {
        return cannot("share a mount namespace", "LXC always makes a new one");
    }
    if spaces.uts == Namespace::New
        && !config.hostname.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    {
        return cannot(
            &format!("set the host name {:?}", config.hostname),
            "it takes letters, digits, `-`, `_` and `.` only",
        );
    }
    Ok(())
}

fn refusal(what: &str, why: &str) -> Error {
    Error::Invalid(format!("the lxc execdriver cannot {what}: {why}; use the daemon's --exec-driver native"))
}

/// The refusal of a container with a user namespace.
pub fn no_user_namespace() -> Error {
    refusal("use a user namespace", "what LXC maps could not mount the container's root by descriptor")
}

/// The file's text. LXC makes namespaces and cgroups, joins what is shared, names the host, and mounts a `/proc` to start
/// from; the root with all that is mounted in it, the limits and the process's privileges are libcontainer's (see
/// `docs/decisions`).
pub fn text(config: &Config, places: &Places<'_>) -> String {
    let mut text = String::from("# Written by gantry for lxc-start; read once, when the container starts.\n");
    let mut set = |key: &str, value: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{key} = {value}");
    };
    let spaces = &config.namespaces;
    let mut keep = vec!["user", "time"];
    for (name, space) in [("pid", &spaces.pid), ("uts", &spaces.uts), ("ipc", &spaces.ipc)] {
        if *space == Namespace::Host {
            keep.push(name);
        }
    }
    set("lxc.namespace.keep", &keep.join(" "));
    for (name, path) in places.shared {
        set(&format!("lxc.namespace.share.{name}"), path);
    }
    if spaces.uts == Namespace::New && !config.hostname.is_empty() {
        set("lxc.uts.name", &config.hostname);
    }
    set("lxc.cgroup.dir.container", &places.cgroup[1..]);
    set("lxc.cgroup.dir.monitor", &places.monitor[1..]);
    set("lxc.cgroup.dir.monitor.pivot", &places.monitor[1..]);
    set("lxc.mount.auto", "proc:rw");
    for (key, value) in [
        ("lxc.autodev", "0"),
        ("lxc.tty.max", "0"),
        ("lxc.pty.max", "0"),
        ("lxc.console.path", "none"),
        ("lxc.keyring.session", "0"),
        // The profile is applied with the other privileges, at the last moment before the program.
        ("lxc.apparmor.profile", "unconfined"),
    ] {
        set(key, value);
    }
    if let Some((name, value)) = libcontainer::protection::passed_on() {
        set("lxc.environment", &format!("{name}={}", value.to_string_lossy()));
    }
    text
}

/// Why LXC gave up: the first error of its log, without the places in LXC's source.
pub fn reason(log: &str) -> String {
    let message = |line: &str| {
        let (_, rest) = line.split_once(" ERROR ")?;
        // `part - file:function:line - message`
        Some(rest.splitn(3, " - ").nth(2)?.trim().to_owned())
    };
    log.lines().find_map(message).unwrap_or_else(|| "it left no message".into())
}

/// A path that can be an argument of LXC's programs and a line of its file.
pub fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|path| !path.contains(|c: char| c.is_control() || c == '#' || c == '"' || c == '\''))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config { id: "c".into(), hostname: "box".into(), ..Config::default() }
    }

    #[test]
    fn what_is_shared_is_joined_and_what_is_the_hosts_is_kept() {
        let mut config = config();
        config.namespaces.ipc = Namespace::Host;
        let shared = [("net", "/proc/7/fd/9".to_owned())];
        let text = text(&config, &Places { cgroup: "/gantry/h/c", monitor: "/gantry/h/@lxc-c", shared: &shared });
        let lines: Vec<&str> = text.lines().collect();
        for line in [
            "lxc.namespace.keep = user time ipc",
            "lxc.namespace.share.net = /proc/7/fd/9",
            "lxc.uts.name = box",
            "lxc.cgroup.dir.container = gantry/h/c",
            "lxc.cgroup.dir.monitor = gantry/h/@lxc-c",
        ] {
            assert!(lines.contains(&line), "{line} is not in {text}");
        }
    }

    #[test]
    fn a_host_name_cannot_add_a_line() {
        let mut config = config();
        config.hostname = "box\nlxc.hook.pre-start = /bin/sh".into();
        assert!(validate(&config).unwrap_err().to_string().contains("lxc execdriver cannot set the host name"));
        config.namespaces.uts = Namespace::Host;
        validate(&config).unwrap();
    }

    #[test]
    fn a_user_namespace_is_refused_by_name() {
        let mut config = config();
        config.namespaces.user = Namespace::New;
        let error = validate(&config).unwrap_err().to_string();
        assert!(error.contains("lxc") && error.contains("user namespace"), "{error}");
    }

    #[test]
    fn the_first_error_of_lxcs_log_is_its_reason() {
        let log = "lxc-start c1 2026 WARN     start - ../src/lxc/start.c:lxc_check:329 - Inherited fd 5\n\
                   lxc-start c1 2026 ERROR    cgfsng - ../src/lxc/cgroups/cgfsng.c:enter:1539 - No space left - Failed\n\
                   lxc-start c1 2026 ERROR    start - ../src/lxc/start.c:__lxc_start:2054 - Failed to enter\n";
        assert_eq!(reason(log), "No space left - Failed");
        assert_eq!(reason(""), "it left no message");
    }
}
