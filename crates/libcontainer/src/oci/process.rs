//! A process of a configuration: its first one, or one to be executed later.

use serde::{Deserialize, Serialize};

use super::{Linux, MemoryPolicy, Personality, nullable};
use crate::config::{self, CapSet, IoClass, MemoryMode, SchedulerPolicy};
use crate::error::{Error, Result};

/// The `process` object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Process {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub terminal: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub console_size: Option<ConsoleSize>,
    pub user: User,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub cwd: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "std::ops::Not::not")]
    pub no_new_privileges: bool,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub apparmor_profile: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_score_adj: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler: Option<Scheduler>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub selinux_label: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_priority: Option<IoPriority>,
    #[serde(rename = "execCPUAffinity", skip_serializing_if = "Option::is_none")]
    pub exec_cpu_affinity: Option<CpuAffinity>,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct ConsoleSize {
    #[serde(deserialize_with = "nullable")]
    pub height: u64,
    #[serde(deserialize_with = "nullable")]
    pub width: u64,
}

/// Who it runs as, in the container's ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct User {
    #[serde(deserialize_with = "nullable")]
    pub uid: u32,
    #[serde(deserialize_with = "nullable")]
    pub gid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub additional_gids: Vec<u32>,
}

/// The five sets, by names such as `CAP_CHOWN`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Capabilities {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub bounding: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub effective: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub inheritable: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub permitted: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub ambient: Vec<String>,
}

/// One resource limit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Rlimit {
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    #[serde(deserialize_with = "nullable")]
    pub soft: u64,
    #[serde(deserialize_with = "nullable")]
    pub hard: u64,
}

/// See `sched_setattr(2)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Scheduler {
    #[serde(deserialize_with = "nullable")]
    pub policy: String,
    #[serde(deserialize_with = "nullable")]
    pub nice: i32,
    #[serde(deserialize_with = "nullable")]
    pub priority: i32,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub runtime: u64,
    #[serde(deserialize_with = "nullable")]
    pub deadline: u64,
    #[serde(deserialize_with = "nullable")]
    pub period: u64,
}

/// See `ioprio_set(2)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct IoPriority {
    #[serde(deserialize_with = "nullable")]
    pub class: String,
    #[serde(deserialize_with = "nullable")]
    pub priority: i32,
}

/// CPU lists for an exec: while it is being moved in, and from then on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct CpuAffinity {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub initial: String,
    #[serde(rename = "final", deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub last: String,
}

/// A process as this library runs it, in the container that `linux` is of; the seccomp program is left out. Also returns
/// what was left out of it, for people.
///
/// # Errors
/// What cannot be done at all, or not on this host: nothing was touched yet.
pub fn convert(given: &Process, linux: Option<&Linux>) -> Result<(config::Process, Vec<String>)> {
    if linux.is_some_and(|linux| linux.intel_rdt.is_some()) {
        return Err(intel_rdt());
    }
    let (capabilities, warnings) = given.capabilities.as_ref().map(capability_sets).unwrap_or_default();
    let User { uid, gid, umask, ref additional_gids } = given.user;
    let limit = |limit: &Rlimit| config::Rlimit { name: limit.kind.clone(), soft: limit.soft, hard: limit.hard };
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let process = config::Process {
        args: given.args.clone(),
        env: given.env.clone(),
        cwd: given.cwd.clone().into(),
        user: config::User::Ids { uid, gid, additional_gids: additional_gids.clone() },
        umask,
        terminal: given.terminal,
        console_size: given.console_size.and_then(size),
        capabilities,
        no_new_privileges: given.no_new_privileges,
        rlimits: given.rlimits.iter().map(limit).collect(),
        oom_score_adj: given.oom_score_adj,
        scheduler: given.scheduler.as_ref().map(scheduler).transpose()?,
        io_priority: given.io_priority.as_ref().map(io_priority).transpose()?,
        cpu_affinity: given
            .exec_cpu_affinity
            .as_ref()
            .map(|CpuAffinity { initial, last }| config::CpuAffinity { initial: initial.clone(), last: last.clone() }),
        personality: linux.and_then(|linux| linux.personality.as_ref()).map(personality).transpose()?,
        memory_policy: linux.and_then(|linux| linux.memory_policy.as_ref()).map(memory_policy).transpose()?,
        apparmor_profile: some(&given.apparmor_profile),
        selinux_label: some(&given.selinux_label),
        ..config::Process::default()
    };
    process.validate()?;
    Ok((process, warnings))
}

/// Why Intel's resource director technology is refused: limits that somebody counts on must not be left out.
fn intel_rdt() -> Error {
    const RESCTRL_MAGIC: u64 = 0x0765_5821;
    let mounted =
        rustix::fs::statfs("/sys/fs/resctrl").is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(RESCTRL_MAGIC));
    Error::Invalid(if mounted {
        "linux.intelRdt: classes of Intel RDT are not supported; leave it out".into()
    } else {
        "linux.intelRdt: this host has no resctrl mounted on /sys/fs/resctrl; leave it out".into()
    })
}

