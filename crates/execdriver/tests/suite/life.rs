//! A container's life by the native driver: started, ended, its exit and output known.

use std::io::{Read, Write};
use std::time::Duration;

use crate::common::{Rig, client, eventually, exec, process, read_frames, read_log};
use gantry_execdriver::{Error, Exec, LogFile};
use libcontainer::config::Namespace;

#[test]
fn exit_codes_and_output_arrive() {
    let Some(rig) = Rig::new() else { return };
    assert_eq!(rig.script("true").0, 0);
    assert_eq!(rig.script("exit 7").0, 7);
    assert_eq!(rig.script("kill -9 $$; sleep 1").0, 0, "pid 1 does not die of its own signals");
    let (code, output) = rig.script("echo out; echo err >&2; hostname; id -u; pwd");
    assert_eq!(code, 0);
    assert!(output.contains("err\n") && output.replace("err\n", "") == "out\nbox\n0\n/\n", "{output}");
}

#[test]
fn signals_end_it_with_128_plus_n() {
    let Some(rig) = Rig::new() else { return };
    for (signal, code) in [(9, 137), (15, 143), (10, 138)] {
        let config = rig.config("sleep 60 & wait");
        let container = rig.start(&config);
        // The shell as pid 1 ignores what it has no handler for; a child of it does not.
        let config = rig.config(&format!("sh -c 'kill -{signal} $$; sleep 5'; exit $?"));
        assert_eq!(rig.run(&config).0.code, code);
        container.signal(9).unwrap();
        assert_eq!(container.wait().unwrap().code, 137);
    }
}

#[test]
fn a_hundred_thousand_lines_are_in_the_log_in_order_on_both_streams() {
    let Some(rig) = Rig::new() else { return };
    let config =
        rig.config("i=0; while [ $i -lt 50000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; printf end");
    let (exit, _) = rig.run(&config);
    assert_eq!(exit.code, 0);
    let log = read_log(&rig.log_path(&config));
    for stream in ["stdout", "stderr"] {
        let got: String = log.iter().filter(|(name, _)| name == stream).map(|(_, text)| text.as_str()).collect();
        let mut expected: String = (0..50_000).map(|n| format!("{} {n}\n", &stream[3..])).collect();
        if stream == "stdout" {
            expected.push_str("end");
        }
        assert!(got == expected, "{stream} differs: {} bytes instead of {}", got.len(), expected.len());
    }
}

#[test]
fn the_log_rotates_without_losing_a_line() {
    let Some(rig) = Rig::new() else { return };
    let config = rig.config("seq 1 5000");
    let path = rig.log_path(&config);
    let log = LogFile { path: path.clone(), max_size: Some(100_000), max_files: 10 };
    let container = rig.start_with(config, |start| start.log = Some(log)).unwrap();
    container.wait().unwrap();
    let mut lines = Vec::new();
    for number in (1..10).rev() {
        let old = format!("{}.{number}", path.display());
        assert!(std::fs::metadata(&old).map_or(0, |metadata| metadata.len()) <= 100_000);
        lines.extend(read_log(old.as_ref()));
    }
    lines.extend(read_log(&path));
    let text: String = lines.into_iter().map(|(_, text)| text).collect();
    assert_eq!(text, (1..=5000).map(|n| format!("{n}\n")).collect::<String>());
}

#[test]
fn clients_that_attach_before_the_start_miss_no_byte() {
    let Some(rig) = Rig::new() else { return };
    let (mut one, attach_one) = client(false);
    let (mut two, attach_two) = client(false);
    let config = rig.config("echo hello; echo oops >&2");
    let container = rig.start_with(config, |start| start.attached = vec![attach_one, attach_two]).unwrap();
    for stream in [&mut one, &mut two] {
        assert_eq!(read_frames(stream), ("hello\n".into(), "oops\n".into()));
    }
    assert_eq!(container.wait().unwrap().code, 0);
}

