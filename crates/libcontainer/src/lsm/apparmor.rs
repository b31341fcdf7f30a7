//! AppArmor: the default profile, loading one, and what the kernel says when it cannot be applied.

use std::io::Write;
use std::process::{Command, Stdio};

use gantry_linux::{Error as SystemError, ResultExt};

use crate::config::Process;
use crate::error::{Error, Result};

const PROFILES: &str = "/sys/kernel/security/apparmor/profiles";
/// Where distributions have it. Never looked up in `PATH`: whoever started us may have set it.
const PARSERS: [&str; 3] = ["/sbin/apparmor_parser", "/usr/sbin/apparmor_parser", "/usr/bin/apparmor_parser"];
/// Where the kernel tells that it mediates the making of sockets, by their families.
const SOCKET_FEATURES: [&str; 2] = [
    "/sys/kernel/security/apparmor/features/network_v8/af_mask",
    "/sys/kernel/security/apparmor/features/network_v9/af_mask",
];
/// The name of no confinement.
const UNCONFINED: &str = "unconfined";

/// Whether this host's kernel has it and it is switched on.
#[must_use]
pub fn enabled() -> bool {
    gantry_linux::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|word| word.starts_with('Y'))
}

/// Whether profiles can be seen here: AppArmor is on, and securityfs is mounted where it belongs.
#[must_use]
pub fn visible() -> bool {
    enabled() && gantry_linux::fs::metadata(PROFILES).is_ok()
}

/// Whether the program is installed that loads profiles.
#[must_use]
pub fn can_load() -> bool {
    parser().is_some()
}

fn parser() -> Option<&'static str> {
    PARSERS.into_iter().find(|path| gantry_linux::fs::metadata(path).is_ok())
}

/// Whether a profile of this name is loaded.
///
/// # Errors
/// The list of profiles cannot be read: securityfs is not mounted on `/sys/kernel/security`, or we are not root.
pub fn profile_loaded(name: &str) -> Result<bool> {
    let profiles = gantry_linux::fs::read_to_string(PROFILES)?;
    // As `name (enforce)`; the name may have blanks.
    Ok(profiles.lines().filter_map(|line| line.rsplit_once(" (")).any(|(known, _)| known == name))
}

/// Takes the profile out on a kernel without AppArmor, where engines configure one all the same and other runtimes take
/// none; returns what is to be said. One that is switched off can be switched on: there it is refused.
pub(crate) fn leave_out_where_there_is_none(process: &mut Process) -> Option<String> {
    let absent = |path| gantry_linux::fs::metadata(path).is_err_and(|error| error.is_not_found());
    if gantry_linux::fs::metadata("/sys/module").is_err() || !absent("/sys/module/apparmor") {
        return None;
    }
    let profile = process.apparmor_profile.take().filter(|name| name != UNCONFINED)?;
    Some(format!("apparmor profile {profile}: this host's kernel has no AppArmor; the program is not confined by it"))
}

/// Refuses a profile that is not there.
///
/// # Errors
/// AppArmor is not enabled; the profile is not loaded.
pub fn check(profile: &str) -> Result<()> {
    if !needed(profile) {
        return Ok(());
    }
    if !enabled() {
        return Err(not_enabled(profile));
    }
    // A stack or a profile of another policy namespace is found by the kernel alone, and no confinement is no profile.
    if profile == UNCONFINED || profile.contains("//&") || profile.starts_with(':') {
        return Ok(());
    }
    match profile_loaded(profile) {
        Ok(false) => Err(not_loaded(profile)),
        // Where it cannot be asked the kernel decides when it is applied.
        Ok(true) | Err(_) => Ok(()),
    }
}

/// Whether there is anything to do for this profile: no confinement needs no AppArmor.
pub(super) fn needed(profile: &str) -> bool {
    profile != UNCONFINED || enabled()
}

fn not_enabled(profile: &str) -> Error {
    let text = format!("apparmor is not enabled on this host: the profile {profile} cannot be applied; leave it out");
    Error::Invalid(text)
}

fn not_loaded(profile: &str) -> Error {
    Error::Invalid(format!("apparmor profile {profile}: not loaded; load it with apparmor_parser -r FILE"))
}

/// What a refusal of the kernel means.
pub(super) fn explain(profile: &str, error: Error) -> Error {
    match &error {
        // The file is there for other modules, and without one it takes nothing.
        Error::System(system) if matches!(system.errno(), libc::EINVAL | libc::EOPNOTSUPP) => not_enabled(profile),
        Error::System(system) if system.errno() == libc::ENOENT => {
            if system.operation == "write security attribute" {
                not_loaded(profile)
            } else {
                not_enabled(profile)
            }
        }
        Error::System(system) if matches!(system.errno(), libc::EACCES | libc::EPERM) => {
            Error::Invalid(format!("apparmor profile {profile}: the caller's own profile does not let it change to it"))
        }
        _ => error,
    }
}

