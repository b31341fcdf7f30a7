//! User namespaces: `--userns-remap` and `--userns=host`. Whose files are whose, inside and on the host.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use gantry_tests::{Cli, IMAGE, Options, World};

/// First and last user and group of the host that containers are given.
const FIRST: u32 = 231_072;
const FLAG: &str = "231072-296607";

/// A world whose daemon remaps users; shared by the tests that run at a time.
fn world() -> Arc<World> {
    static SHARED: Mutex<Weak<World>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(world) = shared.upgrade() {
        return world;
    }
    let world = Arc::new(remapped());
    *shared = Arc::downgrade(&world);
    world
}

fn remapped() -> World {
    let flags = vec!["--userns-remap".to_owned(), FLAG.to_owned()];
    World::start(Options { flags, ..Options::default() }).unwrap_or_else(|error| panic!("{error:?}"))
}

/// Runs a test with our client, then with the real `docker` CLI.
fn both(test: impl Fn(&World, &Cli<'_>)) {
    let world = world();
    test(&world, &world.gantry());
    if let Some(docker) = world.docker() {
        test(&world, &docker);
    }
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let stat =
        fs::symlink_metadata(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()));
    (stat.uid(), stat.gid())
}

/// Where the files of the overlay's writable layer are on disk.
fn upper(world: &World, id: &str) -> std::path::PathBuf {
    world.daemon.data_root().join("overlay/layers").join(id).join("diff")
}

#[test]
fn root_of_a_container_is_nobody_on_the_host_and_owns_what_is_its_own() {
    both(|world, cli| {
        let script = "id -u; cat /proc/self/uid_map; touch /made; stat -c %u:%g /made /bin/busybox /; exec sleep 600";
        let id = cli.ok(&["run", "-d", IMAGE, "sh", "-c", script]);
        gantry_tests::eventually("the script has run", || cli.ok(&["logs", &id]).lines().count() == 5);
        let logs = cli.ok(&["logs", &id]);
        let lines: Vec<String> =
            logs.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines, ["0", "0 231072 65536", "0:0", "0:0", "0:0"]);
        assert_eq!(owner(upper(world, &id).join("made")), (FIRST, FIRST));
        let pid = cli.inspect(&id, "{{.State.Pid}}");
        assert_eq!(owner(format!("/proc/{pid}")).0, FIRST);
        cli.ok(&["exec", &id, "true"]);
        let keys = fs::read_to_string("/proc/key-users").expect("whose keys there are");
        let counted = |line: &str| line.trim_start().starts_with(&format!("{FIRST}:"));
        assert!(!keys.lines().any(counted), "200 keys are the most that a user has: {keys}");
        cli.ok(&["rm", "-f", &id]);
    });
}

#[test]
fn layers_are_shared_whatever_the_mapping() {
    both(|world, cli| {
        let id = cli.ok(&["run", "-d", IMAGE, "sh", "-c", "echo more >> /etc/passwd; exec sleep 600"]);
        gantry_tests::eventually("the file is copied up", || upper(world, &id).join("etc/passwd").is_file());
        assert_eq!(owner(upper(world, &id).join("etc/passwd")), (FIRST, FIRST));
        let layers = world.daemon.data_root().join("overlay/layers");
        let of_images = fs::read_dir(layers).expect("layers").map(|entry| entry.expect("an entry").path());
        for layer in of_images.filter(|layer| !layer.join("work").exists()) {
            assert_eq!(owner(layer.join("diff")), (0, 0), "{}", layer.display());
        }
        assert_eq!(
            cli.ok(&["run", "--rm", "--userns=host", IMAGE, "sh", "-c", "cat /proc/self/uid_map"])
                .split_whitespace()
                .collect::<Vec<_>>(),
            ["0", "0", "4294967295"]
        );
        cli.ok(&["rm", "-f", &id]);
    });
}

