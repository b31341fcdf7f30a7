//! Where the paths lead that a team may mount: what is not there yet, what is a link, what others have mounted.

use std::path::{Path, PathBuf};

use gantry_tests::{IMAGE, Options, Output, World};

use super::{clients, run};

/// A daemon whose data root is reached through a link, a team's door, and the directory that the team may mount.
struct Guarded {
    world: World,
    files: tempfile::TempDir,
}

impl Guarded {
    fn start() -> Self {
        let files = tempfile::tempdir().expect("a directory");
        let at = |name: &str| files.path().join(name).display().to_string();
        for name in ["listed/real", "outside/there"] {
            std::fs::create_dir_all(at(name)).expect("make a directory");
        }
        for (target, link) in [(at("outside"), "out"), (at("outside/not-yet"), "nowhere"), (at("listed/real"), "in")] {
            std::os::unix::fs::symlink(target, files.path().join("listed").join(link)).expect("a link");
        }
        let jobs = r#"["read", "create", "start", "attach", "wait", "delete", "volume_create"]"#;
        let rules = format!(r#"{{"jobs": {jobs}, "labels": ["team=a"], "binds": ["{}/"]}}"#, at("listed"));
        std::fs::write(at("policy"), rules).expect("write the policy");
        // The daemon's command line is the binary, "daemon", "--data-root" and the directory.
        let link = r#"[ -e "$4" ] || { mkdir "$4.real" && ln -s "$4.real" "$4"; }; exec "$@""#;
        let options = Options {
            flags: vec![format!("--socket=path={},policy={},mode=0600", at("team.sock"), at("policy"))],
            before: ["/bin/sh", "-c", link, "linked"].map(str::to_owned).to_vec(),
            ..Options::default()
        };
        Self { world: World::start(options).unwrap_or_else(|error| panic!("{error:?}")), files }
    }

    fn listed(&self, name: &str) -> PathBuf {
        self.files.path().join("listed").join(name)
    }

    fn team(&self, program: &Path, arguments: &[&str]) -> Output {
        let home = tempfile::tempdir().expect("a home");
        let socket = self.files.path().join("team.sock");
        run(program, home.path(), &[("DOCKER_HOST", format!("unix://{}", socket.display()))], arguments)
    }
}

#[test]
fn no_link_leads_what_is_made_or_mounted_for_a_team_elsewhere() {
    let guarded = Guarded::start();
    let outside = guarded.files.path().join("outside");
    for program in clients() {
        let create = |flags: &[&str]| {
            guarded.team(&program, &[&["create", "--label", "team=a"][..], flags, &[IMAGE, "true"]].concat())
        };
        // What is there and what is not, what is no directory and what is not to be made: all are refused alike.
        std::fs::write(outside.join("file"), "").expect("write a file");
        for name in ["out", "out/there", "out/x", "out/x/y", "out/file/x", "nowhere", "nowhere/x"] {
            let asked = guarded.listed(name).display().to_string();
            for flags in [["-v", &format!("{asked}:/d")], ["--mount", &format!("type=bind,source={asked},target=/d")]] {
                let refused = create(&flags);
                refused.fails(1, &format!("a mount of {asked}, which is not on the list"));
                assert!(!refused.stderr.contains(&outside.display().to_string()), "{refused}");
            }
        }
        let left: Vec<_> =
            std::fs::read_dir(&outside).expect("list").map(|entry| entry.expect("one").file_name()).collect();
        assert_eq!(left.len(), 2, "{left:?}");
        // Also where a link leads to what is listed, which is then mounted itself.
        let bind = format!("{}:/d", guarded.listed("in/new/deep").display());
        guarded.team(&program, &["run", "--rm", "--label", "team=a", "-v", &bind, IMAGE, "touch", "/d/made"]).ok();
        assert!(guarded.listed("real/new/deep/made").exists());
        std::fs::remove_dir_all(guarded.listed("real/new")).expect("put the directory away");
    }
}

#[test]
fn a_teams_volumes_are_mounted_also_where_the_data_root_is_a_link() {
    let guarded = Guarded::start();
    assert!(guarded.world.daemon.data_root().is_symlink(), "the data root is reached through a link");
    let volume = guarded.world.name("teams");
    guarded.team(&clients()[0], &["volume", "create", "--label", "team=a", &volume]).ok();
    for program in clients() {
        let named = format!("{volume}:/named");
        let run = ["run", "--rm", "--label", "team=a", "-v", "/anonymous", "-v", &named, IMAGE];
        guarded.team(&program, &[&run[..], &["touch", "/anonymous/x", "/named/x"]].concat()).ok();
    }
    guarded.world.gantry().ok(&["volume", "rm", &volume]);
}

#[test]
fn a_link_in_what_others_mounted_is_told_when_it_is_taken_over_and_not_when_it_is_started() {
    let guarded = Guarded::start();
    let (linked, plain) = (guarded.world.name("linked"), guarded.world.name("plain"));
    for (name, source) in [(&linked, "in"), (&plain, "real")] {
        let bind = format!("{}:/d", guarded.listed(source).display());
        guarded.world.gantry().ok(&["create", "--label", "team=a", "--name", name, "-v", &bind, IMAGE, "true"]);
    }
    for program in clients() {
        let said = format!("bind source {}: there is a link on the way", guarded.listed("in").display());
        let from = |job: &[&str], name: &str| {
            let rest = ["--label", "team=a", "--volumes-from", name, IMAGE, "test", "-d", "/d"];
            guarded.team(&program, &[job, &rest].concat())
        };
        from(&["create"], &linked).fails(1, &said);
        from(&["run", "--rm"], &plain).ok();
    }
    // Nothing was made that cannot be started.
    let left = guarded.world.gantry().ok(&["ps", "-a", "--format", "{{.Names}}"]);
    let mut left: Vec<_> = left.lines().collect();
    left.sort_unstable();
    assert_eq!(left, [linked.as_str(), plain.as_str()]);
    guarded.world.gantry().ok(&["rm", &linked, &plain]);
}
