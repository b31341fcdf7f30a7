//! The cache as a mirror: of containerd, which says by `?ns=` which registry it means, and of a daemon whose `daemon.json` has
//! `registry-mirrors`.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use gantry_tests::command::{self, LIMIT};
use gantry_tests::{Daemon, Options, Output, Registry, eventually, image, paths};
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

#[test]
fn docker_pulls_hubs_images_by_their_short_names_through_the_cache_that_daemon_json_names() {
    let place = tempfile::tempdir().expect("a directory");
    let hub = Registry::own(&place.path().join("hub")).expect("a registry in Docker Hub's place");
    let images = image::standard().expect("images");
    let (_, image) = images.iter().find(|(name, _)| *name == "busybox").expect("the image");
    hub.push("library/mirrored", "1", image).expect("push");
    let digest = hub.manifest_digest("library/mirrored", "1").expect("a digest");
    let served = Served::start(&["--proxy", &format!("docker.io=http://{}", hub.host())], |at| {
        format!("[access-log]\nfile = \"{}\"\n", at.join("access.log").display())
    });
    let settings = place.path().join("daemon.json");
    let mirror = format!("{{\"registry-mirrors\": [\"http://127.0.0.1:{}\"]}}", served.port);
    fs::write(&settings, mirror).expect("write daemon.json");
    let flags = vec!["--config-file".to_owned(), settings.display().to_string()];
    let daemon = Daemon::with(Options { flags, ..Options::default() }).expect("a daemon");
    let docker = |arguments: &[&str]| {
        let mut docker = daemon.client(&paths::need("docker").expect("docker"));
        command::run(docker.args(arguments), None, LIMIT).expect("run docker").ok()
    };
    let pulled = docker(&["pull", "mirrored:1"]);
    assert!(pulled.contains(&digest) && pulled.contains("docker.io/library/mirrored:1"), "{pulled}");
    assert_eq!(
        docker(&["run", "--rm", "--network", "none", "mirrored:1", "echo", "from the mirror"]),
        "from the mirror"
    );
    // What was pulled once is to be had again when the Hub is away.
    drop(hub);
    docker(&["rmi", "mirrored:1"]);
    assert!(docker(&["pull", "mirrored:1"]).contains(&digest));
    let log = fs::read_to_string(served.at("access.log")).expect("the access log");
    assert!(log.contains("\"path\":\"/v2/library/mirrored/manifests/1") && log.contains("\"status\":200"), "{log}");
}
