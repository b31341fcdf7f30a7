//! `cp` by the table of Docker's manual, line by line and both ways, and whose the copies are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use gantry_tests::{Cli, IMAGE, both};

/// What there is to copy and to copy onto, on either side: `file`, `dir` with `leaf` in it, `old` (a file), `there` (a
/// directory).
const PREPARE: &str = "mkdir -p $0/dir $0/there && echo file > $0/file && echo leaf > $0/dir/leaf && echo old > $0/old";

/// What is at which path afterwards; or what the error says.
type Outcome = Result<(&'static str, &'static str), &'static str>;

/// Source, destination, outcome.
const TABLE: [(&str, &str, Outcome); 14] = [
    ("file", "new", Ok(("new", "file"))),
    ("file", "new/", Err("director")),
    ("file", "old", Ok(("old", "file"))),
    ("file", "old/", Err("director")),
    ("file", "there", Ok(("there/file", "file"))),
    ("file", "there/", Ok(("there/file", "file"))),
    ("file", "no/new", Err("no")),
    ("dir", "new", Ok(("new/leaf", "leaf"))),
    ("dir", "old", Err("cannot copy directory")),
    ("dir", "there", Ok(("there/dir/leaf", "leaf"))),
    ("dir/", "there/", Ok(("there/dir/leaf", "leaf"))),
    ("dir/.", "there", Ok(("there/leaf", "leaf"))),
    ("dir/.", "new", Ok(("new/leaf", "leaf"))),
    ("none", "there", Err("none")),
];

#[test]
fn every_line_of_the_manuals_table_holds_both_ways() {
    both(|world, cli| {
        let container = world.name("cp-table");
        cli.ok(&["run", "-d", "--name", &container, IMAGE, "sleep", "600"]);
        let inside = |script: &str, directory: &str| cli.run(&["exec", &container, "sh", "-c", script, directory]);
        for (number, (source, destination, wanted)) in TABLE.into_iter().enumerate() {
            let home = tempfile::tempdir().expect("a directory");
            let here = home.path().display().to_string();
            let there = format!("/tmp/{number}");
            inside(PREPARE, &there).ok();
            shell(PREPARE, &here);
            let into = cli.run(&["cp", &format!("{here}/{source}"), &format!("{container}:{there}/{destination}")]);
            let row = format!("{source} to {destination}");
            match wanted {
                Ok((path, content)) => {
                    into.ok();
                    assert_eq!(inside("cat $0", &format!("{there}/{path}")).ok(), content, "{row}, in");
                }
                Err(text) => into.fails(1, text),
            }
            inside(&format!("rm -rf $0 && {PREPARE}"), &there).ok();
            let out = cli.run(&["cp", &format!("{container}:{there}/{source}"), &format!("{here}/{destination}")]);
            match wanted {
                Ok((path, content)) => {
                    out.ok();
                    let copied = fs::read_to_string(home.path().join(path)).expect("the copy");
                    assert_eq!(copied.trim(), content, "{row}, out");
                }
                Err(text) => out.fails(1, text),
            }
        }
        cli.ok(&["rm", "-f", &container]);
    });
}

fn shell(script: &str, directory: &str) {
    let mut sh = std::process::Command::new("sh");
    gantry_tests::command::succeed(sh.args(["-c", script, directory]), gantry_tests::command::LIMIT).expect("sh");
}

fn owner_inside(cli: &Cli<'_>, container: &str, path: &str) -> String {
    cli.ok(&["exec", "--user", "0", container, "stat", "-c", "%u:%g %a", path])
}

#[test]
fn copies_belong_to_whom_docker_says() {
    both(|world, cli| {
        let container = world.name("cp-owner");
        cli.ok(&["run", "-d", "--name", &container, "--user", "alice", IMAGE, "sleep", "600"]);
        let home = tempfile::tempdir().expect("a directory");
        let file = home.path().join("file");
        fs::write(&file, "x").expect("a file");
        std::os::unix::fs::chown(&file, Some(1234), Some(4321)).expect("chown");
        let (file, target) = (file.display().to_string(), |name: &str| format!("{container}:/tmp/{name}"));
        cli.ok(&["cp", &file, &target("plain")]);
        assert_eq!(owner_inside(cli, &container, "/tmp/plain"), "1234:4321 644", "numbers are kept");
        cli.ok(&["cp", "-a", &file, &target("archive")]);
        assert_eq!(
            owner_inside(cli, &container, "/tmp/archive"),
            "1000:1000 644",
            "with -a it is the container's user's"
        );
        let out = home.path().join("out");
        cli.ok(&["cp", &target("archive"), &out.display().to_string()]);
        let seen = fs::metadata(&out).expect("the copy");
        assert_eq!((seen.uid(), seen.gid()), (0, 0), "outside it is whose the client is");
        cli.ok(&["rm", "-f", &container]);
    });
}

#[test]
fn links_are_followed_when_asked_for() {
    both(|world, cli| {
        let container = world.name("cp-follow");
        cli.ok(&["run", "-d", "--name", &container, IMAGE, "sleep", "600"]);
        cli.ok(&["exec", &container, "sh", "-c", "echo inside > /tmp/file; ln -s file /tmp/link"]);
        let home = tempfile::tempdir().expect("a directory");
        let at = |name: &str| home.path().join(name);
        let text = |path: &Path| path.display().to_string();
        fs::write(at("file"), "outside").expect("a file");
        std::os::unix::fs::symlink("file", at("link")).expect("a link");
        let from = format!("{container}:/tmp/link");
        cli.ok(&["cp", &from, &text(&at("kept"))]);
        assert_eq!(fs::read_link(at("kept")).expect("a link").to_string_lossy(), "file");
        cli.ok(&["cp", "-L", &from, &text(&at("followed"))]);
        assert_eq!(fs::read_to_string(at("followed")).expect("a file"), "inside\n");
        cli.ok(&["cp", &text(&at("link")), &format!("{container}:/tmp/kept")]);
        assert_eq!(cli.ok(&["exec", &container, "readlink", "/tmp/kept"]), "file");
        cli.ok(&["cp", "-qL", &text(&at("link")), &format!("{container}:/tmp/followed")]);
        assert_eq!(cli.ok(&["exec", &container, "cat", "/tmp/followed"]), "outside");
        cli.ok(&["rm", "-f", &container]);
    });
}