#[test]
fn standard_input_arrives_whole_and_its_end_too() {
    let Some(rig) = Rig::new() else { return };
    let (mut stream, mut attach) = client(true);
    attach.early_input = b"early ".to_vec();
    let config = rig.config("cat | md5sum; echo done");
    let container = rig
        .start_with(config, |start| {
            start.attached = vec![attach];
            start.open_stdin = true;
            start.stdin_once = true;
        })
        .unwrap();
    let data = vec![b'x'; 3 * 1024 * 1024];
    stream.write_all(&data).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let (out, _) = read_frames(&mut stream);
    let sum = std::process::Command::new("sh")
        .arg("-c")
        .arg("(printf 'early '; head -c 3145728 /dev/zero | tr '\\0' x) | md5sum")
        .output()
        .unwrap();
    assert_eq!(out, format!("{}done\n", String::from_utf8(sum.stdout).unwrap()));
    container.wait().unwrap();
}

fn read_until(stream: &mut impl Read, text: &mut String, wanted: &str) {
    let mut buffer = [0; 1024];
    while !text.contains(wanted) {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
}

#[test]
fn a_terminal_has_a_size_and_echoes() {
    let Some(rig) = Rig::new() else { return };
    let (mut stream, attach) = client(true);
    let mut config = rig.config("tty; stty size; read line; echo got $line; read again; stty size");
    config.process.terminal = true;
    config.process.console_size = Some((33, 77));
    let container = rig
        .start_with(config, |start| {
            start.attached = vec![attach];
            start.open_stdin = true;
        })
        .unwrap();
    let mut text = String::new();
    read_until(&mut stream, &mut text, "33 77\r\n");
    stream.write_all(b"word\n").unwrap();
    read_until(&mut stream, &mut text, "got word");
    assert!(text.contains("/dev/pts/0\r\n33 77\r\n"), "{text:?}");
    container.resize(40, 100).unwrap();
    stream.write_all(b"\n").unwrap();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("40 100\r\n"), "{text:?}");
    assert_eq!(container.wait().unwrap().code, 0);
}

#[test]
fn a_client_that_takes_nothing_is_cut_off_and_the_container_goes_on() {
    let Some(rig) = Rig::new() else { return };
    let (stalled, attach) = client(true);
    let config = rig.config("head -c 3000000 /dev/zero | tr '\\0' x; echo; cat; echo survived");
    let started = std::time::Instant::now();
    let change = |start: &mut gantry_execdriver::Start| {
        start.attached = vec![attach];
        start.open_stdin = true;
        start.stdin_once = true;
    };
    let container = rig.start_with(config.clone(), change).unwrap();
    assert_eq!(container.wait().unwrap().code, 0);
    // A slow machine takes long for the rest.
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(rig.output(&config).ends_with("survived\n"));
    drop(stalled);
}

#[test]
fn execs_run_beside_it_with_their_own_streams_and_codes() {
    let Some(rig) = Rig::new() else { return };
    let container = rig.start(&rig.config("echo $$; exec sleep 60"));
    let (code, out, err) = exec(&*container, "one", process(&["sh", "-c", "hostname; echo e >&2; exit 5"])).unwrap();
    assert_eq!((code, out.as_str(), err.as_str()), (5, "box\n", "e\n"));
    let (_, out, _) =
        exec(&*container, "two", process(&["sh", "-c", "cat /proc/1/comm; cat /proc/self/cgroup | grep -v unified"]))
            .unwrap();
    assert!(out.starts_with("sleep\n"), "{out}");
    assert!(out.lines().skip(1).filter(|line| !line.starts_with("0:")).all(|line| line.ends_with(":/")), "{out}");
    let error = exec(&*container, "three", process(&["nothing-like-that"])).unwrap_err();
    assert!(
        matches!(&error, Error::CommandNotFound(text) if text == "exec: \"nothing-like-that\": executable file not found in $PATH"),
        "{error}"
    );
    let mut cat = process(&["cat"]);
    cat.user = "web".into();
    let (mut stream, attach) = client(true);
    container.exec(Exec { id: "cat".into(), process: cat, open_stdin: true, attached: Some(attach) }).unwrap();
    stream.write_all(b"through").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(read_frames(&mut stream).0, "through");
    let mut shell = process(&["sh", "-c", "tty; id -u"]);
    shell.terminal = true;
    shell.user = "web".into();
    let (mut stream, attach) = client(true);
    let with_terminal =
        container.exec(Exec { id: "tty".into(), process: shell, open_stdin: true, attached: Some(attach) }).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "/dev/pts/0\r\n1000\r\n");
    drop(with_terminal);
    let pids = container.pids().unwrap();
    assert_eq!(pids, [container.pid()]);
    container.kill_all().unwrap();
    assert_eq!(container.wait().unwrap().code, 137);
    assert!(exec(&*container, "late", process(&["true"])).is_err());
}

