//! `kill -9` of the daemon amid running containers: they do not notice, and nothing is lost.

use std::time::Duration;

use gantry_tests::{IMAGE, Options, World, eventually};

const COUNT: usize = 20;

/// Writes numbered lines until `/stop` is there, then ends with the given code.
const WRITER: &str =
    "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo line $i; usleep 2000; done; echo total $i; exit $CODE";

#[test]
fn twenty_writers_outlive_the_daemon_and_no_line_is_lost() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let names: Vec<String> = (0..COUNT).map(|number| format!("writer-{number}")).collect();
    let pids = {
        let cli = world.gantry();
        for (number, name) in names.iter().enumerate() {
            let code = format!("CODE={}", 10 + number);
            cli.ok(&["run", "-d", "--name", name, "-e", &code, IMAGE, "sh", "-c", WRITER]);
        }
        let short = ["run", "-d", "--name", "ends-meanwhile", IMAGE, "sh", "-c", "sleep 1.5; echo last words; exit 77"];
        cli.ok(&short);
        names.iter().map(|name| cli.inspect(name, "{{.State.Pid}}")).collect::<Vec<_>>()
    };
    world.daemon.kill9().expect("kill -9");
    // Long enough for one of them to end while nobody looks.
    eventually("the short one has ended", || {
        let all = std::fs::read_dir("/proc").expect("proc").flatten();
        !all.filter_map(|e| std::fs::read_to_string(e.path().join("cmdline")).ok())
            .any(|line| line.contains("last words"))
    });
    let took = world.daemon.launch().expect("the next daemon");
    println!("serving again after {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let cli = world.gantry();
    assert_eq!(cli.inspect("ends-meanwhile", "{{.State.Status}} {{.State.ExitCode}}"), "exited 77");
    assert_eq!(cli.ok(&["logs", "ends-meanwhile"]), "last words");
    for (number, name) in names.iter().enumerate() {
        assert_eq!(cli.inspect(name, "{{.State.Running}} {{.State.Pid}}"), format!("true {}", pids[number]));
        // The container may end, and take this process with it, before it has ended itself.
        let _ = cli.run(&["exec", name, "touch", "/stop"]);
        assert_eq!(cli.ok(&["wait", name]), (10 + number).to_string());
        let logs = cli.ok(&["logs", name]);
        let lines: Vec<&str> = logs.lines().collect();
        let count = lines.len() - 1;
        assert_eq!(lines[count], format!("total {count}"), "{name} lost lines");
        for (index, line) in lines[..count].iter().enumerate() {
            assert_eq!(*line, format!("line {}", index + 1), "{name}");
        }
    }
    cli.ok(&[&["rm", "ends-meanwhile"][..], &names.iter().map(String::as_str).collect::<Vec<_>>()].concat());
}

#[test]
fn ports_networks_and_attached_clients_survive_a_restart() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    world.pull("web").expect("pull");
    world.gantry().ok(&["run", "-d", "--name", "web", "-p", "127.0.0.1:0:80", "web"]);
    let format = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
    let port: u16 = world.gantry().inspect("web", format).parse().expect("a port");
    let answers = || gantry_tests::http::fetch("127.0.0.1", port).is_ok_and(|page| page.contains("hello"));
    eventually("it answers", answers);
    world.daemon.kill9().expect("kill -9");
    assert!(answers(), "the port is published without a daemon");
    world.daemon.launch().expect("the next daemon");
    assert!(answers(), "and with the next one");
    let cli = world.gantry();
    assert_eq!(cli.inspect("web", format), port.to_string());
    let other = cli.ok(&["run", "--rm", IMAGE, "sh", "-c", "ip -4 -o addr show eth0 | awk '{print $4}' | cut -d/ -f1"]);
    assert_ne!(
        other,
        cli.inspect("web", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"),
        "its address is kept"
    );
    let clash = format!("127.0.0.1:{port}:80");
    cli.run(&["run", "--rm", "-p", &clash, IMAGE, "true"]).fails(125, &port.to_string());
    cli.ok(&["rm", "-f", "web"]);
    assert!(!answers(), "the port is closed");
    world.daemon.stop().expect("SIGTERM");
    world.daemon.launch().expect("a daemon after an orderly stop");
}

