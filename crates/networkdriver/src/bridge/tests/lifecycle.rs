//! Nothing is left behind, nothing is lost: failures half-way, churn, restarts of the daemon, other daemons.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use gantry_linux::fs;
use gantry_linux::netlink::{Socket, enter_new_namespace};

use super::super::NETWORK_OF;
use super::world::{
    Namespace, ask, bridge, join, link_names, nft_table, on_a_host, options, options_of, serve, tcp, try_join,
    unreachable, wall_options,
};
use crate::{
    Bridge, BridgeOptions, Cidr, Error, Host, Join, NetworkDriver as _, NoNetwork, PublishPort, Subnet, Wall,
    WallOptions,
};
use libcontainer::network::firewall::{Element, Firewall};
use libcontainer::network::{Protocol, link};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn wall(bridge: &Bridge) -> MutexGuard<'_, Firewall> {
    bridge.options.wall.as_ref().unwrap().lock()
}

/// The daemon's last bridge and its firewall go.
fn end(bridge: Bridge) {
    bridge.remove().unwrap();
    bridge.options.wall.unwrap().remove().unwrap();
}

#[test]
fn two_hundred_endpoints_come_and_go_and_leave_nothing() {
    on_a_host(|| {
        let bridge = bridge();
        let (links, table) = (link_names(), nft_table());
        let (mut joining, mut leaving) = (Vec::new(), Vec::new());
        let mut containers = Vec::new();
        for number in 0..200_u16 {
            let (namespace, name) = (Namespace::new(), format!("c{number}"));
            let socket = namespace.route();
            let ports = tcp("0.0.0.0", 20_000 + number, 80);
            let (netns, route_socket) = (namespace.fd.as_fd(), socket.as_fd());
            let request = Join { ports, ..Join::new(&name, netns, route_socket) };
            let start = Instant::now();
            let endpoint = bridge.join(request).unwrap();
            joining.push(start.elapsed());
            containers.push((namespace, endpoint));
        }
        assert_eq!(link_names().len(), links.len() + 200);
        for (number, (_, endpoint)) in containers.iter().enumerate() {
            let start = Instant::now();
            bridge.leave(endpoint).unwrap();
            leaving.push(start.elapsed());
            if number % 2 == 0 {
                bridge.disconnect(endpoint, Socket::route().unwrap().as_fd()).unwrap();
            }
        }
        drop(containers);
        links_become(&links);
        assert_eq!(nft_table(), table);
        assert!(bridge.lock().held.is_empty());
        TcpListener::bind("0.0.0.0:20000").unwrap();
        report("join", &mut joining);
        report("leave", &mut leaving);
    });
}

#[allow(clippy::print_stderr, reason = "a measurement to read with --nocapture")]
fn report(what: &str, times: &mut [Duration]) {
    times.sort();
    let (median, p95) = (times[times.len() / 2], times[times.len() * 95 / 100]);
    eprintln!("{what}: median {} us, 95 % {} us", median.as_micros(), p95.as_micros());
}

/// Waits, event by event, until the dying namespaces have taken their links with them.
fn links_become(expected: &[String]) {
    const LINK_EVENTS: u32 = 1;
    let mut events = Socket::route().unwrap().into_fd();
    rustix::net::bind(&events, &rustix::net::netlink::SocketAddrNetlink::new(0, LINK_EVENTS)).unwrap();
    while link_names() != expected {
        let mut buffer = [0; 8192];
        let received = rustix::net::recv(&mut events, &mut buffer, rustix::net::RecvFlags::empty());
        // A queue that overflowed means that there was something to see.
        assert!(!matches!(received, Err(rustix::io::Errno::AGAIN)), "links that stay: {:?}", link_names());
    }
}

#[test]
fn no_router_advertisement_of_a_container_is_heard_by_the_host() {
    on_a_host(|| {
        let _bridge = bridge();
        let of_bridge = |name| fs::read_to_string(format!("/proc/sys/net/ipv6/conf/gvtest0/{name}"));
        if of_bridge("accept_ra").is_err() {
            return; // A kernel without IPv6.
        }
        assert_eq!((of_bridge("accept_ra").unwrap().trim(), of_bridge("disable_ipv6").unwrap().trim()), ("0", "1"));
    });
}