#[test]
fn an_exec_can_be_signalled_and_ends_with_the_container() {
    let Some(rig) = Rig::new() else { return };
    let container = rig.start(&rig.config("exec sleep 60"));
    let (send, receive) = std::sync::mpsc::channel();
    let one = container
        .exec(Exec { id: "a".into(), process: process(&["sleep", "50"]), open_stdin: false, attached: None })
        .unwrap();
    let two = container
        .exec(Exec { id: "b".into(), process: process(&["sleep", "50"]), open_stdin: false, attached: None })
        .unwrap();
    for exec in [&one, &two] {
        let send = send.clone();
        exec.on_exit(Box::new(move |exit| send.send(exit.code).unwrap()));
    }
    one.signal(15).unwrap();
    assert_eq!(receive.recv_timeout(Duration::from_secs(10)).unwrap(), 143);
    container.signal(9).unwrap();
    assert_eq!(receive.recv_timeout(Duration::from_secs(10)).unwrap(), 137);
    container.wait().unwrap();
}

#[test]
fn an_init_reaps_and_passes_signals_on() {
    let Some(rig) = Rig::new() else { return };
    let mut config =
        rig.config("trap 'echo term; exit 9' TERM; echo $$; (sleep 0.1 &) ; echo ready; while :; do sleep 0.05; done");
    config.init = true;
    let container = rig.start(&config);
    eventually("ready", || rig.output(&config).contains("ready"));
    assert!(rig.output(&config).starts_with("2\n"), "{}", rig.output(&config));
    let (_, out, _) = exec(&*container, "e", process(&["sh", "-c", "cat /proc/1/comm; ls -l /proc/1/exe"])).unwrap();
    assert!(out.contains("gantry-init") && !out.contains("/target/"), "{out}");
    eventually("reaped", || container.pids().unwrap().len() <= 3);
    container.signal(15).unwrap();
    assert_eq!(container.wait().unwrap().code, 9);
    let mut config = rig.config("no");
    config.process.args = vec!["absent".into()];
    config.init = true;
    assert!(matches!(rig.start_with(config, |_| ()), Err(Error::CommandNotFound(_))));
}

#[test]
fn pause_stops_it_and_unpause_goes_on() {
    let Some(rig) = Rig::new() else { return };
    let config = rig.config("while :; do echo tick; sleep 0.01; done");
    let container = rig.start(&config);
    eventually("ticks", || rig.output(&config).len() > 20);
    container.pause().unwrap();
    let error = exec(&*container, "x", process(&["true"])).unwrap_err();
    assert!(error.to_string().contains("paused"), "{error}");
    std::thread::sleep(Duration::from_millis(50));
    let before = rig.output(&config).len();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(rig.output(&config).len(), before);
    container.unpause().unwrap();
    eventually("ticks again", || rig.output(&config).len() > before);
    container.kill_all().unwrap();
    container.wait().unwrap();
}

#[test]
fn limits_hold_and_out_of_memory_is_told() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("i=0; while [ $i -lt 30 ]; do sleep 5 & i=$((i+1)); done; echo all");
    config.resources.pids = Some(10);
    let (_, output) = rig.run(&config);
    assert!(output.contains("fork") && !output.contains("all"), "{output}");
    let mut config = rig.config("exec tail /dev/zero");
    config.resources.memory = Some(20 << 20);
    config.resources.memory_swap = Some(20 << 20);
    let (exit, _) = rig.run(&config);
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    let container = rig.start(&{
        let mut config = rig.config("exec sleep 60");
        config.resources.memory = Some(64 << 20);
        config
    });
    let stats = container.stats().unwrap();
    assert_eq!((stats.memory_limit, stats.pids_current), (64 << 20, 1));
    container.update(&libcontainer::config::Resources { memory: Some(80 << 20), ..Default::default() }).unwrap();
    assert_eq!(container.stats().unwrap().memory_limit, 80 << 20);
    container.kill_all().unwrap();
    container.wait().unwrap();
}

