//! `cargo xtask bench start`: what a start costs, ours and the peers', interleaved.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use gantry_tests::{Daemon, Options, command, http, image};
use serde_json::json;

use super::measure::{Account, Cost, Results, cost, pss};
use super::{report, value};
use crate::interrupt::Interrupt;
use crate::peers::Peer;
use crate::{build, setup};

/// How many containers are started at once, and how many at a time.
const MANY: usize = 100;
const AT_A_TIME: usize = 8;
/// What they run.
const PROGRAM: &str = "sleep";

/// Makes the command that a person would type.
type Client = Box<dyn Fn(&[&str]) -> Command + Sync>;

/// One that is measured. Dropping the client stops the daemon, so it comes before the account, which kills.
pub struct Stack {
    /// For the table's head.
    pub name: String,
    /// For the line below the table.
    pub version: String,
    /// Memory of the daemon without containers; nothing where there is none.
    pub idle: Option<u64>,
    /// Memory that a container costs outside of its own cgroup.
    pub per_container: Option<u64>,
    client: Client,
    account: Account,
    socket: Option<PathBuf>,
    /// Flags that every `run` and `create` of this stack gets.
    flags: Vec<String>,
}

/// Rounds may be given: `--rounds N`; `--release` measures what is shipped.
pub fn start(options: &[&str]) -> Result<()> {
    let rounds = value(options, "--rounds").map_or(Ok(15), str::parse).context("--rounds takes a number")?;
    let many = value(options, "--many").map_or(Ok(MANY), str::parse).context("--many takes a number")?;
    let profile = if options.contains(&"--release") { "release" } else { build::PROFILE };
    let label = if std::env::var_os("GANTRY_BIN").is_some() { "given by GANTRY_BIN" } else { profile };
    setup::for_tests()?;
    let interrupt = Interrupt::catch()?;
    let binary = build::gantry(profile)?;
    let directory = tempfile::Builder::new().prefix("gantry-bench-").tempdir().context("make a directory")?;
    let archive = archive(directory.path())?;
    let mut peers = Vec::new();
    for (name, peer) in [("Docker", Peer::docker as fn(&Path) -> Result<Peer>), ("podman", Peer::podman)] {
        let account = Account::new(
            &format!("bench-{}", name.to_lowercase()),
            &[format!("bench-{}-c", name.to_lowercase()).into()],
        )?;
        account.enter()?;
        let made = peer(directory.path());
        account.leave()?;
        match made {
            Ok(peer) => peers.push((peer, account)),
            Err(error) => println!("SKIPPED {name}: {error:#}"),
        }
    }
    let mut stacks = vec![gantry(binary)?];
    stacks.extend(peers.into_iter().map(|(peer, account)| stack(peer, account)));
    let mut results = Results::default();
    for stack in &mut stacks {
        stack.prepare(&archive)?;
    }
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for (index, stack) in stacks.iter().enumerate() {
            interrupt.check()?;
            stack.round(index, round, &mut results)?;
        }
    }
    for (index, stack) in stacks.iter_mut().enumerate() {
        interrupt.check()?;
        println!("{many} containers: {}", stack.name);
        stack.many(index, many, &mut results)?;
    }
    let table = report::table(&stacks, &results, rounds, label);
    println!("\n{table}");
    report::write("bench start", &table)
}

fn gantry(binary: PathBuf) -> Result<Stack> {
    let account = Account::new("bench-gantry", &[])?;
    account.enter()?;
    let daemon = Daemon::with(Options { bridge: Some("gbench"), binary: Some(binary.clone()), ..Options::default() });
    account.leave()?;
    let daemon = daemon?;
    let version = command::succeed(Command::new(&binary).arg("--version"), command::LIMIT)?;
    Ok(Stack {
        name: "Gantry".to_owned(),
        version: version.stdout.trim().to_owned(),
        idle: None,
        per_container: None,
        account: account.with(&daemon.slot().cgroup_parent().into_iter().collect::<Vec<_>>()),
        socket: Some(daemon.socket()),
        client: Box::new(move |arguments| {
            let mut command = daemon.client(&binary);
            command.args(arguments);
            command
        }),
        flags: Vec::new(),
    })
}

fn stack(peer: Peer, account: Account) -> Stack {
    // podman wants to raise limits, which this user may not be allowed to.
    let flags = if peer.socket.is_none() {
        [
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
            "--cgroup-parent",
            &format!("/{}", peer.cgroup.display()),
        ]
        .map(str::to_owned)
        .to_vec()
    } else {
        Vec::new()
    };
    Stack {
        name: peer.name.clone(),
        version: peer.version.clone(),
        idle: None,
        per_container: None,
        account,
        socket: peer.socket.clone(),
        client: Box::new(move |arguments| peer.command(arguments)),
        flags,
    }
}

/// A small image as `docker load` takes it.
fn archive(directory: &Path) -> Result<PathBuf> {
    let base = image::busybox_layer()?;
    let layout = directory.join("layout");
    image::Image::new(json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}), vec![base]).write_layout(&layout)?;
    let archive = directory.join("image.tar");
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["--insecure-policy", "copy", "--quiet"]).arg(format!("oci:{}:latest", layout.display()));
    skopeo.arg(format!("docker-archive:{}:bench:latest", archive.display()));
    command::succeed(&mut skopeo, command::LIMIT)?;
    Ok(archive)
}

