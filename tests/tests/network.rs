//! Networks as seen from inside, and ports published to the host.

use std::net::UdpSocket;
use std::time::Duration;

use gantry_tests::{Cli, IMAGE, both, eventually, http, until};

fn page(address: &str, port: u16) -> Option<String> {
    until(Duration::from_secs(8), || http::fetch(address, port).ok().filter(|page| page.contains("hello")))
}

fn port(cli: &Cli<'_>, name: &str, inner: &str) -> u16 {
    let format = format!("{{{{(index (index .NetworkSettings.Ports \"{inner}\") 0).HostPort}}}}");
    cli.inspect(name, &format).parse().expect("a port")
}

#[test]
fn a_published_port_answers_on_loopback_and_on_the_bridge() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let name = world.name("web");
        cli.ok(&["run", "-d", "--name", &name, "-p", "0:80", "web"]);
        let port = port(cli, &name, "80/tcp");
        assert!(page("127.0.0.1", port).is_some(), "nothing on loopback");
        let gateway = format!("{}1", world.daemon.slot().prefix());
        assert!(page(&gateway, port).is_some(), "nothing on the bridge's address");
        let address = cli
            .inspect(&name, "{{.NetworkSettings.IPAddress}}{{range .NetworkSettings.Networks}} {{.IPAddress}}{{end}}");
        let address = address.split_whitespace().last().unwrap_or_default().to_owned();
        assert!(address.starts_with(&world.daemon.slot().prefix()), "{address}");
        assert!(page(&address, 80).is_some(), "nothing on the container's own address");
        assert!(
            cli.ok(&["ps", "--format", "{{.Ports}}", "--filter", &format!("name={name}")])
                .contains(&format!("0.0.0.0:{port}->80/tcp"))
        );
        cli.ok(&["rm", "-f", &name]);
        assert!(http::fetch("127.0.0.1", port).is_err(), "the port is closed again");
    });
}

