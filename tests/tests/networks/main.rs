//! User-defined networks: made, joined, changed while containers run, restored and removed.

mod changes;
mod compose;
mod doctor;
mod recovery;
mod refusals;

use gantry_tests::{Cli, IMAGE, Options, Output, World, both, eventually, http, skip, until, world};

fn of_network(cli: &Cli<'_>, container: &str, network: &str, field: &str) -> String {
    cli.inspect(container, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").{field}}}}}"))
}

/// Runs what a person would write without quotes.
fn line(cli: &Cli<'_>, words: &str) -> Output {
    cli.run(&words.split_whitespace().collect::<Vec<_>>())
}

/// A subnet that no other test uses: the world's own numbers are of 10.200.0.0/13.
fn subnet(world: &World, number: u8) -> String {
    let prefix = world.daemon.slot().prefix();
    let parts: Vec<u16> = prefix.trim_end_matches('.').split('.').map(|part| part.parse().expect("a number")).collect();
    format!("10.{}.{}.{}", parts[1] - 100, parts[2], 16 * u16::from(number))
}

/// What a container sees of its links, addresses and routes.
fn inside(cli: &Cli<'_>, container: &str) -> String {
    cli.ok(&["exec", container, "sh", "-c", "ip -o addr show scope global; ip route; ip -6 route; cat /etc/hosts"])
}

#[test]
fn containers_of_a_network_reach_each_other_and_it_goes_when_they_are_gone() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let (network, server) = (world.name("net"), world.name("server"));
        let id = cli.ok(&["network", "create", &network]);
        assert_eq!(id.len(), 64, "{id}");
        let named =
            |pattern: &str| cli.ok(&["network", "ls", "--no-trunc", "-q", "--filter", &format!("name={pattern}")]);
        assert_eq!((named(&format!("^{network}$")), named(&format!("^(x|{network})+$"))), (id.clone(), id.clone()));
        assert_eq!(named(&format!("^{}$", &network[1..])), "");
        cli.ok(&["run", "-d", "--name", &server, "--network", &network, "web"]);
        let address = of_network(cli, &server, &network, "IPAddress");
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80 | tail -1; ls /sys/class/net");
        let out = cli.ok(&["run", "--rm", "--network", &network, IMAGE, "sh", "-c", &script]);
        assert!(out.starts_with("hello from inside") && out.contains("eth0"), "{out}");
        cli.run(&["network", "rm", &network]).fails(1, "has active endpoints");
        cli.ok(&["rm", "-f", &server]);
        assert_eq!(cli.ok(&["network", "rm", &network]), network);
        cli.run(&["network", "inspect", &network]).fails(1, "not found");
        assert!(!std::path::Path::new(&format!("/sys/class/net/br-{}", &id[..12])).exists());
    });
}

