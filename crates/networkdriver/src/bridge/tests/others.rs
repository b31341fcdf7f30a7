//! Beside other firewalls that drop what is forwarded.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use libcontainer::network::firewall::{BridgeRules, Firewall, Options};

use super::isolation::Networks;
use super::world::{HOST_ON_LAN, LAN, ask, on_a_host, skipped, unreachable, wall_options};
use crate::WallOptions;

/// As Docker leaves it beside us.
pub const DOCKER: &str = "table ip filter {
    chain DOCKER-USER { return
    }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump DOCKER-USER
    }
}";
/// As ufw leaves it, with its usual policy for what is forwarded.
const UFW: &str = "table ip filter {
    chain ufw-user-forward { }
    chain ufw-before-forward { ct state established,related accept; jump ufw-user-forward
    }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw-before-forward
    }
}
table ip6 filter {
    chain ufw6-user-forward { }
    chain FORWARD { type filter hook forward priority filter; policy drop; jump ufw6-user-forward
    }
}";
/// firewalld's, as far as it concerns us.
const FIREWALLD: &str = "table inet firewalld {
    chain filter_FORWARD { type filter hook forward priority filter + 10; policy accept;
        ct state established,related accept
        ct status dnat accept
        reject with icmpx admin-prohibited
    }
}";
/// An administrator's own.
const OWN: &str = "table inet mine {
    chain no-forwarding { type filter hook forward priority filter; policy drop;
    }
}";

/// Loads rules by `nft`, which is as good as their owner.
pub fn loaded(rules: &str) -> bool {
    let Ok(mut nft) = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn() else {
        skipped("no nft here, install nftables to have other firewalls");
        return false;
    };
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
    true
}

pub fn ruleset() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

pub fn works(networks: &Networks) -> bool {
    let in_time = |answer: Option<String>| answer.is_some();
    networks.lan.inside(|| !unreachable(HOST_ON_LAN, 8080))
        && networks.peer.namespace.inside(|| !unreachable(LAN, 7000))
        && in_time(ask(Ipv4Addr::LOCALHOST, 8080))
}

#[test]
fn the_rule_at_a_firewalls_own_hook_opens_the_way_and_goes_with_us() {
    for rules in [DOCKER, UFW] {
        on_a_host(move || {
            if !loaded(rules) {
                return;
            }
            let before = ruleset();
            let networks = Networks::new(&wall_options());
            assert!(works(&networks), "{}", ruleset());
            networks.assert_shut("beside another firewall");
            assert_eq!(ruleset().matches("comment \"gantry gvtest0\"").count(), rules.matches("policy drop").count());
            networks.wall.attend().unwrap();
            assert_eq!(ruleset().matches("comment \"gantry gvtest0\"").count(), rules.matches("policy drop").count());
            networks.wall.remove().unwrap();
            assert_eq!(ruleset(), before);
        });
    }
}

#[test]
fn a_rule_at_a_hook_goes_also_where_an_earlier_daemon_put_it_and_nothing_is_dropped_any_more() {
    on_a_host(|| {
        if !loaded(DOCKER) {
            return;
        }
        let load = || Firewall::load("gvtest0", Options { hooks: true, ..Options::default() }).unwrap();
        let mut earlier = load();
        let seen = earlier.outlook().look().unwrap();
        assert_eq!(earlier.attend(seen).unwrap(), Some(Vec::new()));
        assert!(ruleset().contains("comment \"gantry gvtest0\""));
        drop(earlier);
        assert!(loaded("add chain ip filter FORWARD { type filter hook forward priority filter; policy accept; }"));
        load().delete().unwrap();
        assert!(!ruleset().contains("gvtest0"), "{}", ruleset());
    });
}

