//! What the kernel has of the firewall, and what stands beside it; looked at and not changed.

use gantry_linux::Result;
use gantry_linux::netlink::{Message, Socket};

use super::others::{self, Found};
use super::{Element, Firewall, sets};

impl Firewall {
    /// What of a bridge, or of published ports, the kernel's tables do not have, for a person to read.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn lacks(&mut self, bridge: &str, ports: &[Element]) -> Result<Option<String>> {
        let Some(rules) = self.bridges.get(bridge).cloned() else {
            return Ok(Some(format!("it does not know bridge {bridge}")));
        };
        let layout = self.layout();
        let mut questions: Vec<(String, &'static str, Message)> = Vec::new();
        for family in rules.families() {
            let asked = layout.questions(family, sets::of_bridge(family, &rules));
            questions.extend(asked.into_iter().map(|(set, m)| (format!("bridge {bridge}"), set, m)));
        }
        for port in ports {
            let asked = layout.questions(port.family(), sets::of_port(port));
            questions.extend(asked.into_iter().map(|(set, m)| (port.to_string(), set, m)));
        }
        for (what, set, question) in questions {
            match self.socket.get(question) {
                Err(error) if error.is_not_found() => {
                    return Ok(Some(format!("{what} is not in set {set} of nftables table {}", self.table)));
                }
                other => drop(other?),
            }
        }
        Ok(None)
    }

    /// From where the other firewalls of the host are looked at for all of its bridges.
    #[must_use]
    pub fn outlook(&self) -> Outlook {
        let bridges = self.bridges.keys().cloned().collect();
        Outlook { table: self.table.clone(), bridges, generation: self.generation }
    }
}

/// Looks at the other firewalls of the host, in the network namespace of the calling thread, while others may have the
/// firewall: all their chains are listed.
#[derive(Debug)]
pub struct Outlook {
    table: String,
    bridges: Vec<String>,
    generation: u64,
}

/// What was seen of the other firewalls of the host.
#[derive(Debug)]
pub struct Seen {
    pub(super) found: Found,
    pub(super) generation: u64,
}

/// Something of the host's that drops what is forwarded, or may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What it is, and after a colon what to do, for a person to read.
    pub told: String,
    /// Whether it is known to drop.
    pub certain: bool,
}

impl Outlook {
    /// Looks, for [`Firewall::attend`].
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn look(&self) -> Result<Seen> {
        let bridges = self.bridges.iter().map(String::as_str);
        let found = others::find(&mut Socket::netfilter()?, &self.table, bridges)?;
        Ok(Seen { found, generation: self.generation })
    }

    /// What they drop of what ours lets through for a bridge, as [`Firewall::attend`] would tell it.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn obstacles(&self, bridge: &str) -> Result<Vec<Obstacle>> {
        let mut socket = Socket::netfilter()?;
        let found = others::find(&mut socket, &self.table, std::iter::once(bridge))?;
        let mut all = found.blocks;
        for hook in found.hooks {
            if hook.ours(&mut socket, &self.table)?.is_empty() {
                all.push(format!("{hook} drops what is forwarded by its policy, and has no rule of ours"));
            }
        }
        let certain = all.into_iter().map(|told| Obstacle { told, certain: true });
        Ok(certain.chain(found.doubt.map(|told| Obstacle { told, certain: false })).collect())
    }
}
