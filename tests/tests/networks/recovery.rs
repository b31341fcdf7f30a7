//! What the next daemon finds and makes good.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use gantry_tests::kernel::{self, Snapshot};
use gantry_tests::{Cli, Daemon, IMAGE, Options, World, command, eventually, http, note, paths, skip, slot};
use serde_json::Value;

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
    // The kernel uses an IPv6 address once it has seen that there is somebody at the link's other end.
    eventually("its addresses are in use", || !inside(&world.gantry(), "runs").contains("tentative"));
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
    let notes = removals(&world);
    assert_eq!(notes.len(), 2, "an older backup may know them: {notes:?}");
    for note in notes {
        let note = std::fs::File::options().write(true).open(note).expect("the note of a removal");
        note.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3600)).expect("its age");
    }
    world.daemon.stop().expect("the daemon ends");
    assert_eq!(removals(&world), Vec::<PathBuf>::new(), "the backup is younger");
}

/// What says that networks have been removed which a backup may know.
fn removals(world: &World) -> Vec<PathBuf> {
    let directory = world.daemon.data_root().join("networks");
    let entries = std::fs::read_dir(directory).expect("copies of networks");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "removed")).collect()
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

#[test]
fn networks_and_links_are_found_again_when_the_database_is_damaged() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let data = world.daemon.data_root();
    let pools =
        |world: &World| world.gantry().ok(&["network", "inspect", "-f", "{{.Id}} {{json .IPAM}} {{.Labels}}", "kept"]);
    let cli = world.gantry();
    cli.ok(&["network", "create", "--label", "a=b", "kept"]);
    cli.ok(&["network", "create", "removed"]);
    cli.ok(&["network", "rm", "removed"]);
    cli.ok(&["run", "-d", "--name", "db", IMAGE, "sleep", "600"]);
    cli.ok(&["run", "-d", "--name", "web", "--link", "db:store", IMAGE, "sleep", "600"]);
    cli.ok(&["run", "-d", "--name", "user", "--network", "kept", IMAGE, "sleep", "600"]);
    let address = of_network(&cli, "user", "kept", "IPAddress");
    let seen = pools(&world);
    let id = cli.ok(&["network", "inspect", "-f", "{{.Id}}", "kept"]);
    world.daemon.kill9().expect("kill -9");
    // As a removal leaves it that a power cut undid.
    let note = data.join("networks").join(format!("{id}.removed"));
    std::fs::write(&note, "").expect("the note of its removal");
    for file in ["gantry.db.backup", "gantry.db-wal"] {
        std::fs::remove_file(data.join(file))
            .or_else(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Ok(()),
                _ => Err(error),
            })
            .expect("remove what would know it");
    }
    std::fs::write(data.join("gantry.db"), "garbage").expect("damage");
    world.daemon.launch().expect("a damaged database is no reason not to start");
    assert_eq!(pools(&world), seen);
    assert!(!removals(&world).contains(&note), "it is there");
    // The names of images went with the database.
    world.pull(IMAGE).expect("pull");
    let cli = world.gantry();
    cli.run(&["network", "inspect", "removed"]).fails(1, "not found");
    cli.run(&["network", "rm", "kept"]).fails(1, "active endpoints");
    let other = cli.ok(&["run", "--rm", "--network", "kept", IMAGE, "ip", "-4", "-o", "addr", "show", "eth0"]);
    assert!(!other.contains(&format!(" {address}/")), "{other}");
    assert_eq!(cli.inspect("web", "{{json .HostConfig.Links}}"), "[\"/db:/web/store\"]");
    cli.ok(&["exec", "web", "nslookup", "store"]);
    cli.ok(&["rm", "-f", "user", "web", "db"]);
    cli.ok(&["network", "rm", "kept"]);
    assert_eq!(slot::networks(&world.daemon.bridge()), Vec::<String>::new());
}

#[test]
fn a_container_whose_supervisor_is_silent_keeps_its_place_and_is_taken_up_when_it_answers() {
    use rustix::process::{Pid, Signal, kill_process};
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    world.pull("web").expect("pull");
    let cli = world.gantry();
    cli.ok(&["network", "create", "home"]);
    cli.ok(&["run", "-d", "--name", "web", "--network", "home", "-p", "127.0.0.1:0:80", "web"]);
    let port = cli.inspect("web", "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}");
    let port: u16 = port.parse().expect("a port");
    let answers = || http::fetch("127.0.0.1", port).is_ok_and(|page| page.contains("hello"));
    eventually("it serves", answers);
    let place = of_network(&cli, "web", "home", "IPAddress");
    let status = std::fs::read_to_string(format!("/proc/{}/status", cli.inspect("web", "{{.State.Pid}}")));
    let status = status.expect("the container's process");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).and_then(|pid| pid.trim().parse().ok());
    let supervisor = parent.and_then(Pid::from_raw).expect("the supervisor");
    kill_process(supervisor, Signal::STOP).expect("silence it");
    world.daemon.kill9().expect("kill -9");
    world.daemon.launch().expect("the next daemon does not wait for it");
    let cli = world.gantry();
    assert!(answers(), "its port leads to it");
    assert_eq!(of_network(&cli, "web", "home", "IPAddress"), place);
    let other = cli.ok(&["run", "--rm", "--network", "home", IMAGE, "ip", "-4", "-o", "addr", "show", "eth0"]);
    assert!(!other.contains(&format!(" {place}/")), "its address is nobody else's: {other}");
    let said = cli.run(&["network", "doctor", "web"]);
    assert!(said.code == 1 && said.stdout.contains("its supervisor does not answer"), "{said}");
    cli.run(&["network", "rm", "home"]).fails(1, "active endpoints");
    kill_process(supervisor, Signal::CONT).expect("let it speak");
    eventually("it is taken up", || cli.run(&["exec", "web", "true"]).code == 0);
    assert!(answers());
    cli.ok(&["rm", "-f", "web"]);
    cli.ok(&["network", "rm", "home"]);
}