#[test]
fn files_of_binds_and_volumes_belong_to_the_same_user_inside_and_on_the_host() {
    both(|world, cli| {
        let host = tempfile::tempdir().expect("a directory");
        fs::write(host.path().join("roots"), "").expect("a file");
        fs::set_permissions(host.path().join("roots"), fs::Permissions::from_mode(0o600)).expect("a mode");
        let (bind, volume) = (format!("{}:/bind", host.path().display()), world.name("vol"));
        let script =
            "echo x > /bind/roots; touch /bind/new /vol/new; chown 7:8 /vol/new; stat -c %u:%g /bind/roots /vol/new";
        let flag = format!("{volume}:/vol");
        let out = cli.ok(&["run", "--rm", "-v", &bind, "-v", &flag, IMAGE, "sh", "-c", script]);
        assert_eq!(out, "0:0\n7:8");
        assert_eq!(owner(host.path().join("new")), (0, 0));
        let data = world.daemon.data_root().join("volumes").join(&volume).join("_data");
        assert_eq!(owner(data.join("new")), (7, 8));
        // Without a user namespace the volume's files are the same users'.
        let out = cli.ok(&["run", "--rm", "--userns=host", "-v", &flag, IMAGE, "stat", "-c", "%u:%g", "/vol/new"]);
        assert_eq!(out, "7:8");
        cli.ok(&["run", "--rm", IMAGE, "sh", "-c", "echo 1.2.3.4 x >> /etc/hosts && echo y >> /etc/resolv.conf"]);
        world.pull("seeded").expect("pull");
        let seeded = format!("{}:/data", world.name("seeded"));
        let out = cli.ok(&["run", "--rm", "-v", &seeded, "seeded", "stat", "-c", "%u %a", "/data/seed"]);
        assert_eq!(out, "1000 640", "an empty volume takes the image's owners");
    });
}

#[test]
fn a_container_has_network_processes_and_a_terminal_as_without_a_user_namespace() {
    both(|_, cli| {
        let script = "ip addr show eth0 | grep -c 'inet '; ping -c 1 -w 5 127.0.0.1 | grep -c '1 packets received'; \
                      mount | grep -c ' /sys type sysfs'; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
                      echo out > /dev/stdout; echo err > /dev/stderr; ls -ln /dev/null | cut -c1";
        let run = cli.run(&["run", "--rm", IMAGE, "sh", "-c", script]);
        assert_eq!(run.stdout.trim(), "1\n1\n1\n0\nout\nc", "{run:?}");
        assert_eq!(run.stderr.trim(), "err");
        // Another user may open its streams again too.
        assert_eq!(cli.ok(&["run", "--rm", "-u", "33", IMAGE, "sh", "-c", "id -u > /dev/stdout"]), "33");
        assert_eq!(
            cli.ok(&["run", "--rm", "-t", IMAGE, "sh", "-c", "tty; stat -c %u:%g $(tty)"]).replace('\r', ""),
            "/dev/pts/0\n0:5"
        );
        assert_eq!(cli.ok(&["run", "--rm", "--init", IMAGE, "id", "-u"]), "0");
    });
}

#[test]
fn execs_are_users_of_the_container() {
    both(|world, cli| {
        let id = cli.ok(&["run", "-d", IMAGE, "sleep", "600"]);
        let out =
            cli.ok(&["exec", &id, "sh", "-c", "id -u; cat /proc/self/uid_map; touch /by-exec; echo s > /dev/stdout"]);
        assert_eq!(out.split_whitespace().collect::<Vec<_>>(), ["0", "0", "231072", "65536", "s"]);
        assert_eq!(owner(upper(world, &id).join("by-exec")), (FIRST, FIRST));
        assert_eq!(cli.ok(&["exec", "-t", "-u", "5:6", &id, "id", "-u"]).trim(), "5");
        cli.ok(&["rm", "-f", &id]);
    });
}

