//! Links on a link of the host, with a machine at its other end.

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;

use super::*;
use crate::bridge::tests::world::{Container, LAN, Namespace, Server, ask, lan, link_names, on_a_host, serve, skipped};

const PARENT: &str = "lan0";

fn network(kind: Kind) -> Stacked {
    let pool = Pool { gateway: Some(LAN.into()), ..Pool::new("192.0.2.0/24".parse().unwrap()) };
    Stacked::open(StackedOptions {
        kind,
        name: "net".into(),
        parent: PARENT.into(),
        mtu: None,
        ipv4: Addresses::Of(pool),
        ipv6: Addresses::None,
        pools: Vec::new(),
        internal: false,
    })
    .unwrap()
}

fn try_join(network: &Stacked, name: &str, last: u8) -> Result<Container, Error> {
    let namespace = Namespace::new();
    let socket = namespace.route();
    let request = Join::new(name, namespace.fd.as_fd(), socket.as_fd());
    let endpoint = network.join(Join { address: Some(Ipv4Addr::new(192, 0, 2, last)), ..request })?;
    Ok(Container { namespace, endpoint })
}

/// None where the kernel has no such links.
fn join(network: &Stacked, name: &str, last: u8) -> Option<Container> {
    match try_join(network, name, last) {
        Err(Error::System(error)) if error.errno() == libc::EOPNOTSUPP => {
            skipped(&format!("this kernel has no {}", network.name()));
            None
        }
        joined => Some(joined.unwrap()),
    }
}

fn inside(container: &Container) -> (Vec<u8>, Option<link::Route>) {
    let mut socket = container.namespace.route();
    let own = link::link(&mut socket, "eth0").unwrap().unwrap();
    let routes = link::routes(&mut socket, link::IpFamily::V4).unwrap();
    (own.mac, routes.into_iter().find(|route| route.destination.prefix == 0))
}

fn mac_of_parent() -> Vec<u8> {
    link::link(&mut Socket::route().unwrap(), PARENT).unwrap().unwrap().mac
}

#[test]
fn containers_reach_each_other_and_the_network_that_their_parent_is_on() {
    for kind in [Kind::Macvlan(4), Kind::Ipvlan(IpvlanMode::L2, IpvlanFlag::Bridge)] {
        on_a_host(move || {
            let lan = lan();
            let network = network(kind);
            let shared = matches!(kind, Kind::Ipvlan(..));
            assert_eq!(network.check_mac().is_err(), shared);
            let Some(a) = join(&network, "a", 77) else { return };
            let b = join(&network, "b", 78).unwrap();
            let _servers = (serve(&b, 80), lan.inside(|| Server::start("lan", LAN, 7000)));
            assert_eq!(a.namespace.inside(|| ask(b.endpoint.address, 80)), Some("b 192.0.2.77".into()));
            assert_eq!(a.namespace.inside(|| ask(LAN, 7000)), Some("lan 192.0.2.77".into()), "with its own address");
            assert_eq!(lan.inside(|| ask(b.endpoint.address, 80)), Some(format!("b {LAN}")));
            let (mac, way_out) = inside(&a);
            assert_eq!(mac == mac_of_parent(), shared);
            assert_eq!(a.endpoint.mac == NO_MAC, shared, "it has none of its own");
            assert_eq!(way_out.unwrap().gateway, Some(LAN.into()));
        });
    }
}

#[test]
fn what_the_parents_namespace_routes_goes_out_by_the_link_itself() {
    on_a_host(|| {
        let _lan = lan();
        let network = network(Kind::Ipvlan(IpvlanMode::L3, IpvlanFlag::Bridge));
        let Some(a) = join(&network, "a", 77) else { return };
        let b = join(&network, "b", 78).unwrap();
        let _server = serve(&b, 80);
        assert_eq!(a.namespace.inside(|| ask(b.endpoint.address, 80)), Some("b 192.0.2.77".into()));
        assert_eq!(a.endpoint.gateway, Ipv4Addr::UNSPECIFIED);
        assert_eq!(inside(&a).1.unwrap().gateway, None);
    });
}

#[test]
fn links_that_keep_each_other_out_do_not_meet() {
    on_a_host(|| {
        let _lan = lan();
        let network = network(Kind::Ipvlan(IpvlanMode::L2, IpvlanFlag::Private));
        let Some(a) = join(&network, "a", 77) else { return };
        let b = join(&network, "b", 78).unwrap();
        let _server = serve(&b, 80);
        assert!(a.namespace.inside(|| crate::bridge::tests::world::unreachable(b.endpoint.address, 80)));
    });
}

#[test]
fn a_place_is_given_back_and_a_parent_that_is_used_otherwise_is_named() {
    on_a_host(|| {
        let _lan = lan();
        let links = link_names();
        let one = network(Kind::Macvlan(4));
        let a = join(&one, "a", 77).unwrap();
        assert!(matches!(try_join(&one, "b", 77), Err(Error::Taken(_))));
        let other = network(Kind::Ipvlan(IpvlanMode::L2, IpvlanFlag::Bridge));
        match try_join(&other, "c", 79) {
            Err(Error::System(error)) if error.errno() == libc::EOPNOTSUPP => skipped("this kernel has no ipvlan"),
            Err(Error::Conflict(text)) => assert!(text.contains("its parent lan0 is used otherwise"), "{text}"),
            other => panic!("{:?}", other.map(|container| container.endpoint)),
        }
        let socket = a.namespace.route();
        one.disconnect(&a.endpoint, socket.as_fd()).unwrap();
        assert!(link::link(&mut a.namespace.route(), "eth0").unwrap().is_none());
        let again = join(&one, "b", 77).unwrap();
        one.leave(&again.endpoint).unwrap();
        one.remove().unwrap();
        assert_eq!(link_names(), links);
    });
}