#[test]
fn an_exec_works_after_the_seed_was_killed() {
    let Some(rig) = Rig::new() else { return };
    let container = rig.start(&rig.config("exec sleep 60"));
    let parent = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    let parent: i32 = parent.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let seed: i32 =
        children.split_whitespace().map(|pid| pid.parse().unwrap()).find(|pid| *pid != container.pid()).unwrap();
    let seed = rustix::process::Pid::from_raw(seed).unwrap();
    let pidfd = rustix::process::pidfd_open(seed, rustix::process::PidfdFlags::empty()).unwrap();
    rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).unwrap();
    // An exec that meets it dying is refused: nobody could tell whether its process was cloned already.
    let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    let mut dying = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    assert_eq!(rustix::event::poll(&mut dying, Some(&patience)), Ok(1));
    for id in ["a", "b"] {
        let (code, out, _) = exec(&*container, id, process(&["sh", "-c", "echo $PPID; ps | wc -l"])).unwrap();
        assert_eq!((code, out.lines().next()), (0, Some("0")));
    }
    container.signal(9).unwrap();
    container.wait().unwrap();
}

#[test]
fn the_hosts_network_and_pid_namespaces_can_be_shared() {
    let Some(rig) = Rig::new() else { return };
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    let mut config = rig.config("readlink /proc/self/ns/net; ls /sys/class/net");
    config.namespaces.net = Namespace::Host;
    let (_, output) = rig.run(&config);
    assert!(output.starts_with(host.to_str().unwrap()), "{output}");
    let (_, own) = rig.script("readlink /proc/self/ns/net; ls /sys/class/net");
    assert!(!own.contains(host.to_str().unwrap()) && own.ends_with("\nlo\n"), "{own}");
    let mut config = rig.config("sleep 100 & sleep 100 & echo $$; ls -d /proc/1; exit 3");
    config.namespaces.pid = Namespace::Host;
    let (exit, output) = rig.run(&config);
    assert_eq!(exit.code, 3);
    assert!(output.lines().next().unwrap().parse::<i32>().unwrap() > 50, "{output}");
    let first = rig.start(&rig.config("exec sleep 60"));
    let comm = || std::fs::read_to_string(format!("/proc/{}/comm", first.pid())).unwrap();
    eventually("the shell has become sleep", || comm() == "sleep\n");
    let path = |kind: &str| Namespace::Path(format!("/proc/{}/ns/{kind}", first.pid()).into());
    let mut config = rig.config("cat /proc/1/comm; hostname; readlink /proc/self/ns/net");
    config.hostname = "other".into();
    config.namespaces.pid = path("pid");
    config.namespaces.uts = path("uts");
    config.namespaces.net = path("net");
    config.namespaces.ipc = path("ipc");
    let (exit, output) = rig.run(&config);
    let net = std::fs::read_link(format!("/proc/{}/ns/net", first.pid())).unwrap();
    assert_eq!((exit.code, output), (0, format!("sleep\nbox\n{}\n", net.display())));
    first.kill_all().unwrap();
    first.wait().unwrap();
}

#[test]
fn the_root_of_a_running_container_is_handed_out() {
    let Some(rig) = Rig::new() else { return };
    let container = rig.start(&rig.config(
        "echo inside > /file; mkdir /m; mount -t tmpfs x /m; echo shm > /dev/shm/file; touch /ready; exec sleep 60",
    ));
    let root = container.root().unwrap();
    use std::os::fd::AsRawFd;
    let read = |path: &str| std::fs::read_to_string(format!("/proc/self/fd/{}/{path}", root.as_raw_fd()));
    eventually("file", || read("ready").is_ok());
    assert_eq!(read("file").unwrap(), "inside\n");
    assert_eq!(read("dev/shm/file").unwrap(), "shm\n");
    container.kill_all().unwrap();
    container.wait().unwrap();
}

