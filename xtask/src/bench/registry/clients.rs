//! Our client beside Docker and podman, of the same server: each pulls the same image from `gantry registry serve` on its own loopback.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use gantry_tests::{Daemon, Options, command};

use super::{LIMIT, Server, ours, skopeo, start};
use crate::bench::images::content::{self, Archives};
use crate::bench::measure::{Account, Cost, cost, median};
use crate::interrupt::Interrupt;
use crate::peers::Peer;

const MEGABYTES: usize = 300;

/// Makes a command of these words.
type Words = Box<dyn Fn(&[&str]) -> Command>;

/// One that pulls. Its daemon goes before the account, which kills.
struct Client {
    name: String,
    version: String,
    command: Words,
    /// Its registry, which belongs to nobody's account.
    server: Server,
    pull: &'static [&'static str],
    account: Account,
}

/// The rows of the table, and who is not there.
pub fn measure(gantry: &Path, place: &Path, rounds: usize, interrupt: &Interrupt) -> Result<String> {
    let image = content::layers(place, MEGABYTES)?;
    let root = place.join("clients");
    {
        let server = ours(gantry, &root)?;
        let from = format!("docker-archive:{}", image.docker.display());
        skopeo(&["--dest-tls-verify=false", &from, &format!("docker://{}", name(&server))])?;
    }
    let copy = |to: &str| -> Result<PathBuf> {
        let to = place.join(format!("clients-{to}"));
        // A directory has one server: the others' are links to the same bytes.
        command::succeed(Command::new("cp").args(["-al"]).arg(&root).arg(&to), LIMIT)?;
        fs::remove_file(to.join("lock")).context("remove the link to a lock")?;
        Ok(to)
    };
    let mut clients = vec![own(gantry, &copy("gantry")?)?];
    let mut lines = Vec::new();
    for (name, peer) in [("docker", Peer::docker as fn(&Path) -> Result<Peer>), ("podman", Peer::podman)] {
        let account = Account::new(&format!("bench-{name}"), &[format!("bench-{name}-c").into()])?;
        account.enter()?;
        let made = peer(place);
        account.leave()?;
        match made {
            Ok(peer) => clients.push(other(gantry, &copy(name)?, peer, account)?),
            Err(error) => lines.push(format!("Without {name}: {error:#}.")),
        }
    }
    let mut costs: Vec<Vec<Cost>> = clients.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds {
        for (client, costs) in clients.iter().zip(&mut costs) {
            interrupt.check()?;
            costs.push(client.round().with_context(|| client.name.clone())?);
        }
    }
    Ok(table(&clients, &costs, &image) + &lines.join("\n"))
}

fn name(server: &Server) -> String {
    format!("127.0.0.1:{}/bench/large:1", server.port)
}

fn own(gantry: &Path, root: &Path) -> Result<Client> {
    let account = Account::new("bench-gantry", &[])?;
    account.enter()?;
    let daemon =
        Daemon::with(Options { bridge: Some("gbench"), binary: Some(gantry.to_owned()), ..Options::default() });
    account.leave()?;
    let daemon = daemon?;
    let version = command::succeed(Command::new(gantry).arg("--version"), LIMIT)?.stdout.trim().to_owned();
    let others: Vec<_> = daemon.slot().cgroup_parent().into_iter().collect();
    let gantry = gantry.to_owned();
    Ok(Client {
        name: "Gantry".to_owned(),
        version,
        server: ours(&gantry, root)?,
        pull: &[],
        account: account.with(&others),
        command: Box::new(move |arguments| {
            let mut command = daemon.client(&gantry);
            command.args(arguments);
            command
        }),
    })
}

fn other(gantry: &Path, root: &Path, peer: Peer, account: Account) -> Result<Client> {
    let port = gantry_tests::registry::free_port()?;
    let mut server = peer.inside(gantry)?;
    server.args(["registry", "serve", "--addr", &format!("127.0.0.1:{port}"), "--root"]).arg(root);
    Ok(Client {
        name: peer.name.clone(),
        version: peer.version.clone(),
        server: start("Gantry", &mut server, port)?,
        pull: if peer.socket.is_some() { &[] } else { &["--tls-verify=false"] },
        account,
        command: Box::new(move |arguments| peer.command(arguments)),
    })
}

impl Client {
    /// One pull; afterwards nothing is left.
    fn round(&self) -> Result<Cost> {
        let image = name(&self.server);
        let pull = [&["pull"], self.pull, &[image.as_str()]].concat();
        self.account.enter()?;
        let pulled = cost(&self.account, || self.run(&pull));
        self.account.leave()?;
        self.run(&["rmi", &image])?;
        pulled
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        command::succeed((self.command)(arguments).stdin(Stdio::null()), LIMIT).map(drop)
    }
}

fn table(clients: &[Client], costs: &[Vec<Cost>], image: &Archives) -> String {
    let middle = |costs: &[Cost]| {
        let of = |part: fn(&Cost) -> std::time::Duration| median(costs.iter().map(part).collect()).as_secs_f64();
        (of(|cost| cost.wall), of(|cost| cost.cpu))
    };
    let ours = middle(&costs[0]);
    let row = |(client, costs): (&Client, &Vec<Cost>)| {
        let (wall, cpu) = middle(costs);
        format!("| {} | {wall:.2} | {cpu:.2} | {:.1} | {:.1} |", client.name, wall / ours.0, cpu / ours.1)
    };
    let rows: Vec<String> = clients.iter().zip(costs).map(row).collect();
    let versions: Vec<&str> = clients.iter().map(|client| client.version.as_str()).collect();
    format!(
        "\n| pull from Gantry's server | wall, s | client's CPU, s | wall ÷ Gantry | CPU ÷ Gantry |\n| --- | --- | --- | --- | --- |\n{}\n\n{}. {}.\n",
        rows.join("\n"),
        image.describe(),
        versions.join("; ")
    )
}