#[test]
fn what_was_seen_before_the_firewall_changed_is_worth_nothing() {
    on_a_host(|| {
        if !loaded(DOCKER) {
            return;
        }
        let before = ruleset();
        let mut firewall = Firewall::load("gvtest0", Options { hooks: true, ..Options::default() }).unwrap();
        let look = |firewall: &Firewall| firewall.outlook().look().unwrap();
        let bridge = BridgeRules {
            name: "gvtest0".into(),
            subnet4: None,
            subnet6: None,
            icc: true,
            masquerade: false,
            internal: false,
        };
        let changes: [fn(&mut Firewall, &BridgeRules); 3] = [
            |firewall, bridge| firewall.add_bridge(bridge).unwrap(),
            |firewall, bridge| firewall.remove_bridge(&bridge.name).unwrap(),
            |firewall, _| {
                let seen = firewall.outlook().look().unwrap();
                firewall.attend(seen).unwrap().unwrap();
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let seen = look(&firewall);
            change(&mut firewall, &bridge);
            assert_eq!(firewall.attend(seen).unwrap(), None, "change {number}");
        }
        let seen = look(&firewall);
        firewall.delete().unwrap();
        assert_eq!(ruleset(), before);
        assert_eq!(firewall.attend(seen).unwrap(), Some(Vec::new()));
        let seen = look(&firewall);
        assert_eq!(firewall.attend(seen).unwrap(), Some(Vec::new()));
        assert_eq!(ruleset(), before, "what is deleted puts no rule anywhere");
        firewall.heal().unwrap();
        let seen = look(&firewall);
        firewall.attend(seen).unwrap().unwrap();
        assert!(ruleset().contains("comment \"gantry gvtest0\""));
    });
}

#[test]
fn what_an_administrator_drops_at_the_hook_stays_dropped() {
    for (rules, chain) in [(DOCKER, "DOCKER-USER"), (UFW, "ufw-user-forward")] {
        on_a_host(move || {
            if !loaded(rules) || !loaded(&format!("insert rule ip filter {chain} ip saddr {LAN} ct state new drop")) {
                return;
            }
            let networks = Networks::new(&wall_options());
            assert!(networks.lan.inside(|| unreachable(HOST_ON_LAN, 8080)), "{}", ruleset());
            assert!(networks.peer.namespace.inside(|| !unreachable(LAN, 7000)), "the rest goes on: {}", ruleset());
        });
    }
}

#[test]
fn a_firewall_that_comes_later_or_forgets_our_rule_is_attended_to() {
    on_a_host(|| {
        let networks = Networks::new(&wall_options());
        if !loaded(DOCKER) {
            return;
        }
        let becomes = |wanted: bool| {
            let start = std::time::Instant::now();
            while works(&networks) != wanted {
                assert!(start.elapsed().as_secs() < 10, "{}", ruleset());
            }
        };
        becomes(true);
        assert!(
            Command::new("nft").args(["flush", "chain", "ip", "filter", "DOCKER-USER"]).status().unwrap().success()
        );
        becomes(true);
        assert!(ruleset().contains("comment \"gantry gvtest0\""));
    });
}

#[test]
fn what_blocks_and_cannot_be_helped_is_named() {
    for (rules, words) in [(FIREWALLD, "firewalld is active"), (OWN, "no-forwarding of the nftables table inet mine")] {
        on_a_host(move || {
            if !loaded(rules) {
                return;
            }
            let networks = Networks::new(&wall_options());
            let told = networks.wall.attend().unwrap();
            assert!(told.iter().any(|text| text.contains(words)), "{told:?}");
        });
    }
}

/// As firewalld writes it for interfaces of its zone `trusted`.
const TRUSTED: &str = "table inet firewalld {
    chain filter_FWD_trusted { accept
    }
    chain filter_FORWARD {
        iifname \"gvtest0\" goto filter_FWD_trusted
        iifname \"gvtest1\" goto filter_FWD_trusted
        iifname \"gvtest2\" goto filter_FWD_trusted
    }
}";

#[test]
fn bridges_that_were_put_into_a_zone_of_firewalld_are_not_told_of_any_more() {
    on_a_host(|| {
        if !loaded(FIREWALLD) {
            return;
        }
        let networks = Networks::new(&wall_options());
        let told = networks.wall.attend().unwrap();
        assert!(told.iter().any(|text| text.contains("--add-interface=gvtest0 --add-interface=gvtest1")), "{told:?}");
        assert!(loaded(TRUSTED));
        assert_eq!(networks.wall.attend().unwrap(), Vec::<String>::new());
        assert_eq!(networks.wall.obstacles("gvtest0").unwrap(), vec![]);
        assert!(!networks.wall.obstacles("other0").unwrap().is_empty());
    });
}

#[test]
fn what_the_message_advises_opens_the_way() {
    on_a_host(|| {
        if !loaded(OWN) {
            return;
        }
        let networks = Networks::new(&wall_options());
        assert!(networks.lan.inside(|| unreachable(HOST_ON_LAN, 8080)));
        assert!(loaded("insert rule inet mine no-forwarding meta mark & 0x10000000 == 0x10000000 accept"));
        assert!(works(&networks), "{}", ruleset());
        networks.assert_shut("beside another firewall");
    });
}

#[test]
fn rules_of_the_legacy_iptables_are_told_of_with_the_rule_that_helps() {
    on_a_host(|| {
        let legacy = |arguments: &str| Command::new("iptables-legacy").args(arguments.split(' ')).status();
        if !legacy("-P FORWARD DROP").is_ok_and(|status| status.success()) {
            skipped("no iptables-legacy here, or a kernel without it");
            return;
        }
        let networks = Networks::new(&wall_options());
        let told = networks.wall.attend().unwrap();
        let doubts = networks.wall.obstacles("gvtest0").unwrap();
        let advised = |told: &str| told.split_once(": ").is_some_and(|(_, fix)| fix.contains("iptables-legacy -I"));
        assert!(matches!(&doubts[..], [doubt] if !doubt.certain && advised(&doubt.told)), "{doubts:?}");
        let advice = told.iter().find_map(|text| text.split_once("iptables-legacy ")?.1.split_once(" lets pass"));
        assert!(!works(&networks));
        assert!(legacy(advice.unwrap().0).unwrap().success());
        assert!(works(&networks));
    });
}

#[test]
fn whoever_does_not_want_the_rule_gets_none_and_is_told() {
    on_a_host(|| {
        if !loaded(DOCKER) {
            return;
        }
        let before = ruleset();
        let networks = Networks::new(&WallOptions { hooks: false, ..wall_options() });
        assert!(networks.lan.inside(|| unreachable(HOST_ON_LAN, 8080)));
        let told = networks.wall.attend().unwrap();
        assert!(told.iter().any(|text| text.contains("DOCKER-USER")), "{told:?}");
        networks.wall.remove().unwrap();
        assert_eq!(ruleset(), before);
    });
}
