//! How the kernel treats the program: scheduling, I/O priority, processors, memory policy, personality, keyring.

use gantry_linux::attributes::{self as kernel, SchedAttr};

use super::environment::c_string;
use crate::config::{MemoryPolicy, Process, Scheduler, number_list};
use crate::error::{Error, Result};
use crate::protection::intact;

/// Gives this process what is configured for it. Needs the capabilities that the process had before it became the user.
pub fn apply(process: &Process) -> Result<()> {
    process.cpu_affinity.as_ref().map_or(Ok(()), |affinity| run_on(&affinity.last))?;
    process.memory_policy.as_ref().map_or(Ok(()), set_memory_policy)?;
    if let Some(priority) = process.io_priority {
        kernel::set_io_priority(priority.class as u32, priority.level.into())?;
    }
    if let Some(personality) = process.personality {
        kernel::set_personality(personality as u32)?;
    }
    // Last: a process with a deadline may change little else.
    process.scheduler.as_ref().map_or(Ok(()), set_scheduler)
}

/// Runs on these processors from now on; an empty list changes nothing.
pub fn run_on(list: &str) -> Result<()> {
    let processors = numbers(list)?;
    if processors.is_empty() {
        return Ok(());
    }
    Ok(kernel::set_affinity(&processors)?)
}

fn numbers(list: &str) -> Result<Vec<u32>> {
    number_list(list).map_err(|why| Error::Invalid(format!("list {list:?}: {why}")))
}

fn set_memory_policy(policy: &MemoryPolicy) -> Result<()> {
    let flag = |set: bool, bit: i32| if set { bit } else { 0 };
    let mode = policy.mode as i32
        | flag(policy.static_nodes, libc::MPOL_F_STATIC_NODES)
        | flag(policy.relative_nodes, libc::MPOL_F_RELATIVE_NODES)
        | flag(policy.numa_balancing, libc::MPOL_F_NUMA_BALANCING);
    Ok(kernel::set_memory_policy(mode, &numbers(&policy.nodes)?)?)
}

fn set_scheduler(wanted: &Scheduler) -> Result<()> {
    let Scheduler { policy, nice, priority, flags, runtime, deadline, period } = *wanted;
    let mut attributes = SchedAttr::default();
    attributes.policy = policy as u32;
    attributes.nice = nice;
    attributes.priority = priority;
    attributes.flags = flags;
    attributes.runtime = runtime;
    attributes.deadline = deadline;
    attributes.period = period;
    Ok(kernel::set_scheduler(&attributes)?)
}

/// Joins the session keyring of the process's name for it: keys of whoever made this process are out of reach from then
/// on. A kernel without keyrings has none to protect; where a sandbox around us refuses them a warning is returned.
pub fn join_keyring(process: &Process) -> Result<Option<String>> {
    let Some(name) = process.keyring.as_ref().filter(|_| intact("session-keyring")) else { return Ok(None) };
    match gantry_linux::process::new_session_keyring(&c_string(name, "name of keyring")?) {
        Err(error) if error.errno() == libc::EPERM => Ok(Some(format!("no session keyring of its own: {error}"))),
        other => Ok(other.map(|()| None)?),
    }
}