#[test]
fn a_port_on_loopback_stays_on_loopback() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let name = world.name("local");
        cli.ok(&["run", "-d", "--name", &name, "-p", "127.0.0.1::80", "web"]);
        let port = port(cli, &name, "80/tcp");
        assert!(page("127.0.0.1", port).is_some());
        let gateway = format!("{}1", world.daemon.slot().prefix());
        assert!(http::fetch(&gateway, port).is_err(), "reachable from elsewhere");
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn containers_reach_each_other_and_published_ports() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let name = world.name("server");
        cli.ok(&["run", "-d", "--name", &name, "-p", "0:80", "web"]);
        let port = port(cli, &name, "80/tcp");
        assert!(page("127.0.0.1", port).is_some());
        let address = cli.inspect(&name, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
        let gateway = format!("{}1", world.daemon.slot().prefix());
        for target in [format!("{address} 80"), format!("{gateway} {port}")] {
            // Not wget: it asks for the port of "http", and a static glibc cannot.
            let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {target} | tail -1");
            assert_eq!(cli.ok(&["run", "--rm", IMAGE, "sh", "-c", &script]), "hello from inside", "{target}");
        }
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn expose_all_publishes_what_the_image_exposes() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let name = world.name("all");
        cli.ok(&["run", "-d", "-P", "--name", &name, "web"]);
        assert!(page("127.0.0.1", port(cli, &name, "80/tcp")).is_some());
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn udp_is_published_too() {
    both(|world, cli| {
        let name = world.name("udp");
        let program = concat!(env!("CARGO_BIN_EXE_udp-echo"), ":/udp-echo:ro");
        let flags = ["-v", program, "-p", "127.0.0.1:0:5353/udp"];
        cli.ok(&[&["run", "-d", "--name", &name], &flags[..], &[IMAGE, "/udp-echo"]].concat());
        let port = port(cli, &name, "5353/udp");
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        socket.connect(("127.0.0.1", port)).expect("connect");
        let mut buffer = [0; 64];
        let echoed = until(Duration::from_secs(8), || {
            socket.send(b"ping").ok()?;
            socket.recv(&mut buffer).ok()
        });
        assert_eq!(echoed, Some(4), "no datagram came back");
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn a_port_in_use_is_refused_and_nothing_is_left() {
    both(|world, cli| {
        let taken = std::net::TcpListener::bind("0.0.0.0:0").expect("a listener");
        let port = taken.local_addr().expect("an address").port();
        let name = world.name("taken");
        let publish = format!("{port}:80");
        let out = cli.run(&["run", "-d", "--name", &name, "-p", &publish, IMAGE, "sleep", "600"]);
        out.fails(125, &port.to_string());
        assert_eq!(cli.inspect(&name, "{{.State.Running}}"), "false");
        cli.ok(&["rm", &name]);
        drop(taken);
        cli.ok(&["run", "-d", "--name", &name, "-p", &publish, IMAGE, "sleep", "600"]);
        let second = world.name("taken");
        cli.run(&["run", "-d", "--name", &second, "-p", &publish, IMAGE, "true"]).fails(125, "already allocated");
        cli.ok(&["rm", "-f", &name, &second]);
    });
}

#[test]
fn ranges_of_ports_map_one_to_one() {
    both(|world, cli| {
        let name = world.name("range");
        let base = gantry_tests::registry::free_ports(3).expect("ports");
        let publish = format!("127.0.0.1:{}-{}:80-82", base, base + 2);
        let out = cli.run(&["run", "-d", "--name", &name, "-p", &publish, IMAGE, "sleep", "600"]);
        assert_eq!(out.code, 0, "{out}");
        for offset in 0..3 {
            assert_eq!(port(cli, &name, &format!("{}/tcp", 80 + offset)), base + offset);
        }
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn the_files_about_names_are_the_containers_own() {
    both(|_, cli| {
        let flags = ["--dns", "192.0.2.53", "--add-host", "db:192.0.2.7", "-h", "box"];
        let out = cli.ok(&[
            &["run", "--rm"],
            &flags[..],
            &[IMAGE, "sh", "-c", "cat /etc/resolv.conf /etc/hosts; ip -4 -o addr show eth0"],
        ]
        .concat());
        assert!(out.contains("nameserver 192.0.2.53"), "{out}");
        assert!(out.lines().any(|line| line.split_whitespace().eq(["192.0.2.7", "db"])), "{out}");
        assert!(out.lines().any(|line| line.split_whitespace().last() == Some("box")), "{out}");
        assert!(out.contains("localhost"), "{out}");
        let address = out.lines().last().and_then(|line| line.split_whitespace().nth(3)).unwrap_or_default();
        let address = address.split('/').next().unwrap_or_default();
        assert!(out.lines().any(|line| line.split_whitespace().eq([address, "box"])), "{out}");
    });
}

#[test]
fn network_none_has_only_loopback_and_host_is_the_hosts() {
    both(|_, cli| {
        assert_eq!(cli.ok(&["run", "--rm", "--network", "none", IMAGE, "ls", "/sys/class/net"]), "lo");
        let host = cli.ok(&["run", "--rm", "--network", "host", IMAGE, "readlink", "/proc/self/ns/net"]);
        assert_eq!(host, std::fs::read_link("/proc/self/ns/net").expect("a namespace").to_string_lossy());
        cli.run(&["run", "--rm", "--network", "no-such-network", IMAGE, "true"]).fails(125, "no-such-network");
    });
}

#[test]
fn in_the_hosts_network_a_container_has_the_hosts_name_and_knows_its_hosts() {
    both(|world, cli| {
        let read = |path: &str| std::fs::read_to_string(path).expect(path).trim().to_owned();
        let (name, called) = (world.name("hosted"), read("/proc/sys/kernel/hostname"));
        let script = "hostname; cat /etc/hostname; echo $HOSTNAME; cat /etc/hosts";
        let out =
            cli.ok(&["run", "--rm", "--network", "host", "--add-host", "db:192.0.2.7", IMAGE, "sh", "-c", script]);
        assert_eq!(out, format!("{called}\n{called}\n{called}\n192.0.2.7\tdb\n{}", read("/etc/hosts")));
        let made =
            cli.run(&["create", "--network", "host", "-h", "box", "-p", "80", "--name", &name, IMAGE, "sleep", "9"]);
        made.ok();
        assert!(made.stderr.contains("Published ports are discarded when using host network mode"), "{made}");
        cli.ok(&["start", &name]);
        let told = cli.inspect(&name, "{{.Config.Hostname}} {{json .NetworkSettings.Ports}}");
        assert_eq!(
            (told.as_str(), cli.ok(&["ps", "--format", "{{.Ports}}", "--filter", &format!("name={name}")])),
            ("box {}", String::new())
        );
        cli.ok(&["rm", "-f", &name]);
    });
}

#[test]
fn who_shares_a_containers_network_has_its_names_whatever_it_is_called_later() {
    both(|world, cli| {
        let (network, first, second) = (world.name("shared"), world.name("first"), world.name("second"));
        cli.ok(&["network", "create", &network]);
        let run = ["run", "-d", "--network", &network, "--name", &first, "-h", "box", "--add-host", "db:192.0.2.7"];
        cli.ok(&[&run[..], &["--add-host", "up:host-gateway", IMAGE, "sleep", "600"]].concat());
        let shared = format!("container:{first}");
        cli.ok(&["run", "-d", "--network", &shared, "--name", &second, IMAGE, "sleep", "600"]);
        let look =
            |name: &str| cli.ok(&["exec", name, "sh", "-c", "hostname; cat /etc/hostname /etc/hosts /etc/resolv.conf"]);
        let before = look(&second);
        assert!(
            before.starts_with("box\nbox\n") && before.contains("192.0.2.7\tdb") && before.contains("\tbox"),
            "{before}"
        );
        let bridge = format!("{}1\tup", world.daemon.slot().prefix());
        assert!(before.contains(&bridge), "{bridge} in {before}");
        assert_eq!(cli.ok(&["exec", &second, "sh", "-c", "echo $HOSTNAME"]), "box");
        // One set of files: what is changed for one is changed for the other.
        cli.ok(&["network", "connect", "bridge", &first]);
        assert_eq!(look(&second), look(&first));
        assert_ne!(look(&second), before);
        assert_eq!(cli.inspect(&second, "{{.HostsPath}}"), cli.inspect(&first, "{{.HostsPath}}"));
        let renamed = world.name("renamed");
        cli.ok(&["rename", &first, &renamed]);
        cli.ok(&["run", "-d", "--name", &first, IMAGE, "sleep", "600"]);
        cli.ok(&["restart", "-t", "0", &second]);
        assert_eq!(look(&second), look(&renamed), "it is in the network of the container that it was given");
        for (flags, said) in [
            (&["--dns", "192.0.2.53"][..], "dns and the network mode"),
            (&["--add-host", "a:192.0.2.1"], "custom host-to-IP mapping and the network mode"),
            (&["--mac-address", "02:42:00:00:00:09"], "mac-address and the network mode"),
            (&["--expose", "99"], "port exposing and the container type network mode"),
            (&["-h", "other"], "hostname and the network mode"),
        ] {
            cli.run(&[&["create", "--network", &shared], flags, &[IMAGE, "true"]].concat()).fails(1, said);
        }
        // A third one through the second, also when the first has taken the files with it.
        let (through, third) = (format!("container:{second}"), world.name("third"));
        let run = ["run", "-d", "--name", &third, "--network", &through, IMAGE, "sleep", "600"];
        cli.ok(&run);
        assert_eq!(look(&third), look(&renamed));
        cli.ok(&["rm", "-f", &third, &renamed]);
        cli.ok(&run);
        let alone = look(&third);
        assert!(
            alone.starts_with(&cli.inspect(&third, "{{slice .Id 0 12}}")) && alone.contains("localhost"),
            "{alone}"
        );
        let copied = world.daemon.home().join(&third);
        cli.ok(&["cp", &format!("{second}:/etc/passwd"), &copied.display().to_string()]);
        cli.ok(&["rm", "-f", &second, &first, &third]);
        cli.ok(&["network", "rm", &network]);
    });
}

#[test]
fn routes_and_links_are_ready_at_the_first_instruction() {
    both(|world, cli| {
        let out = cli.ok(&[
            "run",
            "--rm",
            IMAGE,
            "sh",
            "-c",
            "ip route; ip -o link | wc -l; cat /sys/class/net/eth0/operstate",
        ]);
        assert!(out.contains(&format!("default via {}1 dev eth0", world.daemon.slot().prefix())), "{out}");
        assert!(out.ends_with("2\nup"), "{out}");
    });
}

#[test]
fn a_released_address_and_port_can_be_taken_again_at_once() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let port = gantry_tests::registry::free_port().expect("a port");
        for _ in 0..3 {
            let name = world.name("again");
            cli.ok(&["run", "-d", "--name", &name, "-p", &format!("127.0.0.1:{port}:80"), "web"]);
            assert!(page("127.0.0.1", port).is_some());
            cli.ok(&["rm", "-f", &name]);
        }
        eventually("the port is closed", || http::fetch("127.0.0.1", port).is_err());
    });
}
