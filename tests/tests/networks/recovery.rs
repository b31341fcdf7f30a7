//! What the next daemon finds and makes good.

use gantry_tests::{IMAGE, Options, World, note, slot};

use crate::{inside, of_network};

#[test]
fn networks_and_places_outlive_the_daemon() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    {
        let cli = world.gantry();
        cli.ok(&["network", "create", "one"]);
        cli.ok(&["network", "create", "--ipv6", "two"]);
        let admin = ["--cap-add", "NET_ADMIN", "--network", "one", "--network", "two"];
        cli.ok(&[&["run", "-d", "--name", "runs"], &admin[..], &[IMAGE, "sleep", "600"]].concat());
        // As a VPN's client does.
        cli.ok(&["exec", "runs", "ip", "route", "replace", "default", "dev", "eth1"]);
        cli.ok(&["create", "--name", "later", "--network", "two", IMAGE, "true"]);
    }
    let described = |world: &World| {
        let cli = world.gantry();
        let place = |network: &str| {
            format!(
                "{} {}",
                of_network(&cli, "runs", network, "IPAddress"),
                of_network(&cli, "runs", network, "GlobalIPv6Address")
            )
        };
        let pools = cli.ok(&["network", "inspect", "-f", "{{.Id}} {{json .IPAM}}", "one", "two"]);
        format!("{pools}\n{}\n{}\n{}", place("one"), place("two"), inside(&cli, "runs"))
    };
    let seen = described(&world);
    assert!(seen.contains("default dev eth1"), "{seen}");
    for orderly in [false, true] {
        if orderly { world.daemon.stop() } else { world.daemon.kill9() }.expect("the daemon ends");
        world.daemon.launch().expect("the next daemon");
        assert_eq!(described(&world), seen);
        let cli = world.gantry();
        cli.run(&["network", "rm", "one"]).fails(1, "active endpoints");
        let taken = of_network(&cli, "runs", "two", "IPAddress");
        let other = cli.ok(&["run", "--rm", "--network", "two", IMAGE, "ip", "-4", "-o", "addr", "show", "eth0"]);
        assert!(!other.contains(&format!(" {taken}/")), "{other}");
    }
    let cli = world.gantry();
    cli.ok(&["start", "-a", "later"]);
    cli.ok(&["network", "disconnect", "one", "runs"]);
    cli.ok(&["rm", "-f", "runs", "later"]);
    cli.ok(&["network", "rm", "one", "two"]);
    assert_eq!(slot::networks(&world.daemon.bridge()), Vec::<String>::new());
}

#[test]
fn a_bridge_of_a_network_that_nobody_knows_is_removed_by_the_next_daemon() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let id = world.gantry().ok(&["network", "create", "lost"]);
    assert_eq!(slot::networks(&world.daemon.bridge()), [format!("br-{}", &id[..12])]);
    world.daemon.kill9().expect("kill -9");
    // As if it had died between making the bridge and writing the network down.
    let db = rusqlite::Connection::open(world.daemon.data_root().join("gantry.db")).expect("the database");
    db.execute("DELETE FROM edge WHERE child = ?1", [&id]).expect("the change");
    db.execute("DELETE FROM entity WHERE id = ?1", [&id]).expect("the change");
    drop(db);
    world.daemon.launch().expect("the next daemon");
    assert_eq!(slot::networks(&world.daemon.bridge()), Vec::<String>::new());
}

/// Connects and disconnects for as long as the daemon answers.
fn churn(world: &World, container: &str) -> usize {
    let body = serde_json::json!({ "Container": container });
    let mut done = 0;
    for network in ["one", "two"].into_iter().cycle() {
        for action in ["connect", "disconnect"] {
            // A network that it is on, or not, already: the next round is about the other one.
            match world.daemon.post(&format!("/networks/{network}/{action}"), Some(&body)) {
                Ok(_) => done += 1,
                Err(_) => return done,
            }
        }
    }
    done
}

#[test]
fn killed_amid_changes_the_next_daemon_has_the_kernel_as_its_store_says() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let names: Vec<String> = (0..8).map(|number| format!("churned-{number}")).collect();
    let cli = world.gantry();
    for network in ["home", "one", "two"] {
        cli.ok(&["network", "create", network]);
    }
    for name in &names {
        cli.ok(&["run", "-d", "--name", name, "--network", "home", IMAGE, "sleep", "600"]);
    }
    for _ in 0..2 {
        let pid =
            world.daemon.pid().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
        let done: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = names.iter().map(|name| scope.spawn(|| churn(&world, name))).collect();
            std::thread::sleep(std::time::Duration::from_millis(700));
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill -9");
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        note(&format!("{done} changes before kill -9"));
        world.daemon.kill9().expect("reap it");
        world.daemon.launch().expect("the next daemon");
        let cli = world.gantry();
        for name in &names {
            let shown = cli.inspect(name, "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}");
            let mut shown: Vec<&str> = shown.split_whitespace().collect();
            let seen = cli.ok(&["exec", name, "sh", "-c", "ip -4 -o addr show scope global; ip route"]);
            let addresses =
                seen.lines().filter(|line| line.contains(" inet ")).filter_map(|line| line.split_whitespace().nth(3));
            let mut addresses: Vec<&str> = addresses.filter_map(|cidr| cidr.split('/').next()).collect();
            shown.sort_unstable();
            addresses.sort_unstable();
            assert_eq!(addresses, shown, "{name}: {seen}");
            assert!(seen.contains("default via"), "{name}: {seen}");
        }
        let places: usize = ["home", "one", "two"]
            .map(|network| {
                cli.ok(&["network", "inspect", "-f", "{{len .Containers}}", network])
                    .parse::<usize>()
                    .expect("a number")
            })
            .iter()
            .sum();
        let links = slot::networks(&world.daemon.bridge());
        let links = links
            .iter()
            .map(|bridge| std::fs::read_dir(format!("/sys/class/net/{bridge}/brif")).expect("ports").count());
        assert_eq!(links.sum::<usize>(), places);
    }
}