#[test]
fn a_host_that_we_made_forward_forwards_nothing_between_its_other_links() {
    on_a_host(|| {
        const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
        let open = || Bridge::open(options_of(&WallOptions { ip_forward: true, ..wall_options() })).unwrap();
        fs::write(FORWARD, "1").unwrap();
        let bridge = open();
        assert!(!nft_table().is_some_and(|table| table.contains("between-others")));
        end(bridge);
        fs::write(FORWARD, "0").unwrap();
        for start in ["first", "second"] {
            let _bridge = open();
            assert_eq!(fs::read_to_string(FORWARD).unwrap().trim(), "1");
            let Some(table) = nft_table() else { return };
            let rules = "meta iifkind \"bridge\" accept meta oifkind \"bridge\" accept ct state established,related accept drop }";
            assert!(table.contains("chain between-others {") && table.contains(rules), "{start}: {table}");
        }
    });
}

#[test]
fn a_table_that_somebody_deleted_comes_back_whole_with_the_next_port() {
    on_a_host(|| {
        let bridge = bridge();
        let first = join(&bridge, "first", tcp("0.0.0.0", 8080, 80));
        let _first = serve(&first, 80);
        let table = nft_table();
        wall(&bridge).delete().unwrap();
        assert!(unreachable(LOOPBACK, 8080));
        let second = join(&bridge, "second", tcp("0.0.0.0", 8081, 80));
        let _second = serve(&second, 80);
        assert!(ask(LOOPBACK, 8080).is_some() && ask(LOOPBACK, 8081).is_some());
        wall(&bridge).delete().unwrap();
        bridge.leave(&second.endpoint).unwrap();
        assert!(ask(LOOPBACK, 8080).is_some() && unreachable(LOOPBACK, 8081));
        assert_eq!(nft_table(), table);
    });
}

#[test]
fn a_failure_half_way_leaves_nothing() {
    on_a_host(|| {
        let bridge = bridge();
        let (links, table) = (link_names(), nft_table());
        let namespace = Namespace::new();
        let host_socket = Socket::route().unwrap();
        let error = bridge.join(Join {
            ports: tcp("0.0.0.0", 8080, 80),
            ..Join::new("c", namespace.fd.as_fd(), host_socket.as_fd())
        });
        assert!(error.unwrap_err().to_string().contains("another namespace"));
        let no_namespace = gantry_linux::fs::open("/dev/null").unwrap();
        let error = bridge.join(Join {
            ports: tcp("0.0.0.0", 8080, 80),
            ..Join::new("c", no_namespace.as_fd(), host_socket.as_fd())
        });
        assert!(error.unwrap_err().to_string().starts_with("make link gv"));
        assert_eq!((link_names(), nft_table()), (links, table));
        assert!(bridge.lock().held.is_empty());
        TcpListener::bind("0.0.0.0:8080").unwrap();
        try_join(&bridge, "c", &namespace, tcp("0.0.0.0", 8080, 80)).unwrap();
    });
}

#[test]
fn wrong_requests_are_refused_before_anything_is_made() {
    on_a_host(|| {
        let bridge = bridge();
        let first = join(&bridge, "0123456789abcdef", tcp("0.0.0.0", 8080, 80));
        let links = link_names();
        let namespace = Namespace::new();
        let error = try_join(&bridge, "fedcba9876543210", &namespace, tcp("127.0.0.1", 8080, 80)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "driver failed programming external connectivity on endpoint fedcba987654: Bind for 127.0.0.1:8080 failed: \
             port is already allocated, by container 0123456789ab"
        );
        assert!(matches!(try_join(&bridge, "0123456789abcdef", &namespace, vec![]), Err(Error::Conflict(_))));
        assert!(matches!(try_join(&bridge, "x", &namespace, tcp("::", 1, 1)), Err(Error::Invalid(_))));
        let foreign = try_join(&bridge, "x", &namespace, tcp("203.0.113.9", 81, 80)).unwrap_err();
        assert!(foreign.to_string().contains("no interface of the host"), "{foreign}");
        let socket = namespace.route();
        let ask_for =
            |address, mac| bridge.join(Join { address, mac, ..Join::new("x", namespace.fd.as_fd(), socket.as_fd()) });
        assert!(matches!(ask_for(Some(first.endpoint.address), None), Err(Error::Taken(_))));
        assert!(matches!(ask_for(None, Some([1, 0, 0, 0, 0, 1])), Err(Error::Invalid(_))));
        assert_eq!(link_names(), links);
        let fixed = Ipv4Addr::from(u32::from(first.endpoint.gateway) + 99);
        let endpoint = ask_for(Some(fixed), Some([2, 0, 0, 0, 0, 9])).unwrap();
        assert_eq!((endpoint.address, endpoint.mac), (fixed, [2, 0, 0, 0, 0, 9]));
    });
}