#[test]
fn addresses_gateway_range_and_mtu_are_as_asked() {
    both(|world, cli| {
        let (network, base) = (world.name("fixed"), subnet(world, 1));
        let last: u16 = base.rsplit('.').next().and_then(|part| part.parse().ok()).expect("a number");
        let host = |number: u16| format!("{}.{}", base.rsplit_once('.').expect("dots").0, last + number);
        let gateway = format!("--subnet {base}/28 --gateway {} --ip-range {}/30", host(14), host(4));
        let rest = format!("--aux-address router={} --opt com.docker.network.driver.mtu=1400 --label a=b", host(4));
        line(cli, &format!("network create {gateway} {rest} {network}")).ok();
        let name = world.name("one");
        let place = format!("--network {network} --ip {} --mac-address 02:00:00:00:00:77", host(9));
        line(cli, &format!("run -d --name {name} {place} {IMAGE} sleep 600")).ok();
        let seen = inside(cli, &name);
        assert!(seen.contains(&format!("inet {}/28", host(9))), "{seen}");
        assert!(seen.contains(&format!("default via {} dev eth0", host(14))), "{seen}");
        assert!(
            seen.lines().any(|line| line.split_whitespace().eq([host(9).as_str(), &seen_name(cli, &name)])),
            "{seen}"
        );
        assert_eq!(cli.ok(&["exec", &name, "cat", "/sys/class/net/eth0/mtu"]), "1400");
        assert_eq!(of_network(cli, &name, &network, "MacAddress"), "02:00:00:00:00:77");
        assert_eq!(of_network(cli, &name, &network, "Gateway"), host(14));
        assert_eq!(of_network(cli, &name, &network, "IPAMConfig.IPv4Address"), host(9));
        let shown =
            cli.ok(&["network", "inspect", "-f", "{{json .IPAM.Config}} {{json .Labels}} {{json .Options}}", &network]);
        for part in [
            format!("\"Subnet\":\"{base}/28\""),
            format!("\"IPRange\":\"{}/30\"", host(4)),
            format!("\"Gateway\":\"{}\"", host(14)),
            format!("{{\"router\":\"{}\"}}", host(4)),
            "{\"a\":\"b\"}".into(),
            "{\"com.docker.network.driver.mtu\":\"1400\"}".into(),
        ] {
            assert!(shown.contains(&part), "{part} in {shown}");
        }
        // Three are left of the range.
        let more: Vec<String> = (0..4).map(|_| world.name("more")).collect();
        for (number, name) in more.iter().enumerate() {
            let out = cli.run(&["run", "-d", "--name", name, "--network", &network, IMAGE, "sleep", "600"]);
            match number {
                3 => out.fails(125, "no available IPv4 addresses on this network's address pools"),
                _ => assert_eq!(of_network(cli, out_name(&out, name), &network, "IPAddress"), host(5 + number as u16)),
            }
        }
        cli.run(&["run", "--rm", "--network", &network, "--ip", &host(9), IMAGE, "true"])
            .fails(125, "Address already in use");
        cli.ok(&[&["rm", "-f", &name][..], &more.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        cli.ok(&["network", "rm", &network]);
    });
}

fn seen_name(cli: &Cli<'_>, name: &str) -> String {
    cli.inspect(name, "{{.Config.Hostname}}")
}

fn out_name<'a>(out: &Output, name: &'a str) -> &'a str {
    out.ok();
    name
}

#[test]
fn ipv6_has_addresses_and_a_gateway() {
    both(|world, cli| {
        let network = world.name("six");
        cli.ok(&["network", "create", "--ipv6", "--subnet", "fd00:6a17:5::/64", &network]);
        let (a, b) = (world.name("a"), world.name("b"));
        let flags = ["--network", &network, "--ip6", "fd00:6a17:5::99"];
        cli.ok(&[&["run", "-d", "--name", &a], &flags[..], &[IMAGE, "sleep", "600"]].concat());
        cli.ok(&["run", "-d", "--name", &b, "--network", &network, IMAGE, "sleep", "600"]);
        let seen = inside(cli, &a);
        assert!(
            seen.contains("inet6 fd00:6a17:5::99/64") && seen.contains("default via fd00:6a17:5::1 dev eth0"),
            "{seen}"
        );
        assert!(seen.lines().any(|line| line.starts_with("fd00:6a17:5::99\t")), "{seen}");
        assert_eq!(of_network(cli, &b, &network, "GlobalIPv6Address"), "fd00:6a17:5::2");
        assert_eq!(of_network(cli, &b, &network, "IPv6Gateway"), "fd00:6a17:5::1");
        cli.ok(&["exec", &b, "ping", "-6", "-c", "1", "-W", "5", "fd00:6a17:5::99"]);
        cli.ok(&["rm", "-f", &a, &b]);
        cli.ok(&["network", "rm", &network]);
    });
}

