//! Several networks of one daemon, with IPv4 and IPv6: who reaches whom, and what stays shut without the tables, too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use gantry_linux::fs;
use gantry_linux::netlink::{Message, NFTABLES, Socket, transaction};

use super::world::{
    Container, HOST_ON_LAN, HOST6_ON_LAN, LAN, LAN6, Namespace, Server, ask, behind, join, lan_of_both, on_a_host,
    options_of, publish, reached, serve_both, wall_options,
};
use crate::{Addresses, Bridge, BridgeOptions, NetworkDriver as _, Protocol, PublishPort, Wall, WallOptions};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A daemon's networks: its own, another one, and an internal one; a container on each, which serves on 80 and 81.
pub struct Networks {
    pub wall: Wall,
    pub lan: Namespace,
    _own: Bridge,
    _other: Bridge,
    pub internal: Bridge,
    pub web: Container,
    pub peer: Container,
    pub stranger: Container,
    pub secluded: Container,
    _servers: Vec<Server>,
}

impl Networks {
    /// `web` publishes 80 as 8080 everywhere and as 9090 on loopback, and 90 as 8081.
    pub fn new(wall: &WallOptions) -> Self {
        let lan = lan_of_both();
        let options = BridgeOptions { ipv6: Addresses::Any, ..options_of(wall) };
        let open = |name: &str, internal| {
            Bridge::open(BridgeOptions { name: name.into(), internal, ..options.clone() }).unwrap()
        };
        let (own, other, internal) = (open("gvtest0", false), open("gvtest1", false), open("gvtest2", true));
        let everywhere = PublishPort { host_ip: None, ..publish("0.0.0.0", 8080, 80, Protocol::Tcp) };
        let on = |ip, host, container| publish(ip, host, container, Protocol::Tcp);
        let web = join(&own, "web", vec![everywhere, on("127.0.0.1", 9090, 80), on("0.0.0.0", 8081, 90)]);
        let peer = join(&own, "peer", vec![]);
        let (stranger, secluded) = (join(&other, "stranger", vec![]), join(&internal, "secluded", vec![]));
        let containers = [&web, &peer, &stranger, &secluded];
        let mut servers: Vec<Server> =
            containers.iter().flat_map(|c| [80, 81].map(|port| serve_both(c, port))).collect();
        servers.push(lan.inside(|| Server::start("lan", Ipv6Addr::UNSPECIFIED, 7000)));
        let wall = options.wall.unwrap();
        Self { wall, lan, _own: own, _other: other, internal, web, peer, stranger, secluded, _servers: servers }
    }

    /// Each forbidden way: from where, and where to.
    pub fn forbidden(&self) -> Vec<(&'static str, &Namespace, Vec<SocketAddr>)> {
        let at = |container: &Container, ports: &[u16]| -> Vec<SocketAddr> {
            let both = addresses(container);
            ports.iter().flat_map(|port| both.map(|ip| SocketAddr::new(ip, *port))).collect()
        };
        let published: Vec<SocketAddr> =
            [IpAddr::V4(HOST_ON_LAN), IpAddr::V6(HOST6_ON_LAN)].map(|ip| SocketAddr::new(ip, 8080)).to_vec();
        let outside: Vec<SocketAddr> = [IpAddr::V4(LAN), IpAddr::V6(LAN6)].map(|ip| SocketAddr::new(ip, 7000)).to_vec();
        vec![
            ("from the LAN by routes", &self.lan, [at(&self.web, &[80, 81]), at(&self.secluded, &[80])].concat()),
            (
                "between networks",
                &self.stranger.namespace,
                [at(&self.web, &[80, 81]), at(&self.secluded, &[80])].concat(),
            ),
            ("into the other network", &self.peer.namespace, at(&self.stranger, &[80])),
            ("out of the internal one", &self.secluded.namespace, [outside, published, at(&self.web, &[80])].concat()),
            (
                "from the LAN to loopback's",
                &self.lan,
                vec![SocketAddr::new(LOOPBACK, 9090), SocketAddr::new(HOST_ON_LAN.into(), 9090)],
            ),
        ]
    }

    pub fn assert_shut(&self, when: &str) {
        for (what, from, targets) in self.forbidden() {
            assert_eq!(from.inside(|| reached(&targets)), [], "{what}, {when}");
        }
    }

    /// As a flush of everything by another program does, where it can.
    fn lose_the_tables(&self) {
        let delete = |family: u8| {
            Message::new(NFTABLES << 8 | 2, 0, &[family, 0, 0, 0]).text(1, "gvtest0").named("delete", "table")
        };
        // Another socket, which is nobody's: only for tables that are shared.
        Socket::netfilter().unwrap().transact(transaction(vec![delete(2), delete(10)])).unwrap();
    }
}

