//! A driver of its own, a busybox root, and containers in it: what the tests of the drivers share. Each test binary says
//! which driver it is for: the constant `DRIVER` at its root.
#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::print_stderr,
    reason = "tests use the standard library plainly"
)]

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use gantry_execdriver::lxc::{Lxc, Tools};
use gantry_execdriver::native::{Native, NativeOptions};
use gantry_execdriver::{Attach, Error, Exec, ExecDriver, Exit, LogFile, Running, Start, Users};
use gantry_linux::mount::{IdMap, OverlayUpper, RootMount};
use libcontainer::config::{
    Capabilities, Config, Device, Mount, MountFlags, MountKind, Namespace, Namespaces, Process, Propagation, Resources,
};

/// The test binary is its own template: asked before `main`, as the product's `main` asks first of all.
#[used]
#[unsafe(link_section = ".init_array")]
static BECOME_TEMPLATE: extern "C" fn() = become_template;

extern "C" fn become_template() {
    if gantry_execdriver::native::is_template() {
        let _ = gantry_execdriver::native::template_main(&[]);
        std::process::exit(0);
    }
}

/// User and group 0 of [`Rig::mapped`] outside.
pub const MAPPED: u32 = 500_000;

/// One driver with its directories; everything is gone when it is dropped.
pub struct Rig {
    pub driver: Option<Box<dyn ExecDriver>>,
    pub dir: tempfile::TempDir,
    pub root: PathBuf,
    pub cgroup: String,
    next: std::cell::Cell<u32>,
}

impl Rig {
    /// `None` where this machine does not have what the driver needs; that is said.
    pub fn new() -> Option<Self> {
        if crate::DRIVER == "lxc"
            && let Err(error) = Tools::find()
        {
            skip(&error);
            return None;
        }
        let dir = tempfile::Builder::new().prefix("gantry-exec-").tempdir().unwrap();
        let root = dir.path().join("lower");
        make_root(&root);
        let cgroup = format!("/gantry/test-{}", dir.path().file_name().unwrap().to_str().unwrap());
        let mut rig = Self { driver: None, dir, root, cgroup, next: 0.into() };
        rig.driver = Some(rig.new_driver());
        Some(rig)
    }

    pub fn new_driver(&self) -> Box<dyn ExecDriver> {
        self.driver_of(crate::DRIVER)
    }

    pub fn driver_of(&self, kind: &str) -> Box<dyn ExecDriver> {
        let options = self.options();
        match kind {
            "lxc" => Box::new(Lxc::new(options).unwrap()),
            _ => Box::new(Native::new(options).unwrap()),
        }
    }

    pub fn options(&self) -> NativeOptions {
        NativeOptions {
            exec_root: self.dir.path().join("run"),
            cgroup_parent: self.cgroup.clone(),
            warm: 2,
            executable: "/proc/self/exe".into(),
        }
    }

    pub fn driver(&self) -> &dyn ExecDriver {
        self.driver.as_deref().unwrap()
    }

    /// A container that runs a shell script.
    pub fn config(&self, script: &str) -> Config {
        let number = self.next.get();
        self.next.set(number + 1);
        let id = format!("c{number}");
        let layer = self.dir.path().join("layers").join(&id);
        for name in ["up", "work"] {
            std::fs::create_dir_all(layer.join(name)).unwrap();
        }
        Config {
            id,
            hostname: "box".into(),
            domainname: String::new(),
            root: RootMount::Overlay {
                lower: vec![self.root.clone()],
                upper: Some(OverlayUpper { upper: layer.join("up"), work: layer.join("work") }),
                options: vec![],
            },
            readonly_root: false,
            namespaces: Namespaces::default(),
            mounts: standard_mounts(),
            devices: standard_devices(),
            masked_paths: ["/proc/kcore", "/proc/timer_list", "/sys/firmware", "/proc/acpi"].map(Into::into).into(),
            readonly_paths: ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
                .map(Into::into)
                .into(),
            sysctls: vec![],
            resources: Resources::default(),
            process: process(&["sh", "-c", script]),
            ..Config::default()
        }
    }

    /// One whose users 0 to 65535 are others outside.
    pub fn mapped(&self, script: &str) -> Config {
        let mut config = self.config(script);
        if let RootMount::Overlay { upper: Some(upper), .. } = &config.root {
            std::os::unix::fs::chown(&upper.upper, Some(MAPPED), Some(MAPPED)).unwrap();
        }
        let range = (0, MAPPED, 65536);
        let map = IdMap { uids: vec![range], gids: vec![range] };
        config.root = RootMount::Mapped { root: Box::new(config.root), map };
        config.namespaces.user = Namespace::New;
        config
    }

    pub fn log_path(&self, config: &Config) -> PathBuf {
        self.dir.path().join(format!("{}-json.log", config.id))
    }

    pub fn start_with(&self, config: Config, change: impl FnOnce(&mut Start)) -> Result<Arc<dyn Running>, Error> {
        let log = LogFile { path: self.log_path(&config), max_size: None, max_files: 1 };
        let mut start = Start { config, log: Some(log), open_stdin: false, stdin_once: false, attached: vec![] };
        change(&mut start);
        let mut sandbox = self.driver().prepare()?;
        if let RootMount::Mapped { map, .. } = &start.config.root {
            let of = match &start.config.namespaces.user {
                Namespace::Path(path) => Some(path.clone()),
                _ => None,
            };
            sandbox.map_users(&Users { map: map.clone(), of })?;
        }
        sandbox.start(start)
    }

    pub fn start(&self, config: &Config) -> Arc<dyn Running> {
        self.start_with(config.clone(), |_| ()).unwrap()
    }