#[test]
fn a_port_is_published_on_both_families_where_the_network_has_both() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let (network, name) = (world.name("both"), world.name("web"));
        // Two numbers of the world's own.
        let prefix = world.daemon.slot().prefix();
        let numbers: Vec<&str> = prefix.split('.').collect();
        let subnet = format!("fd00:6a18:{}:{}::", numbers[1], numbers[2]);
        cli.ok(&["network", "create", "--ipv6", "--subnet", &format!("{subnet}/64"), &network]);
        cli.ok(&["run", "-d", "--name", &name, "--network", &network, "-p", "0:80", "web"]);
        let ports = cli.ok(&["port", &name, "80"]);
        let lines: Vec<&str> = ports.lines().collect();
        let port = lines[0].rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        assert_eq!(lines, [format!("0.0.0.0:{port}"), format!("[::]:{port}")]);
        let answers = |address: &str| {
            let page = || http::fetch(address, port).ok().filter(|page| page.contains("hello"));
            until(std::time::Duration::from_secs(8), page).is_some()
        };
        assert!(answers("127.0.0.1"), "nothing on loopback");
        assert!(answers(&format!("{subnet}1")), "nothing on the host's IPv6 address");
        cli.ok(&["rm", "-f", &name]);
        assert!(http::fetch(&format!("{subnet}1"), port).is_err(), "the port is closed again");
        cli.ok(&["network", "rm", &network]);
    });
}

#[test]
fn a_container_is_on_several_networks_and_priority_chooses_the_way_out() {
    both(|world, cli| {
        let (first, second) = (world.name("m"), world.name("n"));
        for network in [&first, &second] {
            cli.ok(&["network", "create", network]);
        }
        let name = world.name("two");
        let networks = [format!("name={first}"), format!("name={second},gw-priority=1,alias=other")];
        let flags = ["--network", &networks[0], "--network", &networks[1]];
        cli.ok(&[&["run", "-d", "--name", &name], &flags[..], &[IMAGE, "sleep", "600"]].concat());
        let seen = inside(cli, &name);
        let place = |network: &str, field: &str| of_network(cli, &name, network, field);
        assert!(seen.contains(&format!("eth0    inet {}/", place(&first, "IPAddress"))), "{seen}");
        assert!(seen.contains(&format!("eth1    inet {}/", place(&second, "IPAddress"))), "{seen}");
        assert!(seen.contains(&format!("default via {} dev eth1", place(&second, "Gateway"))), "{seen}");
        assert!(place(&second, "DNSNames").contains("other"));
        cli.ok(&["network", "disconnect", &second, &name]);
        let seen = inside(cli, &name);
        assert!(!seen.contains("eth1"), "{seen}");
        assert!(seen.contains(&format!("default via {} dev eth0", place(&first, "Gateway"))), "{seen}");
        cli.run(&["network", "disconnect", &second, &name]).fails(1, "is not connected to network");
        cli.ok(&["network", "connect", "--gw-priority", "5", &second, &name]);
        let seen = inside(cli, &name);
        assert!(seen.contains(&format!("default via {} dev eth1", place(&second, "Gateway"))), "{seen}");
        assert!(seen.lines().any(|line| line.starts_with(&format!("{}\t", place(&second, "IPAddress")))), "{seen}");
        cli.run(&["network", "connect", &second, &name]).fails(1, "already exists in network");
        let listed = cli.ok(&["ps", "--filter", &format!("network={second}"), "--format", "{{.Names}}"]);
        assert_eq!(listed, name);
        cli.ok(&["rm", "-f", &name]);
        cli.ok(&["network", "rm", &first, &second]);
    });
}

#[test]
fn an_internal_network_leads_nowhere() {
    both(|world, cli| {
        let network = world.name("internal");
        cli.ok(&["network", "create", "--internal", &network]);
        let out = cli.ok(&["run", "--rm", "--network", &network, IMAGE, "ip", "route"]);
        assert!(!out.contains("default") && out.contains("eth0"), "{out}");
        world.pull("web").expect("pull");
        let (outside, image) = (world.name("outside"), "web");
        cli.ok(&["run", "-d", "--name", &outside, image]);
        let address = of_network(cli, &outside, "bridge", "IPAddress");
        let gateway = cli.ok(&["network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", &network]);
        let ask = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} 80 | tail -1");
        eventually("the server serves", || cli.ok(&["run", "--rm", IMAGE, "sh", "-c", &ask]).contains("hello"));
        let led = format!("ip route add default via {gateway} && ip route get {address} && {ask}");
        let out = cli.ok(&["run", "--rm", "--cap-add", "NET_ADMIN", "--network", &network, IMAGE, "sh", "-c", &led]);
        assert!(out.contains(&format!("via {gateway}")), "the route is there: {out}");
        assert!(!out.contains("hello"), "by a route of its own neither: {out}");
        cli.ok(&["rm", "-f", &outside]);
        assert_eq!(cli.ok(&["network", "inspect", "-f", "{{.Internal}}", &network]), "true");
        cli.ok(&["network", "rm", &network]);
    });
}