#[test]
fn the_next_daemon_takes_over_what_runs_and_clears_what_does_not() {
    on_a_host(|| {
        let first = bridge();
        let kept = join(&first, "kept", tcp("0.0.0.0", 8001, 80));
        let lost = join(&first, "lost", tcp("0.0.0.0", 8002, 80));
        let (_kept, _lost) = (serve(&kept, 80), serve(&lost, 80));
        let subnet = first.info();
        // As a killed daemon: its sockets close, nothing else happens.
        drop(first);
        assert!(ask(LOOPBACK, 8001).is_some(), "ports go on without a daemon");
        let second = bridge();
        assert_eq!(second.info(), subnet);
        assert!(ask(LOOPBACK, 8001).is_some(), "and before it has restored anything");
        second.restore(&kept.endpoint).unwrap();
        second.restored().unwrap();
        assert!(ask(LOOPBACK, 8001).is_some());
        assert!(unreachable(LOOPBACK, 8002));
        assert!(TcpListener::bind("127.0.0.1:8001").is_err(), "the port is held again");
        let links = link_names();
        assert!(links.contains(&kept.endpoint.host_link) && !links.contains(&lost.endpoint.host_link));
        let third = join(&second, "new", tcp("0.0.0.0", 8002, 80));
        assert_ne!(third.endpoint.address, kept.endpoint.address);
        second.leave(&kept.endpoint).unwrap();
        assert!(unreachable(LOOPBACK, 8001));
    });
}

#[test]
fn a_running_daemons_table_is_nobody_elses() {
    on_a_host(|| {
        let first = bridge();
        let web = join(&first, "web", tcp("0.0.0.0", 8080, 80));
        let _server = serve(&web, 80);
        match Wall::open(&wall_options()) {
            Err(Error::Conflict(text)) => assert!(text.contains("another daemon"), "{text}"),
            other => panic!("{other:?}"),
        }
        let flushed = std::process::Command::new("nft").args(["flush", "ruleset"]).status();
        assert!(ask(LOOPBACK, 8080).is_some(), "after nft flush ruleset ({flushed:?})");
    });
}

#[test]
fn removal_takes_back_the_bridge_that_was_made_and_keeps_one_that_was_there() {
    on_a_host(|| {
        let before = link_names();
        end(bridge());
        assert_eq!(link_names(), before);
        assert!(nft_table().is_none_or(|text| text.contains("No such file")));
        let mut socket = Socket::route().unwrap();
        socket.transact(vec![link::new_bridge("gvtest0", [2, 0, 0, 0, 0, 1], 1400)]).unwrap();
        let index = link::link(&mut socket, "gvtest0").unwrap().unwrap().index;
        let own: Subnet = "10.77.0.1/24".parse().unwrap();
        socket.transact(vec![link::add_address(index, own)]).unwrap();
        let adopted = bridge();
        let info = adopted.info();
        assert_eq!((info.ipv4.unwrap().of_gateway(), info.mtu), (own, 1400));
        let wrong = BridgeOptions { ipv4: "10.78.0.1/24".parse::<Cidr>().unwrap().into(), ..adopted.options.clone() };
        assert!(matches!(Bridge::open(wrong), Err(Error::Conflict(_))));
        adopted.remove().unwrap();
        assert!(link_names().contains(&"gvtest0".into()));
    });
}

#[test]
fn subnet_and_mtu_fit_the_host() {
    on_a_host(|| {
        let options = options();
        let open = |name: &str| Bridge::open(BridgeOptions { name: name.into(), ..options.clone() });
        let bridges = ["gva", "gvb", "gvc"].map(open);
        let subnets: Vec<_> =
            bridges.iter().map(|bridge| bridge.as_ref().unwrap().info().ipv4.unwrap().subnet).collect();
        for (i, a) in subnets.iter().enumerate() {
            assert!(subnets[i + 1..].iter().all(|b| !a.overlaps(*b)), "{subnets:?}");
        }
        let given = BridgeOptions {
            name: "gvd".into(),
            ipv4: "10.9.0.1/24".parse::<Cidr>().unwrap().into(),
            mtu: Some(1280),
            ..options
        };
        let given = Bridge::open(given).unwrap();
        let c = join(&given, "c", vec![]);
        let inside = link::link(&mut c.namespace.route(), "eth0").unwrap().unwrap();
        assert_eq!((inside.mtu, c.endpoint.gateway, c.endpoint.prefix), (1280, Ipv4Addr::new(10, 9, 0, 1), 24));
    });
}

