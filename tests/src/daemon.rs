//! A daemon of one's own: everything that it makes is in one [`Slot`], and gone when the value is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cgroups::Tracker;
use crate::http::{self, Response};
use crate::slot::Slot;
use crate::{command, paths, until};

/// What differs from the usual daemon.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further flags of `gantry daemon`.
    pub flags: Vec<String>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// The first part of the bridge's name, where a person shall recognise it: `gt`, `gdemo` or `gbench`.
    pub bridge: Option<&'static str>,
    /// What runs, where that shall not be whatever was built last.
    pub binary: Option<PathBuf>,
    /// A command that becomes the daemon: it is given the daemon's command line.
    pub before: Vec<String>,
    /// What the daemon, and what it starts, sees as `/etc/resolv.conf`.
    pub resolv_conf: Option<PathBuf>,
}

/// A running daemon.
#[derive(Debug)]
pub struct Daemon {
    child: Option<Child>,
    options: Options,
    tracker: Tracker,
    slot: Slot,
}

impl Daemon {
    /// Starts one and waits until it answers.
    pub fn start() -> Result<Self> {
        Self::with(Options::default())
    }

    /// As [`Daemon::start`], with options.
    pub fn with(options: Options) -> Result<Self> {
        let slot = Slot::acquire(options.bridge)?;
        let tracker = Tracker::new(&slot.tracker());
        let mut daemon = Self { child: None, options, tracker, slot };
        fs::create_dir_all(daemon.home()).context("make the clients' home directory")?;
        if reference().is_none() {
            daemon.launch()?;
        }
        Ok(daemon)
    }