pub fn addresses(container: &Container) -> [IpAddr; 2] {
    let place = container.endpoint.ipv6.unwrap();
    [container.endpoint.address.into(), place.address.into()]
}

/// The worst that a machine and its LAN can be set to: routes into every container network, the internal one too, and
/// to 127/8.
fn with_crafted_routes(networks: &Networks) {
    // An internal network gives no default route; a container that may can set one.
    let index = |socket: &mut Socket, name| libcontainer::network::link::link(socket, name).unwrap().unwrap().index;
    let mut inside = networks.secluded.namespace.route();
    let eth0 = index(&mut inside, "eth0");
    let info = networks.internal.info();
    for pool in [info.ipv4.unwrap(), info.ipv6.unwrap()] {
        let route = libcontainer::network::link::set_default_route(eth0, pool.gateway());
        inside.transact(vec![route]).unwrap();
    }
    networks.lan.inside(|| {
        fs::write("/proc/sys/net/ipv4/conf/lan1/route_localnet", "1").unwrap();
        let mut socket = Socket::route().unwrap();
        let lan1 = index(&mut socket, "lan1");
        let header = [2, 8, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0];
        let route = Message::new(libc::RTM_NEWROUTE, 0x600, &header)
            .attribute(1, [127, 0, 0, 0])
            .attribute(5, HOST_ON_LAN.octets())
            .u32(4, lan1);
        socket.transact(vec![route]).unwrap();
    });
}

#[test]
fn networks_are_apart_and_published_ports_are_not() {
    on_a_host(|| {
        let networks = Networks::new(&wall_options());
        with_crafted_routes(&networks);
        let Networks { lan, web, peer, stranger, .. } = &networks;
        for (host, seen) in [(IpAddr::V4(HOST_ON_LAN), IpAddr::V4(LAN)), (HOST6_ON_LAN.into(), LAN6.into())] {
            let from_lan = lan.inside(|| ask(host, 8080));
            assert_eq!(from_lan, Some(format!("web {seen}")), "the server sees who asks");
            for from in [peer, stranger, web] {
                let answer = from.namespace.inside(|| ask(host, 8080));
                assert!(answer.is_some_and(|text| text.starts_with("web ")), "{} by {host}", from.endpoint.container);
            }
        }
        assert!(ask(LOOPBACK, 8080).is_some() && ask(LOOPBACK, 9090).is_some());
        assert_eq!(peer.namespace.inside(|| ask(LAN, 7000)), Some(format!("lan {HOST_ON_LAN}")));
        assert_eq!(peer.namespace.inside(|| ask(LAN6, 7000)), Some(format!("lan {HOST6_ON_LAN}")));
        for address in addresses(web) {
            assert!(peer.namespace.inside(|| ask(address, 81)).is_some(), "within a network {address} is open");
            assert!(ask(address, 81).is_some(), "and for the host");
        }
        networks.assert_shut("with the tables");
    });
}

#[test]
fn without_the_tables_what_is_forbidden_stays_shut_and_it_all_comes_back() {
    // Also where the host asks of every packet whether its answer would go the same way.
    for strict in ["0", "1"] {
        on_a_host(move || {
            let networks = Networks::new(&WallOptions { shared: true, ..wall_options() });
            with_crafted_routes(&networks);
            for link in ["all", "gvtest0", "gvtest1", "gvtest2", "lan0"] {
                fs::write(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"), strict).unwrap();
            }
            assert!(networks.peer.namespace.inside(|| ask(LAN, 7000)).is_some(), "rp_filter {strict}");
            // Whoever has the firewall keeps the healer out.
            let mut firewall = networks.wall.lock();
            networks.lose_the_tables();
            let local = Server::start("local", LOOPBACK, 9999);
            networks.assert_shut("without the tables");
            let to_loopback = networks.peer.namespace.inside(|| loopback_of_host(&networks.peer));
            assert!(!to_loopback, "a container reached the host's loopback");
            drop(local);
            firewall.heal().unwrap();
            assert!(networks.lan.inside(|| ask(HOST_ON_LAN, 8080)).is_some());
            assert!(networks.lan.inside(|| ask(HOST6_ON_LAN, 8080)).is_some());
            networks.assert_shut("with the tables again");
        });
    }
}

/// Whether the host's 127.0.0.1 answers in a container whose own loopback is out of the way.
fn loopback_of_host(container: &Container) -> bool {
    let mut socket = Socket::route().unwrap();
    fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
    let index = libcontainer::network::link::link(&mut socket, "eth0").unwrap().unwrap().index;
    let delete = Message::new(libc::RTM_DELADDR, 0, &[&[2, 8, 0, 0][..], &1_u32.to_ne_bytes()].concat())
        .attribute(2, [127, 0, 0, 1])
        .named("delete", "127.0.0.1");
    let route = Message::new(libc::RTM_NEWROUTE, 0x600, &[2, 8, 0, 0, 254, 3, 0, 1, 0, 0, 0, 0])
        .attribute(1, [127, 0, 0, 0])
        .attribute(5, container.endpoint.gateway.octets())
        .u32(4, index)
        .named("add", "route to 127/8");
    socket.transact(vec![delete, route]).unwrap();
    !reached(&[SocketAddr::new(LOOPBACK, 9999)]).is_empty()
}

#[test]
fn no_datagram_comes_in_by_a_route_whatever_its_source() {
    on_a_host(|| {
        let networks = Networks::new(&wall_options());
        let inside = networks.web.namespace.inside(|| UdpSocket::bind("0.0.0.0:5000").unwrap());
        inside.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        let target = (networks.web.endpoint.address, 5000);
        networks.lan.inside(|| {
            // A source in the container's own subnet, and one that is honest.
            let mut socket = Socket::route().unwrap();
            let index = libcontainer::network::link::link(&mut socket, "lan1").unwrap().unwrap().index;
            let forged = crate::Subnet { address: networks.peer.endpoint.address.into(), prefix: 32 };
            socket.transact(vec![libcontainer::network::link::add_address(index, forged)]).unwrap();
            for source in [IpAddr::V4(LAN), forged.address] {
                UdpSocket::bind((source, 0)).unwrap().send_to(b"forbidden", target).unwrap();
            }
        });
        let mut buffer = [0; 16];
        assert!(inside.recv_from(&mut buffer).is_err(), "{:?}", String::from_utf8_lossy(&buffer));
        networks.peer.namespace.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"allowed", target).unwrap());
        assert_eq!(inside.recv_from(&mut buffer).unwrap().0, 7);
    });
}

