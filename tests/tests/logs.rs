//! Logs: whole, followed, cut, rotated.

use gantry_tests::{IMAGE, both, eventually};

#[test]
fn logs_keep_both_streams_apart_and_in_order() {
    both(|world, cli| {
        let name = world.name("streams");
        cli.ok(&["run", "--name", &name, IMAGE, "sh", "-c", "echo out; echo err >&2; printf unfinished"]);
        let out = cli.run(&["logs", &name]);
        assert_eq!(out.ok(), "out\nunfinished");
        assert_eq!(out.stderr, "err\n");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn tail_since_and_timestamps_cut_as_docker_does() {
    both(|world, cli| {
        let name = world.name("cut");
        cli.ok(&["run", "--name", &name, IMAGE, "sh", "-c", "for i in 1 2 3 4 5; do echo line $i; done"]);
        assert_eq!(cli.ok(&["logs", "--tail", "2", &name]), "line 4\nline 5");
        assert_eq!(cli.ok(&["logs", "-n", "0", &name]), "");
        assert_eq!(cli.ok(&["logs", "--tail", "all", &name]).lines().count(), 5);
        assert_eq!(cli.ok(&["logs", "--since", "10m", &name]).lines().count(), 5);
        assert_eq!(cli.ok(&["logs", "--since", "2090-01-01T00:00:00Z", &name]), "");
        let stamped = cli.ok(&["logs", "-t", "--tail", "1", &name]);
        let (time, line) = stamped.split_once(' ').expect("a time and a line");
        assert_eq!(line, "line 5");
        assert!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn follow_shows_what_comes_and_ends_with_the_container() {
    both(|world, cli| {
        let name = world.name("follow");
        cli.ok(&[
            "run",
            "-d",
            "-i",
            "--name",
            &name,
            IMAGE,
            "sh",
            "-c",
            "echo one; sleep 0.5; echo two; sleep 0.2; echo three",
        ]);
        let mut session = cli.spawn(&["logs", "-f", &name]);
        assert_eq!(session.line(), "one");
        assert_eq!(session.line(), "two");
        let (code, rest) = session.end();
        assert_eq!((code, rest), (0, vec!["three".to_owned()]));
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn no_byte_is_lost_at_the_end() {
    both(|world, cli| {
        let name = world.name("bytes");
        let out = cli.run(&["run", "--name", &name, IMAGE, "sh", "-c", "seq 1 60000"]);
        let expected: String = (1..=60000).map(|n| format!("{n}\n")).collect();
        assert!(out.stdout == expected, "run showed {} of {} bytes", out.stdout.len(), expected.len());
        assert!(cli.run(&["logs", &name]).stdout == expected, "logs are not whole");
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn long_lines_come_back_as_one() {
    both(|world, cli| {
        let name = world.name("long");
        let script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo after";
        cli.ok(&["run", "--name", &name, IMAGE, "sh", "-c", script]);
        let logs = cli.ok(&["logs", &name]);
        assert_eq!(logs.lines().map(str::len).collect::<Vec<_>>(), [100_000, 5]);
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn logs_rotate_where_limits_are_given_and_follow_survives_it() {
    both(|world, cli| {
        let name = world.name("rotate");
        let script = "read go; for i in $(seq 1 3000); do echo a line of some length, number $i; done; echo the end";
        let flags = ["--log-opt", "max-size=20k", "--log-opt", "max-file=3"];
        cli.ok(&[&["create", "-i", "--name", &name], &flags[..], &[IMAGE, "sh", "-c", script]].concat());
        let mut run = cli.spawn(&["start", "-ai", &name]);
        eventually("it runs", || cli.inspect(&name, "{{.State.Running}}") == "true");
        let follower = cli.spawn(&["logs", "-f", &name]);
        run.write("go\n");
        let (code, lines) = run.end();
        assert_eq!((code, lines.len()), (0, 3001));
        let followed = follower.end().1;
        assert_eq!(followed.last().map(String::as_str), Some("the end"));
        let id = cli.inspect(&name, "{{.Id}}");
        let directory = world.daemon.data_root().join("containers").join(&id);
        let mut sizes = Vec::new();
        for entry in std::fs::read_dir(&directory).expect("the log directory").flatten() {
            if entry.file_name().to_string_lossy().contains("-json.log") {
                sizes.push(entry.metadata().expect("a log").len());
            }
        }
        assert_eq!(sizes.len(), 3, "{sizes:?}");
        assert!(sizes.iter().all(|size| *size <= 21 * 1024), "{sizes:?}");
        assert!(cli.ok(&["logs", &name]).ends_with("the end"));
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn the_log_file_is_json_in_dockers_format() {
    both(|world, cli| {
        let name = world.name("file");
        cli.ok(&["run", "--name", &name, IMAGE, "echo", "hello \"quoted\""]);
        let path = cli.inspect(&name, "{{.LogPath}}");
        eventually("the line is there", || std::fs::read_to_string(&path).is_ok_and(|log| !log.is_empty()));
        let line = std::fs::read_to_string(&path).expect("the log file");
        let value: serde_json::Value = serde_json::from_str(line.trim()).expect("JSON");
        assert_eq!(value["log"], "hello \"quoted\"\n");
        assert_eq!(value["stream"], "stdout");
        assert!(value["time"].as_str().is_some_and(|time| time.ends_with('Z')));
        cli.ok(&["rm", &name]);
    });
}

#[test]
fn logs_of_an_unknown_container_is_an_error() {
    both(|_, cli| cli.run(&["logs", "no-such-container"]).fails(1, "no such container: no-such-container"));
}