    /// Starts the daemon again in the same place; the time until it answered its first `_ping`.
    pub fn launch(&mut self) -> Result<Duration> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).context("open the log")?;
        let started = Instant::now();
        let child = self.command()?.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.child = Some(child.context("start the daemon")?);
        let end = started + Duration::from_secs(20);
        loop {
            if self.socket().exists() && self.get("/_ping").is_ok_and(|answer| answer.status == 200) {
                let took = started.elapsed();
                // Supervisors are warmed off the path, so their cgroups may come a moment later.
                until(Duration::from_secs(3), || self.slot.find_cgroups(&self.tracker.pids()).ok());
                return Ok(took);
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > end {
                bail!("the daemon does not answer ({ended:?}); its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn command(&self) -> Result<Command> {
        let binary = self.options.binary.clone().map_or_else(paths::gantry, Ok)?;
        let mut command = match self.tracker.procs() {
            Some(procs) => {
                // Into the tracking cgroup before it can have children.
                let mut shell = Command::new("/bin/sh");
                shell.args(["-c", r#"echo 0 > "$1"; shift; exec "$@""#, "track"]).arg(procs);
                if let Some(file) = &self.options.resolv_conf {
                    let mount = r#"mount --bind "$1" /etc/resolv.conf; shift; exec "$@""#;
                    shell.args(["unshare", "--mount", "/bin/sh", "-c", mount, "mount"]).arg(file);
                }
                shell.args(&self.options.before).arg(&binary);
                shell
            }
            None => match self.options.before.split_first() {
                Some((program, arguments)) => {
                    let mut before = Command::new(program);
                    before.args(arguments).arg(&binary);
                    before
                }
                None => Command::new(&binary),
            },
        };
        let root = self.slot.root();
        command.arg("daemon").arg("--data-root").arg(root.join("data")).arg("--exec-root").arg(root.join("run"));
        command.arg("-H").arg(self.host()).arg("--pidfile").arg(root.join("pid"));
        command.arg("--bridge").arg(self.bridge()).args(["--bip", &self.slot.bip(), "--ip-forward=false"]);
        command.args(&self.options.flags).envs(self.options.environment.iter().map(|(k, v)| (k, v)));
        // Ctrl-C is for the harness, which stops the daemon itself.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        Ok(command)
    }

    /// Kills the daemon, not its containers, as `kill -9` does.
    pub fn kill9(&mut self) -> Result<()> {
        let mut child = self.child.take().context("no daemon runs")?;
        child.kill().context("kill the daemon")?;
        child.wait().context("reap the daemon")?;
        Ok(())
    }

    /// Stops the daemon, not its containers, with SIGTERM.
    pub fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().context("no daemon runs")?;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).context("stop the daemon")?;
        command::wait(&mut child, Duration::from_secs(15)).context("the daemon was asked to stop")?;
        Ok(())
    }

    /// Stops the daemon whatever state it is in, for a start with other options.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.options.environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    }

    /// Further flags of the next start.
    pub fn set_flags(&mut self, flags: &[&str]) {
        self.options.flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    }

    /// Has the daemon read its certificates, policies and settings again.
    pub fn hangup(&self) -> Result<()> {
        let child = self.child.as_ref().context("no daemon runs")?;
        rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::HUP)
            .context("send SIGHUP to the daemon")
    }

    /// The daemon's pid.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Pids of the daemon and everything that it started, without the containers' own processes.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.tracker.pids()
    }

    /// The place that holds everything.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// The bridge's name.
    #[must_use]
    pub fn bridge(&self) -> String {
        self.slot.bridge()
    }

    /// The API's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        reference().unwrap_or_else(|| self.slot.root().join("sock"))
    }

    /// For `DOCKER_HOST`.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The data root.
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        if reference().is_some() {
            let root =
                self.get("/info").ok().and_then(|answer| answer.json()["DockerRootDir"].as_str().map(PathBuf::from));
            return root.unwrap_or_default();
        }
        self.slot.root().join("data")
    }

    /// An empty home directory for the clients.
    #[must_use]
    pub fn home(&self) -> PathBuf {
        self.slot.root().join("home")
    }

    fn log_path(&self) -> PathBuf {
        self.slot.root().join("log")
    }

    /// The last lines that the daemon logged.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// A client's command with its environment pointing here and nowhere else.
    #[must_use]
    pub fn client(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("DOCKER_HOST", self.host()).env("HOME", self.home()).env("DOCKER_CONFIG", self.home());
        command.env_remove("DOCKER_CONTEXT").env_remove("DOCKER_TLS_VERIFY").env_remove("DOCKER_API_VERSION");
        command
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Result<Response> {
        http::unix(&self.socket(), "GET", path, None)
    }

    /// `POST` with a JSON body, or none.
    pub fn post(&self, path: &str, body: Option<&Value>) -> Result<Response> {
        let body = body.map(Value::to_string);
        http::unix(&self.socket(), "POST", path, body.as_deref().map(str::as_bytes))
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> Result<Response> {
        http::unix(&self.socket(), "DELETE", path, None)
    }

    /// Pulls an image and names it `tag` as well.
    pub fn pull(&self, image: &str, tag: &str) -> Result<()> {
        let (name, version) = match image.rsplit_once(':') {
            Some((name, version)) if !version.contains('/') => (name, version),
            _ => (image, "latest"),
        };
        let pulled = self.post(&format!("/images/create?fromImage={name}&tag={version}"), None)?;
        if pulled.status != 200 || pulled.text().contains("\"errorDetail\"") {
            bail!("pull {image}: {} {}; the daemon's log:\n{}", pulled.status, pulled.text(), self.log());
        }
        let tagged = self.post(&format!("/images/{name}:{version}/tag?repo={tag}"), None)?;
        if tagged.status != 201 {
            bail!("tag {image}: {} {}", tagged.status, tagged.text());
        }
        Ok(())
    }

    /// Removes every container by the API.
    pub fn remove_containers(&self) -> Result<()> {
        let list = self.get("/containers/json?all=1")?;
        for container in list.json().as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            let removed = self.delete(&format!("/containers/{id}?force=1&v=1"))?;
            if removed.status != 204 && removed.status != 404 {
                bail!("remove {id}: {} {}", removed.status, removed.text());
            }
        }
        Ok(())
    }
}

impl Daemon {
    /// Removes every user-defined network by the API.
    pub fn remove_networks(&self) -> Result<()> {
        let pruned = self.post("/networks/prune", None)?;
        if pruned.status != 200 {
            bail!("remove networks: {} {}", pruned.status, pruned.text());
        }
        Ok(())
    }
}

/// The socket of another engine that is tested instead: so the tests themselves are judged by Docker.
pub(crate) fn reference() -> Option<PathBuf> {
    std::env::var_os("GANTRY_TEST_AGAINST").map(PathBuf::from)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // What fails here is put right by force: the tracker kills, the slot removes.
        if self.child.is_some() {
            self.remove_containers().ok();
            self.remove_networks().ok();
            if self.stop().is_err() {
                self.kill9().ok();
            }
        }
        if std::thread::panicking() || std::env::var_os("GANTRY_TEST_LOG").is_some() {
            use std::io::Write;
            writeln!(std::io::stderr(), "--- the daemon's log:\n{}\n---", self.log()).ok();
        }
    }
}
