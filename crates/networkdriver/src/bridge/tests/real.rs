//! Beside the firewalls themselves: ufw, firewalld and Docker's daemon, each with this host for its own. Their rules are in the
//! host's network namespace, their files and processes in further ones that go with the test.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use super::isolation::Networks;
use super::others::{ruleset, works};
use super::world::{HOST_ON_LAN, HOST6_ON_LAN, LAN, ask, on_a_host, skipped, unreachable, wall_options};

const LONG: Duration = Duration::from_secs(60);

/// `/etc`, `/run` and `/var/log` of its own.
const ASIDE: &str = "
set -e
mount -t tmpfs none /run
mount -t tmpfs none /var/log
mkdir /run/upper /run/work /run/dbus
mount -t overlay -o lowerdir=/etc,upperdir=/run/upper,workdir=/run/work overlay /etc
echo ready
exec sleep infinity
";

/// Where a firewall runs: what is started here ends with it.
struct Aside {
    init: Child,
    daemons: Vec<Child>,
}

impl Aside {
    fn new() -> Self {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
        let mut init = unshare.args(["sh", "-c", ASIDE]).stdout(Stdio::piped()).process_group(0).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(init.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self { init, daemons: Vec::new() }
    }

    fn command(&self, line: &str) -> Command {
        let namespace = |name: &str| format!("/proc/{}/ns/{name}", self.init.id());
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount={}", namespace("mnt"))).arg(format!("--pid={}", namespace("pid_for_children")));
        command.args(["sh", "-c", line]).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &str) -> Output {
        self.command(line).output().unwrap()
    }

    fn ok(&self, line: &str) {
        let Output { status, stdout, stderr } = self.run(line);
        let said = String::from_utf8_lossy(&stdout) + String::from_utf8_lossy(&stderr);
        assert!(status.success(), "{line}: {said}");
    }

    /// Starts what stays, and waits until that can be seen.
    fn start(&mut self, line: &str, there: &str) {
        let mut daemon = self.command(&format!("exec {line}"));
        self.daemons.push(daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let start = Instant::now();
        while !self.run(there).status.success() {
            assert!(start.elapsed() < LONG, "{line} is not there after {LONG:?}");
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // The kernel kills everybody else of the process namespace.
        self.init.kill().unwrap();
        for child in std::iter::once(&mut self.init).chain(&mut self.daemons) {
            child.wait().unwrap();
        }
    }
}

fn there(programs: &[&str]) -> bool {
    let found = |name: &&&str| {
        let places = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        !places.iter().any(|place| gantry_linux::fs::metadata(format!("{place}/{name}")).is_ok())
    };
    match programs.iter().find(found) {
        None => true,
        Some(missing) => {
            skipped(&format!("no {missing} here, cargo xtask test installs it where it can be had"));
            false
        }
    }
}

/// What has been waited for, as the thread that watches acts in its own time.
fn becomes(what: &str, seen: impl Fn() -> bool) {
    let start = Instant::now();
    while !seen() {
        assert!(start.elapsed() < LONG, "{what}: {}", ruleset());
    }
}

fn works_by_both(networks: &Networks) -> bool {
    works(networks) && networks.lan.inside(|| ask(HOST6_ON_LAN, 8080)).is_some()
}

fn forwarding_is_dropped(family: &str) -> bool {
    let chain = Command::new("nft").args(["list", "chain", family, "filter", "FORWARD"]).output().unwrap();
    String::from_utf8_lossy(&chain.stdout).contains("policy drop")
}

#[test]
fn published_ports_work_beside_ufw_and_what_is_forbidden_stays_shut() {
    if !there(&["ufw", "nft"]) {
        return;
    }
    on_a_host(|| {
        let aside = Aside::new();
        aside.ok("ufw --force enable");
        assert!(forwarding_is_dropped("ip") && forwarding_is_dropped("ip6"), "{}", ruleset());
        let networks = Networks::new(&wall_options());
        assert!(works_by_both(&networks), "{}", ruleset());
        networks.assert_shut("beside ufw");
        // It makes all of its chains anew.
        aside.ok("ufw reload");
        becomes("the rule is put back", || works_by_both(&networks));
        networks.assert_shut("beside ufw that was reloaded");
        networks.wall.remove().unwrap();
        assert!(!ruleset().contains("gantry gvtest0"), "{}", ruleset());
    });
}

#[test]
fn published_ports_work_beside_dockers_daemon_and_what_is_forbidden_stays_shut() {
    if !there(&["dockerd", "nft"]) {
        return;
    }
    on_a_host(|| {
        // Docker drops what others forward where nothing was forwarded before it.
        gantry_linux::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let networks = Networks::new(&wall_options());
        let mut aside = Aside::new();
        let dockerd = "dockerd --data-root /run/data --exec-root /run/exec -H unix:///run/sock --pidfile /run/pid \
                       --storage-driver vfs --group root";
        aside.start(dockerd, "test -S /run/sock");
        becomes("Docker drops what is forwarded", || forwarding_is_dropped("ip"));
        becomes("the rule is there", || works_by_both(&networks));
        let user = Command::new("nft").args(["list", "chain", "ip", "filter", "DOCKER-USER"]).output().unwrap();
        let user = String::from_utf8_lossy(&user.stdout).into_owned();
        assert!(user.contains("comment \"gantry gvtest0\""), "{user}");
        networks.assert_shut("beside Docker");
        networks.wall.remove().unwrap();
        assert!(!ruleset().contains("gantry gvtest0"), "{}", ruleset());
    });
}

#[test]
fn beside_firewalld_the_message_names_what_blocks_and_what_it_advises_opens_the_way() {
    if !there(&["firewalld", "firewall-cmd", "dbus-daemon", "nft"]) {
        return;
    }
    on_a_host(|| {
        let mut aside = Aside::new();
        aside.start("dbus-daemon --system --nofork --nopidfile", "test -S /run/dbus/system_bus_socket");
        aside.start("firewalld --nofork --nopid", "firewall-cmd --state");
        let networks = Networks::new(&wall_options());
        assert!(networks.peer.namespace.inside(|| unreachable(LAN, 7000)), "{}", ruleset());
        assert!(networks.lan.inside(|| ask(HOST_ON_LAN, 8080)).is_some(), "it lets published ports pass by itself");
        let told = networks.wall.attend().unwrap();
        let advice = told.iter().find_map(|text| {
            let (_, command) = text.split_once("firewall-cmd ").filter(|_| text.starts_with("firewalld is active"))?;
            Some(format!("firewall-cmd {}", command.replace(" and ", " && ")))
        });
        let advice = advice.unwrap_or_else(|| panic!("{told:?}"));
        assert!(advice.contains("--add-interface=gvtest0 --add-interface=gvtest1"), "{advice}");
        aside.ok(&advice);
        assert!(works_by_both(&networks), "{}", ruleset());
        assert_eq!(networks.wall.attend().unwrap(), Vec::<String>::new());
        networks.assert_shut("beside firewalld");
    });
}