#[test]
fn lists_are_filtered_and_prune_takes_what_nobody_uses() {
    let world = World::start(Options::default()).expect("a daemon of its own");
    for cli in [Some(world.gantry()), world.docker()].into_iter().flatten() {
        cli.ok(&["network", "create", "--label", "keep", "kept"]);
        cli.ok(&["network", "create", "unused"]);
        cli.ok(&["network", "create", "used"]);
        cli.ok(&["run", "-d", "--name", "user", "--network", "used", IMAGE, "sleep", "600"]);
        let list = |filters: &[&str]| {
            let flags: Vec<&str> = filters.iter().flat_map(|filter| ["--filter", filter]).collect();
            let names = cli.ok(&[&["network", "ls", "--format", "{{.Name}}"], &flags[..]].concat());
            let mut names: Vec<String> = names.lines().map(str::to_owned).collect();
            names.sort();
            names.join(" ")
        };
        assert_eq!(list(&[]), "bridge host kept none unused used");
        assert_eq!(list(&["type=custom"]), "kept unused used");
        assert_eq!(list(&["type=builtin"]), "bridge host none");
        assert_eq!(list(&["label=keep"]), "kept");
        assert_eq!(list(&["dangling=true", "type=custom"]), "kept unused");
        assert_eq!(list(&["name=used"]), "unused used");
        assert_eq!(list(&["driver=bridge"]), "bridge kept unused used");
        let id = cli.ok(&["network", "inspect", "-f", "{{.Id}}", "used"]);
        assert_eq!(list(&[&format!("id={}", &id[..10])]), "used");
        cli.run(&["network", "ls", "--filter", "type=odd"]).fails(1, "odd");
        let pruned = cli.ok(&["network", "prune", "-f", "--filter", "label!=keep"]);
        assert!(
            pruned.contains("unused") && !pruned.contains("kept") && !pruned.lines().any(|line| line == "used"),
            "{pruned}"
        );
        cli.ok(&["rm", "-f", "user"]);
        cli.ok(&["network", "prune", "-f"]);
        assert_eq!(list(&["type=custom"]), "");
    }
}

#[test]
fn events_tell_of_networks() {
    both(|world, cli| {
        let (network, container) = (world.name("told"), world.name("c"));
        let since = cli.ok(&["info", "-f", "{{.SystemTime}}"]);
        let id = cli.ok(&["network", "create", &network]);
        cli.ok(&["run", "-d", "--name", &container, IMAGE, "sleep", "600"]);
        cli.ok(&["network", "connect", &network, &container]);
        cli.ok(&["network", "disconnect", &network, &container]);
        cli.ok(&["network", "rm", &network]);
        cli.ok(&["rm", "-f", &container]);
        let until = cli.ok(&["info", "-f", "{{.SystemTime}}"]);
        let filter = format!("network={id}");
        let flags = ["events", "--since", &since, "--until", &until, "--filter", &filter, "--format", "{{.Action}}"];
        let told: Vec<String> = cli.ok(&flags).lines().map(str::to_owned).collect();
        assert_eq!(told, ["create", "connect", "disconnect", "destroy"]);
    });
}

