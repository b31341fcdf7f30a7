//! Every flag of `run`, as the program inside sees it.

use gantry_tests::{Cli, IMAGE, both};

fn inside(cli: &Cli<'_>, flags: &[&str], script: &str) -> String {
    cli.ok(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat())
}

#[test]
fn environment_comes_from_image_flags_and_files() {
    both(|world, cli| {
        let file = world.daemon.home().join("env");
        std::fs::write(&file, "# a comment\nFROM_FILE=from file\nINHERITED_NOT_SET\n").expect("an env file");
        let flags = ["-e", "ONE=1", "--env", "EMPTY=", "--env-file", &file.display().to_string()];
        let seen = inside(cli, &flags, "env");
        for line in ["ONE=1", "EMPTY=", "FROM_FILE=from file", "HOME=/root"] {
            assert!(seen.lines().any(|l| l == line), "no {line} in {seen}");
        }
        assert!(seen.contains("PATH=/usr/local/sbin") && !seen.contains("INHERITED"), "{seen}");
        let host = cli.ok(&["run", "--rm", "-h", "web.example", IMAGE, "env"]);
        assert!(host.contains("HOSTNAME=web.example"), "{host}");
        assert!(!seen.contains("DOCKER_HOST"), "the client's environment stays outside");
    });
}

#[test]
fn working_directory_is_made_when_it_is_missing() {
    both(|_, cli| assert_eq!(inside(cli, &["-w", "/made/for/this"], "pwd"), "/made/for/this"));
}

#[test]
fn user_by_name_and_number_with_supplementary_groups() {
    both(|_, cli| {
        assert_eq!(
            inside(cli, &["-u", "alice"], "id -u; id -g; id -G | tr ' ' '\n' | sort -n | xargs"),
            "1000\n1000\n10 44 1000"
        );
        assert_eq!(inside(cli, &["-u", "1000:10"], "id -u; id -g"), "1000\n10");
        assert_eq!(inside(cli, &["-u", "4242"], "id -u; id -g"), "4242\n0");
        assert_eq!(inside(cli, &["-u", "alice:wheel"], "id -gn"), "wheel");
        assert_eq!(inside(cli, &["-u", "alice"], "echo $HOME"), "/home");
        cli.run(&["run", "--rm", "-u", "nobody-here", IMAGE, "true"]).fails(125, "nobody-here");
        cli.run(&["run", "--rm", "-u", "4294967296", IMAGE, "id"]).fails(125, "");
        cli.run(&["run", "--rm", "-u", "-1", IMAGE, "id"]).fails(125, "");
    });
}

#[test]
fn hostname_is_the_short_id_or_what_was_asked_for() {
    both(|_, cli| {
        assert_eq!(inside(cli, &["-h", "box"], "hostname; cat /etc/hostname"), "box\nbox");
        let short = inside(cli, &[], "hostname");
        assert_eq!(short.len(), 12);
    });
}

#[test]
fn entrypoint_and_command_combine_as_in_docker() {
    both(|world, cli| {
        world.pull("entry").expect("pull");
        assert_eq!(cli.ok(&["run", "--rm", "entry"]), "entry default");
        assert_eq!(cli.ok(&["run", "--rm", "entry", "given"]), "entry given");
        assert_eq!(cli.ok(&["run", "--rm", "--entrypoint", "id", "entry", "-un"]), "alice");
        assert_eq!(cli.ok(&["run", "--rm", "--entrypoint", "pwd", "entry"]), "/srv/new");
    });
}

#[test]
fn namespaces_are_the_containers_own() {
    both(|_, cli| {
        let seen = inside(cli, &[], "echo $$; ps | wc -l; for n in pid net cgroup; do readlink /proc/self/ns/$n; done");
        let mut lines = seen.lines();
        assert_eq!(lines.next(), Some("1"));
        assert!(lines.next().and_then(|n| n.trim().parse::<u32>().ok()).is_some_and(|n| n <= 5), "{seen}");
        for (line, kind) in lines.zip(["pid", "net", "cgroup"]) {
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).expect("a namespace");
            assert_ne!(line, host.to_string_lossy(), "{kind} is shared with the host");
        }
    });
}

#[test]
fn only_three_descriptors_are_open_at_the_first_instruction() {
    both(|_, cli| {
        // The fourth is ls's own view of the directory.
        assert_eq!(cli.ok(&["run", "--rm", IMAGE, "ls", "/proc/self/fd"]).lines().count(), 4);
    });
}

#[test]
fn capabilities_are_dockers_fourteen_and_can_be_changed() {
    both(|_, cli| {
        let caps = |flags: &[&str]| {
            let line = inside(cli, flags, "grep CapEff /proc/self/status");
            u64::from_str_radix(line.split_whitespace().last().unwrap_or_default(), 16).expect("a mask")
        };
        assert_eq!(caps(&[]), 0xa804_25fb);
        assert_eq!(caps(&["--cap-drop", "ALL"]), 0);
        assert_eq!(caps(&["--cap-drop", "all", "--cap-add", "NET_ADMIN"]), 1 << 12);
        assert_eq!(caps(&["--cap-add", "CAP_SYS_PTRACE"]), 0xa804_25fb | 1 << 19);
        assert_eq!(caps(&["-u", "1000"]), 0, "no ambient capabilities for other users");
        assert!(caps(&["--privileged"]) > 0xa804_25fb);
        cli.run(&["run", "--rm", "--cap-add", "NO_SUCH", IMAGE, "true"]).fails(125, "no_such");
    });
}

