//! What confines containers: `--security-opt`, the daemon's defaults, AppArmor where the kernel has it, 32-bit programs.

use std::path::{Path, PathBuf};

use gantry_tests::kernel::has_apparmor;
use gantry_tests::{Cli, Daemon, IMAGE, Options, World, both, command, debian, paths, registry, skip, world};
use serde_json::json;

fn run(cli: &Cli<'_>, flags: &[&str], script: &str) -> String {
    cli.ok(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat())
}

fn status(cli: &Cli<'_>, flags: &[&str], field: &str) -> String {
    let line = run(cli, flags, &format!("grep '^{field}:' /proc/self/status"));
    line.split_whitespace().last().unwrap_or_default().to_owned()
}

#[test]
fn options_are_taken_with_either_separator_and_unknown_ones_refused_in_dockers_words() {
    both(|_, cli| {
        for (option, set) in [
            ("no-new-privileges", "1"),
            ("no-new-privileges:true", "1"),
            ("no-new-privileges=true", "1"),
            ("no-new-privileges=false", "0"),
            ("label:disable", "0"),
            ("label=disable", "0"),
            ("apparmor:unconfined", "0"),
        ] {
            assert_eq!(status(cli, &["--security-opt", option], "NoNewPrivs"), set, "{option}");
        }
        let refused = |option: &str, words: &str| {
            let out = cli.run(&["run", "--rm", "--security-opt", option, IMAGE, "true"]);
            out.fails(125, words);
        };
        refused("nonsense", "invalid --security-opt: \"nonsense\"");
        refused("nonsense=x", "invalid --security-opt 2: \"nonsense=x\"");
        refused("no-new-privileges=maybe", "invalid --security-opt 2: \"no-new-privileges=maybe\"");
        refused("label=colour:red", "bad label option \"colour:red\"");
        refused("label=type:container_t", "label=type:container_t");
        refused("seccomp=/no/such/profile.json", "opening seccomp profile (/no/such/profile.json) failed");
    });
}

#[test]
fn system_paths_are_shown_when_asked_for() {
    both(|world, cli| {
        let count = "grep -c ' /proc/[a-z]' /proc/self/mounts; true";
        assert_ne!(run(cli, &[], count), "0");
        assert_eq!(run(cli, &["--security-opt", "systempaths=unconfined"], count), "0");
        let name = world.name("paths");
        cli.ok(&["create", "--name", &name, "--security-opt", "systempaths=unconfined", IMAGE]);
        let shown = cli.inspect(&name, "{{json .HostConfig.MaskedPaths}} {{json .HostConfig.ReadonlyPaths}}");
        assert_eq!(shown, "[] []");
        cli.ok(&["rm", &name]);
    });
    // Docker's client does it, and the daemon refuses the word; programs that speak the API may as well say it.
    let world = world();
    let name = world.name("paths-api");
    let body = json!({"Image": IMAGE, "HostConfig": {"SecurityOpt": ["systempaths=unconfined"]}});
    let made = world.daemon.post(&format!("/containers/create?name={name}"), Some(&body)).expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    let seen = world.daemon.get(&format!("/containers/{name}/json")).expect("an answer").json();
    assert_eq!(seen["HostConfig"]["MaskedPaths"], json!([]));
    world.daemon.delete(&format!("/containers/{name}")).expect("an answer");
}

#[test]
fn cgroups_are_writable_only_when_asked_for_and_never_those_of_version_1() {
    both(|_, cli| {
        let option = ["--security-opt", "writable-cgroups=true"];
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            let script = "mkdir /sys/fs/cgroup/own 2>/dev/null && echo made; true";
            assert_eq!(run(cli, &[], script), "");
            assert_eq!(run(cli, &option, script), "made");
        } else {
            let out = cli.run(&["run", "--rm", option[0], option[1], IMAGE, "true"]);
            out.fails(125, "cgroup v1");
        }
    });
}