/// Both or none; the kernel counts to 65535.
fn size(size: ConsoleSize) -> Option<(u16, u16)> {
    let number = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    (size.height > 0 && size.width > 0).then(|| (number(size.height), number(size.width)))
}

/// The sets without names that this library does not know, nor ambient ones that the kernel would not allow: each is told.
fn capability_sets(given: &Capabilities) -> (config::Capabilities, Vec<String>) {
    let mut unknown = std::collections::BTreeSet::new();
    let mut set = |names: &[String]| {
        let (set, strange) = CapSet::parse_known(names);
        unknown.extend(strange);
        set
    };
    let mut sets = config::Capabilities {
        bounding: set(&given.bounding),
        effective: set(&given.effective),
        permitted: set(&given.permitted),
        inheritable: set(&given.inheritable),
        ambient: set(&given.ambient),
    };
    let mut warnings: Vec<String> =
        unknown.into_iter().map(|name| format!("capability {name}: not known; left out")).collect();
    let possible = sets.permitted.and(sets.inheritable);
    warnings.extend(
        sets.ambient
            .without(possible)
            .names()
            .map(|name| format!("ambient capability {name}: neither permitted nor inheritable alone; left out")),
    );
    sets.ambient = sets.ambient.and(possible);
    (sets, warnings)
}

/// The value of a name in a table.
fn look_up<T: Copy>(table: &[(&str, T)], name: &str, what: &str) -> Result<T> {
    let found = table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
    found.ok_or_else(|| Error::Invalid(format!("{what} {name:?}: not known")))
}

fn scheduler(given: &Scheduler) -> Result<config::Scheduler> {
    use SchedulerPolicy::{Batch, Deadline, Fifo, Idle, Other, RoundRobin};
    let policies = [
        ("SCHED_OTHER", Other),
        ("SCHED_FIFO", Fifo),
        ("SCHED_RR", RoundRobin),
        ("SCHED_BATCH", Batch),
        ("SCHED_IDLE", Idle),
        ("SCHED_DEADLINE", Deadline),
    ];
    let flags = [
        ("SCHED_FLAG_RESET_ON_FORK", 0x01),
        ("SCHED_FLAG_RECLAIM", 0x02),
        ("SCHED_FLAG_DL_OVERRUN", 0x04),
        ("SCHED_FLAG_KEEP_POLICY", 0x08),
        ("SCHED_FLAG_KEEP_PARAMS", 0x10),
        ("SCHED_FLAG_UTIL_CLAMP_MIN", 0x20),
        ("SCHED_FLAG_UTIL_CLAMP_MAX", 0x40),
    ];
    let mut bits = 0;
    for name in &given.flags {
        bits |= look_up(&flags, name, "scheduler flag")?;
    }
    let priority = u32::try_from(given.priority)
        .map_err(|_| Error::Invalid(format!("scheduler: priority {}: below 0", given.priority)))?;
    Ok(config::Scheduler {
        policy: look_up(&policies, &given.policy, "scheduler policy")?,
        nice: given.nice,
        priority,
        flags: bits,
        runtime: given.runtime,
        deadline: given.deadline,
        period: given.period,
    })
}

fn io_priority(given: &IoPriority) -> Result<config::IoPriority> {
    let classes = [
        ("IOPRIO_CLASS_RT", IoClass::RealTime),
        ("IOPRIO_CLASS_BE", IoClass::BestEffort),
        ("IOPRIO_CLASS_IDLE", IoClass::Idle),
    ];
    let level = u8::try_from(given.priority)
        .map_err(|_| Error::Invalid(format!("I/O priority {}: not in 0–7", given.priority)))?;
    Ok(config::IoPriority { class: look_up(&classes, &given.class, "I/O priority class")?, level })
}

fn personality(given: &Personality) -> Result<config::Personality> {
    if let Some(flag) = given.flags.first() {
        return Err(Error::Invalid(format!("personality flag {flag:?}: none are supported")));
    }
    let domains = [("LINUX", config::Personality::Linux), ("LINUX32", config::Personality::Linux32)];
    look_up(&domains, &given.domain, "personality")
}

pub(super) const MEMORY_MODES: [(&str, MemoryMode); 7] = [
    ("MPOL_DEFAULT", MemoryMode::Default),
    ("MPOL_PREFERRED", MemoryMode::Preferred),
    ("MPOL_BIND", MemoryMode::Bind),
    ("MPOL_INTERLEAVE", MemoryMode::Interleave),
    ("MPOL_LOCAL", MemoryMode::Local),
    ("MPOL_PREFERRED_MANY", MemoryMode::PreferredMany),
    ("MPOL_WEIGHTED_INTERLEAVE", MemoryMode::WeightedInterleave),
];
pub(super) const MEMORY_FLAGS: [&str; 3] = ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES", "MPOL_F_NUMA_BALANCING"];

