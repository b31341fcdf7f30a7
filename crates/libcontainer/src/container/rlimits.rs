//! Resource limits by name.

use gantry_linux::Error as SystemError;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::config::Rlimit;
use crate::error::{Error, Result};

/// Refuses names that the kernel does not know, the same one twice, and soft limits above hard ones.
pub fn check_rlimits(limits: &[Rlimit]) -> Result<()> {
    let mut seen = Vec::with_capacity(limits.len());
    for Rlimit { name, soft, hard } in limits {
        let known = resource(name)?;
        if seen.contains(&known) {
            return Err(Error::Invalid(format!("{name}: this limit is given twice")));
        }
        seen.push(known);
        if soft > hard {
            return Err(Error::Invalid(format!("{name}: the soft limit {soft} is above the hard limit {hard}")));
        }
    }
    Ok(())
}

/// Sets resource limits. One that the kernel refuses to raise (no `CAP_SYS_RESOURCE` on this host) becomes as high as
/// may be; a line for each is returned.
pub fn set_rlimits(limits: &[Rlimit]) -> Result<Vec<String>> {
    check_rlimits(limits)?;
    let mut warnings = Vec::new();
    for limit in limits {
        let resource = resource(&limit.name)?;
        let bound = |value: u64| (value != u64::MAX).then_some(value);
        let new = rustix::process::Rlimit { current: bound(limit.soft), maximum: bound(limit.hard) };
        let failed = |error: Errno| SystemError::new("set limit", limit.name.clone(), error);
        match setrlimit(resource, new) {
            Ok(()) => {}
            Err(Errno::PERM) => {
                let maximum = getrlimit(resource).maximum;
                let highest = maximum.unwrap_or(u64::MAX);
                let lower = rustix::process::Rlimit { current: bound(limit.soft.min(highest)), maximum };
                setrlimit(resource, lower).map_err(failed)?;
                warnings
                    .push(format!("{} stays below {}: this host does not let root raise it", limit.name, limit.hard));
            }
            Err(error) => return Err(failed(error).into()),
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

    fn limit(name: &str, soft: u64, hard: u64) -> Rlimit {
        Rlimit { name: name.into(), soft, hard }
    }

    #[test]
    fn unknown_upside_down_and_repeated_rlimits_are_refused() {
        assert!(set_rlimits(&[limit("RLIMIT_MOOD", 1, 1)]).is_err());
        assert!(set_rlimits(&[limit("RLIMIT_NOFILE", 2, 1)]).is_err());
        let twice = [limit("RLIMIT_CORE", 1, 1), limit("core", 0, 0)];
        assert!(check_rlimits(&twice).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn every_limit_of_the_kernel_has_a_name() {
        let names =
            "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK";
        let all: Vec<Rlimit> = names.split(' ').map(|name| limit(&format!("RLIMIT_{name}"), 1, 2)).collect();
        assert_eq!(all.len(), 16);
        check_rlimits(&all).unwrap();
    }
}