#[test]
fn a_seccomp_profile_may_have_all_that_dockers_have() {
    both(|world, cli| {
        let rule = |names: [&str; 2], errno: u32, more: serde_json::Value| {
            let mut rule = json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno, "args": null});
            rule.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            rule
        };
        let profile = json!({
            "comment": "what is not known is passed over",
            "defaultAction": "SCMP_ACT_ALLOW",
            "defaultErrnoRet": 38,
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
            "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
            "syscalls": [
                rule(["mkdir", "mkdirat"], 13, json!({"excludes": {"caps": ["CAP_SYS_ADMIN"]}})),
                rule(["symlink", "symlinkat"], 28, json!({"includes": {"minKernel": "3.10"}})),
                rule(["link", "linkat"], 28, json!({"includes": {"minKernel": "99.0"}})),
                rule(["rmdir", "unlinkat"], 5, json!({"includes": {"arches": ["amd64", "arm64"]}})),
            ],
        });
        let path = world.daemon.home().join("whole.json");
        std::fs::write(&path, profile.to_string()).expect("write a profile");
        let option = format!("seccomp={}", path.display());
        let tries = "touch /f; mkdir /d; ln -s /f /s; ln /f /l; rmdir /var; true";
        let plain = cli.run(&["run", "--rm", "--security-opt", &option, IMAGE, "sh", "-c", tries]);
        let said = plain.stderr.to_lowercase();
        for words in ["permission denied", "no space left", "input/output error"] {
            assert!(said.contains(words), "{words}: {plain}");
        }
        assert!(!said.contains("'/l'") && !said.contains("/l:"), "{plain}");
        let admin = ["run", "--rm", "--cap-add", "SYS_ADMIN", "--security-opt", &option, IMAGE, "sh", "-c", tries];
        assert!(!cli.run(&admin).stderr.to_lowercase().contains("permission denied"));
        for (wrong, words) in [
            (json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FLY"]}), "fly"),
            (json!({"defaultAction": "SCMP_ACT_DANCE"}), "unknown action"),
        ] {
            std::fs::write(&path, wrong.to_string()).expect("write a profile");
            let out = cli.run(&["create", "--security-opt", &option, IMAGE]);
            out.fails(1, words);
        }
    });
}

