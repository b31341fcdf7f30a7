//! Daemons that do not come back, in network namespaces of their own.

use gantry_linux::fs;
use libcontainer::network::firewall::Options as FirewallOptions;

use super::*;
use crate::bridge::Bridge;
use crate::bridge::tests::others::{loaded, ruleset};
use crate::bridge::tests::world::{join, link_names, on_a_host};
use crate::table::tests::{definition, nobody_is_on_a_bridge, options};
use crate::wall::{Wall, WallOptions};
use crate::{Addresses, Cidr, DefaultBridge, Definition, NetworkDriver, NetworkDrivers};

const FORWARD: [&str; 2] = ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"];

/// A daemon's networks: its own bridge, and one of a person's.
struct Networks {
    drivers: NetworkDrivers,
    bridge: Bridge,
    _network: std::sync::Arc<dyn NetworkDriver>,
}

fn open(options: &NetworkOptions, id: &str, address: &str) -> Networks {
    let drivers = NetworkDrivers::new(options.clone()).unwrap();
    let (ipv4, ipv6) = (address.parse::<Cidr>().unwrap().into(), Addresses::None);
    let bridge = DefaultBridge { name: options.owner.clone(), ipv4, ipv6, icc: true };
    let bridge = drivers.default_bridge(bridge).unwrap();
    let six = Definition { internal: true, ipv6: Addresses::Any, id: id.repeat(64), ..definition("bridge", &[]) };
    let network = drivers.open(&six).unwrap();
    Networks { drivers, bridge, _network: network }
}

fn rules() -> String {
    let list = |family| std::process::Command::new("ip").args([family, "rule"]).output().unwrap().stdout;
    String::from_utf8([list("-4"), list("-6")].concat()).unwrap()
}

/// What the host's network is.
fn all() -> (Vec<String>, String, String, [bool; 2]) {
    (link_names(), ruleset(), rules(), forwards())
}

fn forwards() -> [bool; 2] {
    FORWARD.map(|setting| fs::read_to_string(setting).unwrap().trim() == "1")
}

/// It says why it does nothing, and does nothing.
#[track_caller]
fn refused(options: &NetworkOptions, why: &str) {
    let before = all();
    match clear(options) {
        Err(Error::Conflict(text)) => assert!(text.contains(why), "{text}"),
        result => panic!("{result:?}"),
    }
    assert_eq!(all(), before, "{why}");
}

#[test]
fn what_a_daemon_that_does_not_come_back_left_is_removed_and_nothing_else() {
    on_a_host(|| {
        let before = (link_names(), rules());
        let (dead, other) = (options("gvtest0"), NetworkOptions { home: "other".into(), ..options("gvother") });
        let runs = open(&dead, "1", "10.91.0.1/24");
        let container = join(&runs.bridge, "web", Vec::new());
        refused(&dead, "containers are still on bridge gvtest0");
        drop(container);
        nobody_is_on_a_bridge();
        let owned = Firewall::standing().unwrap().iter().any(|table| table.held);
        if owned {
            refused(&dead, "another daemon that runs");
        }
        let orphans = || Firewall::orphans("gvother").unwrap();
        assert_eq!(orphans(), [""; 0], "it runs");
        drop(runs);
        assert_eq!(orphans(), if owned { vec!["gvtest0"] } else { vec![] });
        let neighbour = open(&other, "2", "10.92.0.1/24");
        refused(&NetworkOptions { home: "elsewhere".into(), ..dead.clone() }, "another data root");
        refused(&NetworkOptions { firewall: false, ..dead.clone() }, "leave --iptables=false out");
        let removed = clear(&dead).unwrap();
        assert_eq!(
            (&removed.bridges[..], &removed.tables[..]),
            (&["gvtest0".into(), "br-111111111111".into()][..], &["gvtest0".into()][..])
        );
        assert!(!removed.forwarding && !removed.forwarding6, "it had not begun that");
        let left = all();
        assert!(["gvother", "br-222222222222"].into_iter().all(|name| left.0.contains(&name.to_owned())), "{left:?}");
        assert!(!left.0.iter().any(|name| removed.bridges.contains(name)), "{left:?}");
        assert!(!left.1.contains("gvtest0") && (left.1.is_empty() || left.1.contains("gvother")), "{}", left.1);
        drop(neighbour);
        assert_eq!(clear(&other).unwrap().bridges, ["gvother", "br-222222222222"]);
        assert_eq!((link_names(), rules()), before, "no rule, and no table of routes");
        assert!(!ruleset().contains("gvother"));
        assert_eq!(clear(&other).unwrap(), Cleared::default(), "there is nothing any more, and nothing is made");
        assert_eq!(((link_names(), rules()), Firewall::standing().unwrap()), (before, vec![]));
        if loaded("add table ip gvother; add chain ip gvother mine") {
            refused(&other, "left alone");
        }
    });
}

