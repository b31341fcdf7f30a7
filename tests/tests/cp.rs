//! cp, both ways, running and stopped, files, directories and streams.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use gantry_tests::{IMAGE, both, http, world};

#[test]
fn files_go_in_and_come_out_with_their_content_and_mode() {
    both(|world, cli| {
        let name = world.name("cp");
        let home = tempfile::tempdir().expect("a directory");
        let (file, back) = (home.path().join("in.sh"), home.path().join("out.sh"));
        fs::write(&file, "content\n").expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o754)).expect("chmod");
        for start in [false, true] {
            cli.ok(&["create", "--name", &name, IMAGE, "sleep", "600"]);
            if start {
                cli.ok(&["start", &name]);
            }
            cli.ok(&["cp", &file.display().to_string(), &format!("{name}:/tmp/in.sh")]);
            cli.ok(&["cp", &format!("{name}:/tmp/in.sh"), &back.display().to_string()]);
            assert_eq!(fs::read_to_string(&back).expect("it came back"), "content\n");
            assert_eq!(fs::metadata(&back).expect("stat").permissions().mode() & 0o777, 0o754);
            if start {
                assert_eq!(cli.ok(&["exec", &name, "cat", "/tmp/in.sh"]), "content");
            }
            fs::remove_file(&back).expect("remove");
            cli.ok(&["rm", "-f", &name]);
        }
    });
}

#[test]
fn directories_follow_the_rules_of_cp() {
    both(|world, cli| {
        let name = world.name("cp-dir");
        let home = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(home.path().join("tree/sub")).expect("a tree");
        fs::write(home.path().join("tree/sub/leaf"), "leaf").expect("a file");
        std::os::unix::fs::symlink("sub/leaf", home.path().join("tree/link")).expect("a link");
        let tree = home.path().join("tree").display().to_string();
        cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
        let inside = |script: &str| cli.ok(&["exec", &name, "sh", "-c", script]);
        cli.ok(&["cp", &tree, &format!("{name}:/tmp")]);
        assert_eq!(inside("cat /tmp/tree/sub/leaf; readlink /tmp/tree/link"), "leafsub/leaf");
        cli.ok(&["cp", &tree, &format!("{name}:/tmp/new")]);
        assert_eq!(inside("cat /tmp/new/sub/leaf"), "leaf");
        cli.ok(&["cp", &format!("{tree}/."), &format!("{name}:/home")]);
        assert_eq!(inside("cat /home/sub/leaf"), "leaf");
        let out = home.path().join("out");
        cli.ok(&["cp", &format!("{name}:/tmp/tree"), &out.display().to_string()]);
        assert_eq!(fs::read_to_string(out.join("sub/leaf")).expect("the leaf"), "leaf");
        assert_eq!(fs::read_link(out.join("link")).expect("the link").to_string_lossy(), "sub/leaf");
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn a_dash_is_a_tar_stream() {
    both(|world, cli| {
        let name = world.name("cp-tar");
        cli.ok(&["create", "--name", &name, IMAGE]);
        let out = cli.run(&["cp", &format!("{name}:/etc/passwd"), "-"]);
        assert_eq!(out.code, 0, "{out}");
        let mut archive = tar::Archive::new(out.bytes.as_slice());
        let names: Vec<String> = archive
            .entries()
            .expect("a tar")
            .flatten()
            .map(|e| e.path().expect("a path").display().to_string())
            .collect();
        assert_eq!(names, ["passwd"]);
        let layer = gantry_tests::image::Layer::default().file("streamed", 0o600, "yes").finish().expect("a tar");
        let sent = cli.input(&["cp", "-", &format!("{name}:/tmp")], layer);
        assert_eq!(sent.code, 0, "{sent}");
        let back = cli.run(&["cp", &format!("{name}:/tmp/streamed"), "-"]);
        assert!(back.stdout.contains("yes"), "{back}");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn links_inside_never_lead_outside() {
    both(|world, cli| {
        let name = world.name("cp-link");
        let home = tempfile::tempdir().expect("a directory");
        let secret = home.path().join("secret");
        fs::write(&secret, "host secret").expect("a file");
        let path = secret.display();
        let script = format!(
            "ln -s {path} /tmp/link; ln -s ../../../../../../../../.. /tmp/up; ln -s {} /tmp/dir; sleep 600",
            home.path().display()
        );
        cli.ok(&["run", "-d", "--name", &name, IMAGE, "sh", "-c", &script]);
        gantry_tests::eventually("the links are made", || {
            cli.run(&["exec", &name, "test", "-L", "/tmp/dir"]).code == 0
        });
        let out = cli.run(&["cp", "-L", &format!("{name}:/tmp/link"), "-"]);
        assert!(!out.stdout.contains("host secret"), "{out}");
        let out = cli.run(&["cp", &format!("{name}:/tmp/up{path}"), "-"]);
        assert!(!out.stdout.contains("host secret"), "{out}");
        let planted = home.path().join("planted");
        fs::write(&planted, "x").expect("a file");
        fs::create_dir(home.path().join("target")).expect("a directory");
        let _ = cli.run(&["cp", &planted.display().to_string(), &format!("{name}:/tmp/dir/target/planted")]);
        assert!(!home.path().join("target/planted").exists(), "a file was written on the host");
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn volumes_are_seen_by_cp_and_what_is_missing_is_named() {
    both(|world, cli| {
        let name = world.name("cp-volume");
        cli.ok(&["run", "--name", &name, "-v", "/data", IMAGE, "sh", "-c", "echo kept > /data/file"]);
        assert!(cli.run(&["cp", &format!("{name}:/data/file"), "-"]).stdout.contains("kept"));
        cli.run(&["cp", &format!("{name}:/no/such"), "-"]).fails(1, "/no/such");
        cli.run(&["cp", "no-such-container:/x", "-"]).fails(1, "no such container");
        cli.ok(&["rm", "-v", &name]);
    });
}

#[test]
fn an_archive_that_cannot_be_inflated_is_its_senders_fault() {
    // One byte of `xz --lzma2=dict=1536MiB`.
    const GREEDY: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x25, 0x00,
        0x00, 0x00, 0x3b, 0x78, 0x7b, 0x41, 0x01, 0x00, 0x00, 0x78, 0x00, 0x00, 0x00, 0x00, 0x45, 0xae, 0xef, 0x83,
        0xf8, 0xee, 0x16, 0x0a, 0x00, 0x01, 0x19, 0x01, 0xa5, 0x2c, 0x81, 0xcc, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00,
        0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
    ];
    let world = world();
    let cli = world.gantry();
    let name = world.name("cp-damaged");
    cli.ok(&["create", "--name", &name, IMAGE]);
    let put = format!("/containers/{name}/archive?path=/tmp");
    for (archive, wanted) in [
        (&b"BZh9 and nothing of bzip2 after that"[..], "bzip2 stream"),
        (GREEDY, "more than 128 MiB: compress it with xz -9 or less"),
    ] {
        let refused = http::unix(&world.daemon.socket(), "PUT", &put, Some(archive)).expect("an answer");
        assert_eq!(refused.status, 400, "{}", refused.text());
        assert!(refused.message().contains(wanted), "{}", refused.message());
    }
    cli.ok(&["rm", "-f", &name]);
}