#[test]
fn a_start_that_the_daemon_did_not_live_to_record_is_taken_up() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let id = world.gantry().ok(&["run", "-d", "--name", "early", IMAGE, "sleep", "600"]);
    let pid = world.gantry().inspect("early", "{{.State.Pid}}");
    let shared = "container:early";
    let sharer =
        world.gantry().ok(&["create", "--name", "sharer", "--network", shared, "--pid", shared, IMAGE, "true"]);
    let hosted = world.gantry().ok(&["create", "--name", "hosted", "--network", "host", IMAGE, "hostname"]);
    world.daemon.kill9().expect("kill -9");
    // As if it had died between the program's first instruction and the record of it.
    let db = rusqlite::Connection::open(world.daemon.data_root().join("gantry.db")).expect("the database");
    let select = "SELECT properties FROM entity WHERE id = ?1";
    let text: String = db.query_row(select, [&id], |row| row.get(0)).expect("the record");
    let mut record: serde_json::Value = serde_json::from_str(&text).expect("a document");
    assert!(record["state"]["Running"].is_object(), "{record}");
    record["state"] = serde_json::json!({"Created": {"failure": null}});
    let update = "UPDATE entity SET properties = ?2 WHERE id = ?1";
    db.execute(update, [&id, &record.to_string()]).expect("the change");
    // As older daemons wrote records: with the names of others, and none in the host's network.
    for (id, changes) in [
        (&sharer, &[("/host_config/NetworkMode", shared), ("/host_config/PidMode", shared)][..]),
        (&hosted, &[("/config/Hostname", "")]),
    ] {
        let text: String = db.query_row(select, [id], |row| row.get(0)).expect("the record");
        let mut record: serde_json::Value = serde_json::from_str(&text).expect("a document");
        for (place, value) in changes {
            *record.pointer_mut(place).expect("such a field") = (*value).into();
        }
        db.execute(update, [id, &record.to_string()]).expect("the change");
    }
    drop(db);
    world.daemon.launch().expect("the next daemon");
    let cli = world.gantry();
    assert_eq!(cli.inspect("early", "{{.State.Status}} {{.State.Pid}}"), format!("running {pid}"));
    assert_eq!(cli.ok(&["exec", "early", "echo", "here"]), "here");
    let modes = cli.inspect("sharer", "{{.HostConfig.NetworkMode}} {{.HostConfig.PidMode}}");
    assert_eq!(modes, format!("container:{id} container:{id}"), "whoever has the name tomorrow");
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(cli.ok(&["start", "-a", "hosted"]), host);
    cli.ok(&["rm", "-f", "early", "sharer", "hosted"]);
}

#[test]
fn policies_hold_when_the_daemon_starts_again() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    {
        let cli = world.gantry();
        for policy in ["always", "unless-stopped"] {
            cli.ok(&["run", "-d", "--name", policy, "--restart", policy, IMAGE, "sleep", "600"]);
            cli.ok(&["stop", "-t", "0", policy]);
        }
        cli.ok(&["create", "--rm", "--name", "never-started", IMAGE, "true"]);
    }
    world.daemon.kill9().expect("kill -9");
    world.daemon.launch().expect("the next daemon");
    let cli = world.gantry();
    assert_eq!(cli.inspect("always", "{{.State.Status}}"), "running");
    assert_eq!(cli.inspect("unless-stopped", "{{.State.Status}}"), "exited");
    assert!(!cli.ok(&["ps", "-a", "--format", "{{.Names}}"]).contains("never-started"), "--rm is kept");
    cli.ok(&["rm", "-f", "always", "unless-stopped"]);
}
