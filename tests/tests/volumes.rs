//! Binds, volumes, tmpfs and --mount.

use std::fs;

use gantry_tests::{IMAGE, both};

#[test]
fn a_bind_shows_the_hosts_files_and_ro_is_read_only() {
    both(|_, cli| {
        let host = tempfile::tempdir().expect("a directory");
        fs::write(host.path().join("file"), "from the host\n").expect("a file");
        let bind = format!("{}:/mnt", host.path().display());
        let out = cli.ok(&["run", "--rm", "-v", &bind, IMAGE, "sh", "-c", "cat /mnt/file; echo back > /mnt/answer"]);
        assert_eq!(out, "from the host");
        assert_eq!(fs::read_to_string(host.path().join("answer")).expect("the answer"), "back\n");
        let out = cli.run(&["run", "--rm", "-v", &format!("{bind}:ro"), IMAGE, "touch", "/mnt/no"]);
        out.fails(1, "read-only");
        let mount = format!("type=bind,source={},target=/m,readonly", host.path().display());
        cli.run(&["run", "--rm", "--mount", &mount, IMAGE, "touch", "/m/no"]).fails(1, "read-only");
    });
}

#[test]
fn a_file_can_be_bound_and_a_missing_directory_is_made_for_v_only() {
    both(|_, cli| {
        let host = tempfile::tempdir().expect("a directory");
        let file = host.path().join("one");
        fs::write(&file, "one file\n").expect("a file");
        let bind = format!("{}:/etc/one:ro", file.display());
        assert_eq!(cli.ok(&["run", "--rm", "-v", &bind, IMAGE, "cat", "/etc/one"]), "one file");
        let missing = host.path().join("made");
        cli.ok(&["run", "--rm", "-v", &format!("{}:/mnt", missing.display()), IMAGE, "true"]);
        assert!(missing.is_dir());
        let mount = format!("type=bind,source={}/absent,target=/mnt", host.path().display());
        cli.run(&["run", "--rm", "--mount", &mount, IMAGE, "true"]).fails(125, "bind source path does not exist");
        assert!(!host.path().join("absent").exists());
    });
}

#[test]
fn a_named_volume_outlives_its_containers() {
    both(|world, cli| {
        let volume = world.name("vol");
        let flag = format!("{volume}:/data");
        cli.ok(&["run", "--rm", "-v", &flag, IMAGE, "sh", "-c", "echo kept > /data/file"]);
        assert_eq!(cli.ok(&["run", "--rm", "-v", &flag, IMAGE, "cat", "/data/file"]), "kept");
        let mount = format!("type=volume,source={volume},target=/other");
        assert_eq!(cli.ok(&["run", "--rm", "--mount", &mount, IMAGE, "cat", "/other/file"]), "kept");
        assert!(world.daemon.data_root().join("volumes").join(&volume).join("_data/file").is_file());
    });
}

#[test]
fn an_empty_volume_takes_the_images_content_with_its_owners() {
    both(|world, cli| {
        world.pull("seeded").expect("pull");
        let volume = world.name("seed");
        let out =
            cli.ok(&["run", "--rm", "-v", &format!("{volume}:/data"), "seeded", "stat", "-c", "%u %a", "/data/seed"]);
        assert_eq!(out, "1000 640");
        let none =
            cli.ok(&["run", "--rm", "-v", &format!("{}:/data:nocopy", world.name("seed")), "seeded", "ls", "/data"]);
        assert_eq!(none, "");
        assert_eq!(cli.ok(&["run", "--rm", "seeded"]), "from the image", "VOLUME of the image is copied up too");
    });
}

#[test]
fn anonymous_volumes_go_with_rm() {
    both(|world, cli| {
        let name = world.name("anonymous");
        cli.ok(&["create", "--name", &name, "-v", "/data", IMAGE]);
        let volume = cli.inspect(&name, "{{range .Mounts}}{{.Name}}{{end}}");
        assert_eq!(volume.len(), 64);
        let path = world.daemon.data_root().join("volumes").join(&volume);
        assert!(path.is_dir());
        cli.ok(&["rm", "-v", &name]);
        assert!(!path.exists());
        let id = cli.ok(&["run", "-d", "--rm", "-v", "/data", IMAGE, "sleep", "600"]);
        let volume = cli.inspect(&id, "{{range .Mounts}}{{.Name}}{{end}}");
        cli.ok(&["kill", &id]);
        let path = world.daemon.data_root().join("volumes").join(&volume);
        gantry_tests::eventually("the volume of --rm is gone", || !path.exists());
    });
}

#[test]
fn tmpfs_has_its_size_and_mode() {
    both(|_, cli| {
        let script = "df -k /t | tail -1 | awk '{print $2}'; stat -c %a /t; grep -c ' /t tmpfs .*noexec' /proc/mounts";
        let out = cli.ok(&["run", "--rm", "--tmpfs", "/t:size=4m,mode=700", IMAGE, "sh", "-c", script]);
        assert_eq!(out, "4096\n700\n1");
        let mount = "type=tmpfs,target=/t,tmpfs-size=8388608,tmpfs-mode=1770";
        let out = cli.ok(&[
            "run",
            "--rm",
            "--mount",
            mount,
            IMAGE,
            "sh",
            "-c",
            "df -k /t | tail -1 | awk '{print $2}'; stat -c %a /t",
        ]);
        assert_eq!(out, "8192\n1770");
    });
}

#[test]
fn bad_mounts_are_refused_with_a_reason() {
    both(|_, cli| {
        for (flag, value, reason) in [
            ("-v", "relative/path/inside:x/y", "invalid"),
            ("-v", "/a:relative", "absolute"),
            ("-v", "/a:/b:no-such-mode", "no-such-mode"),
            ("-v", "/tmp:/", "invalid"),
            ("--mount", "type=no-such-type,target=/x", "type"),
            ("--mount", "type=volume,source=x", "target"),
        ] {
            cli.run(&["run", "--rm", flag, value, IMAGE, "true"]).fails(125, reason);
        }
    });
}

#[test]
fn binds_do_not_follow_links_of_the_image_to_the_host() {
    both(|world, cli| {
        let host = tempfile::tempdir().expect("a directory");
        world.pull("linked-proc").expect("pull");
        let bind = format!("{}:/dev/inner", host.path().display());
        // Where /dev of the image is a link, the mount stays inside, or the start is refused; the host is untouched.
        let out = cli.run(&["run", "--rm", "-v", &bind, "linked-proc", "true"]);
        assert!(out.code == 0 || !out.stderr.is_empty(), "{out}");
        assert!(!std::path::Path::new("/etc/inner").exists());
    });
}