#[test]
fn a_link_is_told_by_variables_hosts_and_names() {
    both(|world, cli| {
        let (db, web) = (world.name("db"), world.name("web"));
        cli.ok(&["run", "-d", "--name", &db, "--expose", "5432", "-e", "SECRET=x", IMAGE, "sleep", "600"]);
        cli.ok(&["run", "-d", "--name", &web, "--link", &format!("{db}:my-db"), IMAGE, "sleep", "600"]);
        let linked = || {
            let address = of_network(cli, &db, "bridge", "IPAddress");
            let hosts = cli.ok(&["exec", &web, "cat", "/etc/hosts"]);
            let names = format!("{address}\tmy-db {} {db}", &cli.inspect(&db, "{{.Id}}")[..12]);
            assert!(hosts.lines().any(|line| line == names), "{names} in {hosts}");
            address
        };
        let address = linked();
        let variables = cli.ok(&["exec", &web, "env"]);
        let told = [
            format!("MY_DB_NAME=/{web}/my-db"),
            format!("MY_DB_PORT=tcp://{address}:5432"),
            format!("MY_DB_PORT_5432_TCP_ADDR={address}"),
            "MY_DB_ENV_SECRET=x".into(),
        ];
        for variable in told {
            assert!(variables.lines().any(|line| line == variable), "{variable} in {variables}");
        }
        assert_eq!(cli.inspect(&web, "{{json .HostConfig.Links}}"), format!("[\"/{db}:/{web}/my-db\"]"));
        let listed = world.daemon.get("/containers/json").expect("an answer").text();
        let names = format!("[\"/{db}\",\"/{web}/my-db\"]");
        assert!(listed.contains(&names), "{names} in {listed}");
        cli.ok(&["restart", "-t", "0", &db]);
        linked();
        let other = format!("{web}-2");
        cli.ok(&["run", "-d", "--name", &other, "--link", &format!("{db}:my-db"), IMAGE, "sleep", "600"]);
        cli.ok(&["exec", &other, "nslookup", "my-db"]);
        let answer = world.daemon.delete(&format!("/containers/{other}/my-db?link=1")).expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
        let asked = cli.run(&["exec", &other, "nslookup", "my-db"]);
        assert_ne!(asked.code, 0, "the name goes with the link: {asked}");
        cli.ok(&["rm", "-f", &other]);
        cli.ok(&["stop", "-t", "0", &db, &web]);
        cli.run(&["start", &web]).fails(1, &format!("Cannot link to a non running container: /{db} AS /{web}/my-db"));
        let answer = world.daemon.delete(&format!("/containers/{web}/my-db?link=1")).expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
        cli.ok(&["start", &web]);
        cli.run(&["create", "--link", "no-such", IMAGE, "true"]).fails(1, "could not get container for no-such");
        cli.ok(&["rm", "-f", &web, &db]);
    });
}

#[test]
fn published_ports_go_where_the_way_out_goes() {
    both(|world, cli| {
        world.pull("web").expect("pull");
        let (first, second, name) = (world.name("m"), world.name("n"), world.name("web"));
        for network in [&first, &second] {
            cli.ok(&["network", "create", network]);
        }
        cli.ok(&["run", "-d", "--name", &name, "--network", &first, "-p", "127.0.0.1:0:80", "web"]);
        let format = "{{(index (index .NetworkSettings.Ports \"80/tcp\") 0).HostPort}}";
        let port: u16 = cli.inspect(&name, format).parse().expect("a port");
        let answers = || http::fetch("127.0.0.1", port).is_ok_and(|page| page.contains("hello"));
        eventually("it answers", answers);
        cli.ok(&["network", "connect", "--gw-priority", "1", &second, &name]);
        assert_eq!(cli.inspect(&name, format), port.to_string());
        eventually("it answers by the other network", answers);
        cli.ok(&["network", "disconnect", &first, &name]);
        eventually("it does not need the first one", answers);
        cli.ok(&["network", "connect", &first, &name]);
        cli.ok(&["network", "disconnect", &second, &name]);
        assert_eq!(cli.inspect(&name, format), port.to_string());
        eventually("it answers by the first one again", answers);
        cli.ok(&["rm", "-f", &name]);
        cli.ok(&["network", "rm", &first, &second]);
        assert!(http::fetch("127.0.0.1", port).is_err(), "the port is closed");
    });
}

