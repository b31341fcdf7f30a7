//! The cache as containerd's mirror: it says by `?ns=` which registry it means.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use gantry_tests::command::{self, LIMIT};
use gantry_tests::{Output, Registry, eventually, paths};
use rustix::process::{Pid, Signal, kill_process};

use super::Served;

/// A containerd of its own, whose mounts are nobody else's.
struct Containerd {
    child: Child,
    place: tempfile::TempDir,
}

impl Containerd {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let at = place.path().display();
        let config = format!(
            "version = 2\nroot = \"{at}/root\"\nstate = \"{at}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n\
             [grpc]\naddress = \"{at}/sock\"\n"
        );
        fs::write(place.path().join("config.toml"), config).expect("write the configuration");
        let log = File::create(place.path().join("log")).expect("a log");
        let mut containerd = Command::new(paths::need("unshare").expect("unshare"));
        containerd.arg("--mount").arg(paths::need("containerd").expect("containerd"));
        containerd.arg("--config").arg(place.path().join("config.toml")).stdin(Stdio::null()).stdout(Stdio::null());
        let child = containerd.stderr(log).spawn().expect("start containerd");
        let containerd = Self { child, place };
        eventually("containerd's answer", || containerd.ctr(&["version"]).code == 0);
        containerd
    }

    fn ctr(&self, arguments: &[&str]) -> Output {
        let mut ctr = Command::new(paths::need("ctr").expect("ctr"));
        ctr.arg("--address").arg(self.at("sock")).args(arguments);
        command::run(&mut ctr, None, LIMIT).expect("run ctr")
    }

    fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        self.child.wait().ok();
    }
}

#[test]
fn containerd_pulls_of_two_registries_through_one_mirror() {
    let upstream = Registry::start().expect("a registry with images");
    let url = format!("http://{}", upstream.host());
    let proxies = [format!("hub.test={url}"), format!("other.test={url}")];
    let served = Served::start(&["--proxy", &proxies[0], "--proxy", &proxies[1]], |at| {
        format!("[access-log]\nfile = \"{}\"\n", at.join("access.log").display())
    });
    let containerd = Containerd::start();
    let hosts = containerd.at("hosts");
    for name in ["hub.test", "other.test"] {
        let host = hosts.join(name);
        fs::create_dir_all(&host).expect("make a directory");
        let mirror = format!("[host.\"http://127.0.0.1:{}\"]\ncapabilities = [\"pull\", \"resolve\"]\n", served.port);
        fs::write(host.join("hosts.toml"), format!("server = \"https://{name}\"\n{mirror}")).expect("name the mirror");
        let image = format!("{name}/busybox:latest");
        let hosts = hosts.display().to_string();
        containerd.ctr(&["images", "pull", "--hosts-dir", &hosts, &image]).ok();
        let digest = upstream.manifest_digest("busybox", "latest").expect("a digest");
        let listed = containerd.ctr(&["images", "ls"]).ok();
        assert!(listed.lines().any(|line| line.contains(&image) && line.contains(&digest)), "{listed}");
    }
    let log = fs::read_to_string(served.at("access.log")).expect("the access log");
    for name in ["hub.test", "other.test"] {
        assert!(
            log.contains(&format!("\"repository\":\"{name}/busybox\"")) && log.contains(&format!("?ns={name}")),
            "{log}"
        );
    }
}
