//! What a command cost: one that runs under perf, or under time, which disturb it little and see its whole tree.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gantry_tests::{command, paths};
use rustix::process::{Pid, Signal, kill_process_group};

/// Each sees a part, in a run of its own: counting every system call takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meter {
    /// Wall time and CPU time of all its processes (`perf stat`).
    Time,
    /// System calls, processes and threads (`perf stat`).
    Count,
    /// The largest resident set that one of its processes ever had (`time`, from the kernel's `ru_maxrss`).
    Memory,
}

impl Meter {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Time, Self::Count, Self::Memory];

    fn command(self, out: &Path) -> Result<Command> {
        let program = if self == Self::Memory { "time" } else { "perf" };
        let mut command = Command::new(paths::need(program)?);
        match self {
            Self::Time => command.args(["stat", "-x", ",", "-e", "task-clock", "-e", "duration_time", "-o"]),
            Self::Count => command
                .args(["stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-e", "sched:sched_process_fork"])
                // CLONE_THREAD
                .args(["-e", "task:task_newtask", "--filter", "clone_flags & 65536", "-o"]),
            Self::Memory => command.args(["-f", "%M", "-o"]),
        };
        command.arg(out).arg("--");
        Ok(command)
    }
}

/// So long a command may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A command that was not done in time.
#[derive(Debug)]
pub struct Late(String, Duration);

impl std::fmt::Display for Late {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} was not done in {:?}", self.0, self.1)
    }
}

impl std::error::Error for Late {}

/// What was seen in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Until the command returned, and of all processes until then.
    Time { wall: Duration, cpu: Duration },
    /// By all processes. The command itself is a process too.
    Count { calls: u64, processes: u64, threads: u64 },
    /// Bytes.
    Memory(u64),
}

/// All that was seen of one operation.
#[derive(Debug, Default)]
pub struct Figures {
    pub wall: Vec<Duration>,
    pub cpu: Vec<Duration>,
    pub calls: Vec<u64>,
    pub processes: Vec<u64>,
    pub threads: Vec<u64>,
    pub memory: Vec<u64>,
}

impl Figures {
    /// Keeps one.
    pub fn add(&mut self, seen: &Seen) {
        match *seen {
            Seen::Time { wall, cpu } => {
                self.wall.push(wall);
                self.cpu.push(cpu);
            }
            Seen::Count { calls, processes, threads } => {
                self.calls.push(calls);
                self.processes.push(processes);
                self.threads.push(threads);
            }
            Seen::Memory(bytes) => self.memory.push(bytes),
        }
    }
}

/// Runs a command to its end; an error has what it said.
pub fn measure(command: &Command, meter: Meter, directory: &Path) -> Result<Seen> {
    let out = directory.join("seen");
    let mut metered = meter.command(&out)?;
    metered.arg(command.get_program()).args(command.get_args());
    run(&mut metered, directory)?;
    let text = fs::read_to_string(&out).context("read what was measured")?;
    parse(meter, &text).with_context(|| format!("this was measured, and is not understood: {}", text.trim()))
}

/// Runs a command to its end, its words in a file: what it leaves running keeps them open.
pub fn run(command: &mut Command, directory: &Path) -> Result<()> {
    run_within(command, directory, LIMIT)
}

/// As [`run`], with another limit.
pub fn run_within(command: &mut Command, directory: &Path, limit: Duration) -> Result<()> {
    let words = directory.join("words");
    let file = File::create(&words).context("create a file for a command's words")?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let mut child =
        command.process_group(0).spawn().with_context(|| format!("start {}", command::describe(command)))?;
    let group = Pid::from_child(&child);
    let Ok(status) = command::wait(&mut child, limit) else {
        // What it has started is in its group, but for the container.
        kill_process_group(group, Signal::KILL).ok();
        bail!(Late(command::describe(command), limit));
    };
    if !status.success() {
        let said = fs::read_to_string(&words).unwrap_or_default();
        bail!("{} ({status}): {}", command::describe(command), said.trim());
    }
    Ok(())
}

/// perf writes `value,unit,event,…`, time a number.
fn parse(meter: Meter, text: &str) -> Option<Seen> {
    let value = |event: &str| {
        let line = text.lines().find(|line| line.split(',').nth(2) == Some(event))?;
        line.split(',').next()?.parse::<f64>().ok()
    };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts of a short run")]
    let count = |event: &str| value(event).map(|value| value as u64);
    Some(match meter {
        Meter::Time => Seen::Time {
            wall: Duration::from_nanos(count("duration_time")?),
            cpu: Duration::from_secs_f64(value("task-clock")? / 1000.0),
        },
        Meter::Count => {
            let threads = count("task:task_newtask")?;
            let processes = (count("sched:sched_process_fork")? + 1).checked_sub(threads)?;
            Seen::Count { calls: count("raw_syscalls:sys_enter")?, processes, threads }
        }
        Meter::Memory => Seen::Memory(text.trim().parse::<u64>().ok()? * 1024),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_and_time_write_is_understood() {
        let text = "# started on Sun\n\n1.50,msec,task-clock,1500000,100.00,0.251,CPUs utilized\n6620219,ns,duration_time,6620219,100.00,,\n";
        let seen = Seen::Time { wall: Duration::from_nanos(6_620_219), cpu: Duration::from_micros(1500) };
        assert_eq!(parse(Meter::Time, text), Some(seen));
        let text = "2729,,raw_syscalls:sys_enter,1,100.00,,\n16,,sched:sched_process_fork,1,100.00,,\n13,,task:task_newtask,1,100.00,,\n";
        assert_eq!(parse(Meter::Count, text), Some(Seen::Count { calls: 2729, processes: 4, threads: 13 }));
        assert_eq!(parse(Meter::Memory, "3900\n"), Some(Seen::Memory(3900 * 1024)));
        assert_eq!(parse(Meter::Count, "<not supported>,,raw_syscalls:sys_enter,0,100.00,,\n"), None);
    }
}
