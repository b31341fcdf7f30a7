//! Other firewalls of the host, which may drop what ours lets through. Where a tool has a chain for rules that it
//! leaves alone, one rule of ours goes there; it accepts what has the bit of the mark that our table sets behind its
//! own decision. Nothing else of anybody's is changed; what blocks and cannot be helped is told.

use gantry_linux::netlink::{Attributes, Message, NFTABLES, Reply, Socket, transaction};
use gantry_linux::{Result, fs};

use super::expression::{count, marked, pass};
use super::family::{FAMILIES, Family};
use super::{Firewall, MARK, Seen};

const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const INET: u8 = 1;
const FORWARD: u32 = 2;

/// Chains that their tools made for the administrator's rules on forwarding, the first reached first. Docker's is
/// looked at before everything else of its table; `ufw route allow` writes into ufw's.
const HOOKS: [&str; 3] = ["DOCKER-USER", "ufw-user-forward", "ufw6-user-forward"];

/// Whether a chain of this name is for rules like ours.
pub fn is_hook(chain: &str) -> bool {
    HOOKS.contains(&chain)
}

/// A chain for our rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    family: Family,
    table: String,
    chain: String,
}

/// What stands in the way of forwarded packets.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Where a rule of ours opens the way.
    pub hooks: Vec<Hook>,
    /// What blocks, and what to do, for a person.
    pub blocks: Vec<String>,
    /// What may block, and what to do if it does.
    pub doubt: Option<String>,
}

pub struct Chain {
    pub family: u8,
    pub table: String,
    pub name: String,
    forwards: bool,
    drops: bool,
}

fn read(reply: &Reply) -> Chain {
    let attributes = reply.attributes(4);
    let be32 = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).ok();
    let hook = attributes.find(4).map(Attributes::new).and_then(|hook| hook.find(1)).and_then(be32);
    Chain {
        family: reply.body.first().copied().unwrap_or_default(),
        table: attributes.text(1).unwrap_or_default(),
        name: attributes.text(3).unwrap_or_default(),
        forwards: hook == Some(FORWARD),
        drops: attributes.find(5).and_then(be32) == Some(0),
    }
}

/// Every chain of the host.
pub fn chains(socket: &mut Socket) -> Result<Vec<Chain>> {
    let question = Message::new(NFTABLES << 8 | GET_CHAIN, 0, &[0; 4]).named("list", "nftables chains");
    Ok(socket.dump(&question)?.iter().map(read).collect())
}

/// Every chain of the host that may have a rule of ours, whatever its firewall does with what is forwarded.
pub fn hooks(socket: &mut Socket) -> Result<Vec<Hook>> {
    let hook = |Chain { family, table, name, .. }: Chain| {
        let family = FAMILIES.into_iter().find(|known| known.number() == family)?;
        is_hook(&name).then_some(Hook { family, table, chain: name })
    };
    Ok(chains(socket)?.into_iter().filter_map(hook).collect())
}

/// Looks at every chain that forwarded packets pass, on behalf of these bridges.
pub fn find<'a>(socket: &mut Socket, own: &str, bridges: impl Iterator<Item = &'a str>) -> Result<Found> {
    let chains = chains(socket)?;
    let (mut found, mut zoned) = (Found::default(), false);
    for chain in chains.iter().filter(|chain| chain.forwards && chain.table != own) {
        let families: Vec<Family> =
            FAMILIES.into_iter().filter(|family| chain.family == INET || chain.family == family.number()).collect();
        let Some(family) = families.first().copied() else { continue };
        if chain.table == FIREWALLD {
            zoned = true;
            continue;
        }
        if !chain.drops {
            continue;
        }
        let same_table = |other: &&Chain| other.family == chain.family && other.table == chain.table;
        let named = |hook: &&&str| chains.iter().filter(same_table).any(|other| other.name == **hook);
        match HOOKS.iter().find(named).filter(|_| chain.family != INET) {
            Some(hook) => {
                found.hooks.push(Hook { family, table: chain.table.clone(), chain: (*hook).into() });
            }
            None => found.blocks.push(format!(
                "chain {} of the nftables table {} {} drops what is forwarded by its policy: let it accept packets with \
                 the mark {MARK:#x}/{MARK:#x}, which says that the bridges' own firewall let them through",
                chain.name,
                if chain.family == INET { "inet" } else { family.name() },
                chain.table,
            )),
        }
    }
    if zoned {
        found.blocks.extend(outside_of_zones(socket, bridges)?);
    }
    if has_legacy_filter()? {
        found.doubt = Some(format!(
            "the host has rules of the legacy iptables, which cannot be seen from here: should their FORWARD chain drop, \
             iptables-legacy -I FORWARD -m mark --mark {MARK:#x}/{MARK:#x} -j ACCEPT lets pass what the bridges' own \
             firewall let through"
        ));
    }
    Ok(found)
}

