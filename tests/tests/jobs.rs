//! Jobs: everything that the daemon does can be listed, and what waits can be cancelled.

use std::io::Write;

use gantry_tests::{IMAGE, http, world};

#[test]
fn the_api_itself_is_a_job_and_waiting_ones_are_listed() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("job");
    cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
    let _follow = cli.spawn(&["logs", "-f", &name]);
    let names = || -> Vec<String> {
        let jobs = world.daemon.get("/jobs").expect("an answer").json();
        let list = jobs.as_array().expect("a list").clone();
        list.iter().filter_map(|job| job["Name"].as_str().map(str::to_owned)).collect()
    };
    gantry_tests::eventually("the job logs is listed", || names().iter().any(|name| name == "logs"));
    assert!(names().iter().any(|name| name == "serveapi"), "{:?}", names());
    let table = cli.ok(&["jobs"]);
    assert!(table.lines().any(|line| line.contains("serveapi")), "{table}");
    assert!(table.lines().any(|line| line.contains("logs")), "{table}");
    cli.ok(&["rm", "-f", &name]);
}

#[test]
fn a_client_that_leaves_ends_the_job_that_only_it_waited_for() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("leaver");
    cli.ok(&["run", "-d", "--name", &name, IMAGE, "sleep", "600"]);
    let waiting = || {
        let jobs = world.daemon.get("/jobs").expect("an answer").json();
        jobs.as_array().is_some_and(|jobs| jobs.iter().any(|job| job["Name"] == "wait" && job["State"] != "done"))
    };
    let session = cli.spawn(&["wait", &name]);
    gantry_tests::eventually("the job wait is listed", waiting);
    drop(session);
    gantry_tests::eventually("the job wait is gone", || !waiting());
    cli.ok(&["rm", "-f", &name]);
}

/// A few KiB that inflate to a file of 24 GiB.
fn bomb() -> Vec<u8> {
    let packed = |bytes: &[u8]| {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        encoder.write_all(bytes).expect("compress");
        encoder.finish().expect("compress")
    };
    let mut header = tar::Header::new_gnu();
    header.set_path("bomb").expect("a path");
    header.set_size(24 << 30);
    header.set_mode(0o644);
    header.set_cksum();
    [packed(header.as_bytes()), packed(&vec![0; 32 << 20]).repeat(24 << 5)].concat()
}

#[test]
fn a_client_that_leaves_ends_the_copy_that_it_sent_all_of() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("bomb");
    cli.ok(&["create", "--name", &name, IMAGE]);
    let copying = || {
        let jobs = world.daemon.get("/jobs").expect("an answer").json();
        jobs.as_array().is_some_and(|jobs| {
            jobs.iter().any(|job| {
                let is_ours = job["Arguments"].as_str().is_some_and(|arguments| arguments.contains(&name));
                job["Name"] == "container_put" && is_ours && job["State"] != "done"
            })
        })
    };
    let mut client = http::connect(&world.daemon.socket()).expect("connect");
    http::send(&mut client, "PUT", &format!("/containers/{name}/archive?path=/tmp"), &[], Some(&bomb())).expect("send");
    gantry_tests::eventually("the job container_put is listed", copying);
    drop(client);
    let left = std::time::Instant::now();
    gantry_tests::eventually("the job container_put is gone", || !copying());
    assert!(left.elapsed().as_secs() < 10, "it ended after {:?}", left.elapsed());
    cli.ok(&["rm", "-f", &name]);
}

#[test]
fn reads_do_not_wait_for_a_container_that_is_stuck() {
    let world = world();
    let cli = world.gantry();
    let name = world.name("stuck");
    let script = "trap '' TERM; while :; do sleep 1; done";
    cli.ok(&["run", "-d", "--name", &name, IMAGE, "sh", "-c", script]);
    let stop = cli.spawn(&["stop", "-t", "30", &name]);
    gantry_tests::eventually("the job stop runs", || {
        world.daemon.get("/jobs").expect("an answer").text().contains("\"stop\"")
    });
    let started = std::time::Instant::now();
    assert_eq!(cli.inspect(&name, "{{.State.Running}}"), "true");
    assert!(cli.ok(&["ps"]).contains(&name));
    cli.ok(&["info"]);
    assert!(started.elapsed().as_secs() < 5, "reads waited for stop");
    cli.ok(&["rm", "-f", &name]);
    drop(stop);
}
