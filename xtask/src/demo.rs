//! `cargo xtask demo`: the main job, from a registry to running containers, shown step by step and cleaned up.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use gantry_tests::kernel::Snapshot;
use gantry_tests::{Daemon, Options, Output, Registry, command, http, until};

use crate::interrupt::Interrupt;
use crate::{build, setup};

/// Prints limits as a program in the container sees them, on cgroup v1 and v2.
const LIMITS: &str = "cd /sys/fs/cgroup; for f in memory/memory.limit_in_bytes memory.max cpu/cpu.cfs_quota_us cpu.max \
                      pids/pids.max pids.max; do [ ! -e $f ] || echo $f $(cat $f); done";

/// A web server in the Perl that is in every Debian system.
const SERVER: &str = r#"$| = 1; $s = IO::Socket::INET->new(LocalPort => 80, Listen => 8, ReuseAddr => 1) or die; print "listening\n";
while ($c = $s->accept) { $r = <$c>; print "asked: $r"; print $c "HTTP/1.0 200 OK\r\n\r\nhello from a container"; close $c }"#;

/// Runs it.
pub fn run() -> Result<()> {
    setup::for_demo()?;
    let interrupt = Interrupt::catch()?;
    let started = Instant::now();
    heading("Building");
    let binary = build::gantry(build::PROFILE)?;
    let size = std::fs::metadata(&binary).map_or(0, |data| data.len());
    say(&format!("one static binary of {} MiB, in {}", size >> 20, seconds(started.elapsed())));
    interrupt.check()?;

    let mut show = Show::start(binary, interrupt)?;
    let result = show.everything();
    heading("Cleaning up");
    let left = show.clean();
    result.and(left)?;
    println!("\nEverything worked. Next: `gantry --help`, README.md, or `cargo xtask test`.");
    Ok(())
}

struct Show {
    binary: PathBuf,
    interrupt: Interrupt,
    daemon: Daemon,
    registry: Option<Registry>,
    before: Snapshot,
}

impl Show {
    fn start(binary: PathBuf, interrupt: Interrupt) -> Result<Self> {
        heading("A daemon of its own");
        let started = Instant::now();
        let own = Some(binary.clone());
        let daemon = Daemon::with(Options { bridge: Some("gdemo"), binary: own, ..Options::default() })?;
        say(&format!("answers after {}", millis(started.elapsed())));
        say(&format!("data    {}", daemon.data_root().display()));
        say(&format!("socket  {}", daemon.socket().display()));
        say(&format!("bridge  {} ({})", daemon.bridge(), daemon.slot().bip()));
        let before = Snapshot::settled(&daemon);
        Ok(Self { binary, interrupt, daemon, registry: None, before })
    }

    fn everything(&mut self) -> Result<()> {
        self.image()?;
        heading("A container is its image's root file system");
        self.gantry(&["run", "--rm", "debian", "cat", "/etc/os-release"], 0)?;
        heading("Limits, as seen from inside");
        let limits = ["run", "--rm", "-m", "64m", "--cpus", "0.5", "--pids-limit", "50", "debian", "sh", "-c", LIMITS];
        self.gantry(&limits, 0)?;
        say("and one that wants more memory than it may have:");
        self.gantry(&["run", "--name", "hungry", "-m", "32m", "debian", "tail", "/dev/zero"], 137)?;
        self.gantry(&["inspect", "-f", "OOMKilled={{.State.OOMKilled}} ExitCode={{.State.ExitCode}}", "hungry"], 0)?;
        self.network()?;
        self.survival()?;
        heading("What is there");
        self.gantry(&["ps", "-a"], 0)?;
        self.gantry(&["images"], 0)?;
        Ok(())
    }

    /// From Docker Hub, or from a registry on loopback with an image that was made here.
    fn image(&mut self) -> Result<()> {
        heading("An image from a registry");
        let hub = self.command(&["pull", "debian:12"], Duration::from_secs(180))?;
        if hub.code == 0 {
            say("Docker Hub answers:");
            print(&hub);
            self.gantry(&["tag", "debian:12", "debian"], 0)?;
            return Ok(());
        }
        let why = hub.stderr.trim().lines().last().unwrap_or("no answer").to_owned();
        say(&format!("Docker Hub cannot be reached ({why})."));
        say(
            "Instead: a Debian system by debootstrap, pushed to Debian's docker-registry on loopback (made once, kept in target/).",
        );
        let started = Instant::now();
        let registry = Registry::with_debian()?;
        say(&format!("registry at {} after {}", registry.host(), seconds(started.elapsed())));
        let name = registry.name("debian:12");
        self.registry = Some(registry);
        self.gantry(&["pull", &name], 0)?;
        self.gantry(&["tag", &name, "debian"], 0)?;
        Ok(())
    }