#[test]
fn none_has_loopback_only_and_host_changes_nothing() {
    on_a_host(|| {
        let namespace = Namespace::new();
        let socket = namespace.route();
        let request = || Join::new("c", namespace.fd.as_fd(), socket.as_fd());
        Host.join(request()).unwrap();
        assert!(
            namespace
                .inside(|| TcpListener::bind((LOOPBACK, 0)).and_then(|l| std::net::TcpStream::connect(l.local_addr()?)))
                .is_err()
        );
        let endpoint = NoNetwork.join(request()).unwrap();
        assert_eq!(endpoint.address, Ipv4Addr::UNSPECIFIED);
        namespace.inside(|| {
            let listener = TcpListener::bind((LOOPBACK, 0)).unwrap();
            std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            assert_eq!(link_names(), ["lo"]);
        });
    });
}

#[test]
fn sysctls_are_written_in_the_threads_own_namespace() {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let before = fs::read_to_string(path).unwrap();
    std::thread::spawn(move || {
        enter_new_namespace().unwrap();
        fs::write(path, "0").unwrap();
        let on = options_of(&WallOptions { ip_forward: true, ..wall_options() });
        let bridge = Bridge::open(on).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap().trim(), "1");
        bridge.remove().unwrap();
    })
    .join()
    .unwrap();
    assert_eq!(fs::read_to_string(path).unwrap(), before);
}

#[test]
fn a_port_that_an_earlier_daemon_left_behind_leads_to_the_new_container() {
    on_a_host(|| {
        let earlier = bridge();
        let stale = Element {
            host: Ipv4Addr::UNSPECIFIED.into(),
            protocol: Protocol::Tcp,
            host_port: 8080,
            last_port: 8080,
            container: Ipv4Addr::new(10, 9, 9, 9).into(),
            container_port: 80,
        };
        wall(&earlier).add(&[stale]).unwrap();
        drop(earlier);
        let bridge = bridge();
        let c = join(&bridge, "c", tcp("0.0.0.0", 8080, 80));
        let _server = serve(&c, 80);
        assert!(ask(LOOPBACK, 8080).is_some(), "{:?}", nft_table());
        // It is told where there is an nft to ask.
        assert!(!nft_table().is_some_and(|table| table.contains("10.9.9.9")), "{:?}", nft_table());
    });
}

#[test]
fn a_host_that_begins_to_forward_ipv6_keeps_the_routes_that_routers_advertise() {
    on_a_host(|| {
        Socket::route().unwrap().transact(vec![link::new_bridge("uplink", [2, 0, 0, 0, 0, 1], 1500)]).unwrap();
        let setting = |name: &str| format!("/proc/sys/net/ipv6/conf/{name}");
        fs::write(setting("uplink/accept_ra"), "1").unwrap();
        let wall = Wall::open(&WallOptions { ip_forward: true, ..wall_options() }).unwrap();
        wall.forward6().unwrap();
        assert_eq!(fs::read_to_string(setting("all/forwarding")).unwrap().trim(), "1");
        assert_eq!(fs::read_to_string(setting("uplink/accept_ra")).unwrap().trim(), "2");
        wall.remove().unwrap();
    });
}

#[test]
fn a_port_for_every_address_is_one_also_where_the_network_publishes_on_another() {
    on_a_host(|| {
        let bridge = Bridge::open(BridgeOptions { publish_address: LOOPBACK, ..options() }).unwrap();
        let everywhere = join(&bridge, "everywhere", tcp("0.0.0.0", 8080, 80));
        assert_eq!(everywhere.endpoint.ports[0].host_ip, Ipv4Addr::UNSPECIFIED);
        let usual = PublishPort { host_ip: None, ..tcp("0.0.0.0", 8081, 80).remove(0) };
        assert_eq!(join(&bridge, "usual", vec![usual]).endpoint.ports[0].host_ip, LOOPBACK);
    });
}