/// Connects and disconnects for as long as the daemon answers, and no more than so often.
fn churn(world: &World, container: &str, most: usize) -> usize {
    let body = serde_json::json!({ "Container": container });
    let mut done = 0;
    for network in ["one", "two"].into_iter().cycle().take(most) {
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
fn what_a_daemon_that_will_not_come_back_left_is_removed_by_its_command() {
    let mut daemon = Daemon::start().expect("a daemon");
    let made = daemon.post("/networks/create", Some(&serde_json::json!({"Name": "left"}))).expect("an answer");
    assert_eq!(made.status, 201, "{}", made.text());
    let (bridge, root) = (daemon.bridge(), daemon.slot().root().to_owned());
    let clear_with = |data: &str, pid: &str| {
        let mut command = Command::new(paths::gantry().expect("the binary"));
        command.args(["daemon", "--clear-network", "--bridge", &bridge]);
        for (flag, name) in [("--data-root", data), ("--exec-root", "run"), ("--pidfile", pid)] {
            command.arg(flag).arg(root.join(name));
        }
        command::run(&mut command, None, command::LIMIT).expect("it ends")
    };
    let clear = || clear_with("data", "pid");
    let left = || (slot::networks(&bridge).len(), Path::new("/sys/class/net").join(&bridge).exists());
    clear().fails(1, "another daemon");
    clear_with("data", "other-pid").fails(1, "is in use by another daemon");
    clear_with("no-data", "other-pid").fails(1, "no data root");
    assert!(!root.join("no-data").exists());
    daemon.kill9().expect("kill it");
    assert_eq!(left(), (1, true));
    clear().ok();
    assert_eq!((left(), slot::tables(&bridge)), ((0, false), vec![]));
    daemon.launch().expect("the next daemon");
    assert_eq!(left(), (1, true), "what it keeps on disk is made anew");
}

/// By default so few that it takes seconds; `GANTRY_TEST_CYCLES` says how many else.
#[test]
fn cycles_of_connect_and_disconnect_leave_nothing() {
    let cycles = std::env::var("GANTRY_TEST_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(200);
    let world = World::start(Options::default()).expect("a daemon of its own");
    let names: Vec<String> = (0..4).map(|number| format!("cycled-{number}")).collect();
    let cli = world.gantry();
    for network in ["one", "two"] {
        cli.ok(&["network", "create", network]);
    }
    for name in &names {
        cli.ok(&["run", "-d", "--name", name, "-p", "127.0.0.1::80", IMAGE, "sleep", "600"]);
    }
    let run = |cycles: usize| {
        std::thread::scope(|scope| {
            let workers: Vec<_> =
                names.iter().map(|name| scope.spawn(|| churn(&world, name, cycles.div_ceil(names.len())))).collect();
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum::<usize>()
        })
    };
    let of_daemon = |file: &str| format!("/proc/{}/{file}", world.daemon.pid().expect("it runs"));
    let descriptors = || std::fs::read_dir(of_daemon("fd")).expect("its files").count();
    let memory = || -> usize {
        let status = std::fs::read_to_string(of_daemon("status")).expect("its status");
        let own = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("its own memory");
        own.trim_end_matches("kB").trim().parse().expect("a number")
    };
    // What is made once and kept is there after the first.
    run(names.len() * 4);
    let before = Snapshot::settled(&world.daemon).without_descriptors();
    let (open, used) = (descriptors(), memory());
    let done = run(cycles);
    assert!(done >= cycles * 2, "{done} of {cycles} cycles");
    before.assert_restored(&world.daemon);
    // Threads that are kept for a while may have one each.
    assert!(descriptors() <= open + 8, "{open} descriptors became {}", descriptors());
    note(&format!("{done} changes; {open} descriptors, then {}; {used} KiB, then {}", descriptors(), memory()));
    // A kilobyte for each of ten thousand would be more.
    assert!(memory() < used + 8 * 1024, "{used} KiB became {}", memory());
}

/// So many connects and disconnects are under way, or wait for their turn, when the daemon is killed.
const IN_FLIGHT: usize = 500;

#[test]
fn killed_amid_changes_the_next_daemon_has_the_kernel_as_its_store_says() {
    let mut world = World::start(Options::default()).expect("a daemon of its own");
    let names: Vec<String> = (0..20).map(|number| format!("churned-{number}")).collect();
    let cli = world.gantry();
    // The first of a container's networks by name has its published port, so that it moves.
    for network in ["one", "two", "zero"] {
        cli.ok(&["network", "create", network]);
    }
    for name in &names {
        let published = ["-p", "127.0.0.1::80", "-p", "53/udp"];
        cli.ok(
            &[&["run", "-d", "--name", name, "--network", "zero"], &published[..], &[IMAGE, "sleep", "600"]].concat()
        );
    }
    let sees_the_firewall = paths::program("nft").is_some();
    if !sees_the_firewall {
        skip("no nft here, install nftables to have the firewall compared with the store");
    }
    for _ in 0..2 {
        let pid =
            world.daemon.pid().and_then(|pid| rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)).expect("a pid");
        let done: usize = std::thread::scope(|scope| {
            let workers = (0..IN_FLIGHT).map(|number| &names[number % names.len()]);
            let workers: Vec<_> = workers.map(|name| scope.spawn(|| churn(&world, name, usize::MAX))).collect();
            std::thread::sleep(std::time::Duration::from_millis(700));
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill -9");
            workers.into_iter().map(|worker| worker.join().expect("no panic")).sum()
        });
        note(&format!("{done} changes before kill -9"));
        world.daemon.kill9().expect("reap it");
        world.daemon.launch().expect("the next daemon");
        let places: usize = names.iter().map(|name| has_what_is_shown(&world.gantry(), name)).sum();
        let links = slot::networks(&world.daemon.bridge());
        let links = links
            .iter()
            .map(|bridge| std::fs::read_dir(format!("/sys/class/net/{bridge}/brif")).expect("ports").count());
        assert_eq!(links.sum::<usize>(), places);
        let published = ports_of_the_store(&world, &names);
        assert!(published.len() >= names.len(), "each has published ports: {published:?}");
        if !sees_the_firewall {
            continue;
        }
        assert_eq!(ports_of_the_kernel(&world), published);
        assert_eq!(bridges_of_the_firewall(&world), bridges(&world));
    }
}

/// A container's addresses are those that are told of it, and it has a way out; how many they are.
fn has_what_is_shown(cli: &Cli<'_>, name: &str) -> usize {
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
    shown.len()
}

/// Each published port with where it leads, by what is told of the containers.
fn ports_of_the_store(world: &World, names: &[String]) -> BTreeSet<String> {
    let cli = world.gantry();
    let mut ports = BTreeSet::new();
    for name in names {
        let settings: Value = serde_json::from_str(&cli.inspect(name, "{{json .NetworkSettings}}")).expect("JSON");
        let networks = settings["Networks"].as_object().expect("networks");
        let publisher = networks.keys().min().map(|first| networks[first]["IPAddress"].as_str().expect("an address"));
        for (inside, outside) in settings["Ports"].as_object().expect("ports") {
            let (port, protocol) = inside.split_once('/').expect("port and protocol");
            for at in outside.as_array().expect("where it is published") {
                let (host, host_port) = (at["HostIp"].as_str().expect("IP"), at["HostPort"].as_str().expect("port"));
                let to = publisher.expect("a network");
                ports.insert(format!("{host} {protocol} {host_port} to {to} {port}"));
            }
        }
    }
    ports
}

/// The same, by the firewall's maps.
fn ports_of_the_kernel(world: &World) -> BTreeSet<String> {
    let read = |line: String| {
        let (_, element) = line.split_once(" \"published").filter(|_| line.starts_with("ip "))?;
        let (map, element) = element.split_once("\" ")?;
        let element: Value = serde_json::from_str(element).expect("an element");
        let words = |part: &Value| {
            let words = part["concat"].as_array().expect("parts").iter();
            words
                .map(|word| word.as_str().map_or_else(|| word.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let everywhere = if map == "-any" { "0.0.0.0 " } else { "" };
        Some(format!("{everywhere}{} to {}", words(&element[0]), words(&element[1])))
    };
    kernel::firewall(&world.daemon.bridge()).into_iter().filter_map(read).collect()
}

fn bridges(world: &World) -> BTreeSet<String> {
    let own = world.daemon.bridge();
    slot::networks(&own).into_iter().chain([own]).collect()
}

fn bridges_of_the_firewall(world: &World) -> BTreeSet<String> {
    let all = kernel::firewall(&world.daemon.bridge()).into_iter();
    all.filter_map(|line| Some(line.strip_prefix("ip \"bridges\" ")?.trim_matches('"').to_owned())).collect()
}