#[test]
fn macvlan_stands_on_a_link_of_the_host() {
    both(|world, cli| {
        let (network, parent) = (world.name("mac"), world.daemon.bridge());
        let base = subnet(world, 3);
        cli.run(&["network", "create", "-d", "macvlan", "-o", "parent=no-such", &network]).fails(1, "no-such");
        cli.run(&["network", "create", "-d", "macvlan", &network]).fails(1, "parent=");
        let options = format!("--subnet {base}/28 -o parent={parent}");
        line(cli, &format!("network create -d macvlan {options} {network}")).ok();
        let (a, b, port) = (world.name("a"), world.name("b"), world.name("port"));
        // A bridge without ports carries nothing.
        cli.ok(&["run", "-d", "--name", &port, IMAGE, "sleep", "600"]);
        for name in [&a, &b] {
            cli.ok(&["run", "-d", "--name", name, "--network", &network, IMAGE, "sleep", "600"]);
        }
        let address = of_network(cli, &b, &network, "IPAddress");
        cli.ok(&["exec", &a, "ping", "-c", "1", "-W", "5", &address]);
        cli.ok(&["network", "connect", "bridge", &a]);
        cli.ok(&["network", "disconnect", &network, &a]);
        let seen = inside(cli, &a);
        assert!(!seen.contains("eth0 ") && seen.contains(" dev eth1"), "{seen}");
        cli.ok(&["rm", "-f", &a, &b, &port]);
        cli.ok(&["network", "rm", &network]);
    });
}

#[test]
fn ipvlan_stands_on_a_link_of_the_host_with_its_hardware_address() {
    both(|world, cli| {
        let (below, port) = (world.name("below"), world.name("port"));
        let parent = format!("br-{}", &cli.ok(&["network", "create", &below])[..12]);
        cli.run(&["network", "create", "-d", "ipvlan", "-o", "ipvlan_mode=l4", "-o", &format!("parent={parent}"), "x"])
            .fails(1, "there are l2, l3 and l3s");
        // A bridge without ports carries nothing.
        cli.ok(&["run", "-d", "--name", &port, "--network", &below, IMAGE, "sleep", "600"]);
        let mac = std::fs::read_to_string(format!("/sys/class/net/{parent}/address")).expect("the bridge's");
        for (number, mode) in ["l2", "l3"].into_iter().enumerate() {
            let (network, base) = (world.name("ip"), subnet(world, 4 + number as u8));
            line(
                cli,
                &format!(
                    "network create -d ipvlan --subnet {base}/28 -o parent={parent} -o ipvlan_mode={mode} {network}"
                ),
            )
            .ok();
            let asked = ["create", "--network", &network, "--mac-address", "02:00:00:00:00:01", IMAGE, "true"];
            cli.run(&asked).fails(1, "do not support custom mac address");
            let second = format!("network create -d ipvlan -o parent={parent} -o ipvlan_flag=private {network}-2");
            let said = format!("network {network} is already using parent interface {parent}");
            line(cli, &second).fails(1, &said);
            let (a, b) = (world.name("a"), world.name("b"));
            for name in [&a, &b] {
                let run = cli.run(&["run", "-d", "--name", name, "--network", &network, IMAGE, "sleep", "600"]);
                if run.stderr.contains("Operation not supported") {
                    skip("this kernel has no ipvlan");
                    cli.ok(&["rm", "-f", name, &port]);
                    cli.ok(&["network", "rm", &network, &below]);
                    return;
                }
                run.ok();
            }
            let address = of_network(cli, &b, &network, "IPAddress");
            cli.ok(&["exec", &a, "ping", "-c", "1", "-W", "5", &address]);
            assert_eq!(cli.ok(&["exec", &a, "cat", "/sys/class/net/eth0/address"]), mac.trim());
            assert_eq!(of_network(cli, &b, &network, "MacAddress"), "", "it has none of its own");
            let routes = cli.ok(&["exec", &a, "ip", "route"]);
            let way_out = if mode == "l2" { "default via " } else { "default dev eth0" };
            assert!(routes.contains(way_out), "{mode}: {routes}");
            cli.ok(&["rm", "-f", &a, &b]);
            cli.ok(&["network", "rm", &network]);
        }
        cli.ok(&["rm", "-f", &port]);
        cli.ok(&["network", "rm", &below]);
    });
}

