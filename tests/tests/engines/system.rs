//! A whole system of its own: namespaces whose root lies over this machine's or over Debian sid's, in which engines run
//! with their usual paths and touch nothing outside but cgroups below one parent.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gantry_tests::slot::Slot;
use gantry_tests::{Output, cgroups, command, image, paths, skip, until};

/// The binary, to be called with the argument `runtime`.
pub const GANTRY: &str = "/opt/engines/gantry";

/// The same by the name that makes it a runtime.
pub const RUNTIME: &str = "/opt/engines/gantry-runtime";

/// What a system shows of the machine's cgroups.
#[derive(Debug, Clone, Copy)]
pub enum Cgroups {
    /// All that is there.
    AsHere,
    /// Version 2 only, whose controllers version 1 may have taken.
    Version2,
}

/// A system. Everything in it ends with the value, and when the test's process dies.
#[derive(Debug)]
pub struct System {
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub name: String,
    first: i32,
    holder: Child,
    daemon: Option<Child>,
    slot: Slot,
}

impl System {
    /// Enters new namespaces over the system in `lower`.
    pub fn over(lower: &Path, cgroups: Cgroups) -> Result<Self> {
        let slot = Slot::acquire(None)?;
        let parent = format!("{}-engines", slot.tracker());
        fs::write(slot.root().join("cgroups"), &parent).context("remember the engines' cgroups")?;
        let place = slot.root().join("system");
        fs::create_dir(&place).with_context(|| format!("make {}", place.display()))?;
        let mut unshare = Command::new(paths::need("unshare")?);
        unshare.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c"]);
        unshare.args([include_str!("system.sh"), "system"]).arg(lower).arg(paths::gantry()?.canonicalize()?).arg(place);
        unshare.arg(match cgroups {
            Cgroups::AsHere => "as-here",
            Cgroups::Version2 => "version-2",
        });
        let mut holder = unshare
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start unshare")?;
        let mut said = String::new();
        let output = holder.stdout.take().context("no pipe from unshare")?;
        BufReader::new(output).read_line(&mut said).context("read whether the system is ready")?;
        if said != "ready\n" {
            let mut why = String::new();
            holder.stderr.take().context("no pipe from unshare")?.read_to_string(&mut why).ok();
            holder.wait().context("reap unshare")?;
            bail!("make a system over {}: {}", lower.display(), why.trim());
        }
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let children = fs::read_to_string(&children).with_context(|| format!("read {children}"))?;
        let first = children.trim().parse().with_context(|| format!("the first process of {children:?}"))?;
        let system = Self { name: name(lower), first, holder, daemon: None, slot };
        system.write_images()?;
        Ok(system)
    }

    fn write_images(&self) -> Result<()> {
        let layer = image::busybox_layer()?;
        fs::write(self.file(LAYER), &layer).context("write the image's layer")?;
        let layout = tempfile::tempdir().context("make a directory for an OCI layout")?;
        let config = serde_json::json!({"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": ["sh"]});
        image::Image::new(config, vec![layer]).write_layout(layout.path())?;
        let file = File::create(self.file(LAYOUT)).context("create the image's archive")?;
        let mut archive = tar::Builder::new(file);
        archive.append_dir_all(".", layout.path()).and_then(|()| archive.finish()).context("pack the image")
    }

