//! Who the program is and what it may do: user, groups, capabilities, privileges, rlimits.

use gantry_linux::{Error as SystemError, ResultExt};
use rustix::process::{Gid, Resource, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use super::user::User;
use crate::config::{Process, Rlimit};
use crate::error::{Error, Result};

/// Every capability that this library knows, in the kernel's order.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The names of all capabilities, `CAP_CHOWN` and so on, in the kernel's order.
pub fn capability_names() -> impl Iterator<Item = String> {
    NAMES.iter().map(|name| format!("CAP_{name}"))
}

/// The set of these names; an unknown one is an error.
pub fn capability_set(names: &[String]) -> Result<CapabilitySet> {
    let mut set = CapabilitySet::empty();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let number = NAMES.iter().position(|known| *known == plain);
        let number = number.ok_or_else(|| Error::Invalid(format!("{name}: no such capability")))?;
        set |= CapabilitySet::from_bits_retain(1 << number);
    }
    Ok(set)
}

/// Takes the user's identity; the capabilities are kept until [`drop_capabilities`]. `wanted` bounds them for ever.
pub fn become_user(user: &User, wanted: CapabilitySet) -> Result<CapabilitySet> {
    let held = rustix::thread::capabilities(None).during("read", "capabilities")?.permitted;
    for number in 0..64u32 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if wanted.contains(one) {
            continue;
        }
        match rustix::thread::remove_capability_from_bounding_set(one) {
            // The kernel has no more.
            Err(rustix::io::Errno::INVAL) => break,
            other => other.during("give up for ever", format_args!("capability {number}"))?,
        }
    }
    rustix::thread::set_keep_capabilities(true).during("keep", "capabilities")?;
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).during("set groups", format_args!("{:?}", user.groups))?;
    let gid = Gid::from_raw(user.gid);
    rustix::thread::set_thread_res_gid(gid, gid, gid).during("set group", user.gid)?;
    let uid = Uid::from_raw(user.uid);
    rustix::thread::set_thread_res_uid(uid, uid, uid).during("set user", user.uid)?;
    rustix::thread::set_keep_capabilities(false).during("keep", "capabilities")?;
    // Leaving uid 0 cleared the effective set; the last steps still need it.
    let sets = CapabilitySets { effective: held, permitted: held, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).during("set", "capabilities")?;
    Ok(held & wanted)
}

/// Leaves exactly these capabilities: effective and permitted; none inheritable, none ambient.
pub fn drop_capabilities(left: CapabilitySet) -> Result<()> {
    let sets = CapabilitySets { effective: left, permitted: left, inheritable: CapabilitySet::empty() };
    rustix::thread::clear_ambient_capability_set().during("clear", "ambient capabilities")?;
    Ok(set_capabilities(None, sets).during("set", "capabilities")?)
}

/// Sets `no_new_privs` where asked, and the seccomp program last: without `no_new_privs` that needs `CAP_SYS_ADMIN`, so
/// then the capabilities go after it.
pub fn confine(process: &Process, left: CapabilitySet) -> Result<()> {
    let install = |program: &Option<std::sync::Arc<[u8]>>| -> Result<()> {
        let Some(bytes) = program else { return Ok(()) };
        Ok(gantry_linux::seccomp::install_filter(bytes, 0).during("install", "seccomp program")?)
    };
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).during("set", "no_new_privs")?;
        drop_capabilities(left)?;
        install(&process.seccomp)
    } else {
        install(&process.seccomp)?;
        drop_capabilities(left)
    }
}

/// Sets resource limits. A limit that the kernel refuses to raise (no `CAP_SYS_RESOURCE` on this host) is left as it is;
/// a line for each is returned.
pub fn set_rlimits(limits: &[Rlimit]) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    for limit in limits {
        let resource = resource(&limit.name)?;
        if limit.soft > limit.hard {
            let Rlimit { name, soft, hard } = limit;
            return Err(Error::Invalid(format!("{name}: the soft limit {soft} is above the hard limit {hard}")));
        }
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let new = rustix::process::Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
        match rustix::process::setrlimit(resource, new) {
            Ok(()) => {}
            Err(rustix::io::Errno::PERM) => {
                warnings
                    .push(format!("{} stays below {}: this host does not let root raise it", limit.name, limit.hard));
            }
            Err(error) => return Err(SystemError::new("set limit", limit.name.clone(), error).into()),
        }
    }
    Ok(warnings)
}

fn resource(name: &str) -> Result<Resource> {
    let plain = name.strip_prefix("RLIMIT_").unwrap_or(name).to_ascii_uppercase();
    Ok(match plain.as_str() {
        "AS" => Resource::As,
        "CORE" => Resource::Core,
        "CPU" => Resource::Cpu,
        "DATA" => Resource::Data,
        "FSIZE" => Resource::Fsize,
        "LOCKS" => Resource::Locks,
        "MEMLOCK" => Resource::Memlock,
        "MSGQUEUE" => Resource::Msgqueue,
        "NICE" => Resource::Nice,
        "NOFILE" => Resource::Nofile,
        "NPROC" => Resource::Nproc,
        "RSS" => Resource::Rss,
        "RTPRIO" => Resource::Rtprio,
        "RTTIME" => Resource::Rttime,
        "SIGPENDING" => Resource::Sigpending,
        "STACK" => Resource::Stack,
        _ => return Err(Error::Invalid(format!("{name}: no such resource limit"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_names_are_the_kernels_numbers() {
        let set = capability_set(&["CAP_CHOWN".into(), "sys_admin".into(), "CAP_CHECKPOINT_RESTORE".into()]).unwrap();
        assert_eq!(set, CapabilitySet::CHOWN | CapabilitySet::SYS_ADMIN | CapabilitySet::CHECKPOINT_RESTORE);
        assert!(matches!(capability_set(&["CAP_FLY".into()]), Err(Error::Invalid(_))));
        assert_eq!(capability_names().count(), NAMES.len());
    }

    #[test]
    fn unknown_and_upside_down_rlimits_are_refused() {
        let limit = |name: &str, soft, hard| Rlimit { name: name.into(), soft, hard };
        assert!(set_rlimits(&[limit("RLIMIT_MOOD", 1, 1)]).is_err());
        assert!(set_rlimits(&[limit("RLIMIT_NOFILE", 2, 1)]).is_err());
    }
}
