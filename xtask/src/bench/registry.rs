//! `cargo xtask bench registry`: what the registry's server costs, beside Debian's `docker-registry`, with skopeo as the client of both.

mod clients;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use gantry_tests::image::{self, Image, Layer};
use gantry_tests::registry::free_port;
use gantry_tests::{command, paths, until};
use serde_json::json;

use super::measure::{Cost, median};
use super::{report, value};
use crate::interrupt::Interrupt;
use crate::{build, setup};

const LARGE: usize = 300 << 20;
const SMALL: usize = 100;
/// Who pull at once, and how much each of the large layer.
const CROWD: usize = 64;
const EACH: usize = 32 << 20;
const LIMIT: Duration = Duration::from_secs(300);
/// Clock ticks of a second in /proc.
const TICKS: f64 = 100.0;

const ROWS: [&str; 5] =
    ["push, 300 MB", "pull, 300 MB", "push, 100 small images", "pull, 100 small images", "64 pulls at once, 2 GiB"];

/// A registry that serves. Its process goes with it.
struct Server {
    name: &'static str,
    child: Child,
    port: u16,
}

/// `--rounds N`; `--release` measures what is shipped.
pub fn registry(options: &[&str]) -> Result<()> {
    let rounds: usize = value(options, "--rounds").map_or(Ok(3), str::parse).context("--rounds takes a number")?;
    let profile = if options.contains(&"--release") { "release" } else { build::PROFILE };
    setup::for_tests()?;
    let interrupt = Interrupt::catch()?;
    let directory = tempfile::Builder::new().prefix("gantry-bench-").tempdir().context("make a directory")?;
    images(directory.path())?;
    let gantry = build::gantry(profile)?;
    let mut results = vec![[const { Vec::<Cost>::new() }; 2]; ROWS.len()];
    let mut peaks = [0_u64; 2];
    for round in 0..rounds {
        println!("round {} of {rounds}", round + 1);
        for which in 0..2 {
            let root = directory.path().join("root");
            let server = if which == 0 { ours(&gantry, &root)? } else { theirs(directory.path(), &root)? };
            for (row, results) in results.iter_mut().enumerate() {
                interrupt.check()?;
                results[which].push(server.measure(row, directory.path()).with_context(|| server.name)?);
            }
            peaks[which] = peaks[which].max(server.peak()?);
            drop(server);
            fs::remove_dir_all(&root).context("remove what was served")?;
        }
    }
    let clients = clients::measure(&gantry, directory.path(), rounds, &interrupt)?;
    let table = table(&results, peaks, rounds, profile) + &clients;
    println!("\n{table}");
    report::write("bench registry", &table)
}

/// Writes the layouts of all images.
fn images(place: &Path) -> Result<()> {
    // Bytes that do not compress, and are the same in every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = |length: usize| {
        let word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        };
        std::iter::repeat_with(word).take(length / 8).flatten().collect::<Vec<u8>>()
    };
    let layer = Layer::default().file("large", 0o644, random(LARGE)).finish()?;
    let write = |name: &str, layer: Vec<u8>| -> Result<()> {
        let layout = place.join(name);
        fs::create_dir(&layout).with_context(|| format!("make {}", layout.display()))?;
        Image::new(json!({}), vec![layer]).write_layout(&layout)
    };
    write("large", layer)?;
    for number in 0..SMALL {
        write(&format!("small-{number}"), Layer::default().file("small", 0o644, random(4096)).finish()?)?;
    }
    Ok(())
}

fn ours(gantry: &Path, root: &Path) -> Result<Server> {
    let port = free_port()?;
    let mut server = Command::new(gantry);
    server.args(["registry", "serve", "--addr", &format!("127.0.0.1:{port}"), "--root"]).arg(root);
    start("Gantry", &mut server, port)
}

fn theirs(place: &Path, root: &Path) -> Result<Server> {
    let port = free_port()?;
    let configuration = place.join("config.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: 127.0.0.1:{port}}}\n",
        root.display()
    );
    fs::create_dir_all(root).context("make the peer's directory")?;
    fs::write(&configuration, text).context("write the peer's configuration")?;
    start("docker-registry", Command::new(paths::need("docker-registry")?).arg("serve").arg(configuration), port)
}

fn start(name: &'static str, command: &mut Command, port: u16) -> Result<Server> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let server = Server { name, child: child.with_context(|| format!("start {name}"))?, port };
    let answers = || listens(server.child.id(), port).then_some(());
    until(Duration::from_secs(10), answers).with_context(|| format!("{name} does not answer"))?;
    Ok(server)
}

/// Whether somebody listens there, in the network namespace of that process.
pub fn listens(process: u32, port: u16) -> bool {
    let sockets = fs::read_to_string(format!("/proc/{process}/net/tcp")).unwrap_or_default();
    let own = format!("0100007F:{port:04X}");
    sockets.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        words.get(1) == Some(&own.as_str()) && words.get(3) == Some(&"0A")
    })
}

