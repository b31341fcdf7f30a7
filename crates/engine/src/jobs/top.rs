//! `top`: the processes of a container, as the host sees them.

use gantry_api::container;
use gantry_linux::fs;

use crate::engine::blocking;
use crate::error::{Error, Result};
use crate::job::{Class, Context, Job};
use crate::policy::{Known, Subject};

/// Lists processes.
pub struct Top {
    /// Name or id.
    pub container: String,
    /// Arguments of `ps`; the default columns only.
    pub arguments: String,
}

impl Job for Top {
    const NAME: &'static str = "top";
    const DOC: &'static str = "lists the processes of a container";
    const CLASS: Class = Class::Read;
    type Output = container::Top;

    fn subject(&self) -> Subject<'_> {
        Subject::Container(&self.container)
    }

    fn identify(&mut self, known: &Known<'_>) {
        known.container(&mut self.container);
    }

    fn arguments(&self) -> String {
        self.container.clone()
    }

    async fn run(self, context: Context) -> Result<container::Top> {
        if !matches!(self.arguments.as_str(), "" | "-ef") {
            return Err(Error::not_implemented(format!(
                "ps {}: only the default columns (-ef) are supported yet",
                self.arguments
            )));
        }
        let container = context.engine.containers.get(&self.container)?;
        let Some(running) = container.running() else {
            return Err(Error::conflict(format!("container {} is not running", container.id())));
        };
        blocking(move || {
            let boot = boot_time()?;
            let processes = running.pids()?.into_iter().filter_map(|pid| process(pid, boot)).collect();
            let titles = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"].map(str::to_owned).to_vec();
            Ok(container::Top { titles, processes })
        })
        .await
    }
}

/// The kernel's clock ticks per second in `/proc/<pid>/stat`; fixed in its ABI.
const TICKS: i64 = 100;

fn boot_time() -> Result<i64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|text| text.trim().parse().ok()).ok_or_else(|| Error::system("read /proc/stat: it has no btime"))
}

/// The line of one process; `None` when it has ended meanwhile.
fn process(pid: i32, boot: i64) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?.split_whitespace().nth(1)?;
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    // proc_pid_stat(5): the fields after the name, the first of them is the third of all.
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<i64>().ok());
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
    let seconds = (number(11)? + number(12)?) / TICKS;
    let started = jiff::Timestamp::from_second(boot + number(19)? / TICKS).ok()?;
    let terminal = match number(4)? {
        0 => "?".to_owned(),
        device => format!("pts/{}", device & 0xff),
    };
    Some(vec![
        if uid == "0" { "root".into() } else { uid.to_owned() },
        pid.to_string(),
        number(1)?.to_string(),
        "0".into(),
        started.strftime("%H:%M").to_string(),
        terminal,
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60),
        if command.is_empty() { format!("[{name}]") } else { command },
    ])
}
