//! What the table does: its chains, and the rules of each. They are the same for any number of bridges, whose names and
//! subnets are elements of sets. Every packet passes them, so what is rare and cheap to see is looked at first, and sets, which
//! take longest, are asked last.

use super::MARK;
use super::expression::{
    End, Expression, Key, Way, drop_packet, established, for_host, go_to, is_in, kind, link, loopback, mark, marked,
    masquerade, pass, redirect, translated,
};
use super::family::Family;
use super::sets::{BRIDGES, HOME, INTERNAL, MASQUERADED, OPEN, PUBLISHED, PUBLISHED_ANY, PUBLISHED_RANGES, SUBNETS};

/// A chain of the table and where it hangs.
pub struct Chain {
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
}

/// Loopback is guarded before connections are tracked, destinations are translated before packets are routed, and in
/// between those that may enter a bridge are marked for the routing rules (see `fence`). What is forwarded is decided
/// before other tables see it, so that they can be told by the mark what was let through.
pub const CHAINS: [Chain; 7] = [
    Chain { name: "guard", kind: "filter", hook: 0, priority: -300 },
    Chain { name: "arriving", kind: "nat", hook: 0, priority: -100 },
    Chain { name: "admitted", kind: "filter", hook: 0, priority: -90 },
    Chain { name: "sent-by-host", kind: "nat", hook: 3, priority: -100 },
    Chain { name: "from-loopback", kind: "route", hook: 3, priority: -99 },
    Chain { name: "forwarded", kind: "filter", hook: 2, priority: -1 },
    Chain { name: "leaving", kind: "nat", hook: 4, priority: 100 },
];

/// Where the chains above go on.
pub const BRANCHES: [&str; 4] = ["admit", "into-bridge", "out-of-bridge", "passed"];

/// The chain that is there only where we turned the host's forwarding on; it stays until the table goes, because who
/// comes later cannot know who turned it on.
pub const BETWEEN_OTHERS: Chain = Chain { name: "between-others", kind: "filter", hook: 2, priority: 0 };

/// A rule and its chain.
pub type Rule = (&'static str, Vec<Expression>);

/// The host did not forward before us, and goes on forwarding nothing between its other links, as a LAN and a VPN. What
/// comes from or goes to a bridge is the affair of whoever made that bridge, another daemon for one.
pub fn between_others() -> Vec<Rule> {
    let chain = BETWEEN_OTHERS.name;
    vec![
        rule(chain, [kind(Way::In, "bridge"), pass()]),
        rule(chain, [kind(Way::Out, "bridge"), pass()]),
        rule(chain, [established(), pass()]),
        rule(chain, [drop_packet()]),
    ]
}

/// Every rule with its chain, in order. With `told`, other firewalls of the host are told by the mark what was let
/// through.
pub fn rules(family: Family, told: bool) -> Vec<Rule> {
    let mut rules = guard(family);
    rules.extend(translation(family));
    rules.extend(admission(family));
    rules.extend(forwarding(family));
    if told {
        rules.push(rule("passed", [mark(MARK)]));
    }
    rules
}

const ARRIVES: [Key; 1] = [Key::Link(Way::In)];
const LEAVES: [Key; 1] = [Key::Link(Way::Out)];
const STAYS: [Key; 2] = [Key::Link(Way::In), Key::Link(Way::Out)];
const SOURCE: Key = Key::Address(End::Source);
const DESTINATION: Key = Key::Address(End::Destination);

fn guard(family: Family) -> Vec<Rule> {
    let arrives = is_in(family, &ARRIVES, BRIDGES, true);
    vec![
        // `route_localnet` lets the bridge carry loopback addresses; only answers to the host's own packets may have
        // one, and those have it only later, when their translation is undone.
        rule("guard", [loopback(family, End::Destination), link(Way::In, false, "lo"), drop_packet()]),
        rule("guard", [loopback(family, End::Source), arrives, drop_packet()]),
    ]
}

fn translation(family: Family) -> Vec<Rule> {
    let at_home = || is_in(family, &[SOURCE, Key::Link(Way::Out)], HOME, true);
    let mut rules = Vec::new();
    if family == Family::V6 {
        // The kernel sends nothing from ::1 out of the host: refused at once is better than waited for in vain.
        rules.push(rule("sent-by-host", [loopback(family, End::Destination), pass()]));
    }
    for chain in ["arriving", "sent-by-host"] {
        let one = [DESTINATION, Key::Protocol, Key::Port];
        rules.push(rule(chain, [for_host(false), pass()]));
        rules.push(rule(chain, [redirect(family, &one, PUBLISHED, true)]));
        rules.push(rule(chain, [redirect(family, &one[1..], PUBLISHED_ANY, true)]));
        rules.push(rule(chain, [redirect(family, &one, PUBLISHED_RANGES, false)]));
    }
    rules.extend([
        // From a container through a published port back to one: the answer must pass the host to be translated.
        rule("leaving", [translated(), at_home(), masquerade()]),
        rule("leaving", [at_home(), pass()]),
        rule("leaving", [is_in(family, &[SOURCE], MASQUERADED, true), masquerade()]),
    ]);
    if family == Family::V4 {
        let leaves = is_in(family, &LEAVES, BRIDGES, true);
        rules.push(rule("leaving", [leaves, loopback(family, End::Source), masquerade()]));
        // The host's own loopback speaks to containers by published ports only: no answer for who asked from outside.
        rules.push(rule("from-loopback", [loopback(family, End::Source), translated(), mark(MARK)]));
    }
    rules
}

fn admission(family: Family) -> Vec<Rule> {
    vec![
        rule("admitted", [is_in(family, &[DESTINATION], SUBNETS, false), pass()]),
        rule("admitted", [established(), go_to("admit")]),
        rule("admitted", [translated(), go_to("admit")]),
        // Within one bridge, by way of the host.
        rule("admitted", [is_in(family, &[DESTINATION, Key::Link(Way::In)], HOME, true), go_to("admit")]),
        rule("admit", [mark(MARK)]),
    ]
}

fn forwarding(family: Family) -> Vec<Rule> {
    let is_in = |keys, set, wanted| is_in(family, keys, set, wanted);
    vec![
        // To a container, and marked when it was admitted: nearly all packets. An internal bridge's could be made up, as
        // the answer to somebody else's question.
        rule("forwarded", [marked(MARK), established(), is_in(&ARRIVES, INTERNAL, false), pass()]),
        rule("forwarded", [is_in(&STAYS, OPEN, true), go_to("passed")]),
        rule("forwarded", [is_in(&LEAVES, BRIDGES, true), go_to("into-bridge")]),
        rule("forwarded", [is_in(&ARRIVES, BRIDGES, true), go_to("out-of-bridge")]),
        rule("into-bridge", [is_in(&ARRIVES, INTERNAL, true), drop_packet()]),
        rule("into-bridge", [is_in(&LEAVES, INTERNAL, true), drop_packet()]),
        // Containers are reached through what they publish only, and through what they asked for; so are those of a
        // bridge whose containers do not speak to each other.
        rule("into-bridge", [established(), go_to("passed")]),
        rule("into-bridge", [translated(), go_to("passed")]),
        rule("into-bridge", [drop_packet()]),
        rule("out-of-bridge", [is_in(&ARRIVES, INTERNAL, true), drop_packet()]),
        rule("out-of-bridge", [go_to("passed")]),
    ]
}

fn rule<const N: usize>(chain: &'static str, parts: [Vec<Expression>; N]) -> Rule {
    (chain, parts.into_iter().flatten().collect())
}
