//! Drivers by their names and options, and bridges that an earlier daemon left.

use libcontainer::network::firewall::{Firewall, Options as FirewallOptions};

use super::*;
use crate::bridge::tests::others::{DOCKER, loaded, ruleset};
use crate::bridge::tests::world::{join, lan, link_names, nft_table, on_a_host};

#[test]
fn an_address_pool_is_cut_into_subnets() {
    let pool: AddressPool = "base=10.10.0.0/22,size=24".parse().unwrap();
    let subnets: Vec<String> = pool.subnets().map(|subnet| subnet.to_string()).collect();
    assert_eq!(subnets, ["10.10.0.1/24", "10.10.1.1/24", "10.10.2.1/24", "10.10.3.1/24"]);
    let six: AddressPool = "base=fd00:10::/32,size=64".parse().unwrap();
    assert_eq!(six.subnets().nth(1).unwrap().to_string(), "fd00:10:0:1::1/64");
    for bad in
        ["", "base=10.0.0.0/16", "size=24", "base=10.0.0.0/16,size=8", "base=x,size=24", "base=10.0.0.0/16,size=31"]
    {
        assert!(bad.parse::<AddressPool>().is_err(), "{bad}");
    }
}

pub fn options(owner: &str) -> NetworkOptions {
    NetworkOptions {
        owner: owner.into(),
        home: "home".into(),
        mtu: None,
        publish_address: Ipv4Addr::UNSPECIFIED,
        firewall: true,
        ip_forward: false,
        firewall_hooks: false,
        pools: Vec::new(),
    }
}

