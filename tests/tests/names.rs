//! Names of containers: found by those on the same network, whatever the daemon does, and nothing leaves that must not.

use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use gantry_tests::{Cli, IMAGE, Options, World, both, eventually, until};

/// Runs a container that waits, on a network.
fn waits(cli: &Cli<'_>, world: &World, base: &str, flags: &[&str]) -> String {
    let name = world.name(base);
    cli.ok(&[&["run", "-d", "--name", &name], flags, &[IMAGE, "sleep", "600"]].concat());
    name
}

/// The addresses that a container is told for a name; none where there is no such name.
fn told(cli: &Cli<'_>, container: &str, name: &str) -> Vec<String> {
    let out = cli.run(&["exec", container, "nslookup", "-type=a", name]);
    let (_, answer) = out.stdout.split_once("\n\n").unwrap_or_default();
    let addresses = answer.lines().filter_map(|line| line.strip_prefix("Address: "));
    addresses.map(|address| address.trim().to_owned()).collect()
}

fn address(cli: &Cli<'_>, container: &str, network: &str) -> String {
    cli.inspect(container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"))
}

fn network(cli: &Cli<'_>, world: &World, flags: &[&str]) -> String {
    let name = world.name("net");
    cli.ok(&[&["network", "create"], flags, &[name.as_str()]].concat());
    name
}

#[test]
fn services_find_each_other_by_name_alias_and_short_id_and_not_across_networks() {
    both(|world, cli| {
        let (front, back) = (network(cli, world, &[]), network(cli, world, &[]));
        let web = waits(cli, world, "web", &["--network", &front, "--network-alias", "www", "-h", "webhost"]);
        let db = waits(cli, world, "db", &["--network", &front]);
        let other = waits(cli, world, "other", &["--network", &back]);
        let address = address(cli, &web, &front);
        let id = cli.inspect(&web, "{{.Id}}");
        let mixed = web.to_uppercase();
        for name in [&web, "www", &id[..12], "webhost", &mixed, &format!("{web}.{front}")] {
            assert_eq!(told(cli, &db, name), std::slice::from_ref(&address), "{name}");
        }
        assert_eq!(told(cli, &web, &db).len(), 1);
        assert_eq!(told(cli, &other, &web), [""; 0]);
        let reverse = cli.ok(&["exec", &db, "nslookup", &address]);
        assert!(reverse.contains(&format!("name = {web}.{front}")), "{reverse}");
        // Names follow what changes while containers run.
        let renamed = world.name("renamed");
        cli.ok(&["rename", &web, &renamed]);
        assert_eq!((told(cli, &db, &renamed).len(), told(cli, &db, &web).len()), (1, 0));
        cli.ok(&["network", "connect", "--alias", "late", &front, &other]);
        assert_eq!((told(cli, &other, &renamed).len(), told(cli, &db, "late").len()), (1, 1));
        cli.ok(&["network", "disconnect", &front, &other]);
        assert_eq!((told(cli, &other, &renamed).len(), told(cli, &db, "late").len()), (0, 0));
        cli.ok(&["stop", "-t", "0", &renamed]);
        assert_eq!(told(cli, &db, &renamed), [""; 0]);
        cli.ok(&["start", &renamed]);
        assert_eq!(told(cli, &db, &renamed).len(), 1);
        cli.ok(&["rm", "-f", &renamed, &db, &other]);
        cli.ok(&["network", "rm", &front, &back]);
    });
}

#[test]
fn an_alias_of_several_is_told_with_all_of_them_and_a_link_to_one_alone() {
    both(|world, cli| {
        let front = network(cli, world, &[]);
        let one = waits(cli, world, "one", &["--network", &front, "--network-alias", "pool"]);
        let two = waits(cli, world, "two", &["--network", &front, "--network-alias", "pool"]);
        let linked = waits(cli, world, "linked", &["--network", &front, "--link", &format!("{one}:mine")]);
        let mut all = told(cli, &linked, "pool");
        all.sort();
        let mut both = [address(cli, &one, &front), address(cli, &two, &front)];
        both.sort();
        assert_eq!(all, both);
        assert_eq!(told(cli, &linked, "mine"), [address(cli, &one, &front)]);
        assert_eq!(told(cli, &two, "mine"), [""; 0]);
        let conf = cli.ok(&["exec", &linked, "cat", "/etc/resolv.conf"]);
        assert!(conf.starts_with("nameserver 127.0.0.11\n") && conf.contains("ndots:0"), "{conf}");
        let shared = format!("container:{linked}");
        let inside = cli.ok(&["run", "--rm", "--network", &shared, IMAGE, "nslookup", "-type=a", "mine"]);
        assert!(inside.contains(&both[0]) || inside.contains(&both[1]), "{inside}");
        cli.ok(&["rm", "-f", &one, &two, &linked]);
        cli.ok(&["network", "rm", &front]);
    });
}

#[test]
fn a_container_serves_port_53_itself_and_is_told_names_all_the_same() {
    both(|world, cli| {
        let front = network(cli, world, &[]);
        let peer = waits(cli, world, "peer", &["--network", &front]);
        let server = world.name("dns");
        let script = "while :; do echo served | nc -l -p 53; done";
        cli.ok(&["run", "-d", "--name", &server, "--network", &front, IMAGE, "sh", "-c", script]);
        eventually("the server serves", || {
            let out = cli.run(&[
                "exec",
                &peer,
                "sh",
                "-c",
                &format!("nc -w 2 {} 53 </dev/null", address(cli, &server, &front)),
            ]);
            out.stdout.contains("served")
        });
        assert_eq!(told(cli, &server, &peer), [address(cli, &peer, &front)]);
        cli.ok(&["rm", "-f", &peer, &server]);
        cli.ok(&["network", "rm", &front]);
    });
}

/// A server of the host's, on an address of its; it answers nothing, and tells what it was asked.
fn listen(address: &str) -> Receiver<Vec<u8>> {
    let socket = UdpSocket::bind((address, 53)).expect("bind port 53 of a bridge");
    let (send, asked) = channel();
    std::thread::spawn(move || {
        let mut packet = [0; 1024];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            // An answer that says that there is no such name: the question with other flags.
            let mut answer = packet[..length].to_vec();
            (answer[2], answer[3]) = (0x81, 0x83);
            if socket.send_to(&answer, from).is_err() || send.send(packet[12..length].to_vec()).is_err() {
                return;
            }
        }
    });
    asked
}