#[test]
fn seccomp_and_no_new_privileges_can_be_seen() {
    both(|world, cli| {
        let status = |flags: &[&str], field: &str| {
            inside(cli, flags, &format!("grep '^{field}:' /proc/self/status"))
                .split_whitespace()
                .last()
                .map(str::to_owned)
        };
        assert_eq!(status(&[], "Seccomp").as_deref(), Some("2"));
        assert_eq!(status(&["--security-opt", "seccomp=unconfined"], "Seccomp").as_deref(), Some("0"));
        assert_eq!(status(&["--privileged"], "Seccomp").as_deref(), Some("0"));
        assert_eq!(status(&[], "NoNewPrivs").as_deref(), Some("0"));
        assert_eq!(status(&["--security-opt", "no-new-privileges"], "NoNewPrivs").as_deref(), Some("1"));
        let profile = world.daemon.home().join("seccomp.json");
        let rule = r#"{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}"#;
        let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#);
        std::fs::write(&profile, json).expect("a profile");
        let option = format!("seccomp={}", profile.display());
        let out = cli.run(&["run", "--rm", "--security-opt", &option, IMAGE, "mkdir", "/x"]);
        out.fails(1, "permission denied");
        let out = cli.run(&["run", "--rm", IMAGE, "unshare", "-U", "true"]);
        assert_ne!(out.code, 0, "the default profile refuses new namespaces: {out}");
    });
}

#[test]
fn a_read_only_root_still_has_writable_mounts() {
    both(|_, cli| {
        let script =
            "touch /x 2>/dev/null && echo writable; touch /run-it/y && echo tmpfs; touch /dev/shm/z && echo shm";
        assert_eq!(inside(cli, &["--read-only", "--tmpfs", "/run-it"], script), "tmpfs\nshm");
    });
}

#[test]
fn init_is_pid_one_and_reaps() {
    both(|_, cli| {
        let script = "(sleep 0.05 &) ; sleep 0.3; ps -o pid,stat,comm | grep -c ' Z' ; cat /proc/1/comm";
        let seen = inside(cli, &["--init"], script);
        let mut lines = seen.lines();
        assert_eq!(lines.next(), Some("0"), "{seen}");
        assert_ne!(lines.next(), Some("sh"), "{seen}");
    });
}

#[test]
fn shm_size_ulimits_and_labels_hold() {
    both(|world, cli| {
        assert_eq!(inside(cli, &["--shm-size", "8m"], "df -k /dev/shm | tail -1 | awk '{print $2}'"), "8192");
        assert_eq!(inside(cli, &["--ulimit", "nofile=512:1024"], "ulimit -n; ulimit -Hn"), "512\n1024");
        assert_eq!(inside(cli, &["--ulimit", "core=0"], "ulimit -c"), "0");
        let name = world.name("labels");
        cli.ok(&["create", "--name", &name, "--label", "a=b", "--label", "empty", IMAGE]);
        assert_eq!(cli.inspect(&name, "{{json .Config.Labels}}"), r#"{"a":"b","empty":""}"#);
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn proc_and_sys_are_masked_and_read_only() {
    both(|_, cli| {
        let script = "cat /proc/kcore 2>/dev/null | head -c 1 | wc -c; ls /proc/acpi 2>/dev/null | wc -l; \
                      echo 1 > /proc/sys/kernel/panic && echo written; echo x > /proc/sysrq-trigger && echo written; \
                      mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x && echo made; touch /sys/x && echo made; true";
        assert_eq!(inside(cli, &[], &format!("{{ {script}; }} 2>/dev/null")), "0\n0");
    });
}

#[test]
fn devices_are_the_usual_ones_and_no_disk() {
    both(|_, cli| {
        let script = "ls /dev | sort | xargs; stat -c %F /dev/null /dev/zero; head -c 4 /dev/urandom | wc -c; \
                      readlink /dev/fd; mknod /tmp/disk b 259 0 2>/dev/null; head -c 1 /tmp/disk 2>/dev/null | wc -c";
        let seen = inside(cli, &[], script);
        let first = seen.lines().next().unwrap_or_default();
        for device in
            ["fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "tty", "urandom", "zero"]
        {
            assert!(first.split(' ').any(|d| d == device), "no /dev/{device} in {first}");
        }
        assert!(seen.ends_with("/proc/self/fd\n0"), "{seen}");
    });
}

#[test]
fn a_flag_that_is_not_there_yet_is_refused_by_name() {
    let world = gantry_tests::world();
    let out = world.gantry().run(&["run", "--rm", "--no-such-flag", IMAGE, "true"]);
    out.fails(125, "--no-such-flag");
}

#[test]
fn pull_policy_never_always_missing() {
    both(|world, cli| {
        let absent = world.registry.name(&world.push_own("policy").expect("push"));
        cli.run(&["run", "--rm", "--pull", "never", &absent]).fails(125, "no such image");
        assert_eq!(cli.ok(&["run", "--rm", "--pull", "missing", &absent]), "new");
        assert_eq!(cli.run(&["run", "--rm", "--pull", "always", "-q", &absent]).ok(), "new");
        cli.ok(&["rmi", &absent]);
    });
}
