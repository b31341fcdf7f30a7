//! A container's life by the command line.
#![allow(clippy::disallowed_methods, reason = "tests read files plainly")]

mod common;

use std::time::Duration;

use common::World;
use serde_json::{Value, json};

#[test]
fn run_prints_what_the_program_prints_and_ends_as_it_ends() {
    let mut world = World::new();
    let id = world.id();
    world.shell("echo out; echo err >&2; exit 7");
    let output = world.command(&["run", &id]);
    assert_eq!((output.code, output.out.as_str(), output.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(world.command(&["state", &id]).code, 1, "run removes the container");
    let id = world.id();
    world.shell("kill -9 $$");
    // The first process of a pid namespace does not kill itself; its child can be killed.
    world.shell("sh -c 'kill -9 $$'; exit $?");
    assert_eq!(world.command(&["run", &id]).code, 137);
}

#[test]
fn run_with_keep_leaves_the_stopped_container() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["true"]);
    world.ok(&["run", "--keep", &id]);
    let state = world.state(&id);
    assert_eq!((&state["status"], &state["pid"]), (&json!("stopped"), &json!(0)));
    world.ok(&["delete", &id]);
    assert!(world.command(&["state", &id]).err.contains("does not exist"));
}

#[test]
fn a_bind_with_id_mappings_shows_other_owners_inside_and_takes_what_is_written_as_the_mapped_one() {
    let mut world = World::new();
    let id = world.id();
    let shared = world.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("theirs"), "").unwrap();
    std::os::unix::fs::chown(&shared, Some(4711), Some(4711)).unwrap();
    std::os::unix::fs::chown(shared.join("theirs"), Some(4711), Some(4711)).unwrap();
    world.shell("stat -c %u:%g /mnt/theirs && touch /mnt/ours");
    world.configure(|config| {
        let mapping = json!([{"containerID": 4711, "hostID": 0, "size": 1}]);
        config["mounts"].as_array_mut().unwrap().push(json!({
            "destination": "/mnt", "type": "none", "source": shared, "options": ["bind", "idmap"],
            "uidMappings": mapping, "gidMappings": mapping,
        }));
    });
    let output = world.command(&["run", &id]);
    assert_eq!((output.code, output.out.as_str()), (0, "0:0\n"), "{output:?}");
    let ours = std::fs::metadata(shared.join("ours")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&ours), 4711);
}

#[test]
fn a_container_is_created_started_killed_and_deleted() {
    let mut world = World::new();
    let id = world.id();
    world.shell("echo started; exec sleep 600");
    world.configure(|config| config["annotations"] = json!({"org.example": "yes"}));
    let pid_file = world.file("pid");
    let created = world.command(&["create", "--pid-file", &pid_file, &id]);
    assert_eq!(created.code, 0, "{created:?}");
    let state = world.state(&id);
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], json!(id));
    assert_eq!(state["bundle"], json!(world.bundle()));
    assert_eq!(state["rootfs"], json!(world.bundle().join("rootfs")));
    assert_eq!(state["annotations"], json!({"org.example": "yes"}));
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), state["pid"].to_string());
    let time = state["created"].as_str().unwrap();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");
    assert_eq!(created.out_now(), "", "the program has not started");

    world.ok(&["start", &id]);
    world.becomes(&id, "running");
    gantry_tests::eventually("the program writes", || created.out_now() == "started\n");
    let refused = world.command(&["delete", &id]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("not stopped"), "{refused:?}");

    world.ok(&["kill", &id, "KILL"]);
    world.becomes(&id, "stopped");
    let refused = world.command(&["kill", &id, "KILL"]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("container not running"), "{refused:?}");
    world.ok(&["delete", &id]);
    world.ok(&["delete", "--force", &id]);
}

#[test]
fn a_configuration_without_a_process_is_created_and_its_start_ends_it_and_says_so() {
    let mut world = World::new();
    world.configure(|config| drop(config.as_object_mut().unwrap().remove("process")));
    let id = world.id();
    world.ok(&["create", &id]);
    assert_eq!(world.state(&id)["status"], "created");
    let started = world.command(&["start", &id]);
    assert_eq!(started.code, 0, "{started:?}");
    assert!(started.err.contains("no process"), "{started:?}");
    world.becomes(&id, "stopped");
    world.ok(&["delete", &id]);
}