#[test]
fn what_shares_the_hosts_namespaces_needs_the_hosts_users() {
    both(|_, cli| {
        for (flags, reason) in [
            (["--privileged", "--label=x"], "privileged mode is incompatible with user namespaces"),
            (
                ["--network=host", "--label=x"],
                "cannot share the host's network namespace when user namespaces are enabled",
            ),
            (["--pid=host", "--label=x"], "cannot share the host PID namespace when user namespaces are enabled"),
        ] {
            cli.run(&["run", "--rm", flags[0], flags[1], IMAGE, "true"]).fails(125, reason);
            assert_eq!(cli.ok(&["run", "--rm", flags[0], "--userns=host", IMAGE, "id", "-u"]), "0");
        }
        assert!(cli.ok(&["info", "--format", "{{.SecurityOptions}}"]).contains("name=userns"));
        let id = cli.ok(&["create", "--userns=host", IMAGE, "true"]);
        assert_eq!(cli.inspect(&id, "{{.HostConfig.UsernsMode}}"), "host");
        cli.ok(&["rm", &id]);
    });
}

#[test]
fn copies_have_the_owners_that_the_container_sees() {
    both(|world, cli| {
        let here = tempfile::tempdir().expect("a directory");
        fs::write(here.path().join("in"), "copied\n").expect("a file");
        let into = here.path().join("in");
        for running in [true, false] {
            let name = world.name("copy");
            cli.ok(&[
                "run",
                "-d",
                "--name",
                &name,
                "-v",
                "/vol",
                IMAGE,
                "sh",
                "-c",
                "touch /a; chown 7:8 /a; sleep 600",
            ]);
            gantry_tests::eventually("the file is there", || cli.run(&["exec", &name, "test", "-f", "/a"]).code == 0);
            if !running {
                cli.ok(&["kill", &name]);
            }
            for place in ["/", "/vol/", "/dev/shm/"] {
                if running || place != "/dev/shm/" {
                    cli.ok(&["cp", &into.display().to_string(), &format!("{name}:{place}")]);
                }
            }
            let archive = cli.run(&["cp", &format!("{name}:/a"), "-"]).stdout;
            // User and group in a tar header, octal.
            assert_eq!(archive.get(108..124), Some("0000007\x000000010\x00"), "running: {running}");
            let exported = cli.run(&["export", &name]).stdout;
            assert!(exported.contains("0000007\x000000010\x00") && !exported.contains("0703240"), "running: {running}");
            if !running {
                cli.ok(&["start", &name]);
            }
            let seen = cli.ok(&["exec", &name, "stat", "-c", "%u:%g", "/in", "/vol/in"]);
            assert_eq!(seen, "0:0\n0:0", "running: {running}");
            cli.ok(&["rm", "-fv", &name]);
        }
    });
}

#[test]
fn an_image_of_a_container_has_the_owners_that_the_container_saw() {
    both(|world, cli| {
        let (name, image) = (world.name("committed"), world.name("image"));
        cli.ok(&[
            "run",
            "--name",
            &name,
            IMAGE,
            "sh",
            "-c",
            "mkdir /d; touch /d/f; chown -R 7:8 /d; echo x >> /etc/passwd",
        ]);
        let changes = cli.ok(&["diff", &name]);
        for change in ["A /d", "A /d/f", "C /etc", "C /etc/passwd"] {
            assert!(changes.lines().any(|line| line == change), "{change} is not in {changes}");
        }
        cli.ok(&["commit", &name, &image]);
        let stat = ["stat", "-c", "%u:%g", "/d/f", "/etc/passwd"];
        for userns in ["--userns=", "--userns=host"] {
            let seen = cli.ok(&[&["run", "--rm", userns, &image], &stat[..]].concat());
            assert_eq!(seen, "7:8\n0:0", "{userns}");
        }
        cli.ok(&["rm", &name]);
        cli.ok(&["rmi", &image]);
    });
}

