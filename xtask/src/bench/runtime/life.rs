//! A container's life, step by step, by the commands that an engine gives a runtime.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_tests::until;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::bundle::Bundle;
use super::meter::{Late, Meter, Seen, measure as metered, run};
use super::peers::Peer;

/// What is measured, in the order of the table.
pub const OPERATIONS: [&str; 5] = ["run", "create", "start", "exec", "delete"];

const ID: &str = "bench";
/// youki 0.7 waits for ever for a program that has ended before it begins to wait: such a round is done again.
const REPETITIONS: usize = 10;

/// One whole round of a peer; `keep` is given what each of [`OPERATIONS`] cost. After a failure nothing is left of it.
pub fn measure(
    peer: &Peer,
    bundle: &Bundle,
    meter: Meter,
    directory: &Path,
    keep: &mut dyn FnMut(usize, &Seen),
) -> Result<()> {
    let mut left = REPETITIONS;
    loop {
        let mut all = Vec::new();
        let lived = live(peer, bundle, directory, &mut |operation, command| {
            all.push((operation, metered(command, meter, directory)?));
            Ok(())
        });
        let Err(error) = lived else {
            all.iter().for_each(|(operation, seen)| keep(*operation, seen));
            return Ok(());
        };
        if left == 0 || !error.is::<Late>() {
            return Err(error);
        }
        left -= 1;
        peer.hung.set(peer.hung.get() + 1);
    }
}

/// `each` runs the commands of [`OPERATIONS`]. After a failure nothing is left of the container.
pub fn live(
    peer: &Peer,
    bundle: &Bundle,
    directory: &Path,
    each: &mut dyn FnMut(usize, &Command) -> Result<()>,
) -> Result<()> {
    let lived = steps(peer, bundle, directory, each);
    if lived.is_err() {
        // The first error is the one that matters.
        run(&mut peer.command(&["delete", "--force", ID]), directory).ok();
    }
    lived
}

fn steps(
    peer: &Peer,
    bundle: &Bundle,
    directory: &Path,
    each: &mut dyn FnMut(usize, &Command) -> Result<()>,
) -> Result<()> {
    let mut step = |operation: usize, arguments: &[&str]| -> Result<()> {
        each(operation, &peer.command(&[&[OPERATIONS[operation]], arguments].concat()))
    };
    let (ends, stays) = (bundle.of(peer, false), bundle.of(peer, true));
    let pid_file = directory.join("pid");
    step(0, &["--bundle", &ends.display().to_string(), ID])?;
    step(1, &["--bundle", &stays.display().to_string(), "--pid-file", &pid_file.display().to_string(), ID])?;
    step(2, &[ID])?;
    step(3, &[ID, "/bin/true"])?;
    run(&mut peer.command(&["kill", ID, "KILL"]), directory)?;
    await_end(&pid_file)?;
    step(4, &[ID])
}

/// Until the container's process is gone, for `delete` to find it so.
fn await_end(pid_file: &Path) -> Result<()> {
    let text = fs::read_to_string(pid_file).context("read the pid of the container's process")?;
    let pid = text.trim().parse().ok().and_then(Pid::from_raw).context("the pid file has no pid")?;
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let limit = Timespec { tv_sec: 10, tv_nsec: 0 };
    poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit)).context("wait for the container's process")?;
    // It has ended; whoever inherited it takes it away in a moment.
    let gone = || (!Path::new("/proc").join(text.trim()).exists()).then_some(());
    until(Duration::from_secs(10), gone).context("the container's process stays")
}
