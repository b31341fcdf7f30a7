//! How the kernel treats a process: scheduling, I/O priority, processors, memory, personality.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Numbers in lists of processors and memory nodes are below this: the most that Linux can be built for.
const MOST_NUMBERS: u32 = 8192;

/// See `sched_setattr(2)`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduler {
    /// Kind of scheduling.
    pub policy: SchedulerPolicy,
    /// -20–19; for `Other` and `Batch`.
    pub nice: i32,
    /// 1–99; for `Fifo` and `RoundRobin`.
    pub priority: u32,
    /// `SCHED_FLAG_*` bits.
    pub flags: u64,
    /// Nanoseconds; for `Deadline`.
    pub runtime: u64,
    /// Nanoseconds; for `Deadline`.
    pub deadline: u64,
    /// Nanoseconds; for `Deadline`.
    pub period: u64,
}

/// Kinds of scheduling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see sched(7)")]
pub enum SchedulerPolicy {
    #[default]
    Other = 0,
    Fifo = 1,
    RoundRobin = 2,
    Batch = 3,
    Idle = 5,
    Deadline = 6,
}

impl Scheduler {
    /// Refuses values that do not go with the policy.
    pub fn validate(&self) -> Result<()> {
        use SchedulerPolicy::{Batch, Deadline, Fifo, Other, RoundRobin};
        let policy = self.policy;
        let invalid = |text: String| Err(Error::Invalid(format!("scheduler: {text}")));
        if !(-20..=19).contains(&self.nice) {
            return invalid(format!("nice value {}: not in -20–19", self.nice));
        }
        if self.nice != 0 && !matches!(policy, Other | Batch) {
            return invalid(format!("a nice value does not go with the policy {policy:?}"));
        }
        let real_time = matches!(policy, Fifo | RoundRobin);
        if real_time && !(1..=99).contains(&self.priority) {
            return invalid(format!("priority {}: not in 1–99", self.priority));
        }
        if !real_time && self.priority != 0 {
            return invalid(format!("a priority does not go with the policy {policy:?}"));
        }
        if policy != Deadline && (self.runtime, self.deadline, self.period) != (0, 0, 0) {
            return invalid(format!("runtime, deadline and period do not go with the policy {policy:?}"));
        }
        Ok(())
    }
}

/// See `ioprio_set(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoPriority {
    /// Kind.
    pub class: IoClass,
    /// 0 (first) – 7 (last).
    pub level: u8,
}

/// Kinds of I/O priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see ioprio_set(2)")]
pub enum IoClass {
    RealTime = 1,
    BestEffort = 2,
    Idle = 3,
}

impl IoPriority {
    /// Refuses a level that there is not.
    pub fn validate(&self) -> Result<()> {
        if self.level > 7 {
            return Err(Error::Invalid(format!("I/O priority {}: not in 0–7", self.level)));
        }
        Ok(())
    }
}

/// Lists of processors such as `0-3,7`; empty leaves what is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuAffinity {
    /// While the process is made.
    pub initial: String,
    /// From then on.
    pub last: String,
}

impl CpuAffinity {
    /// Refuses what is no list.
    pub fn validate(&self) -> Result<()> {
        for list in [&self.initial, &self.last] {
            number_list(list).map_err(|why| Error::Invalid(format!("CPU affinity {list:?}: {why}")))?;
        }
        Ok(())
    }
}

/// What kind of machine a process sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see personality(2)")]
pub enum Personality {
    Linux = 0,
    /// `uname` tells of a 32-bit machine.
    Linux32 = 8,
}

/// See `set_mempolicy(2)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPolicy {
    /// Kind.
    pub mode: MemoryMode,
    /// List of memory nodes such as `0-3,7`.
    pub nodes: String,
    /// Nodes are meant as they are, whatever the cpuset becomes.
    pub static_nodes: bool,
    /// Nodes are counted within the cpuset.
    pub relative_nodes: bool,
    /// Let the kernel move pages to where they are used.
    pub numa_balancing: bool,
}