#[test]
fn a_container_that_is_there_cannot_be_started_twice_and_one_that_ended_can() {
    let Some(rig) = Rig::new() else { return };
    let config = rig.config("echo run; sleep 0.2");
    let first = rig.start(&config);
    let error = rig.start_with(config.clone(), |_| ()).map(drop).unwrap_err();
    assert!(error.to_string().contains("running already"), "{error}");
    assert_eq!(rig.driver().restore(&config.id).unwrap().pid(), first.pid(), "it is still to be found");
    first.wait().unwrap();
    for _ in 0..5 {
        assert_eq!(rig.start(&config).wait().unwrap().code, 0);
    }
    assert_eq!(rig.output(&config), "run\n".repeat(6));
    rig.driver().forget(&config.id).unwrap();
    assert!(rig.driver().last_exit(&config.id).unwrap().is_none());
}

#[test]
fn what_an_execs_client_sends_before_its_program_runs_arrives_in_order() {
    let Some(rig) = Rig::new() else { return };
    let container = rig.start(&rig.config("exec sleep 60"));
    for number in 0..10 {
        for terminal in [false, true] {
            let (mut stream, mut attach) = client(true);
            attach.early_input = b"early ".to_vec();
            stream.write_all(b"late\n").unwrap();
            if !terminal {
                stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            let mut reader = process(&["sh", "-c", "read line; echo \"got $line\""]);
            reader.terminal = terminal;
            let id = format!("e{number}{terminal}");
            container.exec(Exec { id, process: reader, open_stdin: true, attached: Some(attach) }).unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            let text = String::from_utf8_lossy(&all);
            assert!(text.contains("got early late"), "{terminal} {text:?}");
        }
    }
    container.kill_all().unwrap();
    container.wait().unwrap();
}

#[test]
fn what_was_written_before_the_exit_is_in_the_log_however_slow_a_client_is() {
    let Some(rig) = Rig::new() else { return };
    let (stalled, attach) = client(false);
    // More than the client's queue and connection hold, less than blocks the program.
    let config = rig.config("head -c 600000 /dev/zero | tr '\\0' x; echo; echo written");
    let container = rig.start_with(config.clone(), |start| start.attached = vec![attach]).unwrap();
    assert_eq!(container.wait().unwrap().code, 0);
    let output = rig.output(&config);
    assert!(output.ends_with("x\nwritten\n") && output.len() > 600_000, "{} bytes", output.len());
    drop(stalled);
}

#[test]
fn a_terminal_that_everybody_closed_is_heard_again_when_it_is_opened_again() {
    let Some(rig) = Rig::new() else { return };
    let (mut stream, attach) = client(false);
    let mut config = rig.config("echo one; exec <&- >&- 2>&-; sleep 0.3; echo two > /dev/pts/0; sleep 0.1; exit 3");
    config.process.terminal = true;
    let container = rig.start_with(config.clone(), |start| start.attached = vec![attach]).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert_eq!(text, "one\r\ntwo\r\n");
    assert_eq!(container.wait().unwrap().code, 3);
    assert_eq!(rig.output(&config), "one\r\ntwo\r\n");
}

#[test]
fn a_client_that_sends_on_and_on_does_not_hold_up_the_end() {
    let Some(rig) = Rig::new() else { return };
    let (stream, attach) = client(true);
    let container = rig
        .start_with(rig.config("sleep 0.3; exit 8"), |start| {
            start.attached = vec![attach];
            start.open_stdin = true;
        })
        .unwrap();
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let mut stream = stream.try_clone().unwrap();
            std::thread::spawn(move || while stream.write_all(&[b'x'; 65536]).is_ok() {})
        })
        .collect();
    assert_eq!(container.wait().unwrap().code, 8);
    drop(container);
    for sender in senders {
        sender.join().unwrap();
    }
}

#[test]
fn an_exec_over_the_limit_of_processes_is_refused_and_the_next_one_runs() {
    let Some(rig) = Rig::new() else { return };
    let mut config = rig.config("sleep 60 & sleep 60 & wait");
    config.resources.pids = Some(3);
    let container = rig.start(&config);
    eventually("full", || container.pids().unwrap().len() == 3);
    for id in ["a", "b", "c"] {
        let error = exec(&*container, id, process(&["true"])).unwrap_err();
        assert!(error.to_string().contains("temporarily unavailable"), "{error}");
    }
    container.update(&libcontainer::config::Resources { pids: Some(8), ..Default::default() }).unwrap();
    assert_eq!(exec(&*container, "d", process(&["true"])).unwrap().0, 0);
    container.kill_all().unwrap();
    container.wait().unwrap();
}