impl Server {
    /// User and system time of the server's process.
    fn cpu(&self) -> Result<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).context("read the server's times")?;
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
        Ok(Duration::from_secs_f64((ticks(11) + ticks(12)) / TICKS))
    }

    /// The most memory that it had, in bytes.
    fn peak(&self) -> Result<u64> {
        let text =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).context("read the server's memory")?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kibibytes: u64 = line.split_whitespace().next().unwrap_or("0").parse().context("VmHWM is no number")?;
        Ok(kibibytes * 1024)
    }

    fn measure(&self, row: usize, place: &Path) -> Result<Cost> {
        let (before, began) = (self.cpu()?, Instant::now());
        let small =
            |copy: &dyn Fn(&str) -> Result<()>| (0..SMALL).try_for_each(|number| copy(&format!("small-{number}")));
        match row {
            0 => self.push(place, "large")?,
            1 => self.pull(place, "large")?,
            2 => small(&|name| self.push(place, name))?,
            3 => small(&|name| self.pull(place, name))?,
            _ => self.crowd()?,
        }
        Ok(Cost { wall: began.elapsed(), cpu: self.cpu()?.saturating_sub(before) })
    }

    fn push(&self, place: &Path, name: &str) -> Result<()> {
        let from = format!("oci:{}:latest", place.join(name).display());
        skopeo(&["--dest-tls-verify=false", &from, &format!("docker://127.0.0.1:{}/bench/{name}:1", self.port)])
    }

    fn pull(&self, place: &Path, name: &str) -> Result<()> {
        let to = place.join("pulled");
        let from = format!("docker://127.0.0.1:{}/bench/{name}:1", self.port);
        skopeo(&["--src-tls-verify=false", &from, &format!("dir:{}", to.display())])?;
        fs::remove_dir_all(&to).context("remove what was pulled")
    }

    /// The whole answer to a request.
    fn get(&self, path: &str, header: &str) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).context("connect")?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{header}\r\n\r\n").context("ask")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).context("read")?;
        Ok(answer)
    }

    /// The large layer as skopeo has pushed it, which is compressed.
    fn large(&self) -> Result<String> {
        let answer = self.get("/v2/bench/large/manifests/1", "Accept: application/vnd.oci.image.manifest.v1+json")?;
        let begin = answer.iter().position(|byte| *byte == b'{').context("the manifest is not there")?;
        let manifest: serde_json::Value = serde_json::from_slice(&answer[begin..]).context("read the manifest")?;
        Ok(manifest["layers"][0]["digest"].as_str().context("the manifest has no layer")?.to_owned())
    }

    /// Many at once read a part of the large layer and throw it away.
    fn crowd(&self) -> Result<()> {
        let path = format!("/v2/bench/large/blobs/{}", self.large()?);
        let one = || -> Result<()> {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port)).context("connect")?;
            let range = format!("Range: bytes=0-{}", EACH - 1);
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{range}\r\n\r\n").context("ask")?;
            let (mut buffer, mut got) = (vec![0; 256 << 10], 0);
            loop {
                match stream.read(&mut buffer).context("read")? {
                    0 => break,
                    length => got += length,
                }
            }
            ensure!(got > EACH, "a pull ended after {got} bytes");
            Ok(())
        };
        std::thread::scope(|scope| {
            let pulls: Vec<_> = (0..CROWD).map(|_| scope.spawn(one)).collect();
            pulls.into_iter().try_for_each(|pull| match pull.join() {
                Ok(pulled) => pulled,
                Err(_) => bail!("a pull panicked"),
            })
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn skopeo(words: &[&str]) -> Result<()> {
    let mut skopeo = Command::new(paths::need("skopeo")?);
    skopeo.args(["--insecure-policy", "copy", "--quiet"]).args(words);
    command::succeed(&mut skopeo, LIMIT).map(drop)
}

fn table(results: &[[Vec<Cost>; 2]], peaks: [u64; 2], rounds: usize, profile: &str) -> String {
    let mut lines = vec![
        "|  | Gantry, s | server CPU, s | docker-registry, s | server CPU, s | CPU ÷ Gantry |".to_owned(),
        "| --- | --- | --- | --- | --- | --- |".to_owned(),
    ];
    let middle = |costs: &[Cost], part: fn(&Cost) -> Duration| median(costs.iter().map(part).collect()).as_secs_f64();
    for (row, [ours, theirs]) in ROWS.iter().zip(results) {
        let (wall, cpu) = ((|cost| cost.wall) as fn(&Cost) -> Duration, (|cost| cost.cpu) as fn(&Cost) -> Duration);
        let (ours, theirs) = ((middle(ours, wall), middle(ours, cpu)), (middle(theirs, wall), middle(theirs, cpu)));
        let ratio = theirs.1 / ours.1.max(1.0 / TICKS);
        lines.push(format!(
            "| {row} | {:.2} | {:.2} | {:.2} | {:.2} | {ratio:.1} |",
            ours.0, ours.1, theirs.0, theirs.1
        ));
    }
    let mebibytes = peaks.map(|peak| peak as f64 / 1_048_576.0);
    lines.push(format!("| most memory, MiB | {:.1} |  | {:.1} |  |  |", mebibytes[0], mebibytes[1]));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    lines.push(format!(
        "\nMedians of {rounds} interleaved rounds, build: {profile}. Client: skopeo; {CROWD} plain sockets for the pulls at once. {} architecture, Linux {}, {cores} cores, load {} at the end.\n",
        image::architecture(),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default()
    ));
    lines.join("\n")
}
