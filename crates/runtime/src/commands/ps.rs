//! `ps`: a container's processes, as the host sees them.

use gantry_linux::fs;

use super::{Context, user_name};
use crate::cli::{OutputFormat, Ps};
use crate::error::{Error, Result};
use crate::out;

/// Ticks of processor time in a second; the kernel shows all architectures' user space the same.
const TICKS: u64 = 100;

/// Their ids as JSON, or what `ps -ef` tells of them. No program of the host is run for it.
pub fn ps(context: &Context<'_>, flags: &Ps) -> Result<u8> {
    if flags.format == OutputFormat::Table && !flags.options.iter().all(|o| matches!(o.as_str(), "-ef" | "-e" | "-f")) {
        return Err(Error::Usage(
            "ps knows no options but -ef: for others, run ps(1) with -p and the ids of `ps --format json`".into(),
        ));
    }
    let pids = context.open(&flags.id)?.processes()?;
    let text = match flags.format {
        OutputFormat::Json => format!("{}\n", serde_json::Value::from(pids)),
        OutputFormat::Table => table(&pids)?,
    };
    out::print(&text)?;
    Ok(0)
}

fn table(pids: &[u32]) -> Result<String> {
    let now = uptime()?;
    let heads = ["UID", "PID", "PPID", "C", "AGE", "TTY", "TIME", "CMD"];
    let mut text = line(&heads.map(str::to_owned));
    // One that has ended meanwhile is left out.
    for process in pids.iter().filter_map(|pid| Process::read(*pid)) {
        text.push_str(&line(&process.fields(now)));
    }
    Ok(text)
}

fn line([uid, pid, ppid, cpu, start, tty, time, command]: &[String; 8]) -> String {
    format!("{uid:<8} {pid:>7} {ppid:>7} {cpu:>2} {start:>8} {tty:<8} {time:>8} {command}\n")
}

/// Seconds since the machine started.
fn uptime() -> Result<u64> {
    let text = fs::read_to_string("/proc/uptime")?;
    Ok(text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0))
}

struct Process {
    pid: u32,
    parent: String,
    uid: u32,
    terminal: u32,
    used: u64,
    started: u64,
    command: String,
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let directory = format!("/proc/{pid}");
        let uid = fs::metadata(&directory).ok()?.uid();
        let stat = fs::read(format!("{directory}/stat")).ok()?;
        let stat = String::from_utf8_lossy(&stat);
        // The name may contain anything, parentheses included; what follows it does not.
        let (head, tail) = stat.rsplit_once(')')?;
        let name = head.split_once('(')?.1;
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|text| text.parse::<u64>().ok());
        let arguments = fs::read(format!("{directory}/cmdline")).ok()?;
        let arguments: Vec<_> =
            arguments.split(|b| *b == 0).filter(|a| !a.is_empty()).map(String::from_utf8_lossy).collect();
        let command = if arguments.is_empty() { format!("[{name}]") } else { arguments.join(" ") };
        Some(Self {
            pid,
            parent: (*fields.get(1)?).to_owned(),
            uid,
            terminal: fields.get(4).and_then(|text| text.parse().ok()).unwrap_or(0),
            used: (number(11)? + number(12)?) / TICKS,
            started: number(19)? / TICKS,
            // One line each, whatever the container puts into its arguments.
            command: command.chars().map(|c| if c.is_control() { '?' } else { c }).collect(),
        })
    }

    fn fields(&self, now: u64) -> [String; 8] {
        let age = now.saturating_sub(self.started);
        [
            user_name(self.uid),
            self.pid.to_string(),
            self.parent.clone(),
            (self.used * 100 / age.max(1)).min(99).to_string(),
            clock(age),
            terminal(self.terminal),
            clock(self.used),
            self.command.clone(),
        ]
    }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn terminal(device: u32) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 if minor < 64 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_process_is_described() {
        let process = Process::read(std::process::id()).unwrap();
        assert_eq!(process.parent, rustix::process::getppid().unwrap().as_raw_nonzero().to_string());
        assert!(process.command.contains("gantry_runtime"), "{}", process.command);
    }

    #[test]
    fn terminals_have_their_names() {
        assert_eq!(terminal((136 << 8) | 3), "pts/3");
        assert_eq!(terminal(0), "?");
    }
}
