//! Taking back what a daemon that does not run any more left in the host's network: what carries its marks, and nothing else.
//! Everything is looked at first, and where it is not sure whose it is or who relies on it, nothing is changed.

use gantry_linux::netlink::Socket;
use libcontainer::network::firewall::{Firewall, Standing};
use libcontainer::network::link::{self, Link};

use crate::bridge::{ALIAS, NETWORK_OF, is_link_name};
use crate::{Error, NetworkOptions, wall};

/// What is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Bridges, by their names.
    pub bridges: Vec<String>,
    /// The firewall's tables, by their names.
    pub tables: Vec<String>,
    /// The host forwarded IPv4 because the daemon had told it to, and does not any more.
    pub forwarding: bool,
    /// The same of IPv6.
    pub forwarding6: bool,
}

/// Removes the bridges that a daemon of these options made, its firewall's tables, its routing rules and its rules among those
/// of others, in the network namespace of the calling thread, and has the host forward no more where the daemon had begun that.
/// Who calls sees to it that no daemon of these options runs or starts meanwhile: on kernels before 6.9 the tables do not tell.
///
/// # Errors
/// [`Error::Conflict`], and nothing is changed: a daemon that runs, a bridge that is somebody else's, containers that are on a bridge
/// still, a table that is somebody else's, another daemon that relies on these tables. The kernel's refusals: the firewall stays
/// where a bridge could not be deleted, and where forwarding could not be turned off.
pub fn clear(options: &NetworkOptions) -> Result<Cleared, Error> {
    if !options.firewall {
        return Err(refusal(
            "without its firewall's tables it cannot be told what the daemon used: leave --iptables=false out, also where \
             the daemon had it",
        ));
    }
    let mut socket = Socket::route()?;
    let (bridges, rest) = bridges(&mut socket, options)?;
    let before = bridges.iter().filter(|bridge| bridge.alias == own_alias(options) && bridge.name != options.owner);
    let mut tables = vec![options.owner.as_str()];
    tables.extend(before.map(|bridge| bridge.name.as_str()));
    let standing = Firewall::standing()?;
    let (own, others): (Vec<_>, Vec<_>) = standing.iter().partition(|table| tables.contains(&table.name.as_str()));
    check_tables(&own, &rest)?;
    let (forwarding, forwarding6) = begun_forwarding(&own, &others, &rest)?;
    // Until they are gone no daemon can begin to use them.
    let held = own.iter().map(|table| wall::hold(&table.name)).collect::<Result<Vec<_>, _>>()?;
    let deletion = |bridge: &Link| socket.transact(vec![link::delete(&bridge.name)]).err().map(Error::from);
    crate::bridge::all(bridges.iter().filter_map(deletion).collect())?;
    // First: the tables kept the host from forwarding for everybody.
    for (ipv6, _) in [(false, forwarding), (true, forwarding6)].into_iter().filter(|(_, begun)| *begun) {
        wall::stop_forwarding(ipv6)?;
    }
    crate::bridge::all(held.into_iter().filter_map(|mut table| table.delete().err().map(Error::from)).collect())?;
    Ok(Cleared {
        bridges: bridges.into_iter().map(|bridge| bridge.name).collect(),
        tables: own.into_iter().map(|table| table.name.clone()).collect(),
        forwarding,
        forwarding6,
    })
}

fn refusal(text: impl Into<String>) -> Error {
    Error::Conflict(text.into())
}

fn own_alias(options: &NetworkOptions) -> String {
    format!("{ALIAS} {}", options.home)
}

/// The bridges that a daemon of these options made, which nothing is on, and those of others.
fn bridges(socket: &mut Socket, options: &NetworkOptions) -> Result<(Vec<Link>, Vec<Link>), Error> {
    let links = link::links(socket)?;
    let (own, made) = (own_alias(options), format!("{NETWORK_OF}{}", options.owner));
    let is_ours = |link: &Link| link.alias == own || link.alias == made;
    if let Some(other) = links.iter().find(|link| link.name == options.owner && link.alias != own) {
        return Err(if other.alias.starts_with(ALIAS) {
            refusal(format!("bridge {} is of a daemon with another data root: give that by --data-root", other.name))
        } else {
            refusal(format!(
                "link {} was there before the daemon, so that what was set on it cannot be taken back from here: give the name \
                 of a bridge that the daemon made, or take it back by hand",
                other.name
            ))
        });
    }
    for port in links.iter().filter(|port| port.master.is_some()) {
        let Some(bridge) = links.iter().find(|bridge| port.master == Some(bridge.index)) else { continue };
        if is_ours(bridge) {
            return Err(refusal(format!(
                "containers are still on bridge {}: start the daemon again, which takes them up, and stop them",
                bridge.name
            )));
        }
        let known = bridge.alias.starts_with(ALIAS) || bridge.alias.starts_with(NETWORK_OF);
        if !known && is_link_name(&port.name) {
            return Err(refusal(format!(
                "a container is on bridge {}, which no daemon made, and it may be this daemon's: stop what is on it, \
                 and remove the network that uses it",
                bridge.name
            )));
        }
    }
    Ok(links.into_iter().filter(|link| link.kind == "bridge").partition(is_ours))
}

/// Refuses tables that are somebody else's, that a daemon has in its hands, or that know a bridge that stays.
fn check_tables(own: &[&Standing], rest: &[Link]) -> Result<(), Error> {
    if let Some(table) = own.iter().find(|table| table.foreign) {
        return Err(refusal(format!("nftables table {} was not made by this engine: it is left alone", table.name)));
    }
    if let Some(table) = own.iter().find(|table| table.held) {
        return Err(wall::held(&table.name));
    }
    for bridge in rest {
        for table in own {
            if Firewall::knows(&table.name, &bridge.name)? {
                return Err(refusal(format!(
                    "a network of the daemon uses bridge {}, which the daemon did not make, and only the daemon knows what it \
                     was like before: start it again, remove that network, and stop it",
                    bridge.name
                )));
            }
        }
    }
    Ok(())
}

/// Whether the daemon had the host forward IPv4, and IPv6, and that is to end with the tables that guard it. Where another one's
/// guard it, too, it goes on. Who sends by a bridge passes the guard, so others may rely on what the daemon began.
fn begun_forwarding(own: &[&Standing], others: &[&Standing], rest: &[Link]) -> Result<(bool, bool), Error> {
    let others: Vec<&&Standing> = others.iter().filter(|table| !table.foreign).collect();
    let relies = others.first().map(|table| format!("the daemon of nftables table {}", table.name));
    let relies = relies.or_else(|| rest.first().map(|bridge| format!("who is on bridge {}", bridge.name)));
    let begun = |on: bool, setting: &str, guards: fn(&Standing) -> bool| {
        if !on || !own.iter().any(|table| guards(table)) || others.iter().any(|table| guards(table)) {
            return Ok(false);
        }
        relies.as_ref().map_or(Ok(true), |who| {
            Err(refusal(format!(
                "{who} may rely on the host's forwarding, which this daemon turned on and which nothing would guard any more: \
                 turn it off first (sysctl {setting}=0), and restart afterwards what needs it"
            )))
        })
    };
    let (forwards, forwards6) = wall::forwards()?;
    let forwarding = begun(forwards, "net.ipv4.ip_forward", |table| table.guards)?;
    Ok((forwarding, begun(forwards6, "net.ipv6.conf.all.forwarding", |table| table.guards6)?))
}

#[cfg(test)]
mod tests;
