//! Who reaches whom, and whom not.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;

use gantry_linux::fs;
use gantry_linux::netlink::{Message, Socket};

use super::world::{
    HOST_ON_LAN, LAN, Server, ask, bridge, join, lan, link_names, nft_table, on_a_host, options, publish, serve, tcp,
    udp_round_trip, unreachable,
};
use crate::{Bridge, BridgeOptions, NetworkDriver as _, Protocol};
use libcontainer::network::link;

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const FILTERED: &str = "/proc/sys/net/bridge/bridge-nf-call-iptables";

/// Where `br_netfilter` is not loaded, the bridge is unfiltered anyway.
fn with_and_without_a_filtered_bridge(test: fn()) {
    on_a_host(test);
    on_a_host(move || {
        if fs::metadata(FILTERED).is_ok() {
            fs::write(FILTERED, "0").unwrap();
        }
        test();
    });
}

#[test]
fn a_published_port_is_reached_from_everywhere() {
    with_and_without_a_filtered_bridge(|| {
        let lan = lan();
        let bridge = bridge();
        let web = join(&bridge, "web", tcp("0.0.0.0", 8080, 80));
        let peer = join(&bridge, "peer", vec![]);
        let _server = serve(&web, 80);
        let gateway = web.endpoint.gateway;
        assert_eq!(ask(LOOPBACK, 8080).as_deref(), Some(&*format!("web {gateway}")), "by the host's loopback");
        assert_eq!(ask(HOST_ON_LAN, 8080).as_deref(), Some("web 192.0.2.1"), "by the host's address");
        let from_lan = lan.inside(|| ask(HOST_ON_LAN, 8080));
        assert_eq!(from_lan.as_deref(), Some(&*format!("web {LAN}")), "from the LAN, whose address is kept");
        for (container, who) in [(&peer, "a peer"), (&web, "the container itself")] {
            for address in [HOST_ON_LAN, gateway] {
                let answer = container.namespace.inside(|| ask(address, 8080));
                assert_eq!(answer.as_deref(), Some(&*format!("web {gateway}")), "from {who} by {address}");
            }
        }
        let direct = peer.namespace.inside(|| ask(web.endpoint.address, 80));
        assert_eq!(direct, Some(format!("web {}", peer.endpoint.address)));
    });
}

#[test]
fn a_port_on_one_address_is_there_and_nowhere_else() {
    on_a_host(|| {
        let lan = lan();
        let bridge = bridge();
        let web = join(&bridge, "web", tcp("192.0.2.1", 8080, 80));
        let _server = serve(&web, 80);
        assert!(ask(HOST_ON_LAN, 8080).is_some() && lan.inside(|| ask(HOST_ON_LAN, 8080)).is_some());
        assert!(unreachable(LOOPBACK, 8080) && unreachable(web.endpoint.gateway, 8080));
    });
}

