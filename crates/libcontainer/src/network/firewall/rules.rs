//! What the table does: its chains, and the rules of each.

use super::expression::{
    End, Expression, Way, drop_packet, for_host, kind, link, masquerade, not_established, pass, redirect, translated,
    within,
};
use super::{BY_ADDRESS, BY_PORT};
use crate::network::subnet::{Cidr, mask};

/// A chain of the table and where it hangs.
pub struct Chain {
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
}

/// Loopback is guarded before connections are tracked, and destinations translated before packets are routed.
pub const CHAINS: [Chain; 5] = [
    Chain { name: "guard", kind: "filter", hook: 0, priority: -300 },
    Chain { name: "arriving", kind: "nat", hook: 0, priority: -100 },
    Chain { name: "sent-by-host", kind: "nat", hook: 3, priority: -100 },
    Chain { name: "forwarded", kind: "filter", hook: 2, priority: 0 },
    Chain { name: "leaving", kind: "nat", hook: 4, priority: 100 },
];

/// The chain that is there only where we turned the host's forwarding on; it stays until the table goes, because who
/// comes later cannot know who turned it on.
pub const BETWEEN_OTHERS: Chain = Chain { name: "between-others", kind: "filter", hook: 2, priority: 0 };

/// The host did not forward before us, and goes on forwarding nothing between its other links, as a LAN and a VPN. What
/// comes from or goes to a bridge is the affair of whoever made that bridge, another daemon for one.
pub fn between_others() -> Vec<(&'static str, Vec<Expression>)> {
    vec![
        (BETWEEN_OTHERS.name, [kind(Way::In, "bridge"), pass()].concat_all()),
        (BETWEEN_OTHERS.name, [kind(Way::Out, "bridge"), pass()].concat_all()),
        (BETWEEN_OTHERS.name, [not_established(), drop_packet()].concat_all()),
    ]
}

/// Every rule with its chain, in order.
pub fn rules(bridge: &str, subnet: Cidr, icc: bool) -> Vec<(&'static str, Vec<Expression>)> {
    let loopback = |end| within(end, [127, 0, 0, 0], mask(8));
    let subnet = |end| within(end, subnet.network().octets(), mask(subnet.prefix));
    let arrives = |equal| link(Way::In, equal, bridge);
    let leaves = |equal| link(Way::Out, equal, bridge);
    let mut rules = vec![
        // `route_localnet` lets the bridge carry loopback addresses; only answers to the host's own packets may have
        // one, and those have it only later, when their translation is undone.
        ("guard", [link(Way::In, false, "lo"), loopback(End::Destination), drop_packet()].concat_all()),
        ("guard", [arrives(true), loopback(End::Source), drop_packet()].concat_all()),
        // Containers are reached through what they publish only, and through what they asked for.
        ("forwarded", [arrives(false), leaves(true), not_established(), translated(false), drop_packet()].concat_all()),
        ("leaving", [subnet(End::Source), leaves(false), masquerade()].concat_all()),
        ("leaving", [leaves(true), loopback(End::Source), masquerade()].concat_all()),
        // From a container through a published port back to one: the answer must pass the host to be translated.
        ("leaving", [leaves(true), subnet(End::Source), translated(true), masquerade()].concat_all()),
    ];
    for chain in ["arriving", "sent-by-host"] {
        rules.push((chain, [for_host(), redirect(BY_ADDRESS, true)].concat_all()));
        rules.push((chain, [for_host(), redirect(BY_PORT, false)].concat_all()));
    }
    if !icc {
        let between = [arrives(true), leaves(true), not_established(), translated(false), drop_packet()];
        rules.push(("forwarded", between.concat_all()));
    }
    rules
}

/// Joins lists of what cannot be copied.
trait ConcatAll {
    fn concat_all(self) -> Vec<Expression>;
}

impl<const N: usize> ConcatAll for [Vec<Expression>; N] {
    fn concat_all(self) -> Vec<Expression> {
        self.into_iter().flatten().collect()
    }
}