#[test]
fn delete_leaves_a_created_container_alone_and_by_force_removes_it_and_a_running_one() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["sleep", "600"]);
    world.ok(&["create", &id]);
    let refused = world.command(&["delete", &id]);
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("not stopped: created"), "{refused:?}");
    assert_eq!(world.state(&id)["status"], "created");
    world.ok(&["delete", "--force", &id]);
    let id = world.sleeping();
    world.ok(&["delete", "-f", &id]);
    assert_eq!(world.command(&["state", &id]).code, 1);
}

#[test]
fn containers_are_listed() {
    let mut world = World::new();
    assert_eq!(world.command(&["list", "--format", "json"]).out, "null\n");
    let id = world.sleeping();
    let list: Value = serde_json::from_str(&world.ok(&["list", "-f", "json"])).unwrap();
    assert_eq!(list[0]["id"], json!(id));
    assert_eq!(list[0]["owner"], "root");
    assert_eq!(list[0]["status"], "running");
    assert_eq!(world.ok(&["list", "-q"]), format!("{id}\n"));
    let table = world.ok(&["list"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(lines[0].starts_with("ID") && lines[0].ends_with("OWNER"), "{table}");
    assert!(lines[1].starts_with(&id) && lines[1].contains("running"), "{table}");
}

#[test]
fn processes_are_listed_for_programs_and_for_people() {
    let mut world = World::new();
    let id = world.sleeping();
    let pid = world.state(&id)["pid"].as_i64().unwrap();
    let pids: Vec<i64> = serde_json::from_str(&world.ok(&["ps", "-f", "json", &id])).unwrap();
    assert_eq!(pids, [pid]);
    let table = world.ok(&["ps", &id, "-ef"]);
    assert!(
        table.lines().nth(1).is_some_and(|line| line.contains(&pid.to_string()) && line.ends_with("sleep 600")),
        "{table}"
    );
    assert_eq!(world.command(&["ps", &id, "aux"]).code, 1);
}

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    let mut world = World::new();
    let id = world.sleeping();
    world.ok(&["pause", &id]);
    assert_eq!(world.state(&id)["status"], "paused");
    let refused = world.command(&["exec", &id, "true"]);
    assert_eq!(refused.code, 255);
    assert!(refused.err.contains("paused"), "{refused:?}");
    world.ok(&["resume", &id]);
    assert_eq!(world.state(&id)["status"], "running");
    world.ok(&["exec", &id, "true"]);
}

#[test]
fn limits_are_changed_and_statistics_tell_of_them() {
    let mut world = World::new();
    let id = world.sleeping();
    world.ok(&["update", "--pids-limit", "77", "--memory", "64m", &id]);
    let stats: Value = serde_json::from_str(&world.ok(&["events", "--stats", &id])).unwrap();
    assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!(id)));
    assert_eq!(stats["data"]["pids"]["limit"], 77);
    assert_eq!(stats["data"]["pids"]["current"], 1);
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert!(stats["data"]["cpu"]["usage"]["total"].as_u64().is_some());
    let file = world.file("resources.json");
    std::fs::write(&file, r#"{"pids": {"limit": 55}, "memory": null}"#).unwrap();
    world.ok(&["update", "-r", &file, &id]);
    let stats: Value = serde_json::from_str(&world.ok(&["events", "--stats", &id])).unwrap();
    assert_eq!(stats["data"]["pids"]["limit"], 55);
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20, "what is not given stays");
}

#[test]
fn events_end_with_the_container() {
    use std::io::BufRead;
    let mut world = World::new();
    let id = world.sleeping();
    let mut events = world.spawn(&["events", "--interval", "100ms", &id]);
    let mut lines = std::io::BufReader::new(events.stdout.take().unwrap()).lines();
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["type"], "stats");
    world.ok(&["kill", &id, "9"]);
    assert!(events.wait().unwrap().success());
}

