//! Who is measured, and what each does in a round.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use gantry_tests::{Daemon, Options, command, paths};

use super::content::Archives;
use super::registry::Registry;
use super::{LIMIT, Measured, Operation, file, measure};
use crate::bench::measure::Account;
use crate::peers::Peer;

type Keep<'a> = &'a mut dyn FnMut(Operation, Measured, Option<u64>);
type Client = Box<dyn Fn(&[&str]) -> Command>;

/// One that is measured.
pub enum Stack {
    Engine(Engine),
    /// GNU tar and sha256sum: what unpacking costs at least.
    Tar {
        account: Account,
        version: String,
    },
}

/// An engine with a client of Docker's words. Dropping the client stops the daemon, so it comes before the account, which kills.
pub struct Engine {
    name: String,
    version: String,
    client: Client,
    /// Its daemon's processes; those of a stack without a daemon are none.
    daemons: Box<dyn Fn() -> Vec<i32>>,
    registry: Registry,
    /// Flags that its `pull` needs for a registry without TLS.
    pull: &'static [&'static str],
    account: Account,
}

/// Everybody who is there, and who is not and why.
pub fn all(binary: &Path, place: &Path, store: &Path) -> Result<(Vec<Stack>, Vec<String>)> {
    let (mut stacks, mut skipped) = (vec![gantry(binary, store)?], Vec::new());
    for (name, peer) in [("Docker", Peer::docker as fn(&Path) -> Result<Peer>), ("podman", Peer::podman)] {
        let lower = name.to_lowercase();
        let account = Account::new(&format!("bench-{lower}"), &[format!("bench-{lower}-c").into()])?;
        account.enter()?;
        let made = peer(place);
        account.leave()?;
        match made {
            Ok(peer) => stacks.push(engine(peer, account, store)?),
            Err(error) => {
                println!("SKIPPED {name}: {error:#}");
                skipped.push(format!("{name} ({error:#})"));
            }
        }
    }
    let version = command::succeed(Command::new(paths::need("tar")?).arg("--version"), command::LIMIT)?.stdout;
    let version = version.lines().next().unwrap_or_default().to_owned();
    stacks.push(Stack::Tar { account: Account::new("bench-tar", &[])?, version });
    Ok((stacks, skipped))
}

fn gantry(binary: &Path, store: &Path) -> Result<Stack> {
    let account = Account::new("bench-gantry", &[])?;
    account.enter()?;
    let daemon =
        Daemon::with(Options { bridge: Some("gbench"), binary: Some(binary.to_owned()), ..Options::default() });
    account.leave()?;
    let daemon = daemon?;
    let version = command::succeed(Command::new(binary).arg("--version"), command::LIMIT)?.stdout.trim().to_owned();
    let pid = daemon.pid().and_then(|pid| i32::try_from(pid).ok());
    let others: Vec<PathBuf> = daemon.slot().cgroup_parent().into_iter().collect();
    let binary = binary.to_owned();
    Ok(Stack::Engine(Engine {
        name: "Gantry".to_owned(),
        version,
        daemons: Box::new(move || pid.into_iter().collect()),
        registry: Registry::serve(store, &|program| Ok(Command::new(program)))?,
        pull: &[],
        account: account.with(&others),
        client: Box::new(move |arguments| {
            let mut command = daemon.client(&binary);
            command.args(arguments);
            command
        }),
    }))
}

fn engine(peer: Peer, account: Account, store: &Path) -> Result<Stack> {
    let registry = Registry::serve(store, &|program| peer.inside(program))?;
    let daemons = if peer.socket.is_some() { account.pids() } else { Vec::new() };
    Ok(Stack::Engine(Engine {
        name: peer.name.clone(),
        version: peer.version.clone(),
        daemons: Box::new(move || daemons.clone()),
        registry,
        pull: if peer.socket.is_some() { &[] } else { &["--tls-verify=false"] },
        account,
        client: Box::new(move |arguments| peer.command(arguments)),
    }))
}

impl Stack {
    pub fn name(&self) -> &str {
        match self {
            Self::Engine(engine) => &engine.name,
            Self::Tar { .. } => "tar",
        }
    }

    pub fn version(&self) -> &str {
        match self {
            Self::Engine(engine) => &engine.version,
            Self::Tar { version, .. } => version,
        }
    }