fn memory_policy(given: &MemoryPolicy) -> Result<config::MemoryPolicy> {
    let [fixed, relative, balancing] = MEMORY_FLAGS;
    if let Some(flag) = given.flags.iter().find(|flag| !MEMORY_FLAGS.contains(&flag.as_str())) {
        return Err(Error::Invalid(format!("memory policy flag {flag:?}: not known")));
    }
    let has = |name: &str| given.flags.iter().any(|flag| flag == name);
    Ok(config::MemoryPolicy {
        mode: look_up(&MEMORY_MODES, &given.mode, "memory policy mode")?,
        nodes: given.nodes.clone(),
        static_nodes: has(fixed),
        relative_nodes: has(relative),
        numa_balancing: has(balancing),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(json: &str) -> Result<(config::Process, Vec<String>)> {
        let mut whole = serde_json::json!({"args": ["sh"], "cwd": "/"});
        let more: serde_json::Value = serde_json::from_str(json).unwrap();
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let parsed = serde_json::from_value(whole).map_err(|error| Error::Invalid(error.to_string()))?;
        convert(&parsed, None)
    }

    #[test]
    fn unknown_capabilities_are_told_and_left_out() {
        let json =
            r#"{"capabilities": {"bounding": ["CAP_FLY", "CAP_KILL"], "effective": null, "ambient": ["CAP_KILL"]}}"#;
        let (process, warnings) = process(json).unwrap();
        assert_eq!(process.capabilities.bounding.names().collect::<Vec<_>>(), ["CAP_KILL"]);
        assert!(process.capabilities.ambient.is_empty());
        assert_eq!(warnings.len(), 2, "{warnings:?}");
    }

    #[test]
    fn no_number_becomes_another_users_id() {
        for uid in ["4294967296", "-1", "4294967295", "1.5", "\"0\"", "99999999999999999999999"] {
            assert!(process(&format!(r#"{{"user": {{"uid": {uid}}}}}"#)).is_err(), "{uid}");
            assert!(process(&format!(r#"{{"user": {{"gid": {uid}}}}}"#)).is_err(), "{uid}");
            assert!(process(&format!(r#"{{"user": {{"additionalGids": [{uid}]}}}}"#)).is_err(), "{uid}");
        }
        let (process, _) = process(r#"{"user": {"uid": 4294967294, "username": "root", "umask": 63}}"#).unwrap();
        assert_eq!(process.user, config::User::Ids { uid: u32::MAX - 1, gid: 0, additional_gids: vec![] });
        assert_eq!(process.umask, Some(0o77));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anything_is_done() {
        for bad in [
            r#"{"args": []}"#,
            r#"{"cwd": "tmp"}"#,
            r#"{"oomScoreAdj": 1001}"#,
            r#"{"rlimits": [{"type": "RLIMIT_MOOD"}]}"#,
            r#"{"rlimits": [{"type": "RLIMIT_CORE"}, {"type": "RLIMIT_CORE"}]}"#,
            r#"{"scheduler": {"policy": "SCHED_ISO"}}"#,
            r#"{"scheduler": {"policy": "SCHED_FIFO", "priority": -1}}"#,
            r#"{"scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]}}"#,
            r#"{"ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 8}}"#,
            r#"{"ioPriority": {"class": "", "priority": 1}}"#,
            r#"{"execCPUAffinity": {"initial": "a"}}"#,
            r#"{"capabilities": {"effective": ["CAP_KILL"]}}"#,
        ] {
            assert!(matches!(process(bad), Err(Error::Invalid(_))), "{bad}");
        }
    }

    #[test]
    fn intel_rdt_is_refused() {
        let linux = Linux { intel_rdt: Some(crate::oci::IntelRdt::default()), ..Linux::default() };
        let process = Process { args: vec!["sh".into()], cwd: "/".into(), ..Process::default() };
        assert!(convert(&process, Some(&linux)).unwrap_err().to_string().contains("linux.intelRdt"));
        assert!(convert(&process, Some(&Linux::default())).is_ok());
    }

    #[test]
    fn memory_policies_and_personalities_are_understood() {
        let policy = |mode: &str, nodes: &str, flags: &[&str]| {
            let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
            let converted = memory_policy(&MemoryPolicy { mode: mode.into(), nodes: nodes.into(), flags })?;
            converted.validate().map(|()| converted)
        };
        assert!(policy("MPOL_BIND", "0", &["MPOL_F_STATIC_NODES"]).unwrap().static_nodes);
        assert!(policy("MPOL_DEFAULT", "", &[]).is_ok());
        assert!(policy("MPOL_DEFAULT", "0", &[]).is_err());
        assert!(policy("MPOL_BIND", "", &[]).is_err());
        assert!(policy("MPOL_BIND", "0", &["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]).is_err());
        assert!(policy("MPOL_ODD", "0", &[]).is_err());
        let domain = |domain: &str| personality(&Personality { domain: domain.into(), flags: vec![] });
        assert_eq!(domain("LINUX32").unwrap(), config::Personality::Linux32);
        assert!(domain("BSD").is_err());
    }
}
