//! `cargo xtask bench network`: what a container's network carries and what it costs to set up, beside Docker, podman and two
//! namespaces that are joined by a bridge and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use gantry_tests::{Daemon, Options, command, image, paths};

use super::measure::{Account, cost, median};
use super::{report, value};
use crate::interrupt::Interrupt;
use crate::namespaces::Namespaces;
use crate::peers::Peer;
use crate::{build, setup};

/// Where the server listens, in its container and on the host.
const PORT: &str = "7000";
const PUBLISHED: &str = "17000";
/// How long each stream and each series of connections goes on.
const SECONDS: &str = "2";
const LIMIT: Duration = Duration::from_secs(60);
const NETWORK: &str = "bench";

/// What is measured, a row each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Row {
    Stream(Who),
    Connections(Who),
    Names,
    SetUp,
}

/// Who speaks to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Container,
    Host,
    /// The host, by the port that is published on its loopback address.
    Published,
}

const ROWS: [Row; 8] = [
    Row::Stream(Who::Container),
    Row::Stream(Who::Host),
    Row::Stream(Who::Published),
    Row::Connections(Who::Container),
    Row::Connections(Who::Host),
    Row::Connections(Who::Published),
    Row::Names,
    Row::SetUp,
];

impl Row {
    fn title(self) -> String {
        let from = |from| match from {
            Who::Container => "container → container",
            Who::Host => "host → container",
            Who::Published => "host → port on loopback",
        };
        match self {
            Self::Stream(who) => format!("{}, Gbit/s", from(who)),
            Self::Connections(who) => format!("{}, connections per second", from(who)),
            Self::Names => "names, answers per second".to_owned(),
            Self::SetUp => "a place on the network, ms of CPU".to_owned(),
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::Stream(_) => format!("{:.1}", value * 8.0 / 1e9),
            Self::Connections(_) | Self::Names => format!("{value:.0}"),
            Self::SetUp => format!("{value:.2}"),
        }
    }
}

/// Makes a command of the engine's client.
type Client = Box<dyn Fn(&[&str]) -> Command>;
/// Makes a command in the namespaces where the engine runs.
type Inside = Box<dyn Fn(&Path) -> Result<Command>>;

/// One engine with its two containers. Dropping the client stops the daemon, so it comes before the account, which kills.
struct Stack {
    name: String,
    version: String,
    client: Client,
    inside: Inside,
    account: Account,
    flags: Vec<String>,
}

/// `--rounds N`; `--release` measures what is shipped.
pub fn network(options: &[&str]) -> Result<()> {
    let rounds: usize = value(options, "--rounds").map_or(Ok(5), str::parse).context("--rounds takes a number")?;
    let profile = if options.contains(&"--release") { "release" } else { build::PROFILE };
    setup::for_tests()?;
    setup::install_peer("ip", "iproute2", "the namespaces without an engine")?;
    let interrupt = Interrupt::catch()?;
    let directory = tempfile::Builder::new().prefix("gantry-bench-").tempdir().context("make a directory")?;
    let traffic = traffic(directory.path())?;
    let root = directory.path().join("root.tar");
    let layer = image::Layer::default().directory("bin", 0o755).directory("etc", 0o755);
    let program = fs::read(&traffic).with_context(|| format!("read {}", traffic.display()))?;
    fs::write(&root, layer.file("bin/traffic", 0o755, program).finish()?).context("write the root file system")?;
    let mut stacks = vec![gantry(build::gantry(profile)?)?];
    stacks.extend(peers(directory.path())?);
    for stack in &stacks {
        stack.prepare(&root).with_context(|| stack.name.clone())?;
    }
    let mut results = vec![vec![Vec::new(); stacks.len() + 1]; ROWS.len()];
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for (row, results) in ROWS.into_iter().zip(&mut results) {
            interrupt.check()?;
            for (stack, results) in stacks.iter().zip(results.iter_mut()) {
                match stack.measure(row, &traffic) {
                    Ok(value) => results.push(value),
                    Err(error) => println!("{}: {}: {error:#}", stack.name, row.title()),
                }
            }
            if let Some(value) = direct(row, &traffic)? {
                results[stacks.len()].push(value);
            }
        }
    }
    let table = table(&stacks, &results, rounds, profile);
    println!("\n{table}");
    report::write("bench network", &table)
}

/// Builds the program that speaks and listens.
fn traffic(place: &Path) -> Result<PathBuf> {
    let program = place.join("traffic");
    let mut compiler = Command::new(paths::need("cc")?);
    compiler.args(["-O2", "-Wall", "-Wextra", "-static", "-o"]).arg(&program);
    command::succeed(compiler.arg(build::root().join("xtask/src/bench/network/traffic.c")), LIMIT)?;
    Ok(program)
}

