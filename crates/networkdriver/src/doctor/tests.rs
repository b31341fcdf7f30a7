//! Each thing is broken in turn, on a host of its own, and the one sentence is seen.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gantry_linux::fs;

use super::{Check, Finding, Patient, Stay, examine};
use crate::bridge::tests::world::{Container, Namespace, Server, join, on_a_host, options, serve_both, tcp};
use crate::{Addresses, Bridge, BridgeOptions, NetworkDriver as _, Routes, Wall};

/// A host with a container that publishes a port, serves it, and is answered when it asks for names.
struct Ward {
    bridge: Bridge,
    wall: Wall,
    web: Container,
    process: Child,
    names: Names,
    server: Option<Server>,
}

/// Who answers at 127.0.0.11 in the container.
struct Names {
    /// As long as it is set, names outside are.
    outside: Arc<AtomicBool>,
    inside: Arc<AtomicBool>,
}

impl Ward {
    fn new() -> Self {
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        // As the host's default route would be.
        ip("link add out0 type veth peer name out1");
        ip("addr add 192.0.2.1/24 dev out0");
        ip("link set out0 up");
        ip("link set out1 up");
        fs::write("/proc/sys/net/ipv4/conf/out0/forwarding", "1").unwrap();
        ip("route add default via 192.0.2.2");
        let options = BridgeOptions { ipv6: Addresses::Any, ..options() };
        let wall = options.wall.clone().unwrap();
        let bridge = Bridge::open(options).unwrap();
        let web = join(&bridge, "web", tcp("0.0.0.0", 8080, 80));
        let process = web.namespace.inside(|| Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap());
        let names = Names::answer(&web.namespace);
        let server = Some(serve_both(&web, 80));
        Self { bridge, wall, web, process, names, server }
    }

    fn examine(&self) -> Option<Finding> {
        self.examine_with("nameserver 127.0.0.11\n")
    }

    fn examine_with(&self, resolv_conf: &str) -> Option<Finding> {
        let route = self.web.namespace.route();
        let datagrams = self.web.namespace.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap());
        let routes = Routes { ipv4: true, ipv6: true };
        let stay = Stay { network: "front", driver: &self.bridge, endpoint: &self.web.endpoint, routes };
        let patient = Patient {
            id: "web",
            stays: vec![stay],
            route_socket: route.as_fd(),
            datagrams: Some(datagrams.as_fd()),
            resolv_conf,
            known_name: Some("web"),
            process: i32::try_from(self.process.id()).unwrap(),
        };
        examine(&patient, Some(&self.wall)).unwrap()
    }

    /// What is found is what the words say, and nothing else.
    fn finds(&self, check: Check, words: &str) {
        let finding = self.examine().unwrap_or_else(|| panic!("nothing was found instead of {words:?}"));
        assert!(finding.check == check && finding.what.contains(words), "want {check:?} {words:?}: {finding:?}");
        assert!(!finding.fix.is_empty() && !format!("{}{}", finding.what, finding.fix).contains('\n'), "{finding:?}");
    }
}

impl Drop for Ward {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Names {
    /// Until the namespace's socket is asked with an empty packet, which comes from nobody else.
    fn answer(namespace: &Namespace) -> Self {
        let names = Self { outside: Arc::new(true.into()), inside: Arc::new(true.into()) };
        let socket = namespace.inside(|| UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 11), 53)).unwrap());
        let (outside, inside) = (Arc::clone(&names.outside), Arc::clone(&names.inside));
        std::thread::spawn(move || {
            let mut packet = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let about_itself = packet[12] != 0;
                let knows = if about_itself { &inside } else { &outside };
                // A response; a server failure, or one record that nobody reads.
                packet[2] |= 0x80;
                (packet[3], packet[7]) = if knows.load(Ordering::Relaxed) { (0, 1) } else { (2, 0) };
                socket.send_to(&packet[..length], from).unwrap();
            }
        });
        names
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

#[test]
fn nothing_is_found_where_all_is_well_and_nothing_is_changed() {
    on_a_host(|| {
        let ward = Ward::new();
        assert_eq!(ward.examine(), None);
        assert_eq!(ward.examine(), None);
    });
}