    fn network(&self) -> Result<()> {
        heading("An address, and a port published to this host");
        self.gantry(&["run", "--rm", "debian", "hostname", "-I"], 0)?;
        let serve = ["run", "-d", "--name", "web", "-p", "127.0.0.1::80", "debian", "perl", "-MIO::Socket::INET", "-e"];
        self.gantry(&[&serve[..], &[SERVER]].concat(), 0)?;
        let format = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
        let port = self.gantry(&["inspect", "-f", format, "web"], 0)?;
        let port: u16 = port.stdout.trim().parse().context("inspect shows no published port")?;
        let page = until(Duration::from_secs(10), || http::fetch("127.0.0.1", port).ok());
        let page = page.with_context(|| format!("nothing answers on the published port {port}"))?;
        say(&format!("this host fetches http://127.0.0.1:{port}/"));
        say(page.lines().last().unwrap_or_default());
        self.gantry(&["logs", "web"], 0)?;
        self.gantry(&["exec", "web", "uname", "-sr"], 0)?;
        Ok(())
    }

    fn survival(&mut self) -> Result<()> {
        heading("kill -9 of the daemon: containers do not notice");
        let pid = self.gantry(&["inspect", "-f", "{{.State.Pid}}", "web"], 0)?.stdout;
        self.daemon.kill9()?;
        say(&format!("the daemon is dead; it serves again after {}", millis(self.daemon.launch()?)));
        let again = self.gantry(&["inspect", "-f", "{{.State.Pid}}", "web"], 0)?.stdout;
        if pid != again {
            bail!("the container had process {} and now has {}", pid.trim(), again.trim());
        }
        Ok(())
    }

    /// Runs our client, shows what it said, and checks the exit code.
    fn gantry(&self, arguments: &[&str], code: i32) -> Result<Output> {
        let output = self.command(arguments, Duration::from_secs(120))?;
        print(&output);
        if output.code != code {
            bail!("that should have ended with {code}, not {}; the daemon's log:\n{}", output.code, self.daemon.log());
        }
        Ok(output)
    }

    fn command(&self, arguments: &[&str], limit: Duration) -> Result<Output> {
        self.interrupt.check()?;
        let mut client = self.daemon.client(&self.binary);
        let output = command::run(client.args(arguments), None, limit);
        self.interrupt.check()?;
        output
    }

    /// Removes the containers and compares the kernel's view; then the daemon and its files go.
    fn clean(self) -> Result<()> {
        let root = self.daemon.slot().root().to_owned();
        let bridge = self.daemon.bridge();
        let removed = self.daemon.remove_containers();
        // Whoever pressed Ctrl-C does not want to wait for connections to time out.
        let limit = if self.interrupt.check().is_ok() { Duration::from_secs(10) } else { Duration::ZERO };
        let restored = until(limit, || (Snapshot::take(&self.daemon) == self.before).then_some(()));
        if restored.is_some() {
            say("containers removed: mounts, links, namespaces, cgroups, firewall and descriptors as before");
        } else if !limit.is_zero() {
            say("the kernel's view is not what it was before the first container:");
            say(&self.before.difference(&Snapshot::take(&self.daemon)));
        }
        drop(self);
        let link = Path::new("/sys/class/net").join(&bridge);
        if root.exists() || link.exists() {
            bail!("left behind: {} or {}", root.display(), link.display());
        }
        say("daemon, registry, bridge and data are gone");
        removed
    }
}

fn heading(text: &str) {
    println!("\n== {text}");
}

fn say(text: &str) {
    for line in text.lines() {
        println!("   {line}");
    }
}

/// The command as it would be typed, what it said, and what it took.
fn print(output: &Output) {
    let line = output.command.replace('\n', " ");
    let line =
        if line.chars().count() > 100 { format!("{}…", line.chars().take(99).collect::<String>()) } else { line };
    println!("\n   $ {line}");
    for text in [&output.stdout, &output.stderr] {
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            println!("     {line}");
        }
    }
    let code = if output.code == 0 { String::new() } else { format!(", exit code {}", output.code) };
    println!("     ({}{code})", millis(output.took));
}

fn millis(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1000.0)
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
