//! `events`: statistics in intervals, and kills for want of memory.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use gantry_linux::{Error as SystemError, ResultExt};
use libcontainer::cgroups::{OomWatch, Stats};
use libcontainer::oci::Status;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};

use super::Context;
use crate::cli::Events;
use crate::error::{Error, Result};
use crate::out;

/// Until the container has ended, or with `--stats` once.
pub fn events(context: &Context<'_>, flags: &Events) -> Result<u8> {
    let container = context.open(&flags.id)?;
    let state = container.state()?;
    if state.status == Status::Stopped {
        return Err(Error::Refused(format!("container with id {} is not running", flags.id)));
    }
    if flags.stats {
        print_stats(&flags.id, &container.stats()?)?;
        return Ok(0);
    }
    let pid =
        Pid::from_raw(state.pid).ok_or_else(|| Error::Refused(format!("container {} has no process", flags.id)))?;
    let process =
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).during("open", format_args!("process {}", state.pid))?;
    let mut oom = container.watch_oom()?;
    let mut due = Instant::now() + flags.interval;
    loop {
        let ended = wait(&process, oom.as_ref(), due.saturating_duration_since(Instant::now()))?;
        // Also after its end: it may have been what ended it.
        for _ in 0..oom.as_mut().map_or(Ok(0), OomWatch::take)? {
            out::print(&format!("{}\n", json!({"type": "oom", "id": flags.id})))?;
        }
        if ended {
            return Ok(0);
        }
        if Instant::now() >= due {
            due += flags.interval;
            // When there are none it is being deleted: the process will have ended.
            if let Ok(stats) = container.stats() {
                print_stats(&flags.id, &stats)?;
            }
        }
    }
}

/// Sleeps until there is news or the time is over; whether the process has ended.
fn wait(process: &OwnedFd, oom: Option<&OomWatch>, time: Duration) -> Result<bool> {
    let timeout =
        Timespec::try_from(time).map_err(|_| SystemError::new("wait for", "events", rustix::io::Errno::INVAL))?;
    let mut fds = vec![PollFd::new(process, PollFlags::IN)];
    fds.extend(oom.map(OomWatch::interest));
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(SystemError::new("wait for", "events", error).into()),
    }
}

fn print_stats(id: &str, stats: &Stats) -> Result<()> {
    out::print(&format!("{}\n", json!({"type": "stats", "id": id, "data": data(stats)})))
}

/// The object that runc's users know.
fn data(stats: &Stats) -> Value {
    let raw: BTreeMap<&str, u64> = stats.memory_stat.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let cache = raw.get("cache").or_else(|| raw.get("file")).copied().unwrap_or(0);
    let entries = |list: &[(u32, u32, String, u64)]| -> Vec<Value> {
        list.iter()
            .map(|(major, minor, op, value)| json!({"major": major, "minor": minor, "op": op, "value": value}))
            .collect()
    };
    let mut pids = json!({"current": stats.pids_current});
    if stats.pids_limit != 0 {
        pids["limit"] = stats.pids_limit.into();
    }
    json!({
        "cpu": {
            "usage": {
                "total": stats.cpu_total,
                "percpu": stats.cpu_per_cpu,
                "kernel": stats.cpu_system,
                "user": stats.cpu_user,
            },
            "throttling": {
                "periods": stats.periods,
                "throttledPeriods": stats.throttled_periods,
                "throttledTime": stats.throttled_time,
            },
        },
        "memory": {
            "cache": cache,
            "usage": {
                "limit": stats.memory_limit,
                "usage": stats.memory_usage,
                "max": stats.memory_max_usage,
                "failcnt": stats.memory_failcnt,
            },
            "raw": raw,
        },
        "pids": pids,
        "blkio": {
            "ioServiceBytesRecursive": entries(&stats.blkio_bytes),
            "ioServicedRecursive": entries(&stats.blkio_ops),
        },
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}