#[test]
fn what_the_daemon_was_told_holds_for_containers_that_do_not_say() {
    let directory = tempfile::tempdir().expect("a directory");
    let profile = directory.path().join("default.json");
    let rule = r#"{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13}"#;
    std::fs::write(&profile, format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#)).expect("write");
    let seccomp = format!("--seccomp-profile={}", profile.display());
    let more = ["--no-new-privileges", "--default-ipc-mode=shareable", "--default-cgroupns-mode=host"];
    let flags = std::iter::once(seccomp.as_str()).chain(more).map(str::to_owned).collect();
    let world = World::start(Options { flags, ..Options::default() }).expect("a daemon with a policy of its own");
    let cli = world.gantry();
    assert_eq!(status(&cli, &[], "NoNewPrivs"), "1");
    assert_eq!(status(&cli, &["--security-opt", "no-new-privileges=false"], "NoNewPrivs"), "0");
    let make = "mkdir /d 2>/dev/null && echo made; true";
    assert_eq!(run(&cli, &[], make), "");
    assert_eq!(run(&cli, &["--security-opt", "seccomp=builtin"], make), "made");
    assert_eq!(run(&cli, &["--privileged"], make), "made");
    let host = std::fs::read_link("/proc/self/ns/cgroup").expect("a namespace");
    assert_eq!(run(&cli, &[], "readlink /proc/self/ns/cgroup"), host.to_string_lossy());
    cli.ok(&["create", "--name", "shown", IMAGE]);
    assert_eq!(cli.inspect("shown", "{{.HostConfig.IpcMode}} {{.HostConfig.CgroupnsMode}}"), "shareable host");
    let info = world.daemon.get("/info").expect("info").json();
    let options = info["SecurityOptions"].to_string();
    assert!(options.contains(&format!("name=seccomp,profile={}", profile.display())), "{options}");
    assert!(options.contains("name=no-new-privileges") && !options.contains("name=cgroupns"), "{options}");
    assert!(info["Warnings"].to_string().contains("not using the default seccomp profile"), "{info}");
}

#[test]
fn a_daemon_does_not_start_with_a_policy_that_it_cannot_have() {
    for (flag, words) in [
        ("--seccomp-profile=/no/such/file", "/no/such/file"),
        ("--selinux-enabled", "SELinux"),
        ("--default-ipc-mode=secret", "private and shareable"),
    ] {
        let options = Options { flags: vec![flag.into()], ..Options::default() };
        let refused = Daemon::with(options).map(drop).expect_err("it must not start");
        assert!(format!("{refused:#}").contains(words), "{flag}: {refused:#}");
    }
}

#[test]
fn info_tells_what_confines_containers() {
    let info = world().daemon.get("/info").expect("info").json();
    let options: Vec<&str> =
        info["SecurityOptions"].as_array().into_iter().flatten().filter_map(|o| o.as_str()).collect();
    let apparmor = has_apparmor().then_some("name=apparmor");
    let expected: Vec<&str> = apparmor.into_iter().chain(["name=seccomp,profile=builtin", "name=cgroupns"]).collect();
    assert_eq!(options, expected);
}

#[test]
fn apparmor_is_refused_clearly_where_the_kernel_has_none() {
    if has_apparmor() {
        return skip("this kernel has AppArmor");
    }
    both(|world, cli| {
        for profile in ["docker-default", "some-profile"] {
            let option = format!("apparmor={profile}");
            let out = cli.run(&["run", "--rm", "--security-opt", &option, IMAGE, "true"]);
            out.fails(125, "apparmor is not enabled on this host");
        }
        let name = world.name("no-apparmor");
        cli.ok(&["create", "--name", &name, IMAGE]);
        assert_eq!(cli.inspect(&name, "{{.AppArmorProfile}}"), "");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn apparmor_confines_run_and_exec_and_can_be_left_out() {
    if !has_apparmor() {
        return skip("this kernel has no AppArmor, or it is off");
    }
    both(|world, cli| {
        let current = "cat /proc/self/attr/current";
        let confined = "gantry-default (enforce)";
        for (flags, profile) in [
            (&["--init"][..], confined),
            (&["--security-opt", "apparmor=docker-default"], confined),
            (&["--privileged", "--security-opt", "apparmor=gantry-default"], confined),
            (&["--security-opt", "apparmor=unconfined"], "unconfined"),
            (&["--privileged"], "unconfined"),
        ] {
            assert_eq!(run(cli, flags, current), profile, "{flags:?}");
        }
        let name = world.name("confined");
        cli.ok(&["run", "-d", "--name", &name, "--cap-add", "SYS_ADMIN", IMAGE, "sleep", "1000"]);
        assert_eq!(cli.inspect(&name, "{{.AppArmorProfile}}"), "gantry-default");
        assert_eq!(
            cli.ok(&["exec", &name, "cat", "/proc/1/attr/current", "/proc/self/attr/current"]),
            [confined; 2].join("\n")
        );
        assert_eq!(cli.ok(&["exec", "--privileged", &name, "sh", "-c", current]), "unconfined");
        cli.run(&["exec", &name, "mount", "-t", "tmpfs", "x", "/tmp"]).fails(255, "permission denied");
        cli.ok(&["rm", "-f", &name]);
        // h only prints a help: nothing happens where it is not denied.
        let tries = "mkdir -p /m; mount -t tmpfs x /m 2>/dev/null && echo mounted; \
                     { echo h >/proc/sysrq-trigger; } 2>/dev/null && echo triggered; true";
        let mighty = ["--cap-add", "SYS_ADMIN", "--security-opt", "systempaths=unconfined", "--security-opt"];
        let with = |profile: &str| run(cli, &[&mighty[..], &[profile]].concat(), tries);
        assert_eq!(with("apparmor=unconfined"), "mounted\ntriggered");
        assert_eq!(with("apparmor=gantry-default"), "");
        let out = cli.run(&["run", "--rm", "--security-opt", "apparmor=no-such-profile", IMAGE, "true"]);
        out.fails(125, "no-such-profile: not loaded");
    });
}

/// A profile that the kernel has while this lives.
struct Profile(&'static str);

impl Profile {
    fn load(name: &'static str, rules: &str) -> Self {
        let text = format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{ {rules} }}");
        Self::parser("--replace", &text);
        Self(name)
    }

    fn parser(action: &str, text: &str) {
        let mut parser = std::process::Command::new(paths::need("apparmor_parser").expect("the parser"));
        command::run(parser.args(["--skip-cache", action]), Some(text.as_bytes()), command::LIMIT)
            .expect("it runs")
            .ok();
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        Self::parser("--remove", &format!("profile {} {{ }}", self.0));
    }
}

#[test]
fn apparmor_profiles_of_ones_own_confine_run_and_exec() {
    if !has_apparmor() {
        return skip("this kernel has no AppArmor, or it is off");
    }
    let rules = "file, capability, network, umount, signal, ptrace, deny /etc/passwd r,";
    let profile = Profile::load("gantry-security-test", rules);
    both(|world, cli| {
        let (name, option) = (world.name("own-profile"), format!("apparmor={}", profile.0));
        cli.ok(&["run", "-d", "--name", &name, "--security-opt", &option, IMAGE, "sleep", "1000"]);
        assert_eq!(cli.inspect(&name, "{{.AppArmorProfile}}"), profile.0);
        for more in [&[][..], &["--privileged"]] {
            let exec = [&["exec"], more, &[&name, "sh", "-c", "cat /proc/self/attr/current; cat /etc/passwd"]].concat();
            let out = cli.run(&exec);
            out.fails(1, "permission denied");
            assert_eq!(out.stdout, format!("{} (enforce)\n", profile.0));
        }
        cli.ok(&["rm", "-f", &name]);
    });
}

/// A 32-bit program that makes a socket by socketcall(2) and exits with the error, or with 253 for descriptor 3.
fn socketcall_program(family: u32, kind: u32) -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let code = |arguments: u32| {
        let mut code = vec![0xb8, 102, 0, 0, 0, 0xbb, 1, 0, 0, 0, 0xb9];
        code.extend(arguments.to_le_bytes());
        // int 0x80; neg eax; mov ebx, eax; mov eax, 1; int 0x80
        code.extend([0xcd, 0x80, 0xf7, 0xd8, 0x89, 0xc3, 0xb8, 1, 0, 0, 0, 0xcd, 0x80]);
        code
    };
    let length = u32::try_from(code(0).len()).expect("a few bytes");
    let whole = HEADERS + length + 12;
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend([2, 0, 3, 0]);
    for word in [1, BASE + HEADERS, 52, 0, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend([52, 0, 32, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    for word in [1, 0, BASE, BASE, whole, whole, 5, 0x1000] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(code(BASE + HEADERS + length));
    for word in [family, kind, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    file
}

fn executable(path: &Path, content: &[u8]) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, content).expect("write a program");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
}

#[test]
fn af_alg_and_vsock_cannot_be_had_by_the_call_that_hides_the_family() {
    let world = world();
    let cli = world.gantry();
    let run = |family, kind, flags: &[&str]| {
        let program = world.daemon.home().join(world.name("socketcall"));
        executable(&program, &socketcall_program(family, kind));
        let mount = format!("{}:/program:ro", program.display());
        cli.run(&[&["run", "--rm", "-v", &mount], flags, &[IMAGE, "/program"]].concat()).code
    };
    for (family, kind) in [(38, 5), (40, 1)] {
        let refusal = if has_apparmor() { 13 } else { 1 };
        assert_eq!(run(family, kind, &[]), refusal, "family {family}");
        // Without AppArmor's help the whole call is refused.
        assert_eq!(run(family, kind, &["--security-opt", "apparmor=unconfined"]), 1, "family {family}");
    }
    let local = run(1, 1, &[]);
    assert_eq!(local, if has_apparmor() { 253 } else { 1 }, "a socket of its own");
    assert_eq!(
        run(1, 1, &["--security-opt", "seccomp=unconfined"]),
        253,
        "the program makes one where nothing refuses"
    );
}

fn old_program() -> Option<PathBuf> {
    let store = registry::store().expect("the tests' store");
    debian::i386_busybox(&store).map_err(|error| skip(&format!("no 32-bit program: {error:#}"))).ok()
}

#[test]
fn old_32_bit_programs_run_and_have_sockets_where_apparmor_watches_their_families() {
    let Some(program) = old_program() else { return };
    let world = world();
    let cli = world.gantry();
    let mount = format!("{}:/32/busybox:ro", program.display());
    let flags = |more: &[&'static str]| [&["-v", mount.as_str()], more].concat();
    let script = "cd /tmp; b=/32/busybox; $b head -c 5 $b | $b od -An -tx1; $b mkdir d; echo text | $b tee d/f; \
                  $b stat -c %s d/f; $b sleep 0.1; $b id -u; $b sh -c 'kill -9 $$'; echo $?";
    let seen = run(&cli, &flags(&[]), script);
    assert_eq!(seen.trim_start(), "7f 45 4c 46 01\ntext\n5\n0\n137");
    let socket = "/32/busybox ifconfig lo 2>&1 | head -1";
    let made = "lo        Link encap";
    let seen = run(&cli, &flags(&[]), socket);
    if has_apparmor() {
        assert!(seen.starts_with(made), "{seen}");
    } else {
        assert!(seen.contains("Operation not permitted"), "{seen}");
    }
    assert!(run(&cli, &flags(&["--security-opt", "seccomp=unconfined"]), socket).starts_with(made));
}