#[test]
fn a_networks_bridge_goes_with_it_also_when_the_daemon_has_another_name_by_then() {
    on_a_host(|| {
        let options = options();
        let named = |daemon: &str| BridgeOptions {
            name: "br-0123456789ab".into(),
            alias: format!("{NETWORK_OF}{daemon}"),
            own_name: true,
            ..options.clone()
        };
        drop(Bridge::open(named("old0")).unwrap());
        assert!(link_names().contains(&"br-0123456789ab".into()));
        let somebody_elses = BridgeOptions { own_name: false, ..named("new0") };
        Bridge::open(somebody_elses).unwrap().remove().unwrap();
        assert!(link_names().contains(&"br-0123456789ab".into()), "one that a person named is left alone");
        Bridge::open(named("new0")).unwrap().remove().unwrap();
        assert!(!link_names().contains(&"br-0123456789ab".into()));
    });
}

#[test]
fn a_bridge_of_somebody_else_is_given_back_as_it_was_also_by_the_next_daemon() {
    on_a_host(|| {
        let mut socket = Socket::route().unwrap();
        socket.transact(vec![link::new_bridge("theirs0", [2, 0, 0, 0, 0, 1], 1500)]).unwrap();
        let index = link::link(&mut socket, "theirs0").unwrap().unwrap().index;
        let own: Subnet = "fd00:99::1/64".parse().unwrap();
        socket.transact(vec![link::add_address(index, own), link::raise(index, "theirs0")]).unwrap();
        let look = || {
            let setting = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).unwrap();
            let settings =
                ["ipv4/conf/theirs0/forwarding", "ipv4/conf/theirs0/route_localnet", "ipv6/conf/theirs0/accept_ra"];
            let mut addresses = link::addresses(&mut Socket::route().unwrap(), index).unwrap();
            addresses
                .retain(|subnet| !matches!(subnet.address, std::net::IpAddr::V6(six) if six.is_unicast_link_local()));
            (settings.map(setting), addresses)
        };
        let before = look();
        let named = BridgeOptions { name: "theirs0".into(), alias: format!("{NETWORK_OF}gvtest0"), ..options() };
        let bridge = Bridge::open(named.clone()).unwrap();
        assert_ne!(look(), before);
        let found = bridge.found();
        assert!(found.is_some());
        // The next daemon has it written down, and no bridge to look at that is as it was.
        drop(bridge);
        Bridge::open(BridgeOptions { found, ..named.clone() }).unwrap().remove().unwrap();
        assert_eq!(look(), before);
        let bad = BridgeOptions { ipv4: "192.0.2.0/24".parse::<Cidr>().unwrap().into(), ..named };
        assert!(Bridge::open(bad).is_err());
        assert_eq!(look(), before, "also after a failure half-way");
    });
}

#[test]
fn what_somebody_has_set_on_their_bridge_since_stays_and_what_is_gone_is_no_failure() {
    on_a_host(|| {
        let mut socket = Socket::route().unwrap();
        socket.transact(vec![link::new_bridge("theirs0", [2, 0, 0, 0, 0, 1], 1500)]).unwrap();
        let path = |family: &str, name: &str| format!("/proc/sys/net/{family}/conf/theirs0/{name}");
        let read = |path: &str| fs::read_to_string(path).unwrap().trim().to_owned();
        let named = BridgeOptions { name: "theirs0".into(), alias: format!("{NETWORK_OF}gvtest0"), ..options() };
        let bridge = Bridge::open(named.clone()).unwrap();
        // One that we wrote as well, and one that is none of ours where the network has no IPv6.
        let (accept, forwarding) = (path("ipv6", "accept_ra"), path("ipv6", "forwarding"));
        fs::write(&accept, "2").unwrap();
        fs::write(&forwarding, "1").unwrap();
        bridge.remove().unwrap();
        assert_eq!((read(&accept), read(&forwarding)), ("2".into(), "1".into()));
        assert_eq!(read(&path("ipv4", "route_localnet")), "0");
        let bridge = Bridge::open(named).unwrap();
        // A link of so small an MTU has no IPv6.
        let shrunk = Command::new("ip").args(["link", "set", "theirs0", "mtu", "1000"]).status().unwrap();
        assert!(shrunk.success() && fs::metadata(&accept).is_err());
        bridge.remove().unwrap();
    });
}