const FIREWALLD: &str = "firewalld";
/// Where firewalld sends what comes by an interface of the zone that lets all pass.
const TRUSTED: &str = "filter_FWD_trusted";

/// What firewalld keeps from leaving bridges that nobody has put into a zone.
fn outside_of_zones<'a>(socket: &mut Socket, bridges: impl Iterator<Item = &'a str>) -> Result<Option<String>> {
    let question = Message::new(NFTABLES << 8 | GET_RULE, 0, &[INET, 0, 0, 0]).text(1, FIREWALLD);
    let rules = socket.dump(&question.named("list rules of nftables table", FIREWALLD))?;
    let trusted: Vec<String> = rules.iter().filter_map(trusts).collect();
    let outside: Vec<&str> = bridges.filter(|bridge| !trusted.iter().any(|link| link == bridge)).collect();
    let adds: Vec<String> = outside.iter().map(|bridge| format!("--add-interface={bridge}")).collect();
    Ok((!outside.is_empty()).then(|| {
        format!(
            "firewalld is active, which forwards between zones only what its policies allow: put the bridges into a zone \
             that is allowed, with firewall-cmd --permanent --zone=trusted {} and firewall-cmd --reload",
            adds.join(" ")
        )
    }))
}

/// The link whose packets a rule sends to where all may pass: the rule compares with its name.
fn trusts(rule: &Reply) -> Option<String> {
    let expressions = Attributes::new(rule.attributes(4).find(4)?);
    let (mut link, mut chain) = (None, None);
    for (_, expression) in expressions {
        let expression = Attributes::new(expression);
        let Some(data) = expression.find(2).map(Attributes::new) else { continue };
        match expression.text(1).as_deref() {
            Some("cmp") => link = data.find(3).and_then(|value| Attributes::new(value).text(1)),
            Some("immediate") => {
                let verdict = data.find(2).and_then(|value| Attributes::new(value).find(2));
                chain = verdict.and_then(|verdict| Attributes::new(verdict).text(2));
            }
            _ => {}
        }
    }
    link.filter(|_| chain.as_deref() == Some(TRUSTED))
}

