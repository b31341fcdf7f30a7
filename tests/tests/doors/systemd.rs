//! The unit files under a systemd of their own, which is process 1 of namespaces that end with the test.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use gantry_tests::{Output, command, eventually, paths, until};

use super::{clients, run};

/// Enters a cgroup, then becomes that systemd. It sees a cgroup hierarchy that begins here, and nothing of the host's `/run`
/// and `/etc/systemd`; what the kernel has for all it cannot change.
const BECOME: &str = r#"echo 0 > "$2/cgroup.procs"; exec unshare --cgroup /bin/sh -ec '
mount --make-rprivate /
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys
umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir /run/lock /run/empty; mount --bind /run/empty /etc/systemd
echo 0123456789abcdef0123456789abcdef > /run/own-id; mount --bind /run/own-id /etc/machine-id
exec env -i container=tests PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_UNIT_PATH="$1/units" \
    "$2" --system --log-target=console --log-level=info --show-status=no' become "$1" "$3""#;

struct Systemd {
    child: Child,
    first: String,
    cgroup: PathBuf,
    files: tempfile::TempDir,
}

impl Systemd {
    /// With the project's units, which name what is here; `None` where there is no systemd, or no place for its cgroups.
    fn start() -> Option<Self> {
        let program = Path::new("/lib/systemd/systemd");
        let (true, Some(hierarchy)) = (program.exists(), hierarchy()) else {
            gantry_tests::skip("no systemd on this machine, or no cgroup v2 hierarchy");
            return None;
        };
        let files = tempfile::tempdir().expect("a directory");
        let cgroup = hierarchy.join(format!("gantry-systemd-{}", std::process::id()));
        std::fs::create_dir(&cgroup).expect("make a cgroup");
        units(files.path());
        let log = std::fs::File::create(files.path().join("log")).expect("a log");
        let mut command = Command::new("unshare");
        command.args(["--pid", "--mount", "--uts", "--net", "--ipc", "--fork", "--kill-child=KILL", "/bin/sh", "-ec"]);
        command.args([BECOME, "become"]).args([files.path(), &cgroup, program]).stdin(Stdio::null());
        let child = command.stdout(log.try_clone().expect("the log")).stderr(log).spawn().expect("start systemd");
        let mut systemd = Self { child, first: String::new(), cgroup, files };
        eventually("systemd listens for gantry", || systemd.socket().exists());
        let pid = systemd.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("its children");
        systemd.first = children.trim().to_owned();
        Some(systemd)
    }

    fn socket(&self) -> PathBuf {
        self.files.path().join("docker.sock")
    }

    fn ctl(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.first, "-m", "-p", "systemctl"]).args(arguments);
        command::run(&mut command, None, command::LIMIT).unwrap_or_else(|error| panic!("{error:?}"))
    }

    fn shows(&self, property: &str) -> String {
        self.ctl(&["show", "gantry.service", "--value", "-p", property]).ok()
    }

    #[track_caller]
    fn ask(&self, program: &Path, arguments: &[&str]) -> String {
        let environment = [("DOCKER_HOST", format!("unix://{}", self.socket().display()))];
        run(program, self.files.path(), &environment, arguments).ok()
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            gantry_tests::note(&std::fs::read_to_string(self.files.path().join("log")).unwrap_or_default());
        }
        // With it goes everything in its namespaces.
        self.child.kill().ok();
        self.child.wait().ok();
        until(std::time::Duration::from_secs(10), || remove(&self.cgroup).ok());
    }
}

/// Where cgroups of version 2 are.
fn hierarchy() -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// A cgroup and those below it, which are empty.
fn remove(cgroup: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(cgroup)?.filter_map(Result::ok).filter(|entry| entry.path().is_dir()) {
        remove(&entry.path())?;
    }
    std::fs::remove_dir(cgroup)
}