    /// Everything once; afterwards nothing is left.
    pub fn round(&self, image: &Archives, place: &Path, keep: Keep<'_>) -> Result<()> {
        match self {
            Self::Engine(engine) => engine.round(image, place, keep),
            Self::Tar { account, .. } => untar(account, image, place, keep),
        }
    }
}

impl Engine {
    fn round(&self, image: &Archives, place: &Path, keep: Keep<'_>) -> Result<()> {
        let archive = image.docker.display().to_string();
        self.measure(place, Operation::Load, keep, &|| self.run(&["load", "-i", &archive], None))?;
        self.measure(place, Operation::Save, keep, &|| self.run(&["save", &image.name], None))?;
        self.measure(place, Operation::Remove, keep, &|| self.run(&["rmi", &image.name], None))?;
        let name = self.registry.name(image);
        let pull = [&["pull"], self.pull, &[name.as_str()]].concat();
        self.measure(place, Operation::Pull, keep, &|| self.run(&pull, None))?;
        self.run(&["rmi", &name], None)?;
        let flat = image.flat.display().to_string();
        let [imported, bare, committed] =
            ["imported", "bare", "committed"].map(|name| format!("bench.example/{name}:latest"));
        self.measure(place, Operation::Import, keep, &|| self.run(&["import", &flat, &imported], None))?;
        // What the commit finds is the same again, as changes of a container whose image has none of it.
        self.run(&["import", &image.empty.display().to_string(), &bare], None)?;
        self.run(&["create", "--name", "changed", &bare, "/bin/true"], None)?;
        self.run(&["cp", "-", "changed:/"], Some(&image.flat))?;
        self.measure(place, Operation::Commit, keep, &|| self.run(&["commit", "changed", &committed], None))?;
        self.run(&["rm", "-f", "changed"], None)?;
        [&committed, &imported, &bare].into_iter().try_for_each(|name| self.run(&["rmi", name], None))
    }

    fn measure(&self, place: &Path, operation: Operation, keep: Keep<'_>, work: &dyn Fn() -> Result<()>) -> Result<()> {
        let daemons = (self.daemons)();
        for pid in &daemons {
            // Its peak begins anew; a process that is gone has none.
            fs::write(format!("/proc/{pid}/clear_refs"), "5").ok();
        }
        let measured = measure(&self.account, place, work).with_context(|| format!("{operation:?}"))?;
        let peak = (!daemons.is_empty()).then(|| daemons.iter().filter_map(|pid| peak(*pid)).sum());
        keep(operation, measured, peak);
        Ok(())
    }

    fn run(&self, arguments: &[&str], input: Option<&Path>) -> Result<()> {
        let mut command = (self.client)(arguments);
        let input = match input {
            Some(path) => Stdio::from(File::open(path).with_context(|| format!("open {}", path.display()))?),
            None => Stdio::null(),
        };
        quietly(command.stdin(input))
    }
}

/// Runs a command whose output nobody wants but the words of its failure.
fn quietly(command: &mut Command) -> Result<()> {
    let text = command::describe(command);
    let errors = tempfile::tempfile().context("make a file for a command's errors")?;
    command.stdout(Stdio::null()).stderr(errors.try_clone().context("duplicate a descriptor")?);
    let mut child = command.spawn().with_context(|| format!("start {text}"))?;
    let status = command::wait(&mut child, LIMIT)?;
    if !status.success() {
        use std::io::{Read, Seek};
        let (mut errors, mut said) = (errors, String::new());
        errors.rewind().and_then(|()| errors.read_to_string(&mut said)).context("read a command's errors")?;
        anyhow::bail!("`{text}` failed ({status}): {}", said.trim());
    }
    Ok(())
}

/// The largest resident set that a process ever had, or since that was reset.
fn peak(pid: i32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

fn untar(account: &Account, image: &Archives, place: &Path, keep: Keep<'_>) -> Result<()> {
    let to = file(place, "untarred");
    fs::create_dir(&to).context("make a directory")?;
    let script = "sha256sum \"$1\" >\"$2.sum\" && tar -x -f \"$1\" -C \"$2\"";
    let mut shell = Command::new("sh");
    shell.args(["-c", script, "sh"]).arg(&image.flat).arg(&to).stdin(Stdio::null());
    keep(Operation::Load, measure(account, place, || quietly(&mut shell))?, None);
    let removed = measure(account, place, || fs::remove_dir_all(&to).context("remove what was unpacked"))?;
    keep(Operation::Remove, removed, None);
    fs::remove_file(to.with_extension("sum")).context("remove a file")
}