/// The name as it travels.
fn on_the_wire(name: &str) -> Vec<u8> {
    name.split('.')
        .flat_map(|label| [&[u8::try_from(label.len()).expect("short")], label.as_bytes()].concat())
        .collect()
}

#[test]
fn on_internal_networks_nothing_is_asked_outside() {
    both(|world, cli| {
        let (inside, open) = (network(cli, world, &["--internal"]), network(cli, world, &[]));
        let gateway = cli.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &open]);
        let asked = listen(&gateway);
        let dns = ["--dns", gateway.as_str(), "--network", &inside];
        let shut = waits(cli, world, "shut", &dns);
        let peer = waits(cli, world, "peer", &dns);
        assert_eq!(told(cli, &shut, &peer).len(), 1, "names of neighbours are told");
        assert_eq!(told(cli, &shut, "leak.example.org"), [""; 0]);
        // With a way out, this is the first question that anybody hears.
        cli.ok(&["network", "connect", &open, &shut]);
        assert_eq!(told(cli, &shut, "first.example.org"), [""; 0]);
        let first = asked.recv_timeout(Duration::from_secs(10)).expect("a question");
        assert!(first.starts_with(&on_the_wire("first.example.org")), "{first:?}");
        cli.ok(&["rm", "-f", &shut, &peer]);
        cli.ok(&["network", "rm", &inside, &open]);
    });
}

fn resolver(world: &World) -> Option<i32> {
    let comm = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    world.daemon.pids().into_iter().find(|pid| comm(pid).trim() == "gantry-names")
}