fn gantry(binary: PathBuf) -> Result<Stack> {
    let account = Account::new("bench-gantry", &[])?;
    let namespaces = Namespaces::make()?;
    account.enter()?;
    let (before, own) = (namespaces.enter()?, Some(binary.clone()));
    let daemon = Daemon::with(Options { bridge: Some("gbench"), before, binary: own, ..Options::default() });
    account.leave()?;
    let daemon = daemon?;
    let version = command::succeed(Command::new(&binary).arg("--version"), LIMIT)?.stdout.trim().to_owned();
    let others: Vec<PathBuf> = daemon.slot().cgroup_parent().into_iter().collect();
    Ok(Stack {
        name: "Gantry".to_owned(),
        version,
        client: Box::new(move |arguments| {
            let mut command = daemon.client(&binary);
            command.args(arguments);
            command
        }),
        inside: Box::new(move |program| namespaces.command(program)),
        account: account.with(&others),
        flags: Vec::new(),
    })
}

fn peers(place: &Path) -> Result<Vec<Stack>> {
    let mut stacks = Vec::new();
    for (name, peer) in [("docker", Peer::docker as fn(&Path) -> Result<Peer>), ("podman", Peer::podman)] {
        let account = Account::new(&format!("bench-{name}"), &[format!("bench-{name}-c").into()])?;
        account.enter()?;
        let made = peer(place);
        account.leave()?;
        match made {
            Ok(peer) => stacks.push(stack(peer, account)),
            Err(error) => println!("SKIPPED {name}: {error:#}"),
        }
    }
    Ok(stacks)
}

fn stack(peer: Peer, account: Account) -> Stack {
    let parent = format!("/{}", peer.cgroup.display());
    let podman = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--cgroup-parent", &parent];
    let flags = if peer.socket.is_none() { podman.map(str::to_owned).to_vec() } else { Vec::new() };
    let peer = std::rc::Rc::new(peer);
    let namespaces = peer.clone();
    Stack {
        name: peer.name.clone(),
        version: peer.version.clone(),
        client: Box::new(move |arguments| peer.command(arguments)),
        inside: Box::new(move |program| namespaces.inside(program)),
        account,
        flags,
    }
}

impl Stack {
    /// The image, a network, the server that is published and the one who speaks to it.
    fn prepare(&self, root: &Path) -> Result<()> {
        self.client(&["import", &root.display().to_string(), "traffic:latest"])?;
        self.client(&["network", "create", NETWORK])?;
        let published = format!("127.0.0.1:{PUBLISHED}:{PORT}");
        let serve = |name, more: &[&str]| {
            let words =
                [&["-d", "--name", name, "--network", NETWORK], more, &["traffic", "/bin/traffic", "serve", PORT]];
            self.client(&self.with_flags(&words.concat())).map(drop)
        };
        serve("server", &["-p", &published])?;
        serve("speaker", &[])
    }

    /// The server's, which may have another one after a restart.
    fn address(&self) -> Result<String> {
        let format = format!("{{{{.NetworkSettings.Networks.{NETWORK}.IPAddress}}}}");
        Ok(self.client(&["inspect", "--format", &format, "server"])?.trim().to_owned())
    }

    /// A proxy of Docker 20.10 ends with the daemon's thread that happened to start it, and nobody starts it again: then
    /// its port is refused from there on, which would measure nothing.
    fn restore_published(&self, traffic: &Path) -> Result<()> {
        let answers = || -> Result<()> {
            let once = &mut (self.inside)(traffic)?;
            command::succeed(once.args(["connect", "127.0.0.1", PUBLISHED, "0.01"]), LIMIT).map(drop)
        };
        let Err(error) = answers() else { return Ok(()) };
        let mut sockets = (self.inside)(&paths::need("ss")?)?;
        let listening =
            command::succeed(sockets.args(["-Hltnp", "sport", "=", &format!(":{PUBLISHED}")]), LIMIT)?.stdout;
        let listening = if listening.trim().is_empty() { "nobody" } else { listening.trim() };
        println!("{}: port {PUBLISHED}: {error:#}; who listens: {listening}; its server is started again", self.name);
        self.client(&["restart", "-t", "0", "server"])?;
        answers().context("the published port of a server that was started again")
    }

    fn measure(&self, row: Row, traffic: &Path) -> Result<f64> {
        match row {
            Row::Stream(from) => self.speak("send", from, traffic),
            Row::Connections(from) => self.speak("connect", from, traffic),
            Row::Names => number(&self.client(&["exec", "speaker", "/bin/traffic", "ask", "server", SECONDS])?),
            Row::SetUp => {
                let cpu = |network: &str| self.starts(network);
                let (with, without) = (cpu(NETWORK)?, cpu("none")?);
                Ok((with.as_secs_f64() - without.as_secs_f64()) * 1000.0)
            }
        }
    }