impl Stack {
    /// Loads the image, measures the idle daemon, starts the container that `exec` goes into.
    fn prepare(&mut self, archive: &Path) -> Result<()> {
        if self.name == "Gantry" {
            // `load` is not there yet: a root file system is imported.
            let root = archive.with_file_name("root.tar");
            std::fs::write(&root, image::busybox_layer()?).context("write the root file system")?;
            self.client(&["import", &root.display().to_string(), "bench:latest"])?;
        } else {
            self.client(&["load", "-i", &archive.display().to_string()])?;
            if self.socket.is_none() {
                self.client(&["tag", "localhost/bench:latest", "bench:latest"]).ok();
            }
        }
        if self.socket.is_some() {
            std::thread::sleep(Duration::from_secs(1));
            self.idle = Some(pss(&self.account.pids()));
        }
        self.create("target", &[PROGRAM, "100000"])?;
        self.client(&["start", "target"])?;
        // Caches are warm for everybody before anything is measured.
        self.run("bridge")
    }

    fn round(&self, stack: usize, round: usize, results: &mut Results) -> Result<()> {
        let mut add = |operation: (usize, &str), work: &dyn Fn() -> Result<()>| -> Result<()> {
            results.add(operation, stack, self.measure(work)?);
            Ok(())
        };
        add((0, "`run --rm`, bridge"), &|| self.run("bridge"))?;
        add((1, "`run --rm`, network none"), &|| self.run("none"))?;
        add((2, "`exec`"), &|| self.client(&["exec", "target", "true"]))?;
        let name = format!("r{round}");
        add((3, "`create`"), &|| self.create(&name, &["true"]))?;
        add((4, "`start`"), &|| self.client(&["start", &name]))?;
        self.client(&["rm", "-f", &name])?;
        let Some(socket) = &self.socket else { return Ok(()) };
        let name = format!("a{round}");
        let body = json!({"Image": "bench:latest", "Cmd": [PROGRAM, "1000"]}).to_string();
        let post = |path: String, body: Option<&[u8]>, status: u16| {
            let answer = http::unix(socket, "POST", &path, body)?;
            if answer.status != status {
                bail!("{path}: {} {}", answer.status, answer.text());
            }
            Ok(())
        };
        add((5, "API create"), &|| post(format!("/containers/create?name={name}"), Some(body.as_bytes()), 201))?;
        add((6, "API start"), &|| post(format!("/containers/{name}/start"), None, 204))?;
        self.client(&["rm", "-f", &name])
    }

    fn many(&mut self, stack: usize, many: usize, results: &mut Results) -> Result<()> {
        let before = self.account.pids();
        let names: Vec<String> = (0..many).map(|number| format!("m{number}")).collect();
        let start = || {
            let next = AtomicUsize::new(0);
            let work = || -> Result<()> {
                while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                    self.client(&self.with_flags("run", &["-d", "--name", name, "bench", PROGRAM, "100000"]))?;
                }
                Ok(())
            };
            std::thread::scope(|scope| {
                let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(work)).collect();
                workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|_| bail!("a worker panicked")))
            })
        };
        results.add((7, &format!("{many} × `run -d`, {AT_A_TIME} at a time")), stack, self.measure(&start)?);
        // What the container runs is its own; supervisor, shim or conmon is the engine's.
        let new: Vec<i32> =
            self.account.pids().into_iter().filter(|pid| !before.contains(pid) && name(*pid) != PROGRAM).collect();
        self.per_container = Some(pss(&new) / many as u64);
        // podman would wait for programs that ignore SIGTERM; the others kill at once.
        let mut remove = if self.socket.is_some() { vec!["rm", "-f"] } else { vec!["rm", "-f", "-t", "0"] };
        remove.extend(names.iter().map(String::as_str));
        results.add((8, &format!("`rm -f` of the {many}")), stack, self.measure(&|| self.client(&remove))?);
        self.client(&["rm", "-f", "target"])
    }

    fn measure(&self, work: &dyn Fn() -> Result<()>) -> Result<Cost> {
        self.account.enter()?;
        let cost = cost(&self.account, work);
        self.account.leave()?;
        cost
    }

    fn run(&self, network: &str) -> Result<()> {
        self.client(&self.with_flags("run", &["--rm", "--network", network, "bench", "true"]))
    }

    fn create(&self, name: &str, program: &[&str]) -> Result<()> {
        self.client(&self.with_flags("create", &[&["--name", name, "bench"], program].concat()))
    }

    fn with_flags<'a>(&'a self, verb: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec![verb];
        all.extend(self.flags.iter().map(String::as_str));
        all.extend(rest);
        all
    }

    fn client(&self, arguments: &[&str]) -> Result<()> {
        command::succeed(&mut (self.client)(arguments), Duration::from_secs(120)).map(drop).context(self.name.clone())
    }
}

/// A process's name; empty when it is gone.
fn name(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}