#[test]
fn ports_are_listed_with_who_reaches_them_and_the_rule_that_is_there() {
    let world = world();
    let (cli, name) = (world.gantry(), world.name("shown"));
    cli.ok(&["run", "-d", "--name", &name, "-p", "127.0.0.1:0:80", "-p", "0:81/udp", IMAGE, "sleep", "600"]);
    let format = "{{.Container}}|{{.Host}}|{{.Inside}}|{{.From}}|{{.Rule}}";
    let listed = cli.ok(&["network", "ports", "--format", format]);
    let mine: Vec<&str> = listed.lines().filter(|line| line.starts_with(&format!("{name}|"))).collect();
    assert_eq!(mine.len(), 2, "{listed}");
    for line in mine {
        let fields: Vec<&str> = line.split('|').collect();
        let local = fields[1].starts_with("127.0.0.1:");
        assert_eq!(
            fields[3],
            if local { "this host only" } else { "this host, and who reaches an IPv4 address of it" }
        );
        // `ip TABLE MAP { ELEMENT }`
        let (place, element) = fields[4].split_once(" { ").expect("an element");
        let element = element.trim_end_matches(" }");
        let mut nft = std::process::Command::new("nft");
        nft.args(["-n", "list", "map"]).args(place.split(' '));
        match nft.output() {
            // Numeric, a protocol is a number.
            Ok(output) => {
                let table = String::from_utf8_lossy(&output.stdout);
                let numeric = element.replace("tcp", "6").replace("udp", "17");
                assert!(table.contains(element) || table.contains(&numeric), "{element} in {table}");
            }
            Err(error) => skip(&format!("nft: {error}")),
        }
    }
    assert!(cli.ok(&["network", "ports"]).starts_with("CONTAINER"));
    cli.ok(&["rm", "-f", &name]);
}

#[test]
fn the_daemons_own_bridge_has_ipv6_a_range_and_no_talk_between_containers_where_asked() {
    let options =
        Options { flags: vec!["--ipv6".into(), "--fixed-cidr-v6=fd00:6a17:9::/64".into()], ..Options::default() };
    let mut world = World::start(options).expect("a daemon of its own");
    let range = format!("--fixed-cidr={}128/25", world.daemon.slot().prefix());
    world.daemon.stop().expect("SIGTERM");
    world.daemon.set_flags(&["--ipv6", "--fixed-cidr-v6=fd00:6a17:9::/64", "--icc=false", &range]);
    world.daemon.launch().expect("the daemon with further flags");
    let cli = world.gantry();
    let run = |name: &str| cli.ok(&["run", "-d", "--name", name, IMAGE, "sleep", "600"]);
    run("first");
    run("second");
    let seen = inside(&cli, "first");
    assert!(seen.contains("inet6 fd00:6a17:9::") && seen.contains("default via fd00:6a17:9::1 dev eth0"), "{seen}");
    let address = of_network(&cli, "second", "bridge", "IPAddress");
    let last: u8 = address.rsplit('.').next().and_then(|part| part.parse().ok()).expect("an address");
    assert!(last >= 128, "{address}");
    cli.ok(&["exec", "first", "ping", "-6", "-c", "1", "-W", "5", "fd00:6a17:9::1"]);
    assert_ne!(cli.run(&["exec", "first", "ping", "-c", "1", "-W", "1", &address]).code, 0, "they talk");
    let shown = cli.ok(&["network", "inspect", "-f", "{{.EnableIPv6}} {{json .Options}}", "bridge"]);
    assert!(shown.starts_with("true") && shown.contains("enable_icc\":\"false\""), "{shown}");
    cli.ok(&["rm", "-f", "first", "second"]);
}