    /// A command that runs inside, with nothing of this process' environment.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut nsenter = Command::new("nsenter");
        nsenter.env_clear().envs(ENVIRONMENT).args(self.entry()).args(words);
        nsenter
    }

    fn entry(&self) -> [String; 7] {
        let target = format!("--target={}", self.first);
        [&target, "--mount", "--net", "--pid", "--root", "--wd", "--"].map(ToString::to_string)
    }

    /// The shell line of the same, for a terminal.
    #[must_use]
    pub fn line(&self, words: &[&str]) -> String {
        let environment = ENVIRONMENT.map(|(name, value)| format!("{name}={value} ")).concat();
        format!("env -i TERM=xterm {environment} nsenter {} {}", self.entry().join(" "), words.join(" "))
    }

    /// Runs inside, to the end.
    #[track_caller]
    #[must_use]
    pub fn run(&self, words: &[&str]) -> Output {
        command::run(&mut self.command(words), None, command::LIMIT)
            .unwrap_or_else(|error| panic!("{error:?}\n--- the daemon's log:\n{}", self.log()))
    }

    /// Runs inside with standard input.
    #[track_caller]
    #[must_use]
    pub fn input(&self, words: &[&str], input: &str) -> Output {
        command::run(&mut self.command(words), Some(input.as_bytes()), command::LIMIT).expect("a program that runs")
    }

    /// Starts a daemon and waits until a command of its client succeeds.
    pub fn start_daemon(&mut self, words: &[&str], answers: &[&str]) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.slot.root().join("log"));
        let log = log.context("open a daemon's log")?;
        let mut daemon = self.command(words);
        daemon.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.daemon = Some(daemon.spawn().with_context(|| format!("start {}", words[0]))?);
        let answer = || command::succeed(&mut self.command(answers), Duration::from_secs(10)).ok();
        match until(Duration::from_secs(30), answer) {
            Some(_) => Ok(()),
            None => bail!("{} does not answer; its log:\n{}", words[0], self.log()),
        }
    }

    /// Kills the daemon whose pid is in a file, as `kill -9` does.
    pub fn kill_daemon(&mut self, pidfile: &str) -> Result<()> {
        let mut entered = self.daemon.take().context("no daemon runs")?;
        let kill = format!("kill -9 $(cat {pidfile})");
        command::succeed(&mut self.command(&["sh", "-c", &kill]), command::LIMIT)?;
        command::wait(&mut entered, command::LIMIT).context("the daemon was killed")?;
        Ok(())
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.slot.root().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Whether a program is installed.
    #[must_use]
    pub fn has(&self, program: &str) -> bool {
        ["sbin", "bin"].iter().any(|directory| self.file(&format!("/usr/{directory}/{program}")).is_file())
    }

    /// A path inside as it is seen from outside.
    #[must_use]
    pub fn file(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.first))
    }

    /// The cgroup below which the engines shall make those of their containers, as they want it named.
    #[must_use]
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.slot.cgroup_parent().unwrap_or_default().display())
    }

    /// The directories of a container's cgroup, in every hierarchy that has it.
    #[must_use]
    pub fn cgroups_of(&self, id: &str) -> Vec<PathBuf> {
        let parents = self.slot.container_cgroups();
        let below = parents.iter().flat_map(|parent| descendants(parent));
        below.filter(|path| path.to_string_lossy().contains(id)).collect()
    }

    /// The number in the first of these files that a container's cgroup has: v1's names differ from v2's.
    #[track_caller]
    #[must_use]
    pub fn cgroup_value(&self, id: &str, names: &[&str]) -> String {
        let found = self
            .cgroups_of(id)
            .into_iter()
            .find_map(|path| names.iter().find_map(|name| fs::read_to_string(path.join(name)).ok()));
        found.unwrap_or_else(|| panic!("no cgroup of {id} has one of {names:?}")).trim().to_owned()
    }

    /// Whether engines can measure: containerd gives up where the kernel names a hierarchy that is mounted nowhere, as
    /// other programs may have left one. Said loudly.
    #[must_use]
    pub fn measures(&self) -> bool {
        let names = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounted: Vec<String> = cgroups::hierarchies().into_iter().map(|(options, _)| options).collect();
        let controllers = names.lines().filter_map(|line| line.split(':').nth(1)).filter(|name| !name.is_empty());
        let lost = controllers.filter(|name| {
            let first = name.split(',').next();
            !mounted.iter().any(|options| options.split(',').any(|option| Some(option) == first))
        });
        let lost: Vec<&str> = lost.collect();
        if !lost.is_empty() {
            skip(&format!("statistics: the cgroup hierarchies {lost:?} have cgroups and are mounted nowhere"));
        }
        lost.is_empty()
    }

    /// What containers may leave behind: mounts, cgroups, processes, our runtime's states.
    #[must_use]
    pub fn traces(&self, states: &str) -> BTreeSet<String> {
        let table = fs::read_to_string(format!("/proc/{}/mountinfo", self.first)).unwrap_or_default();
        let mounts = table.lines().filter_map(|line| line.split(' ').nth(4));
        // podman mounts its own storage on itself, and now and then leaves it so.
        let mounts = mounts.filter(|point| !point.ends_with("/containers/storage/overlay"));
        let mounts = mounts.map(|point| format!("mount {point}"));
        let parents = self.slot.container_cgroups();
        let cgroups = parents.iter().flat_map(|parent| descendants(parent));
        let cgroups = cgroups.map(|path| format!("cgroup {}", path.display()));
        let states = fs::read_dir(self.file(states)).into_iter().flatten().flatten();
        let states = states.map(|entry| format!("state {}", entry.path().display()));
        let processes = fs::read_dir(self.file("/proc")).into_iter().flatten().flatten();
        let processes = processes.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
        let processes = processes.filter_map(|stat| {
            let (name, rest) = stat.rsplit_once(')')?;
            // Reaped in a moment.
            let (_, name) = name.split_once('(')?;
            (!rest.trim_start().starts_with('Z')).then(|| format!("process {name}"))
        });
        mounts.chain(cgroups).chain(states).chain(processes).collect()
    }

    /// Waits until nothing is there that was not there before.
    #[track_caller]
    pub fn assert_traceless(&self, states: &str, before: &BTreeSet<String>) {
        let more = || -> Vec<String> { self.traces(states).difference(before).cloned().collect() };
        let none = until(Duration::from_secs(10), || more().is_empty().then_some(()));
        assert!(none.is_some(), "left behind: {:#?}", more());
    }
}

/// The image as a plain archive of its files.
pub const LAYER: &str = "/opt/engines/layer.tar";

/// The image as an archive of an OCI layout.
pub const LAYOUT: &str = "/opt/engines/image.tar";

const ENVIRONMENT: [(&str, &str); 3] = [
    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    // It would be in the first line of everything that podman 5 says where cgroups are version 1.
    ("PODMAN_IGNORE_CGROUPSV1_WARNING", "1"),
];

fn descendants(path: &Path) -> Vec<PathBuf> {
    cgroups::children(path).into_iter().flat_map(|child| [vec![child.clone()], descendants(&child)].concat()).collect()
}

fn name(root: &Path) -> String {
    let text = fs::read_to_string(root.join("etc/os-release")).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    found.unwrap_or("an unknown system").trim_matches('"').to_owned()
}

impl Drop for System {
    fn drop(&mut self) {
        // A frozen process cannot end, and the namespaces' first process waits for all others.
        for path in self.slot.container_cgroups() {
            cgroups::thaw(&path);
        }
        drop(self.holder.stdin.take());
        let ended = command::wait(&mut self.holder, Duration::from_secs(10));
        if let Some(daemon) = &mut self.daemon {
            daemon.kill().ok();
            daemon.wait().ok();
        }
        if let Err(error) = ended
            && !std::thread::panicking()
        {
            panic!("the system {} does not end: {error}", self.name);
        }
    }
}
