//! The leak test: 200 containers, 8 at a time, each answers on its published port; after rm everything is as before.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gantry_tests::kernel::Snapshot;
use gantry_tests::{IMAGE, Options, World, http, until};

const COUNT: usize = 200;
const AT_A_TIME: usize = 8;

fn in_parallel(work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= COUNT {
                        return;
                    }
                    work(number);
                }
            });
        }
    });
}

#[test]
fn two_hundred_containers_come_answer_and_go_without_a_trace() {
    let world = World::start(Options::default()).expect("a daemon of its own");
    world.pull("web").expect("pull");
    let cli = world.gantry();
    cli.ok(&["run", "--rm", "-p", "0:80", IMAGE, "true"]);
    let before = Snapshot::settled(&world.daemon);
    let started = Instant::now();
    in_parallel(|number| {
        cli.ok(&["run", "-d", "--name", &format!("load-{number}"), "-p", "0:80", "web"]);
    });
    let up = started.elapsed();
    let list = world.daemon.get("/containers/json").expect("an answer").json();
    let list = list.as_array().expect("a list");
    assert_eq!(list.len(), COUNT);
    for container in list {
        let port = container["Ports"][0]["PublicPort"].as_u64().and_then(|port| u16::try_from(port).ok());
        let port = port.unwrap_or_else(|| panic!("no port: {}", container["Ports"]));
        let page = until(Duration::from_secs(10), || http::fetch("127.0.0.1", port).ok());
        assert!(page.is_some_and(|page| page.contains("hello from inside")), "{} does not answer", container["Names"]);
    }
    let started = Instant::now();
    let names: Vec<String> = (0..COUNT).map(|number| format!("load-{number}")).collect();
    let mut remove = vec!["rm", "-f"];
    remove.extend(names.iter().map(String::as_str));
    cli.ok(&remove);
    println!("{COUNT} containers: up in {up:?}, removed in {:?}", started.elapsed());
    before.assert_restored(&world.daemon);
}

#[test]
fn a_hundred_short_ones_leave_nothing() {
    let world = World::start(Options::default()).expect("a daemon of its own");
    let cli = world.gantry();
    cli.ok(&["run", "--rm", IMAGE, "true"]);
    let before = Snapshot::settled(&world.daemon);
    in_parallel(|number| {
        if number < 100 {
            let network = if number % 2 == 0 { "bridge" } else { "none" };
            cli.ok(&["run", "--rm", "--network", network, "-v", "/data", "--tmpfs", "/t", IMAGE, "true"]);
        }
    });
    before.assert_restored(&world.daemon);
}