#[test]
fn a_process_that_is_killed_for_want_of_memory_is_told_at_once() {
    use std::io::BufRead;
    let mut world = World::new();
    let id = world.sleeping();
    // So long an interval: what comes is no answer to a question.
    let mut events = world.spawn(&["events", "--interval", "1h", &id]);
    world.ok(&["update", "--memory", "16m", "--memory-swap", "16m", &id]);
    let lines = std::io::BufReader::new(events.stdout.take().unwrap()).lines();
    // Until the watch is there nobody is told: again until somebody is.
    let hungry = ["exec", &id, "busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"];
    let (told, heard) = std::sync::mpsc::channel();
    // To the end: it may be told more than once, and who does not listen breaks the pipe.
    let reader = std::thread::spawn(move || lines.for_each(|line| told.send(line.unwrap()).unwrap()));
    let first = gantry_tests::until(std::time::Duration::from_secs(20), || {
        assert_ne!(world.command(&hungry).code, 0);
        heard.try_recv().ok()
    });
    assert_eq!(serde_json::from_str::<Value>(&first.unwrap()).unwrap(), json!({"type": "oom", "id": id}));
    world.ok(&["kill", &id, "KILL"]);
    assert!(events.wait().unwrap().success());
    reader.join().unwrap();
}

#[test]
fn signals_of_a_foreground_run_reach_the_program() {
    let mut world = World::new();
    let id = world.id();
    world.shell("trap 'echo got it; exit 5' TERM; echo ready; while true; do sleep 0.1; done");
    let mut run = world.spawn(&["run", &id]);
    let mut out = std::io::BufReader::new(run.stdout.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line).unwrap();
    assert_eq!(line, "ready\n");
    let pid = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(5));
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut out, &mut rest).unwrap();
    assert_eq!(rest, "got it\n");
}

#[test]
fn kill_all_reaches_every_process() {
    let mut world = World::new();
    let id = world.id();
    world.shell("sleep 600 & exec sleep 600");
    world.ok(&["run", "-d", &id]);
    let pids: Vec<i64> = serde_json::from_str(&world.ok(&["ps", "-f", "json", &id])).unwrap();
    world.ok(&["kill", "--all", &id, "SIGKILL"]);
    world.becomes(&id, "stopped");
    for pid in pids {
        let gone = gantry_tests::until(Duration::from_secs(5), || {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            (state.is_empty() || state.contains(") Z ")).then_some(())
        });
        assert!(gone.is_some(), "process {pid} lives");
    }
}

#[test]
fn descriptors_are_passed_on_where_they_were_asked_for_and_nowhere_else() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["ls", "/proc/self/fd"]);
    let open = std::fs::File::open("/dev/null").unwrap();
    let with = |id: &str, flags: &str| {
        let line = format!("exec 3<&0 4<&0; exec \"$@\" run {flags} {id}");
        let mut command = std::process::Command::new("sh");
        command.args(["-c", &line, "sh"]).arg(common::ours()).arg("--root").arg(world.file("state"));
        command.current_dir(world.bundle()).stdin(open.try_clone().unwrap());
        world.finish(command)
    };
    // The last one is the directory that ls reads.
    assert_eq!(with(&id, "").out.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    let kept = with(&id, "--preserve-fds 2");
    assert_eq!(kept.out.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "4", "5"], "{kept:?}");
}

#[test]
fn the_runtimes_own_file_cannot_be_written_through_a_container() {
    let mut world = World::new();
    let id = world.id();
    world.program(&["true"]);
    world.ok(&["create", &id]);
    let pid = world.state(&id)["pid"].as_i64().unwrap();
    let exe = format!("/proc/{pid}/exe");
    let flags = rustix::fs::statvfs(&exe).unwrap().f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{flags:?}");
    let error = std::fs::OpenOptions::new().write(true).open(&exe).unwrap_err();
    assert!(matches!(error.raw_os_error(), Some(30 | 26)), "{error}");
}