#[test]
fn tables_that_nobody_owns_as_on_older_kernels_are_removed_as_well() {
    on_a_host(|| {
        let before = rules();
        let plain = FirewallOptions { forwarding: true, shared: true, ..FirewallOptions::default() };
        drop(Firewall::load("gvtest0", plain).unwrap());
        let standing = Firewall::standing().unwrap();
        assert!(standing.iter().all(|table| table.name == "gvtest0" && !table.held && table.guards), "{standing:?}");
        fs::write(FORWARD[0], "1").unwrap();
        let removed = clear(&options("gvtest0")).unwrap();
        assert_eq!(removed, Cleared { tables: vec!["gvtest0".into()], forwarding: true, ..Cleared::default() });
        assert_eq!((rules(), Firewall::standing().unwrap(), forwards()[0]), (before, vec![], false));
    });
}

#[test]
fn forwarding_that_the_daemon_began_ends_with_its_guard_unless_others_may_rely_on_it() {
    on_a_host(|| {
        for setting in FORWARD {
            fs::write(setting, "0").unwrap();
        }
        let of = |owner: &str| NetworkOptions { ip_forward: true, home: owner.into(), ..options(owner) };
        let (first, second) = (of("gvtest0"), of("gvtest1"));
        drop(open(&first, "1", "10.91.0.1/24"));
        assert_eq!(forwards(), [true, true]);
        let wall =
            |name: &str| Wall::open(&WallOptions { name: name.into(), ip_forward: true, hooks: false, shared: false });
        let relies = wall("gvtest1").unwrap();
        refused(&first, "the daemon of nftables table gvtest1 may rely on the host's forwarding");
        drop(relies);
        clear(&second).unwrap();
        assert_eq!(forwards(), [true, true], "that one had not begun it");
        let mut socket = Socket::route().unwrap();
        socket.transact(vec![link::new_bridge("docker0", [2, 0, 0, 0, 0, 1], 1500)]).unwrap();
        refused(&first, "who is on bridge docker0 may rely on the host's forwarding");
        socket.transact(vec![link::delete("docker0")]).unwrap();
        let removed = clear(&first).unwrap();
        assert_eq!((removed.forwarding, removed.forwarding6, forwards()), (true, true, [false, false]));
        // As a person who follows the advice: each has a guard of its own then.
        drop(wall("gvtest0").unwrap());
        fs::write(FORWARD[0], "0").unwrap();
        let guards = wall("gvtest1").unwrap();
        assert!(!clear(&first).unwrap().forwarding);
        assert!(forwards()[0], "the other one's containers need it");
        drop(guards);
        assert!(clear(&second).unwrap().forwarding);
        assert!(!forwards()[0]);
    });
}

#[test]
fn a_bridge_that_was_found_is_not_stripped_of_its_firewall() {
    on_a_host(|| {
        let mut socket = Socket::route().unwrap();
        for name in ["gvfound0", "gvfound1"] {
            socket.transact(vec![link::new_bridge(name, [2, 0, 0, 0, 0, 1], 1500)]).unwrap();
        }
        let own = options("gvfound0");
        drop(open(&own, "1", "10.91.0.1/24"));
        refused(&own, "link gvfound0 was there before the daemon");
        let dead = NetworkOptions { home: "other".into(), ..options("gvtest0") };
        let drivers = open(&dead, "2", "10.92.0.1/24");
        let named = Definition {
            id: "3".repeat(64),
            ..definition("bridge", &[("com.docker.network.bridge.name", "gvfound1")])
        };
        let network = drivers.drivers.open(&named).unwrap();
        drop((drivers, network));
        refused(&dead, "uses bridge gvfound1, which the daemon did not make");
        // As the daemon that comes back does it.
        let drivers = open(&dead, "2", "10.92.0.1/24");
        drivers.drivers.open(&named).unwrap().remove().unwrap();
        drop(drivers);
        clear(&dead).unwrap();
        // Without a table there is nothing but who is on it.
        let bare = NetworkDrivers::new(NetworkOptions { firewall: false, ..dead.clone() }).unwrap();
        let options =
            crate::BridgeOptions { name: "gvfound1".into(), alias: String::new(), ..crate::BridgeOptions::default() };
        let bridge = Bridge::open(options).unwrap();
        let _container = join(&bridge, "web", Vec::new());
        drop(bare);
        refused(&dead, "a container is on bridge gvfound1");
    });
}