#[test]
fn names_are_answered_without_a_daemon_by_the_next_one_and_by_another_resolver() {
    let conf = std::env::temp_dir().join(format!("gantry-names-{}", std::process::id()));
    std::fs::write(&conf, "nameserver 127.1.2.3\n").expect("write");
    let asked = listen("127.1.2.3");
    let options = Options { resolv_conf: Some(conf.clone()), ..Options::default() };
    let mut world = World::start(options).expect("a world");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let front = network(&cli, &world, &[]);
    let web = waits(&cli, &world, "web", &["--network", &front]);
    let first = waits(&cli, &world, "first", &[]);
    let second = waits(&cli, &world, "second", &[]);
    let process = |world: &World| resolver(world).expect("a resolver");
    let before = process(&world);

    // The default bridge has names, too, and asks the host's servers through the resolver: they may be on its loopback.
    assert_eq!(told(&cli, &first, &second), [address(&cli, &second, "bridge")]);
    assert_eq!(told(&cli, &first, &web), [""; 0], "it is on another network");
    assert_eq!(told(&cli, &first, "one.example.org"), [""; 0]);
    let question = |name: &str| {
        let wanted = on_the_wire(name);
        until(Duration::from_secs(10), || asked.try_recv().ok().filter(|name| name.starts_with(&wanted)))
    };
    question("one.example.org").expect("the host's server is asked");
    let text = cli.ok(&["exec", &first, "cat", "/etc/resolv.conf"]);
    assert_eq!(text, "nameserver 127.0.0.11\noptions ndots:0");

    // Somebody in a container asks while no daemon is there.
    let loops = |name: &str| format!("while :; do nslookup -type=a {name} | grep -c '^Address: '; sleep 0.05; done");
    let log = world.name("log");
    let asks = loops(&web);
    cli.ok(&["run", "-d", "--name", &log, "--network", &front, IMAGE, "sh", "-c", &asks]);
    drop(cli);
    world.daemon.kill9().expect("kill");
    assert_eq!(process(&world), before, "it outlives the daemon");
    let lines = |world: &World| {
        let path = world.daemon.data_root().join("containers");
        let logs = std::fs::read_dir(path).expect("containers").flatten().map(|entry| {
            let id = entry.file_name().into_string().expect("an id");
            std::fs::read_to_string(entry.path().join(format!("{id}-json.log"))).unwrap_or_default()
        });
        let all: String = logs.collect();
        (all.matches(r#""log":"1\n""#).count(), all.matches(r#""log":"0\n""#).count())
    };
    let (had, _) = lines(&world);
    eventually("names are answered without a daemon", || lines(&world).0 > had + 5);
    world.daemon.launch().expect("the next daemon");
    assert_eq!(process(&world), before, "the next daemon takes it up");
    let (had, _) = lines(&world);
    eventually("names are answered with the next daemon", || lines(&world).0 > had + 5);

    // And while it is replaced.
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(before).expect("a pid"),
        rustix::process::Signal::KILL,
    )
    .expect("kill the resolver");
    eventually("another resolver is there", || resolver(&world).is_some_and(|pid| pid != before));
    let (had, _) = lines(&world);
    eventually("names are answered by another resolver", || lines(&world).0 > had + 5);
    assert_eq!(lines(&world).1, 0, "no question has failed");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    assert_eq!(told(&cli, &first, &second).len(), 1);
    cli.ok(&["rm", "-f", &log, &web]);
    cli.ok(&["network", "rm", &front]);
    drop(cli);

    // The host's servers are followed, and it can be had without.
    std::fs::write(&conf, "nameserver 127.1.2.4\n").expect("write");
    let next = listen("127.1.2.4");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    eventually("the other server is asked", || {
        told(&cli, &first, "two.example.org");
        next.try_recv().is_ok()
    });
    drop(cli);
    world.daemon.stop().expect("stop");
    world.daemon.set_flags(&["--default-bridge-names=false"]);
    world.daemon.launch().expect("a daemon without");
    let cli = world.docker().unwrap_or_else(|| world.gantry());
    let text = cli.ok(&["run", "--rm", IMAGE, "cat", "/etc/resolv.conf"]);
    assert!(!text.contains("127.0.0.11"), "{text}");
    cli.ok(&["rm", "-f", &first, &second]);
    drop(cli);
    drop(world);
    std::fs::remove_file(conf).expect("remove");
}