/// Ours as they are installed here, with an impatient watchdog, and as much of a system around them as they name.
fn units(root: &Path) {
    let units = root.join("units");
    std::fs::create_dir_all(units.join("gantry.service.d")).expect("make directories");
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/systemd");
    let text = |name: &str| std::fs::read_to_string(ours.join(name)).expect("a unit");
    let put = |name: &str, text: &str| std::fs::write(units.join(name), text).expect("write a unit");
    let here = root.display();
    let program = std::path::absolute(&clients()[0]).expect("the binary");
    let command = format!(
        "{} daemon -H fd:// --bridge none --iptables=false --data-root {here}/data --exec-root {here}/run",
        program.display()
    );
    let service = text("gantry.service");
    assert!(service.contains("ExecStart=/usr/bin/gantry daemon -H fd://\n"), "{service}");
    put("gantry.service", &service.replace("/usr/bin/gantry daemon -H fd://", &command));
    put("gantry.service.d/tests.conf", &format!("[Service]\nWatchdogSec=2\nStandardError=append:{here}/daemon\n"));
    let socket = text("gantry.socket").replace("/run/docker.sock", &format!("{here}/docker.sock"));
    put("gantry.socket", &socket.replace("SocketGroup=docker", "SocketGroup=root"));
    for target in ["sysinit", "basic", "shutdown", "network-online", "sockets", "multi-user"] {
        put(&format!("{target}.target"), "[Unit]\nDefaultDependencies=no\n");
    }
    put("default.target", "[Unit]\nDefaultDependencies=no\nRequires=gantry.socket\nAllowIsolate=yes\n");
}

#[test]
fn systemd_starts_watches_and_restarts_the_daemon_and_containers_go_on() {
    let Some(systemd) = Systemd::start() else { return };
    if paths::program("nsenter").is_none() || paths::program("systemctl").is_none() {
        return gantry_tests::skip("no nsenter or systemctl on this machine");
    }
    assert_eq!(systemd.socket().metadata().expect("the socket").permissions().mode() & 0o777, 0o660);
    assert_eq!(systemd.shows("ActiveState"), "inactive", "nobody has called yet");
    for program in clients() {
        assert_eq!(systemd.ask(&program, &["ps", "-q"]), "");
        assert_eq!(systemd.shows("ActiveState"), "active", "it told that it is ready");
    }
    let gantry = &clients()[0];
    let layer = systemd.files.path().join("layer.tar");
    std::fs::write(&layer, gantry_tests::image::busybox_layer().expect("a layer")).expect("write it");
    systemd.ask(gantry, &["import", &layer.display().to_string(), "busybox:here"]);
    systemd.ask(gantry, &["run", "-d", "--name", "lasting", "busybox:here", "sleep", "600"]);
    let pid = || systemd.ask(gantry, &["inspect", "-f", "{{.State.Running}} {{.State.Pid}}", "lasting"]);
    let before = pid();
    assert!(before.starts_with("true "), "{before}");
    let main = systemd.shows("MainPID");
    systemd.ctl(&["reload", "gantry.service"]).ok();
    assert_eq!((systemd.shows("ActiveState"), systemd.shows("MainPID")), ("active".to_owned(), main.clone()));
    systemd.ctl(&["restart", "gantry.service"]).ok();
    let restarted = systemd.shows("MainPID");
    assert_ne!(restarted, main);
    assert_eq!(pid(), before, "the container goes on");
    // A daemon that hangs tells no longer that it is well.
    let mut stop = Command::new("nsenter");
    stop.args(["-t", &systemd.first, "-m", "-p", "kill", "-STOP", &restarted]);
    command::succeed(&mut stop, command::LIMIT).expect("stop the daemon's process");
    eventually("the watchdog has it started again", || systemd.shows("NRestarts") == "1");
    assert_eq!(pid(), before, "the container goes on");
    systemd.ctl(&["stop", "gantry.service"]).ok();
    assert_eq!((systemd.shows("ActiveState"), systemd.shows("Result")), ("inactive".to_owned(), "success".to_owned()));
    assert_eq!(pid(), before, "the next call starts the daemon again, and it finds the container");
    systemd.ask(gantry, &["rm", "-f", "lasting"]);
}