/// Whether there is a filter table of the legacy iptables; asking for its rules would make one.
fn has_legacy_filter() -> Result<bool> {
    match fs::read_to_string("/proc/thread-self/net/ip_tables_names") {
        Ok(names) => Ok(names.lines().any(|name| name == "filter")),
        // A kernel without them.
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

fn comment(own: &str) -> Vec<u8> {
    const COMMENT: u8 = 0;
    let text = format!("gantry {own}\0");
    [&[COMMENT, u8::try_from(text.len()).unwrap_or(0)], text.as_bytes()].concat()
}

fn handle(rule: &Reply) -> Option<Vec<u8>> {
    rule.attributes(4).find(3).map(<[u8]>::to_vec)
}

/// Whether a rule does nothing but leave its chain, whatever the packet.
fn only_returns(rule: &Reply) -> bool {
    const RETURN: i32 = -5;
    let Some(expressions) = rule.attributes(4).find(4) else { return false };
    let mut returns = false;
    for (_, expression) in Attributes::new(expressions) {
        let expression = Attributes::new(expression);
        match expression.text(1).as_deref() {
            Some("counter") => {}
            // The expression's own data, the data that it loads, the verdict of that, its code.
            Some("immediate") => {
                let data = [2, 2, 2].into_iter().try_fold(expression, |at, kind| at.find(kind).map(Attributes::new));
                returns = data.and_then(|data| data.find(1)) == Some(&RETURN.to_be_bytes()[..]);
            }
            _ => return false,
        }
    }
    returns
}

impl Firewall {
    /// Puts our rule where the other firewalls of the host that were seen have a place for it. What blocks and is not to
    /// be helped is returned, for a person to read; none where the firewall has changed since, and others are to be looked
    /// at again. One that has been deleted lets them be.
    ///
    /// # Errors
    /// The kernel's refusals.
    pub fn attend(&mut self, seen: Seen) -> Result<Option<Vec<String>>> {
        let Seen { mut found, generation } = seen;
        if self.deleted {
            return Ok(Some(Vec::new()));
        }
        if generation != self.generation {
            return Ok(None);
        }
        self.generation += 1;
        found.blocks.extend(found.doubt.take());
        if !self.options.hooks {
            let blocks = |hook: &Hook| format!("{hook} drops what is forwarded by its policy, and is left alone");
            found.blocks.extend(found.hooks.drain(..).map(|hook| blocks(&hook)));
        }
        let told = self.is_told();
        self.blocked = !found.blocks.is_empty();
        for hook in self.hooks.iter().filter(|hook| !found.hooks.contains(hook)) {
            match hook.close(&mut self.socket, &self.table) {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        self.hooks = found.hooks;
        if told != self.is_told() {
            self.write(&self.families.clone(), false)?;
        }
        for hook in self.hooks.clone() {
            if let Err(error) = hook.open(&mut self.socket, &self.table) {
                found.blocks.push(format!("{hook} drops what is forwarded by its policy: {error}"));
            }
        }
        Ok(Some(found.blocks))
    }

    /// Takes our rule out of these chains, of which some may be gone.
    pub(super) fn close(&mut self, hooks: Vec<Hook>) -> Result<()> {
        self.hooks.clear();
        let mut result = Ok(());
        for hook in hooks {
            match hook.close(&mut self.socket, &self.table) {
                Err(error) if error.is_not_found() => {}
                other => result = result.and(other),
            }
        }
        result
    }
}

impl Hook {
    fn message(&self, kind: u16, flags: u16) -> Message {
        let header = [self.family.number(), 0, 0, 0];
        let name = format!("{} of nftables table {} {}", self.chain, self.family.name(), self.table);
        Message::new(NFTABLES << 8 | kind, flags, &header).text(1, &self.table).named("put our rule into chain", name)
    }

    /// The chain's rules, from its head.
    fn rules(&self, socket: &mut Socket) -> Result<Vec<Reply>> {
        let question = self.message(GET_RULE, 0).text(2, &self.chain);
        let mut replies = socket.dump(&question)?;
        // Kernels before 5.15 may tell all of the table.
        replies.retain(|reply| reply.attributes(4).text(2).as_ref() == Some(&self.chain));
        Ok(replies)
    }

    /// The numbers of our rules in the chain.
    pub fn ours(&self, socket: &mut Socket, own: &str) -> Result<Vec<Vec<u8>>> {
        let replies = self.rules(socket)?;
        let ours = |reply: &&Reply| reply.attributes(4).find(7) == Some(&comment(own)[..]);
        Ok(replies.iter().filter(ours).filter_map(handle).collect())
    }

    /// Puts our rule at the chain's end, if it is not there: what the administrator drops before is dropped. Docker's
    /// chain ends with a rule that leaves it, before which ours has to come.
    pub fn open(&self, socket: &mut Socket, own: &str) -> Result<()> {
        if !self.ours(socket, own)?.is_empty() {
            return Ok(());
        }
        let end = self.rules(socket)?.last().filter(|rule| only_returns(rule)).and_then(handle);
        let rule = [marked(MARK), count(), pass()].into_iter().flatten();
        let fill = |m| rule.fold(m, |m, expression| expression(m));
        let flags = if end.is_some() { CREATE } else { CREATE | APPEND };
        let message = self.message(NEW_RULE, flags).text(2, &self.chain).nest(4, fill);
        let message = end.iter().fold(message, |message, before| message.attribute(6, before));
        socket.transact(transaction(vec![message.attribute(7, comment(own))]))
    }

    /// Takes it away again.
    pub fn close(&self, socket: &mut Socket, own: &str) -> Result<()> {
        let delete = |handle| self.message(DELETE_RULE, 0).text(2, &self.chain).attribute(3, handle);
        let messages: Vec<Message> = self.ours(socket, own)?.into_iter().map(delete).collect();
        if messages.is_empty() { Ok(()) } else { socket.transact(transaction(messages)) }
    }
}

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the nftables table {} {} (with chain {})", self.family.name(), self.table, self.chain)
    }
}