#[test]
fn a_container_keeps_its_mapping_whatever_the_daemon_is_told_later() {
    let mut world = remapped();
    let volume = world.name("vol");
    let flag = format!("{volume}:/vol");
    let run = |world: &World, more: &[&str]| {
        let mut args = vec!["run", "-d", "-v", &flag];
        args.extend_from_slice(more);
        args.extend_from_slice(&[IMAGE, "sh", "-c", "touch /vol/$HOSTNAME; exec sleep 600"]);
        world.gantry().ok(&args)
    };
    let map = |world: &World, id: &str| {
        let text = world.gantry().ok(&["exec", id, "cat", "/proc/self/uid_map"]);
        text.split_whitespace().map(|word| word.parse().expect("a number")).collect::<Vec<u32>>()
    };
    let first = run(&world, &["--restart=always"]);
    world.daemon.kill9().expect("kill");
    world.daemon.set_flags(&["--userns-remap", "400000-465535"]);
    world.daemon.launch().expect("start");
    assert_eq!(map(&world, &first), [0, FIRST, 65536], "it ran on");
    let second = run(&world, &[]);
    assert_eq!(map(&world, &second), [0, 400_000, 65536]);
    let pid = world.gantry().inspect(&first, "{{.State.Pid}}");
    let pid = rustix::process::Pid::from_raw(pid.parse().expect("a pid")).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
    let restarted = || world.gantry().inspect(&first, "{{.RestartCount}} {{.State.Status}}") == "1 running";
    gantry_tests::eventually("its policy restarts it", restarted);
    assert_eq!(map(&world, &first), [0, FIRST, 65536], "restarted by its policy");
    world.daemon.stop().expect("stop");
    world.daemon.set_flags(&[]);
    world.daemon.launch().expect("start");
    for (id, first_id) in [(&first, FIRST), (&second, 400_000)] {
        world.gantry().ok(&["restart", "-t", "0", id]);
        assert_eq!(map(&world, id), [0, first_id, 65536], "restarted by a daemon without a mapping");
    }
    let plain = run(&world, &[]);
    assert_eq!(map(&world, &plain), [0, 0, u32::MAX]);
    let seen = world.gantry().ok(&[
        "exec",
        &plain,
        "stat",
        "-c",
        "%u:%g",
        &format!("/vol/{}", &first[..12]),
        &format!("/vol/{}", &second[..12]),
    ]);
    assert_eq!(seen, "0:0\n0:0", "a volume is of no mapping");
    world.gantry().ok(&["rm", "-f", &first, &second, &plain]);
}

#[test]
fn containers_share_namespaces_with_their_users() {
    both(|world, cli| {
        let name = world.name("shared");
        cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
        let of = |kind: &str| cli.ok(&["exec", &name, "readlink", &format!("/proc/self/ns/{kind}")]);
        let (user, net, pid) = (of("user"), of("net"), of("pid"));
        let target = format!("container:{name}");
        let script = "cd /proc/self/ns; for kind in user net; do readlink $kind; done";
        assert_eq!(cli.ok(&["run", "--rm", "--network", &target, IMAGE, "sh", "-c", script]), format!("{user}\n{net}"));
        let script =
            "cd /proc/self/ns; for kind in user pid; do readlink $kind; done; ip addr show eth0 | grep -c 'inet '";
        assert_eq!(cli.ok(&["run", "--rm", "--pid", &target, IMAGE, "sh", "-c", script]), format!("{user}\n{pid}\n1"));
        let script = "cd /proc/self/ns; for kind in user net pid; do readlink $kind; done";
        let both = cli.ok(&["run", "--rm", "--network", &target, "--pid", &target, IMAGE, "sh", "-c", script]);
        assert_eq!(both, format!("{user}\n{net}\n{pid}"));
        let host = world.name("host");
        cli.ok(&["run", "-d", "--userns=host", "--name", &host, IMAGE, "sleep", "600"]);
        let refused = cli.run(&["run", "--rm", "--network", &format!("container:{host}"), IMAGE, "true"]);
        refused.fails(125, "has the host's users");
        cli.ok(&["rm", "-f", &name, &host]);
    });
}