/// Waits until the links of containers that are gone went with their namespaces.
pub fn nobody_is_on_a_bridge() {
    let start = std::time::Instant::now();
    while link::links(&mut Socket::route().unwrap()).unwrap().iter().any(|link| link.master.is_some()) {
        assert!(start.elapsed().as_secs() < 10);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_daemon_whose_bridge_has_another_name_now_removes_the_one_before_once_nobody_is_on_it() {
    on_a_host(|| {
        let open = |owner: &str| {
            let drivers = NetworkDrivers::new(options(owner)).unwrap();
            let (ipv4, ipv6) = (Addresses::Any, Addresses::None);
            let bridge = drivers.default_bridge(DefaultBridge { name: owner.into(), ipv4, ipv6, icc: true }).unwrap();
            (drivers, bridge)
        };
        let there = || {
            let links = link::links(&mut Socket::route().unwrap()).unwrap();
            let names: Vec<String> = links.into_iter().map(|link| link.name).collect();
            (names.contains(&"gvtest0".to_owned()), nft_table().map(|table| table.starts_with("table ip gvtest0")))
        };
        let (before, bridge) = open("gvtest0");
        let other = NetworkDrivers::new(NetworkOptions { home: "other".into(), ..options("gvother") }).unwrap();
        let container = join(&bridge, "web", Vec::new());
        drop((before, bridge));
        let (now, _bridge) = open("gvtest1");
        now.sweep(&["gvtest1".into()]).unwrap();
        assert!(there().0, "a container is on it");
        // The other end goes with its namespace.
        drop(container);
        nobody_is_on_a_bridge();
        other.sweep(&[]).unwrap();
        assert!(there().0, "it is another daemon's");
        now.sweep(&["gvtest1".into()]).unwrap();
        assert!(matches!(there(), (false, None | Some(false))), "{:?}", there());
    });
}

pub fn definition(driver: &str, options: &[(&str, &str)]) -> Definition {
    Definition {
        id: "1".repeat(64),
        driver: driver.into(),
        options: options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        internal: false,
        ipv4: Addresses::Any,
        ipv6: Addresses::None,
        found: None,
    }
}

#[test]
fn a_network_more_than_the_pools_have_subnets_is_refused_until_one_goes() {
    on_a_host(|| {
        let pools = vec!["base=10.93.0.0/23,size=24".parse().unwrap()];
        let drivers = NetworkDrivers::new(NetworkOptions { pools, ..options("gvtest0") }).unwrap();
        let open = |id: &str| drivers.open(&Definition { id: id.repeat(64), ..definition("bridge", &[]) });
        let (one, _two) = (open("1").unwrap(), open("2").unwrap());
        let links = link_names();
        match open("3") {
            Err(Error::Exhausted(text)) => assert!(text.contains("fully subnetted"), "{text}"),
            Err(error) => panic!("{error}"),
            Ok(third) => panic!("{:?}", third.info()),
        }
        assert_eq!(link_names(), links);
        let subnet = one.info().ipv4;
        one.remove().unwrap();
        assert_eq!(open("3").unwrap().info().ipv4, subnet);
    });
}

#[test]
fn with_the_bridge_before_goes_all_of_its_firewall_or_it_stays_for_the_next_daemon() {
    on_a_host(|| {
        if !loaded(DOCKER) {
            return;
        }
        let open = |owner: &str| {
            let drivers = NetworkDrivers::new(NetworkOptions { firewall_hooks: true, ..options(owner) }).unwrap();
            let (ipv4, ipv6) = (Addresses::Any, Addresses::None);
            let bridge = drivers.default_bridge(DefaultBridge { name: owner.into(), ipv4, ipv6, icc: true }).unwrap();
            let network = drivers.open(&definition("bridge", &[])).unwrap();
            (drivers, bridge, network)
        };
        let user = "br-111111111111";
        let guards = || {
            let routes = std::process::Command::new("ip").args(["route", "show", "table", "all"]).output().unwrap();
            let routes = String::from_utf8(routes.stdout).unwrap();
            routes.lines().filter(|route| route.contains("via 192.0.0.8") && route.contains(user)).count()
        };
        drop(open("gvtest0"));
        assert!(ruleset().contains("comment \"gantry gvtest0\""));
        let (now, _bridge, _network) = open("gvtest1");
        assert_eq!(guards(), 2);
        let known = ["gvtest1".to_owned(), user.to_owned()];
        // As if the daemon before had not ended.
        let held = Firewall::load("gvtest0", FirewallOptions::default()).unwrap();
        if held.is_owned() {
            assert!(matches!(now.sweep(&known), Err(Error::Conflict(_))));
            assert!(link_names().contains(&"gvtest0".to_owned()), "or nobody would try again");
        }
        drop(held);
        now.sweep(&known).unwrap();
        assert!(!link_names().contains(&"gvtest0".to_owned()));
        assert!(!ruleset().contains("gvtest0"), "{}", ruleset());
        assert!(ruleset().contains("comment \"gantry gvtest1\""));
        assert_eq!(guards(), 1);
    });
}

#[test]
fn the_host_that_the_bridge_before_kept_from_forwarding_for_others_is_kept_from_it_by_its_successor() {
    on_a_host(|| {
        let all = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"].map(|setting| format!("/proc/sys/net/{setting}"));
        for setting in &all {
            gantry_linux::fs::write(setting, "0").unwrap();
        }
        let open = |owner: &str| {
            let drivers = NetworkDrivers::new(NetworkOptions { ip_forward: true, ..options(owner) }).unwrap();
            let (ipv4, ipv6) = (Addresses::Any, Addresses::Any);
            let bridge = drivers.default_bridge(DefaultBridge { name: owner.into(), ipv4, ipv6, icc: true }).unwrap();
            (drivers, bridge)
        };
        drop(open("gvtest0"));
        let (now, _bridge) = open("gvtest1");
        let guards = |name: &str| {
            let standing = Firewall::standing().unwrap();
            standing.into_iter().find(|table| table.name == name).map(|table| (table.guards, table.guards6))
        };
        assert_eq!((guards("gvtest0"), guards("gvtest1")), (Some((true, true)), Some((false, false))));
        now.sweep(&["gvtest1".into()]).unwrap();
        assert_eq!((guards("gvtest0"), guards("gvtest1")), (None, Some((true, true))));
        for setting in &all {
            assert_eq!(gantry_linux::fs::read_to_string(setting).unwrap().trim(), "1", "containers need {setting}");
        }
    });
}

#[test]
fn a_parent_whose_links_are_all_of_one_mode_is_one_networks() {
    on_a_host(|| {
        let _lan = lan();
        let named = ["link", "property", "add", "dev", "lan0", "altname", "other0"];
        assert!(std::process::Command::new("ip").args(named).status().unwrap().success());
        let drivers = NetworkDrivers::new(NetworkOptions { firewall: false, ..options("gv") }).unwrap();
        let passthru = ("macvlan_mode", "passthru");
        let ipvlan = definition("ipvlan", &[("parent", "lan0")]);
        let macvlan = definition("macvlan", &[("parent", "lan0")]);
        let alone = definition("macvlan", &[("parent", "lan0"), passthru]);
        let private = definition("ipvlan", &[("parent", "lan0"), ("ipvlan_flag", "private")]);
        let same = definition("ipvlan", &[("parent", "other0")]);
        let elsewhere = definition("ipvlan", &[("parent", "lo")]);
        let bridge = definition("bridge", &[]);
        let using = "network one is already using parent interface";
        for (new, there, said) in [
            (&ipvlan, &ipvlan, Some(format!("{using} lan0"))),
            (&private, &ipvlan, Some(format!("{using} lan0"))),
            (&same, &ipvlan, Some(format!("{using} other0"))),
            (&alone, &macvlan, Some(format!("cannot use mode passthru, macvlan {using} lan0"))),
            (&macvlan, &alone, Some(format!("macvlan {using} lan0 in mode passthru"))),
            (&macvlan, &macvlan, None),
            (&elsewhere, &ipvlan, None),
            (&ipvlan, &bridge, None),
            (&bridge, &ipvlan, None),
        ] {
            match (drivers.check_beside(new, std::iter::once(("one", there))), said) {
                (Ok(()), None) => {}
                (Err(Error::Conflict(text)), Some(said)) => assert!(text.starts_with(&said), "{text}"),
                (other, said) => panic!("{other:?}, not {said:?}"),
            }
        }
    });
}

#[test]
fn an_unknown_driver_and_bad_options_are_refused() {
    let drivers = NetworkDrivers::new(NetworkOptions { firewall: false, ..options("gv") }).unwrap();
    let check = |driver: &str, name: &str, value: &str| {
        drivers.check(&Definition {
            id: "0".repeat(64),
            driver: driver.into(),
            options: BTreeMap::from([(name.to_owned(), value.to_owned())]),
            internal: false,
            ipv4: Addresses::Any,
            ipv6: Addresses::None,
            found: None,
        })
    };
    assert!(check("bridge", MTU, "1400").is_ok());
    let internal = Definition {
        id: "0".repeat(64),
        driver: "macvlan".into(),
        options: BTreeMap::from([("parent".to_owned(), "lo".to_owned())]),
        internal: true,
        ipv4: Addresses::Any,
        ipv6: Addresses::None,
        found: None,
    };
    assert!(matches!(drivers.check(&internal), Err(Error::Invalid(text)) if text.contains("cannot be internal")));
    assert!(drivers.check(&Definition { internal: false, ..internal.clone() }).is_ok());
    for (name, value, fine) in [
        ("ipvlan_mode", "l3s", true),
        ("ipvlan_mode", "l4", false),
        ("ipvlan_flag", "vepa", true),
        ("ipvlan_flag", "x", false),
    ] {
        let mut definition = Definition { driver: "ipvlan".into(), internal: false, ..internal.clone() };
        definition.options.insert(name.to_owned(), value.to_owned());
        assert_eq!(drivers.check(&definition).is_ok(), fine, "{name}={value}");
    }
    assert!(matches!(check("no-such", MTU, "1400"), Err(Error::Unknown(_))));
    for (name, value) in [
        (MTU, "x"),
        (MTU, "17"),
        (ICC, "maybe"),
        (HOST_BINDING, "::1"),
        (BRIDGE_NAME, "a/b"),
        (UNSUPPORTED[0], "routed"),
    ] {
        assert!(matches!(check("bridge", name, value), Err(Error::Invalid(_))), "{name}={value}");
    }
}