#[test]
fn a_broken_link_is_found_at_either_end() {
    on_a_host(|| {
        let ward = Ward::new();
        let end = ward.web.endpoint.host_link.clone();
        ip("link set gvtest0 down");
        ward.finds(Check::Link, "bridge gvtest0 is down");
        ip("link set gvtest0 up");
        ip(&format!("link set {end} nomaster"));
        ward.finds(Check::Link, "is no port of bridge gvtest0");
        ip(&format!("link set {end} master gvtest0"));
        ip(&format!("link set {end} down"));
        ward.finds(Check::Link, "the host's end of the container's link, is down");
        ip(&format!("link set {end} up"));
        ward.web.namespace.inside(|| ip("link set lo down"));
        ward.finds(Check::Link, "link lo is down inside the container");
        ward.web.namespace.inside(|| ip("link set lo up"));
        // With the bridge, its addresses of IPv6 went; what the words say mends it.
        let lost = ward.examine().unwrap();
        let mend = lost.fix.strip_prefix("give it back: ip ").unwrap();
        ip(mend);
        assert_eq!(ward.examine(), None);
        ward.web.namespace.inside(|| ip("link set eth0 down"));
        ward.finds(Check::Link, "link eth0 is down inside the container");
        ip(&format!("link del {end}"));
        ward.finds(Check::Link, &format!("{end}, the host's end of the container's eth0, is gone"));
        ip("link del gvtest0");
        ward.finds(Check::Link, "bridge gvtest0 is gone");
    });
}

#[test]
fn a_lost_address_is_found_at_either_end() {
    on_a_host(|| {
        let ward = Ward::new();
        let gateway = ward.bridge.info().ipv4.unwrap().of_gateway();
        ip(&format!("addr del {gateway} dev gvtest0"));
        ward.finds(Check::Address, &format!("bridge gvtest0 has no address {gateway}"));
        ip(&format!("addr add {gateway} dev gvtest0"));
        assert_eq!(ward.examine(), None);
        let six = ward.web.endpoint.ipv6.unwrap();
        ward.web.namespace.inside(|| ip(&format!("addr del {}/{} dev eth0", six.address, six.prefix)));
        ward.finds(Check::Address, &format!("link eth0 of the container has no address {}", six.address));
        ward.web.namespace.inside(|| ip("addr flush dev eth0"));
        ward.finds(Check::Address, &format!("has no address {}/", ward.web.endpoint.address));
    });
}

#[test]
fn a_lost_or_wrong_route_is_found_inside_and_on_the_host() {
    on_a_host(|| {
        let ward = Ward::new();
        let inside = |arguments: String| ward.web.namespace.inside(|| ip(&arguments));
        let gateway = ward.web.endpoint.gateway;
        inside("route del default".into());
        ward.finds(Check::Route, &format!("no default route, which was by {gateway} on link eth0"));
        let other = Ipv4Addr::from(u32::from(gateway) + 9);
        inside(format!("route add default via {other} dev eth0"));
        ward.finds(Check::Route, &format!("goes by {other}, not by the gateway {gateway}"));
        inside(format!("route replace default via {gateway} dev eth0"));
        inside("-6 route del default".into());
        ward.finds(Check::Route, "no default route, which was by fd");
        inside("link add vpn0 type bridge".into());
        inside("link set vpn0 up".into());
        inside("-6 route add default dev vpn0".into());
        assert_eq!(ward.examine(), None, "a way out of its own is the container's affair");
        let subnet = ward.bridge.info().ipv4.unwrap().subnet.masked();
        ip("link add tun0 type bridge");
        ip("link set tun0 up");
        ip(&format!("route add {}/32 dev tun0", ward.web.endpoint.address));
        ward.finds(Check::Route, "by tun0, not by bridge gvtest0");
        ip(&format!("route del {}/32 dev tun0", ward.web.endpoint.address));
        inside(format!("route del {subnet}"));
        ward.finds(Check::Route, &format!("no route to {subnet} by link eth0"));
    });
}

#[test]
fn a_gateway_that_does_not_answer_or_is_somebody_else_is_found() {
    on_a_host(|| {
        let ward = Ward::new();
        let gateway = ward.web.endpoint.gateway;
        // The kernel asks three times; so it does in a moment.
        let soon = |link: &str| fs::write(format!("/proc/sys/net/ipv4/neigh/{link}/retrans_time_ms"), "50").unwrap();
        soon("gvtest0");
        ward.web.namespace.inside(|| soon("eth0"));
        fs::write("/proc/sys/net/ipv4/conf/gvtest0/arp_ignore", "8").unwrap();
        ward.finds(Check::Gateway, &format!("nobody answers the container on link eth0 for the gateway {gateway}"));
        fs::write("/proc/sys/net/ipv4/conf/gvtest0/arp_ignore", "0").unwrap();
        assert_eq!(ward.examine(), None);
        ward.web
            .namespace
            .inside(|| ip(&format!("neigh replace {gateway} lladdr 02:00:00:00:00:09 dev eth0 nud permanent")));
        ward.finds(Check::Gateway, "02:00:00:00:00:09 answers the container for the gateway");
        ward.web.namespace.inside(|| ip(&format!("neigh del {gateway} dev eth0")));
        ward.web.namespace.inside(|| fs::write("/proc/sys/net/ipv4/conf/eth0/arp_ignore", "8").unwrap());
        ward.finds(
            Check::Gateway,
            &format!("does not answer on bridge gvtest0 for its address {}", ward.web.endpoint.address),
        );
        // Another one has its address, and answers in its place.
        let thief = join(&ward.bridge, "thief", vec![]);
        thief.namespace.inside(|| ip(&format!("addr add {}/32 dev eth0", ward.web.endpoint.address)));
        ward.finds(Check::Gateway, "which is the container's address");
    });
}