/// Kinds of memory policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see set_mempolicy(2)")]
pub enum MemoryMode {
    Default = 0,
    Preferred = 1,
    Bind = 2,
    Interleave = 3,
    Local = 4,
    PreferredMany = 5,
    WeightedInterleave = 6,
}

impl MemoryPolicy {
    /// Refuses what contradicts itself.
    pub fn validate(&self) -> Result<()> {
        let invalid = |text: String| Err(Error::Invalid(format!("memory policy: {text}")));
        let nodes = match number_list(&self.nodes) {
            Ok(nodes) => nodes,
            Err(why) => return invalid(format!("nodes {:?}: {why}", self.nodes)),
        };
        let mode = self.mode;
        let alone = matches!(mode, MemoryMode::Default | MemoryMode::Local);
        if alone && !nodes.is_empty() {
            return invalid(format!("nodes do not go with the mode {mode:?}"));
        }
        if !alone && mode != MemoryMode::Preferred && nodes.is_empty() {
            return invalid(format!("the mode {mode:?} needs nodes"));
        }
        if self.static_nodes && self.relative_nodes {
            return invalid("nodes are either static or relative".into());
        }
        if nodes.is_empty() && (self.static_nodes || self.relative_nodes) {
            return invalid("static or relative nodes need nodes".into());
        }
        if self.numa_balancing && !matches!(mode, MemoryMode::Bind | MemoryMode::PreferredMany) {
            return invalid(format!("NUMA balancing does not go with the mode {mode:?}"));
        }
        Ok(())
    }
}

/// The numbers of a list such as `0-3,7`, ascending as written; empty of an empty list. The error says what is wrong.
pub fn number_list(list: &str) -> std::result::Result<Vec<u32>, String> {
    let mut numbers = Vec::new();
    let number = |text: &str| -> std::result::Result<u32, String> {
        let digits = text.trim();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("{text:?} is not a number"));
        }
        digits.parse().ok().filter(|n| *n < MOST_NUMBERS).ok_or_else(|| format!("{text} is not below {MOST_NUMBERS}"))
    };
    for part in list.split(',').filter(|_| !list.trim().is_empty()) {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if last < first {
            return Err(format!("{part} goes backwards"));
        }
        numbers.extend(first..=last);
        if numbers.len() > MOST_NUMBERS as usize {
            return Err("too long".into());
        }
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers_are_read_and_bounded() {
        assert_eq!(number_list("0-3, 7,9-9").unwrap(), [0, 1, 2, 3, 7, 9]);
        assert!(number_list("").unwrap().is_empty());
        for bad in ["x", "3-1", "-1", "1,", "8192", "0-99999999999", "+1", "0-8191,0-8191"] {
            assert!(number_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn schedulers_that_contradict_themselves_are_refused() {
        let scheduler =
            |policy, nice, priority, runtime| Scheduler { policy, nice, priority, runtime, ..Scheduler::default() };
        assert!(scheduler(SchedulerPolicy::Other, -5, 0, 0).validate().is_ok());
        assert!(scheduler(SchedulerPolicy::Fifo, 0, 99, 0).validate().is_ok());
        assert!(scheduler(SchedulerPolicy::Deadline, 0, 0, 1).validate().is_ok());
        assert!(scheduler(SchedulerPolicy::Other, 20, 0, 0).validate().is_err());
        assert!(scheduler(SchedulerPolicy::Other, 0, 1, 0).validate().is_err());
        assert!(scheduler(SchedulerPolicy::Fifo, 0, 0, 0).validate().is_err());
        assert!(scheduler(SchedulerPolicy::Idle, 1, 0, 0).validate().is_err());
        assert!(scheduler(SchedulerPolicy::Batch, 0, 0, 9).validate().is_err());
    }
}
