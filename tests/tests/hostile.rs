//! Images that mean harm.

use gantry_tests::{IMAGE, both, image, paths, world};

#[test]
fn the_binary_is_never_changed_by_an_entry_point_of_proc_self_exe() {
    let binary = paths::gantry().expect("the binary");
    let before = image::digest(&std::fs::read(&binary).expect("the binary"));
    both(|world, cli| {
        let name = world.registry.name("self-exe");
        let out = cli.run(&["run", "--rm", &name]);
        // It may run the sealed copy that the container was started from, harmlessly; what counts is the file below.
        assert!(out.code < 125 || !out.stderr.is_empty(), "{out}");
        let overwrite = "for f in /proc/1/exe /proc/self/exe; do echo x > $f; done; ls -l /proc/*/exe 2>/dev/null";
        let out = cli.run(&["run", "--rm", IMAGE, "sh", "-c", overwrite]);
        assert!(!out.stdout.contains("gantry") && !out.stdout.contains("memfd"), "{out}");
    });
    assert_eq!(image::digest(&std::fs::read(&binary).expect("the binary")), before);
}

#[test]
fn a_working_directory_below_proc_self_fd_leads_nowhere() {
    both(|world, cli| {
        let name = world.registry.name("fd-workdir");
        for number in 0..32 {
            let directory = format!("/proc/self/fd/{number}");
            let out = cli.run(&[
                "run",
                "--rm",
                "-w",
                &directory,
                &name,
                "sh",
                "-c",
                "cat ../../../../../../etc/hostname; ls",
            ]);
            let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
            assert!(host.trim().is_empty() || !out.stdout.contains(host.trim()), "{directory}: {out}");
        }
        let target = world.name("fd-exec");
        cli.ok(&["run", "-d", "--name", &target, IMAGE, "sleep", "600"]);
        for number in 0..16 {
            let directory = format!("/proc/self/fd/{number}");
            let out = cli.run(&["exec", "-w", &directory, &target, "ls"]);
            assert!(out.code != 0 || !out.stdout.contains("lost+found"), "{directory}: {out}");
        }
        cli.ok(&["rm", "-f", &target]);
    });
}

#[test]
fn proc_sys_and_dev_as_links_do_not_lead_mounts_astray() {
    let world = world();
    world.pull("linked-proc").expect("pull");
    let before = gantry_tests::slot::mounts_below(std::path::Path::new("/tmp")).len();
    let out = world.gantry().run(&["run", "--rm", "linked-proc", "sh", "-c", "cat /proc/self/mounts"]);
    // Refused, or mounted where the links lead inside of the container; outside nothing changed.
    assert!(out.code != 0 || out.stdout.contains("proc"), "{out}");
    assert_eq!(gantry_tests::slot::mounts_below(std::path::Path::new("/tmp")).len(), before);
    assert!(!std::path::Path::new("/etc/null").exists() && !std::path::Path::new("/etc/pts").exists());
}

#[test]
fn a_user_beyond_32_bits_is_an_error_not_root() {
    both(|world, cli| {
        let name = world.registry.name("huge-user");
        let out = cli.run(&["run", "--rm", &name]);
        assert!(out.code != 0 && !out.stdout.contains("uid=0"), "{out}");
        for user in ["-1", "4294967295", "99999999999999999999", "root\nx", "0:-1"] {
            let out = cli.run(&["run", "--rm", "-u", user, IMAGE, "id"]);
            assert!(out.code != 0 || user == "4294967295" && !out.stdout.contains("uid=0"), "{user:?}: {out}");
        }
    });
}

#[test]
fn a_container_cannot_see_or_reach_the_engines_files() {
    let world = world();
    let cli = world.gantry();
    let root = world.daemon.slot().root().display().to_string();
    let out = cli.ok(&[
        "run",
        "--rm",
        IMAGE,
        "sh",
        "-c",
        &format!("ls {root} 2>&1; cat /proc/self/mountinfo; ls -d /run/gantry 2>&1; true"),
    ]);
    assert!(!out.contains("gantry.db"), "{out}");
    let abstracts = cli.ok(&["run", "--rm", "--network", "host", IMAGE, "cat", "/proc/net/unix"]);
    assert!(!abstracts.lines().any(|line| line.contains(" @") && line.contains("gantry")), "{abstracts}");
    use std::os::unix::fs::PermissionsExt;
    for directory in ["data", "run"] {
        let path = world.daemon.slot().root().join(directory);
        let mode = std::fs::metadata(&path).expect("stat").permissions().mode() & 0o777;
        assert!(mode & 0o006 == 0, "{}: {mode:o}", path.display());
    }
}

#[test]
fn only_root_and_its_group_reach_the_api() {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let world = world();
    let socket = std::fs::metadata(world.daemon.socket()).expect("the API's socket");
    assert!(socket.file_type().is_socket() && socket.uid() == 0);
    assert_eq!(socket.mode() & 0o7777, 0o660);
}