#[test]
fn what_is_published_on_loopback_stays_on_loopback_against_crafted_routes() {
    on_a_host(|| {
        let lan = lan();
        // The worst host: its LAN link takes loopback addresses, and the attacker sends them.
        fs::write("/proc/sys/net/ipv4/conf/lan0/route_localnet", "1").unwrap();
        lan.inside(|| {
            fs::write("/proc/sys/net/ipv4/conf/lan1/route_localnet", "1").unwrap();
            let mut socket = Socket::route().unwrap();
            let index = link::link(&mut socket, "lan1").unwrap().unwrap().index;
            let header = [2, 8, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
            let route = Message::new(libc::RTM_NEWROUTE, 0x600, &header)
                .attribute(1, [127, 0, 0, 0])
                .attribute(5, HOST_ON_LAN.octets())
                .u32(4, index);
            socket.transact(vec![route]).unwrap();
        });
        let _local = Server::start("local", LOOPBACK, 9999);
        assert!(lan.inside(|| ask(LOOPBACK, 9999)).is_some(), "without a guard the attack works");
        let bridge = bridge();
        let web = join(&bridge, "web", tcp("127.0.0.1", 8080, 80));
        let _server = serve(&web, 80);
        assert!(ask(LOOPBACK, 8080).is_some(), "the host itself reaches it");
        assert!(lan.inside(|| unreachable(LOOPBACK, 8080)), "by a route to 127/8");
        assert!(lan.inside(|| unreachable(HOST_ON_LAN, 8080)), "by the host's address");
        assert!(lan.inside(|| unreachable(LOOPBACK, 9999)), "the host's own services are guarded, too");
    });
}

#[test]
fn a_container_does_not_reach_the_hosts_loopback() {
    on_a_host(|| {
        let bridge = bridge();
        let c = join(&bridge, "c", vec![]);
        let _local = Server::start("local", LOOPBACK, 9999);
        let gateway = c.endpoint.gateway;
        assert!(c.namespace.inside(|| {
            // Its own loopback out of the way, and 127/8 sent to the host.
            let mut socket = Socket::route().unwrap();
            let down = [&[0; 4][..], &1_u32.to_ne_bytes(), &0_u32.to_ne_bytes(), &1_u32.to_ne_bytes()].concat();
            fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            socket.transact(vec![Message::new(libc::RTM_NEWLINK, 0, &down)]).unwrap();
            ask(gateway, 9999).is_none() && unreachable(LOOPBACK, 9999)
        }));
    });
}

#[test]
fn containers_reach_the_lan_under_the_hosts_address_or_their_own_where_the_network_says_so() {
    on_a_host(|| {
        let lan = lan();
        let bridge = bridge();
        let wall = bridge.options.wall.clone();
        let plain = BridgeOptions { name: "gvtest1".into(), masquerade: false, wall, ..BridgeOptions::default() };
        let plain = Bridge::open(plain).unwrap();
        let (c, own) = (join(&bridge, "c", vec![]), join(&plain, "own", vec![]));
        let _server = lan.inside(|| Server::start("lan", LAN, 7000));
        assert_eq!(c.namespace.inside(|| ask(LAN, 7000)).as_deref(), Some("lan 192.0.2.1"));
        let seen = format!("lan {}", own.endpoint.address);
        assert_eq!(own.namespace.inside(|| ask(LAN, 7000)), Some(seen));
    });
}

#[test]
fn what_is_not_published_is_closed_to_the_lan_even_by_a_route() {
    on_a_host(|| {
        let lan = lan();
        let bridge = bridge();
        let c = join(&bridge, "c", tcp("0.0.0.0", 8080, 80));
        let (_open, _closed) = (serve(&c, 80), serve(&c, 81));
        // The LAN's default route leads to the host, and the host forwards.
        assert!(lan.inside(|| unreachable(c.endpoint.address, 81)));
        assert!(lan.inside(|| unreachable(c.endpoint.address, 80)), "not around the published port either");
        assert!(ask(c.endpoint.address, 81).is_some(), "the host itself may");
    });
}

#[test]
fn datagrams_pass_both_ways() {
    on_a_host(|| {
        let lan = lan();
        let bridge = bridge();
        let dns = join(&bridge, "dns", vec![publish("0.0.0.0", 5353, 53, Protocol::Udp)]);
        let server = dns.namespace.inside(|| UdpSocket::bind("0.0.0.0:53").unwrap());
        let local = UdpSocket::bind("127.0.0.1:0").unwrap();
        let seen = udp_round_trip(&server, &local, SocketAddr::from((LOOPBACK, 5353)));
        assert_eq!(seen, Some(dns.endpoint.gateway.into()));
        let remote = lan.inside(|| UdpSocket::bind((LAN, 0)).unwrap());
        let seen = udp_round_trip(&server, &remote, SocketAddr::from((HOST_ON_LAN, 5353)));
        assert_eq!(seen, Some(LAN.into()));
        assert!(unreachable(LOOPBACK, 5353), "tcp was not published");
    });
}

#[test]
fn ranges_and_random_ports_lead_to_their_containers() {
    on_a_host(|| {
        let bridge = bridge();
        let mut range = publish("0.0.0.0", 9000, 80, Protocol::Tcp);
        range.host_port_end = 9001;
        let a = join(&bridge, "a", vec![range.clone()]);
        let b = join(&bridge, "b", vec![range, publish("0.0.0.0", 0, 80, Protocol::Tcp)]);
        let (_a, _b) = (serve(&a, 80), serve(&b, 80));
        assert!(ask(LOOPBACK, 9000).unwrap().starts_with("a "));
        assert!(ask(LOOPBACK, 9001).unwrap().starts_with("b "));
        let random = b.endpoint.ports[1].host_port;
        assert!(random >= 32768 && ask(LOOPBACK, random).unwrap().starts_with("b "));
    });
}

#[test]
fn without_icc_containers_meet_only_through_published_ports() {
    with_and_without_a_filtered_bridge(|| {
        let bridge = Bridge::open(BridgeOptions { icc: false, ..options() }).unwrap();
        let web = join(&bridge, "web", tcp("0.0.0.0", 8080, 80));
        let peer = join(&bridge, "peer", vec![]);
        let _server = serve(&web, 80);
        assert!(peer.namespace.inside(|| unreachable(web.endpoint.address, 80)));
        assert!(peer.namespace.inside(|| ask(peer.endpoint.gateway, 8080)).is_some());
        assert!(ask(LOOPBACK, 8080).is_some());
    });
}

#[test]
fn after_leaving_the_port_is_closed_and_other_ports_stay() {
    on_a_host(|| {
        let bridge = bridge();
        let a = join(&bridge, "a", tcp("0.0.0.0", 8001, 80));
        let b = join(&bridge, "b", tcp("127.0.0.1", 8002, 80));
        let (_a, _b) = (serve(&a, 80), serve(&b, 80));
        bridge.leave(&a.endpoint).unwrap();
        assert!(unreachable(LOOPBACK, 8001));
        assert!(ask(LOOPBACK, 8002).is_some());
        bridge.disconnect(&b.endpoint, gantry_linux::netlink::Socket::route().unwrap().as_fd()).unwrap();
        assert!(!link_names().contains(&b.endpoint.host_link));
    });
}

#[test]
fn ports_come_and_go_while_it_is_joined_and_its_link_follows() {
    with_and_without_a_filtered_bridge(|| {
        let bridge = bridge();
        let web = join(&bridge, "web", vec![]);
        let _server = serve(&web, 80);
        let filtered = fs::read_to_string(FILTERED).is_ok_and(|text| text.trim() == "1");
        let goes_back = || {
            let shown = Command::new("ip").args(["-d", "link", "show", "dev", &web.endpoint.host_link]).output();
            String::from_utf8_lossy(&shown.unwrap().stdout).contains("hairpin on")
        };
        assert!(!goes_back());
        let mut ports = tcp("0.0.0.0", 8080, 80);
        ports.push(publish("0.0.0.0", 5353, 53, Protocol::Udp));
        bridge.publish("web", &ports).unwrap();
        assert!(ask(LOOPBACK, 8080).is_some());
        assert_eq!(goes_back(), filtered);
        bridge.withdraw("web").unwrap();
        assert!(unreachable(LOOPBACK, 8080));
        assert!(!goes_back());
        bridge.publish("web", &ports).unwrap();
        assert!(ask(LOOPBACK, 8080).is_some());
    });
}

#[test]
fn nft_reads_the_table_as_it_is_meant() {
    on_a_host(|| {
        let bridge = bridge();
        let mut ports = tcp("127.0.0.1", 8080, 80);
        ports.push(publish("0.0.0.0", 53, 5353, Protocol::Udp));
        let c = join(&bridge, "c", ports);
        let Some(table) = nft_table() else { return };
        let (address, subnet) = (c.endpoint.address, bridge.info().ipv4.unwrap().subnet);
        for part in [
            format!("127.0.0.1 . tcp . 8080 : {address} . 80"),
            format!("udp . 53 : {address} . 5353"),
            "ip daddr 127.0.0.0/8 iifname != \"lo\" drop".into(),
            "ip saddr 127.0.0.0/8 iifname @bridges drop".into(),
            "set bridges { type ifname elements = { \"gvtest0\" } }".into(),
            format!("set subnets {{ type ipv4_addr flags interval elements = {{ {subnet} }} }}"),
            format!("set home {{ type ipv4_addr . ifname flags interval elements = {{ {subnet} . \"gvtest0\" }} }}"),
            "ip saddr @masqueraded masquerade".into(),
            "oifname @bridges ip saddr 127.0.0.0/8 masquerade".into(),
            "fib daddr type != local accept dnat ip to ip daddr . meta l4proto . th dport map @published".into(),
            "dnat ip to meta l4proto . th dport map @published-any".into(),
            "dnat to ip daddr . meta l4proto . th dport map @published-ranges".into(),
            "type nat hook output priority".into(),
            "meta mark & 0x10000000 == 0x10000000 ct state established,related iifname != @internal accept".into(),
        ] {
            assert!(table.contains(&part), "{part}\nin {table}");
        }
    });
}

#[test]
fn datagrams_to_a_port_that_has_gone_to_another_container_go_there_too() {
    on_a_host(|| {
        let lan = lan();
        let bridge = bridge();
        let port = || vec![publish("0.0.0.0", 5353, 53, Protocol::Udp)];
        let client = lan.inside(|| UdpSocket::bind((LAN, 4000)).unwrap());
        let bound = |container: &super::world::Container| {
            container.namespace.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap())
        };
        let to = SocketAddr::from((HOST_ON_LAN, 5353));
        let first = join(&bridge, "first", port());
        assert_eq!(udp_round_trip(&bound(&first), &client, to), Some(LAN.into()));
        let direct = SocketAddr::from((first.endpoint.address, 53));
        bridge.leave(&first.endpoint).unwrap();
        let second = join(&bridge, "second", port());
        assert_ne!(second.endpoint.address, first.endpoint.address);
        assert_eq!(udp_round_trip(&bound(&second), &client, to), Some(LAN.into()), "not to {direct}");
    });
}

#[test]
fn datagrams_that_went_to_a_port_before_it_led_anywhere_reach_the_container_once_it_does() {
    on_a_host(|| {
        let lan = lan();
        let bridge = bridge();
        let to = SocketAddr::from((HOST_ON_LAN, 5353));
        let (remote, local) =
            (lan.inside(|| UdpSocket::bind((LAN, 4000)).unwrap()), UdpSocket::bind((LOOPBACK, 4001)).unwrap());
        remote.send_to(b"too early", to).unwrap();
        local.send_to(b"too early", (LOOPBACK, 5353)).unwrap();
        let port = || vec![publish("0.0.0.0", 5353, 53, Protocol::Udp)];
        let web = join(&bridge, "web", port());
        let server = web.namespace.inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).unwrap());
        assert_eq!(udp_round_trip(&server, &remote, to), Some(LAN.into()));
        assert!(udp_round_trip(&server, &local, SocketAddr::from((LOOPBACK, 5353))).is_some());
        // The same of a port that comes while it is joined.
        bridge.withdraw("web").unwrap();
        remote.send_to(b"nobody is there", to).unwrap();
        bridge.publish("web", &port()).unwrap();
        assert_eq!(udp_round_trip(&server, &remote, to), Some(LAN.into()));
    });
}
