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