#[test]
fn a_bridge_that_somebody_deleted_does_not_keep_the_others_from_healing() {
    on_a_host(|| {
        let networks = Networks::new(&wall_options());
        let delete = libcontainer::network::link::delete("gvtest1");
        Socket::route().unwrap().transact(vec![delete]).unwrap();
        networks.wall.lock().heal().unwrap();
        assert!(networks.lan.inside(|| ask(HOST_ON_LAN, 8080)).is_some());
    });
}

#[test]
fn a_network_that_goes_takes_its_elements_rules_and_routes_along() {
    on_a_host(|| {
        let rules = || -> Vec<Vec<u8>> {
            let question = |family| Message::new(34, 0, &[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            let mut socket = Socket::route().unwrap();
            [2, 10].iter().flat_map(|f| socket.dump(&question(*f)).unwrap()).map(|reply| reply.body).collect()
        };
        let before = rules();
        let options = BridgeOptions { ipv6: Addresses::Any, ..options_of(&wall_options()) };
        let open = |name: &str| Bridge::open(BridgeOptions { name: name.into(), internal: true, ..options.clone() });
        let own = Bridge::open(options.clone()).unwrap();
        let with_one = (rules(), super::world::nft_table());
        let second = open("gvtest1").unwrap();
        assert_eq!(rules().len(), with_one.0.len() + 2, "an internal bridge has a routing rule of each family");
        second.remove().unwrap();
        assert_eq!((rules(), super::world::nft_table()), with_one);
        own.remove().unwrap();
        options.wall.unwrap().remove().unwrap();
        assert_eq!(rules(), before);
    });
}

#[test]
fn from_behind_a_router_published_ports_are_reached_and_nothing_else_is() {
    on_a_host(|| {
        let networks = Networks::new(&wall_options());
        with_crafted_routes(&networks);
        let (far, own) = behind(&networks.lan);
        let host = [IpAddr::V4(HOST_ON_LAN), HOST6_ON_LAN.into()];
        for (host, own) in host.into_iter().zip(own) {
            assert_eq!(far.inside(|| ask(host, 8080)), Some(format!("web {own}")), "the server sees who asks");
        }
        let _server = far.inside(|| Server::start("far", Ipv6Addr::UNSPECIFIED, 7001));
        for (host, own) in host.into_iter().zip(own) {
            let answer = networks.peer.namespace.inside(|| ask(own, 7001));
            assert_eq!(answer, Some(format!("far {host}")), "what leaves has the host's address");
        }
        let from_lan = networks.forbidden().into_iter().filter(|(_, from, _)| std::ptr::eq(*from, &networks.lan));
        let targets: Vec<SocketAddr> = from_lan.flat_map(|(.., targets)| targets).collect();
        assert!(targets.len() > 4);
        assert_eq!(far.inside(|| reached(&targets)), []);
        let outside = own.map(|address| SocketAddr::new(address, 7001));
        assert_eq!(networks.secluded.namespace.inside(|| reached(&outside)), [], "out of an internal network");
    });
}