/// Whether this loaded profile refuses sockets of all these families, whatever system call makes them: tried, for the
/// parser leaves rules out that the kernel, or the version of the policy that it is set to, does not know. A thread of its
/// own is confined, and ends.
///
/// # Errors
/// The thread cannot be started, or not be confined.
pub fn refuses_sockets(profile: &str, families: &[u16]) -> Result<bool> {
    // Where the rules cannot hold, trying would have the kernel load the modules of these families.
    if !SOCKET_FEATURES.iter().any(|path| gantry_linux::fs::metadata(path).is_ok()) {
        return Ok(false);
    }
    let refused = |family: &u16| {
        let family = rustix::net::AddressFamily::from_raw(*family);
        let made = rustix::net::socket(family, rustix::net::SocketType::SEQPACKET, None);
        made.err() == Some(rustix::io::Errno::ACCESS)
    };
    std::thread::scope(|scope| {
        let confined =
            std::thread::Builder::new().name("apparmor-try".into()).spawn_scoped(scope, || -> Result<bool> {
                super::confine_thread(profile)?;
                Ok(families.iter().all(refused))
            });
        let ended = confined.during("start", "thread that tries an apparmor profile")?.join();
        ended.unwrap_or_else(|_| Err(Error::Invalid(format!("apparmor profile {profile}: trying it panicked"))))
    })
}

/// Loads the default profile under this name, when no profile of the name is there.
///
/// # Errors
/// As [`load`]; a name that is none.
pub fn ensure_default(name: &str) -> Result<()> {
    if profile_loaded(name)? {
        return Ok(());
    }
    load(&default_profile(name)?)
}

/// Gives the kernel the profiles of this text, replacing those of the same names; nothing is written to disk. Runs
/// `apparmor_parser`, which alone knows the kernel's form of them.
///
/// # Errors
/// The parser is not installed, or refuses the text: what it says is told.
pub fn load(text: &str) -> Result<()> {
    parse(&["--skip-cache", "--replace"], text)
}

fn parse(options: &[&str], text: &str) -> Result<()> {
    let parser = parser().ok_or_else(|| {
        Error::Invalid(
            "apparmor_parser is not installed: a profile cannot be loaded; install the package apparmor".into(),
        )
    })?;
    let mut child = Command::new(parser)
        .args(options)
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .during("run", parser)?;
    // One that ends before it has read everything says why.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
    let ended = child.wait_with_output().during("wait for", parser)?;
    if ended.status.success() {
        return Ok(written.during("write profile to", parser)?);
    }
    let said = String::from_utf8_lossy(&ended.stderr).trim().replace('\n', "; ");
    Err(SystemError::new("load apparmor profile with", parser, std::io::Error::other(said)).into())
}

/// The text of the default profile under this name: everything but what a container has no business with, in effect what
/// Docker's `docker-default` allows.
///
/// # Errors
/// The name has other characters than letters, digits, `.`, `_` and `-`.
pub fn default_profile(name: &str) -> Result<String> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return Err(Error::Invalid(format!("apparmor profile {name:?}: not a name of one")));
    }
    Ok(include_str!("default.apparmor").replace("@NAME@", name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_add_rules_to_the_default_profile() {
        assert!(default_profile("gantry-default").unwrap().contains("profile gantry-default flags="));
        for name in ["", "a b", "a\n", "x {}", "*"] {
            assert!(default_profile(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn the_parser_understands_the_default_profile() {
        if !PARSERS.iter().any(|path| gantry_linux::fs::metadata(path).is_ok()) {
            crate::skipped("no apparmor_parser on this host");
            return;
        }
        // Parsed to the end; nothing goes to the kernel.
        let only_parse = ["--skip-kernel-load", "--skip-cache", "--names"];
        parse(&only_parse, &default_profile("gantry-default").unwrap()).unwrap();
        let error = parse(&only_parse, "profile x { nonsense }").unwrap_err().to_string();
        assert!(error.contains("syntax"), "{error}");
    }

    #[test]
    fn the_kernels_refusals_are_explained() {
        let system = |operation, errno| {
            Error::System(SystemError::new(operation, "x", std::io::Error::from_raw_os_error(errno)))
        };
        let text = |operation, errno| explain("p", system(operation, errno)).to_string();
        assert!(text("write security attribute", libc::EINVAL).contains("apparmor is not enabled"));
        assert!(text("open in procfs", libc::ENOENT).contains("apparmor is not enabled"));
        assert!(text("write security attribute", libc::ENOENT).contains("not loaded"));
        assert!(text("write security attribute", libc::EACCES).contains("own profile"));
    }
}
