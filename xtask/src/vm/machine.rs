//! Runs the virtual machine and follows what it says, until it is done or counts as dead.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};

use anyhow::{Context, Result, bail};

use super::table::{MEMORY, SILENCE};
use super::verdict::{Event, Verdict};

/// What the kernel is told: AppArmor on, cgroup v2 alone is the init script's work, a panic ends the machine.
const COMMAND_LINE: &str = "console=ttyS0 panic=-1 quiet apparmor=1 security=apparmor oops=panic psi=1";

/// Boots and returns what was seen; `console` gets what the kernel says.
pub fn run(kernel: &Path, initial: &Path, console: &Path, mut verdict: Verdict) -> Result<Verdict> {
    std::fs::write(console, "").with_context(|| format!("empty {}", console.display()))?;
    let mut command = Command::new(gantry_tests::paths::need("qemu-system-x86_64")?);
    command.args([
        "-machine",
        "q35",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        &MEMORY.to_string(),
    ]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-nic", "none"]);
    // The first serial line is the kernel's, the second one ours, so that neither breaks the other's lines.
    command.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(initial).args(["-append", COMMAND_LINE]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("start qemu")?;
    let mut machine = Machine(child);
    let lines = lines(&mut machine.0)?;
    loop {
        match lines.recv_timeout(SILENCE) {
            Ok(line) => {
                if let Event::Done = verdict.line(&line) {
                    return Ok(verdict);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                verdict.dead(&format!("it said nothing for {} seconds", SILENCE.as_secs()));
                return Ok(verdict);
            }
            Err(RecvTimeoutError::Disconnected) => {
                let said = std::fs::read_to_string(console).unwrap_or_default();
                if said.is_empty() && !verdict.booted() {
                    bail!("qemu ended ({}) before the kernel said anything", machine.0.wait()?);
                }
                verdict.dead(&format!("it ended too early; its kernel's last lines:\n{}", tail(&said, 40)));
                return Ok(verdict);
            }
        }
    }
}

/// qemu; it is killed when the harness is done with it, whatever it does.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn lines(child: &mut Child) -> Result<Receiver<String>> {
    let mut out = BufReader::new(child.stdout.take().context("qemu's output")?);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        while out.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
            let line = String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_owned();
            if sender.send(line).is_err() {
                return;
            }
            bytes.clear();
        }
    });
    Ok(receiver)
}

fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