#[test]
fn what_somebody_binds_is_theirs() {
    let world = world();
    let Some(docker) = gantry_tests::paths::program("docker") else { return };
    let (mine, roots) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    std::os::unix::fs::chown(mine.path(), Some(4321), Some(4322)).expect("another owner");
    fs::write(roots.path().join("secret"), "").expect("a file");
    fs::set_permissions(roots.path().join("secret"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let run = |user: &[&str], script: &str| {
        let mut command = std::process::Command::new("setpriv");
        // Through the socket and the directories above it by a capability: nobody else may.
        command.args(["--reuid=4321", "--regid=4322", "--clear-groups"]);
        command.args(["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]).arg(&docker);
        command.args(["-H", &format!("unix://{}", world.daemon.socket().display()), "run", "--rm"]).args(user);
        command.args([
            "-v",
            &format!("{}:/mine", mine.path().display()),
            "-v",
            &format!("{}:/roots", roots.path().display()),
        ]);
        let output = command.args([IMAGE, "sh", "-c", script]).env("HOME", "/").output().expect("setpriv runs");
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    assert_eq!(run(&[], "touch /mine/a; stat -c %u:%g /mine /mine/a /roots"), "0:0\n0:0\n65534:65534\n");
    assert_eq!(owner(mine.path().join("a")), (4321, 4322));
    let refused = run(&[], "echo x > /roots/secret; echo x > /roots/new; cat /roots/secret");
    assert_eq!(refused.matches("Permission denied").count(), 3, "{refused}");
    assert_eq!(fs::read_dir(roots.path()).expect("a directory").count(), 1);
    assert_eq!(run(&["-u", "4321:4322"], "touch /mine/b; stat -c %u:%g /mine/a"), "4321:4322\n");
    assert_eq!(owner(mine.path().join("b")), (4321, 4322));
    assert_eq!(
        run(&["-u", "77:78"], "touch /mine/c; stat -c %u:%g /mine/a"),
        "77:78\n",
        "whoever the container's user is"
    );
    assert_eq!(owner(mine.path().join("c")), (4321, 4322));
}

#[test]
fn a_bind_that_cannot_be_mapped_is_said_when_the_container_is_made() {
    both(|_, cli| {
        let run = cli.run(&["create", "-v", "/sys/kernel:/k:ro", IMAGE, "stat", "-c", "%u", "/k"]);
        assert!(run.stderr.contains("/k: a file system of /sys/kernel cannot be idmapped"), "{run:?}");
        let id = run.stdout.trim().to_owned();
        assert_eq!(cli.ok(&["start", "-a", &id]), "65534");
        cli.ok(&["rm", &id]);
    });
}

#[test]
fn failed_starts_leave_no_process_and_no_name() {
    let world = remapped();
    let cli = world.gantry();
    cli.run(&["run", "--rm", IMAGE, "no-such-program"]).fails(127, "no-such-program");
    cli.run(&["run", "--rm", "-w", "/proc/self/fd/0/x", IMAGE, "true"]).fails(125, "working directory");
    cli.run(&["run", "--rm", "-u", "70000", IMAGE, "true"]).fails(125, "user 70000 is not in the mapping");
    cli.run(&["run", "--rm", "--sysctl", "net.ipv4.no_such=1", IMAGE, "true"]).fails(125, "does not have it");
    assert_eq!(cli.ok(&["ps", "-aq"]), "");
    let users_of = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
    let strangers = || -> Vec<String> {
        let processes = world.daemon.pids().into_iter().map(|pid| pid.to_string());
        processes.filter(|pid| users_of(pid).is_some_and(|own| Some(own) != users_of("self"))).collect()
    };
    gantry_tests::eventually("nobody is left in a user namespace", || strangers().is_empty());
}

#[test]
fn a_mapping_that_is_none_ends_the_daemon_with_what_to_do() {
    let binary = gantry_tests::paths::gantry().expect("the binary");
    for (flag, told) in [
        ("nobody-has-this-name", "nobody-has-this-name:100000:65536 to /etc/subuid"),
        ("root", "root cannot be remapped"),
        ("0-65535", "root of the host"),
    ] {
        let here = tempfile::tempdir().expect("a directory");
        let mut command = std::process::Command::new(&binary);
        command
            .arg("daemon")
            .arg("--data-root")
            .arg(here.path().join("data"))
            .arg("--exec-root")
            .arg(here.path().join("run"));
        command.args(["--bridge=none", "--iptables=false", "--userns-remap", flag]);
        let output = command.output().expect("the daemon runs");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(told), "{flag}: {text}");
    }
}