    fn speak(&self, verb: &str, from: Who, traffic: &Path) -> Result<f64> {
        let host = |address: &str, port: &str| -> Result<String> {
            let mut command = (self.inside)(traffic)?;
            Ok(command::succeed(command.args([verb, address, port, SECONDS]), LIMIT)?.stdout)
        };
        number(&match from {
            Who::Container => {
                self.client(&["exec", "speaker", "/bin/traffic", verb, &self.address()?, PORT, SECONDS])?
            }
            Who::Host => host(&self.address()?, PORT)?,
            Who::Published => {
                self.restore_published(traffic)?;
                host("127.0.0.1", PUBLISHED)?
            }
        })
    }

    /// CPU time of a start on that network: of five the middle one.
    fn starts(&self, network: &str) -> Result<Duration> {
        self.account.enter()?;
        // The program says how it is used, and ends.
        let start = || {
            let run = self.with_flags(&["--rm", "--network", network, "traffic", "/bin/traffic"]);
            command::run(&mut (self.client)(&run), None, LIMIT).map(drop)
        };
        let costs: Result<Vec<_>> = (0..5).map(|_| Ok(cost(&self.account, start)?.cpu)).collect();
        self.account.leave()?;
        Ok(median(costs?))
    }

    fn with_flags<'a>(&'a self, rest: &[&'a str]) -> Vec<&'a str> {
        let mut all = vec!["run"];
        all.extend(self.flags.iter().map(String::as_str));
        all.extend(rest);
        all
    }

    fn client(&self, arguments: &[&str]) -> Result<String> {
        Ok(command::succeed(&mut (self.client)(arguments), LIMIT)?.stdout)
    }
}

impl Drop for Stack {
    /// podman keeps its networks where all of them are, whatever its root.
    fn drop(&mut self) {
        for words in [["rm", "-f", "server"], ["rm", "-f", "speaker"], ["network", "rm", NETWORK]] {
            if let Err(error) = self.client(&words) {
                println!("clean up behind {}: {error:#}", self.name);
            }
        }
    }
}

/// Two namespaces on a bridge of a third one, by ip(8); what is made goes with the namespaces.
const DIRECT: &str = r#"
set -e
mount -t tmpfs none /run && mkdir /run/netns
ip link add br0 type bridge && ip link set br0 up && ip address add 10.0.0.1/24 dev br0
for n in 2 3; do
    ip netns add n$n
    ip link add v$n type veth peer name eth0 netns n$n
    ip link set v$n master br0 up
    ip -n n$n address add 10.0.0.$n/24 dev eth0 && ip -n n$n link set eth0 up
done
ip netns exec n2 "$1" serve 7000 &
server=$!
trap 'kill $server' EXIT
until [ "$(ip netns exec n2 cat /proc/net/tcp | grep -c ':1B58 00000000:0000 0A')" = 1 ]; do :; done
case $2 in
host) "$1" "$3" 10.0.0.2 7000 "$4" ;;
container) ip netns exec n3 "$1" "$3" 10.0.0.2 7000 "$4" ;;
esac
"#;

/// The same without an engine, where there is such a thing.
fn direct(row: Row, traffic: &Path) -> Result<Option<f64>> {
    let (verb, from) = match row {
        Row::Stream(from) => ("send", from),
        Row::Connections(from) => ("connect", from),
        Row::Names | Row::SetUp => return Ok(None),
    };
    let from = match from {
        Who::Container => "container",
        Who::Host => "host",
        Who::Published => return Ok(None),
    };
    let mut command = Command::new(paths::need("unshare")?);
    command.args(["--net", "--mount", "--propagation", "private", "sh", "-c", DIRECT, "sh"]);
    number(&command::succeed(command.arg(traffic).args([from, verb, SECONDS]), LIMIT)?.stdout).map(Some)
}

fn number(said: &str) -> Result<f64> {
    said.trim().parse().with_context(|| format!("{said:?} is no number"))
}

fn table(stacks: &[Stack], results: &[Vec<Vec<f64>>], rounds: usize, build: &str) -> String {
    let mut head: Vec<&str> = vec![""];
    head.extend(stacks.iter().map(|stack| stack.name.as_str()));
    head.push("bridge alone");
    let mut lines = vec![head.join(" | "), vec!["---"; head.len()].join(" | ")];
    for (row, values) in ROWS.into_iter().zip(results) {
        let middle = |values: &Vec<f64>| {
            let mut values = values.clone();
            values.sort_unstable_by(f64::total_cmp);
            values.get(values.len() / 2).map_or("–".to_owned(), |value| row.show(*value))
        };
        lines.push(std::iter::once(row.title()).chain(values.iter().map(middle)).collect::<Vec<_>>().join(" | "));
    }
    let rows: String = lines.into_iter().map(|line| format!("| {line} |\n")).collect();
    let versions: Vec<&str> = stacks.iter().map(|stack| stack.version.as_str()).collect();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{rows}\nMedians of {rounds} interleaved rounds, build: {build}. {}; Linux {}, {cores} cores.\n",
        versions.join("; "),
        kernel.trim()
    )
}