#[test]
fn names_that_are_not_answered_are_found() {
    on_a_host(|| {
        let ward = Ward::new();
        ward.names.outside.store(false, Ordering::Relaxed);
        ward.finds(Check::Names, "none of the servers that the resolver asks for names outside answers");
        ward.names.inside.store(false, Ordering::Relaxed);
        ward.finds(Check::Names, "does not know the container's own name web");
        let empty = ward.examine_with("# nothing\n").unwrap();
        assert!(empty.what.contains("names no server"), "{empty:?}");
        let silent = ward.examine_with("nameserver 127.0.0.9\n").unwrap();
        assert!(silent.what.contains("none of the container's name servers answers: 127.0.0.9"), "{silent:?}");
    });
}

#[test]
fn packets_that_are_too_long_for_their_way_are_found() {
    on_a_host(|| {
        let ward = Ward::new();
        ip("link set out0 mtu 1400");
        ward.finds(Check::Mtu, "up to 1500 bytes, and out0, by which the host's default route leaves, takes 1400");
        ip("link set out0 mtu 1500");
        ip(&format!("link set {} mtu 1300", ward.web.endpoint.host_link));
        ward.finds(Check::Mtu, "on the host takes 1300");
    });
}

#[test]
fn what_the_host_does_not_forward_and_what_blocks_it_is_found() {
    on_a_host(|| {
        let ward = Ward::new();
        fs::write("/proc/sys/net/ipv4/conf/out0/forwarding", "0").unwrap();
        ward.finds(Check::Firewall, "does not forward IPv4 that comes by out0");
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        fs::write("/proc/sys/net/ipv4/conf/out0/forwarding", "0").unwrap();
        let mend = ward.examine().unwrap().fix;
        assert_eq!(mend, "have it do so: sysctl -w net/ipv4/conf/out0/forwarding=1", "for all it is on already");
        fs::write("/proc/sys/net/ipv4/conf/out0/forwarding", "1").unwrap();
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "0").unwrap();
        ward.finds(Check::Firewall, "does not forward IPv6");
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
        let elements = ward.bridge.published("web");
        ward.wall.lock().remove(&elements).unwrap();
        ward.finds(Check::Firewall, "port 0.0.0.0:8080 to ");
        ward.wall.lock().add(&elements).unwrap();
        assert_eq!(ward.examine(), None);
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        let rules = b"table inet mine { chain shut { type filter hook forward priority 0; policy drop; }; }";
        std::io::Write::write_all(&mut nft.stdin.take().unwrap(), rules).unwrap();
        assert!(nft.wait().unwrap().success());
        let words = "chain shut of the nftables table inet mine drops what is forwarded";
        ward.finds(Check::Firewall, words);
        // What cannot be asked is silent at once.
        let neighbour = Ipv4Addr::from(u32::from(ward.web.endpoint.gateway) + 9);
        ward.web.namespace.inside(|| {
            ip("route add unreachable 192.0.2.2");
            ip(&format!("route add unreachable {neighbour}"));
            ip("route add unreachable 127.0.0.9 table local");
        });
        let beyond = ward.examine_with("nameserver 192.0.2.2\n").unwrap();
        assert!(beyond.what.contains(words), "names are not answered because of it: {beyond:?}");
        let near = ward.examine_with(&format!("nameserver 127.0.0.9\nnameserver {neighbour}\n")).unwrap();
        assert!(near.what.contains("name servers answers: 127.0.0.9"), "it drops nothing on that way: {near:?}");
        ward.names.outside.store(false, Ordering::Relaxed);
        ward.finds(Check::Names, "none of the servers that the resolver asks for names outside answers");
    });
}

#[test]
fn a_port_behind_which_nobody_listens_is_found() {
    on_a_host(|| {
        let mut ward = Ward::new();
        drop(ward.server.take());
        ward.finds(Check::Port, "port 8080 of the host leads to port 80 of the container, where nothing listens");
        let local = IpAddr::from([127, 0, 0, 1]);
        let _local = ward.web.namespace.inside(|| std::net::TcpListener::bind((local, 80)).unwrap());
        ward.finds(Check::Port, "where the program listens on 127.0.0.1 only");
    });
}