    /// Runs to the end; exit and output.
    pub fn run(&self, config: &Config) -> (Exit, String) {
        let exit = self.start(config).wait().unwrap();
        (exit, self.output(config))
    }

    pub fn script(&self, script: &str) -> (i32, String) {
        let (exit, output) = self.run(&self.config(script));
        (exit.code, output)
    }

    pub fn output(&self, config: &Config) -> String {
        read_log(&self.log_path(config)).into_iter().map(|(_, text)| text).collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.driver.is_none() {
            self.driver = Some(self.new_driver());
        }
        let driver = self.driver.as_deref().unwrap();
        for id in driver.list().unwrap() {
            if let Err(error) = driver.forget(&id) {
                eprintln!("forget {id}: {error}");
            }
        }
        let hierarchies = libcontainer::cgroups::Hierarchies::discover().unwrap();
        let parent = libcontainer::cgroups::Leaf::open(&hierarchies, &self.cgroup).unwrap();
        self.driver = None;
        if let Err(errors) = parent.remove(std::time::Instant::now() + Duration::from_secs(10)) {
            eprintln!("remove cgroups: {errors:?}");
        }
    }
}

fn skip(why: &Error) {
    use std::io::Write;
    let line = format!("SKIPPED: the suite of the execdriver {}: {why}", crate::DRIVER);
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("GANTRY_SKIPS") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }
}

pub fn make_root(root: &Path) {
    for name in ["bin", "etc", "tmp", "home/web"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for applet in
        std::str::from_utf8(&std::process::Command::new("/bin/busybox").arg("--list").output().unwrap().stdout)
            .unwrap()
            .lines()
    {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n")
        .unwrap();
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\nmail:x:8:web\n").unwrap();
}

pub fn process(args: &[&str]) -> Process {
    let default_capabilities = [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "NET_RAW",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ];
    Process {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
        cwd: "/".into(),
        capabilities: Capabilities::plain(default_capabilities).unwrap(),
        ..Process::default()
    }
}

fn fs(destination: &str, fstype: &str, options: &[(&str, &str)], flags: MountFlags) -> Mount {
    let options =
        options.iter().map(|(name, value)| ((*name).to_owned(), (!value.is_empty()).then(|| (*value).to_owned())));
    let kind = MountKind::Filesystem { fstype: fstype.into(), options: options.collect() };
    Mount { destination: destination.into(), kind, flags, ..Mount::default() }
}

pub fn bind(source: &Path, destination: &str, read_only: bool) -> Mount {
    let kind = MountKind::Bind { source: source.into(), recursive: true, propagation: Propagation::RPrivate };
    let flags = MountFlags { read_only, ..MountFlags::default() };
    Mount { destination: destination.into(), kind, flags, recursive: flags, ..Mount::default() }
}

pub fn standard_mounts() -> Vec<Mount> {
    let none = MountFlags { nosuid: true, nodev: true, noexec: true, ..MountFlags::default() };
    let read_only = MountFlags { read_only: true, ..none };
    vec![
        fs("/proc", "proc", &[], none),
        fs(
            "/dev",
            "tmpfs",
            &[("mode", "755"), ("size", "65536k")],
            MountFlags { nosuid: true, strictatime: true, ..MountFlags::default() },
        ),
        fs(
            "/dev/pts",
            "devpts",
            &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
            MountFlags { nodev: false, ..none },
        ),
        fs("/sys", "sysfs", &[], read_only),
        Mount { destination: "/sys/fs/cgroup".into(), kind: MountKind::Cgroup, flags: read_only, ..Mount::default() },
        fs("/dev/mqueue", "mqueue", &[], none),
        fs("/dev/shm", "tmpfs", &[("mode", "1777"), ("size", "65536k")], none),
    ]
}

pub fn standard_devices() -> Vec<Device> {
    libcontainer::oci::convert_devices(&[]).expect("the devices that every container has")
}

/// Entries of a json-file log: stream and text.
pub fn read_log(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).unwrap();
            let field = |name: &str| entry[name].as_str().unwrap().to_owned();
            assert!(field("time").ends_with('Z'));
            (field("stream"), field("log"))
        })
        .collect()
}

/// A client's two ends.
pub fn client(stdin: bool) -> (UnixStream, Attach) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let attach = Attach { stream: OwnedFd::from(theirs), early_input: vec![], stdin, stdout: true, stderr: true };
    (ours, attach)
}

/// Everything until the end, frames taken apart: standard output and error.
pub fn read_frames(stream: &mut UnixStream) -> (String, String) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut rest = &all[..];
    while let [kind, 0, 0, 0, a, b, c, d, tail @ ..] = rest {
        let (data, next) = tail.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        if *kind == 1 {
            out.extend_from_slice(data)
        } else {
            err.extend_from_slice(data)
        }
        rest = next;
    }
    assert!(rest.is_empty(), "torn frame {rest:?}");
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Runs an exec to its end: code, standard output, standard error.
pub fn exec(container: &dyn Running, id: &str, process: Process) -> Result<(i32, String, String), Error> {
    let (mut stream, attach) = client(false);
    let exec = container.exec(Exec { id: id.into(), process, open_stdin: false, attached: Some(attach) })?;
    let (out, err) = read_frames(&mut stream);
    let (send, receive) = channel();
    exec.on_exit(Box::new(move |exit| send.send(exit.code).unwrap()));
    Ok((receive.recv_timeout(Duration::from_secs(20)).unwrap(), out, err))
}

/// Waits until a condition holds; for what no event tells.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "{what} did not come true");
        std::thread::sleep(Duration::from_millis(2));
    }
}
