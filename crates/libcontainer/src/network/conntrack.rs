//! Datagrams that the kernel takes for a conversation, and sends where the first of them went, whatever ports have come and
//! gone since: with a port that goes those that it led are forgotten, with one that comes those that went to the host.

use std::collections::BTreeSet;
use std::net::IpAddr;

use gantry_linux::Result;
use gantry_linux::netlink::{Attributes, Message, Reply, Socket};

use super::Protocol;
use super::firewall::Element;
use super::link::{self, ip, octets};

/// Connection tracking's number among the subsystems of nfnetlink.
const CONNTRACK: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const HEADER: usize = 4;

const ORIGINAL: u16 = 1;
const ANSWER: u16 = 2;
const ZONE: u16 = 18;
const FILTER: u16 = 25;
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
const NUMBER: u16 = 1;
const TO_PORT: u16 = 3;
const UDP: u8 = 17;

/// Which conversations of datagrams the kernel is to tell of. One before 5.8 tells of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Those {
    /// Their answers come from this address.
    AnsweredBy(IpAddr),
    /// They were sent to this port of a host of this family.
    SentTo(u8, u16),
    /// All of this family.
    All(u8),
}

/// Forgets the conversations that were led by these ports; those of other protocols end with their connections.
///
/// # Errors
/// The kernel's refusals.
pub fn forget(ports: &[Element]) -> Result<()> {
    let ports: Vec<&Element> = datagrams(ports).collect();
    let containers: BTreeSet<IpAddr> = ports.iter().map(|port| port.container).collect();
    containers.into_iter().try_for_each(|container| {
        forget_those(Those::AnsweredBy(container), |entry| ports.iter().any(|port| is_led(entry, port)))
    })
}

/// Forgets the conversations with the host itself that began before these ports led anywhere: they would never reach the
/// container for as long as they go on.
///
/// # Errors
/// The kernel's refusals.
pub fn forget_earlier(ports: &[Element]) -> Result<()> {
    let ports: Vec<&Element> = datagrams(ports).collect();
    if ports.is_empty() {
        return Ok(());
    }
    let own: Vec<IpAddr> =
        link::all_addresses(&mut Socket::route()?)?.into_iter().map(|(_, subnet)| subnet.address).collect();
    let those = |port: &&Element| {
        let family = link::family(port.container);
        if port.host_port == port.last_port { Those::SentTo(family, port.host_port) } else { Those::All(family) }
    };
    let all: BTreeSet<Those> = ports.iter().map(those).collect();
    all.into_iter()
        .try_for_each(|those| forget_those(those, |entry| ports.iter().any(|port| ended_here(entry, port, &own))))
}

fn datagrams(ports: &[Element]) -> impl Iterator<Item = &Element> {
    ports.iter().filter(|port| port.protocol == Protocol::Udp)
}

fn forget_those(those: Those, belongs: impl Fn(&Reply) -> bool) -> Result<()> {
    let mut socket = Socket::netfilter()?;
    for entry in those.ask(&mut socket, belongs)? {
        let attributes = entry.attributes(HEADER);
        let original = attributes.find(ORIGINAL).unwrap_or_default();
        let delete = Message::new(CONNTRACK << 8 | DELETE, 0, &those.header()).nest(ORIGINAL, |m| m.raw(original));
        let delete = attributes.find(ZONE).into_iter().fold(delete, |message, zone| message.attribute(ZONE, zone));
        match socket.transact(vec![delete.named("forget", "tracked datagrams")]) {
            // It has ended just now.
            Err(error) if error.is_not_found() => {}
            other => other?,
        }
    }
    Ok(())
}

/// The answer to the first question that the kernel does not take for a bad one.
fn first_taken(socket: &mut Socket, questions: [Message; 2], belongs: impl Fn(&Reply) -> bool) -> Result<Vec<Reply>> {
    for question in questions {
        match socket.dump_where(&question, &belongs) {
            Err(error) if error.errno() == libc::EINVAL => {}
            other => return other,
        }
    }
    // A kernel without `nf_conntrack_netlink` tells nothing of what it tracks, and lets nobody forget it.
    Ok(Vec::new())
}

impl Those {
    fn header(self) -> [u8; HEADER] {
        let family = match self {
            Self::AnsweredBy(address) => link::family(address),
            Self::SentTo(family, _) | Self::All(family) => family,
        };
        [family, 0, 0, 0]
    }

    /// Those of them that belong to somebody: of all that the kernel tracks no more is held than these.
    fn ask(self, socket: &mut Socket, belongs: impl Fn(&Reply) -> bool) -> Result<Vec<Reply>> {
        let all = Message::new(CONNTRACK << 8 | GET, 0, &self.header()).named("list", "tracked connections");
        first_taken(socket, [self.narrow(all.clone()), all], belongs)
    }

    /// Says which parts of which end are compared, and with what.
    fn narrow(self, question: Message) -> Message {
        const ORIGINAL_PARTS: u16 = 1;
        const ANSWER_PARTS: u16 = 2;
        const FROM: u32 = 1 << 0;
        const OF_PROTOCOL: u32 = 1 << 3;
        const TO: u32 = 1 << 5;
        let udp = |m: Message| m.attribute(NUMBER, [UDP]);
        match self {
            Self::AnsweredBy(address) => {
                question.nest(FILTER, |m| m.u32(ANSWER_PARTS, FROM | OF_PROTOCOL)).nest(ANSWER, |m| {
                    let from = if address.is_ipv4() { 1 } else { 3 };
                    m.nest(ADDRESSES, |m| m.attribute(from, octets(address))).nest(PROTOCOL, udp)
                })
            }
            Self::SentTo(_, port) => question
                .nest(FILTER, |m| m.u32(ORIGINAL_PARTS, OF_PROTOCOL | TO))
                .nest(ORIGINAL, |m| m.nest(PROTOCOL, |m| udp(m).attribute(TO_PORT, port.to_be_bytes()))),
            Self::All(_) => {
                question.nest(FILTER, |m| m.u32(ORIGINAL_PARTS, OF_PROTOCOL)).nest(ORIGINAL, |m| m.nest(PROTOCOL, udp))
            }
        }
    }
}

/// Both ends of a conversation: where its datagrams were sent, from where, and who answers whom.
struct Ends {
    from: (IpAddr, u16),
    to: (IpAddr, u16),
    answers_from: (IpAddr, u16),
    answers_to: (IpAddr, u16),
}

impl Ends {
    fn read(entry: &Reply) -> Option<Self> {
        let attributes = entry.attributes(HEADER);
        let (original, answer) = (attributes.find(ORIGINAL)?, attributes.find(ANSWER)?);
        Some(Self {
            from: end(original, true)?,
            to: end(original, false)?,
            answers_from: end(answer, true)?,
            answers_to: end(answer, false)?,
        })
    }
}

/// Whether the answers come from the port inside, and are for somebody who spoke to another one.
fn is_led(entry: &Reply, port: &Element) -> bool {
    let Some(Ends { to, answers_from: (from, inside), .. }) = Ends::read(entry) else { return false };
    let length = port.last_port.saturating_sub(port.host_port);
    let last = port.container_port.saturating_add(length);
    from == port.container && (port.container_port..=last).contains(&inside) && (from, inside) != to
}

/// Whether it was sent to the port of the host, and nobody translated it.
fn ended_here(entry: &Reply, port: &Element, own: &[IpAddr]) -> bool {
    let Some(Ends { from, to, answers_from, answers_to }) = Ends::read(entry) else { return false };
    let here = if port.host.is_unspecified() {
        to.0.is_ipv4() == port.host.is_ipv4() && (to.0.is_loopback() || own.contains(&to.0))
    } else {
        to.0 == port.host
    };
    here && (port.host_port..=port.last_port).contains(&to.1) && (answers_from, answers_to) == (to, from)
}

/// One end of a tuple of datagrams: where they come from, or go.
fn end(tuple: &[u8], source: bool) -> Option<(IpAddr, u16)> {
    let tuple = Attributes::new(tuple);
    let protocol = Attributes::new(tuple.find(PROTOCOL)?);
    if protocol.find(NUMBER)? != [UDP] {
        return None;
    }
    let addresses = Attributes::new(tuple.find(ADDRESSES)?);
    let (four, six, port) = if source { (1, 3, 2) } else { (2, 4, TO_PORT) };
    let address = addresses.find(four).or_else(|| addresses.find(six)).and_then(ip)?;
    Some((address, u16::from_be_bytes(protocol.find(port)?.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use gantry_linux::netlink::enter_new_namespace;

    use super::super::firewall::{Firewall, Options};
    use super::*;

    #[test]
    fn the_kernel_tells_of_no_other_conversation_than_is_asked_for() {
        let on_a_host = || {
            enter_new_namespace().unwrap();
            Socket::route().unwrap().transact(vec![link::raise(link::LOOPBACK, "lo")]).unwrap();
            // It has connections tracked.
            let _firewall = Firewall::load("gvtest0", Options::default()).unwrap();
            let client = UdpSocket::bind("127.0.0.1:4000").unwrap();
            for port in 5000..5050 {
                client.send_to(b"hello", ("127.0.0.1", port)).unwrap();
            }
            let asked = |those: Those| those.ask(&mut Socket::netfilter().unwrap(), |_| true).unwrap().len();
            let all = asked(Those::All(2));
            if all == 0 {
                crate::skipped("this kernel does not tell of the connections that it tracks (nf_conntrack_netlink)");
                return;
            }
            assert_eq!(all, 50);
            assert_eq!(asked(Those::All(10)), 0);
            assert_eq!(asked(Those::AnsweredBy([127, 0, 0, 1].into())), 50);
            let narrow = [Those::SentTo(2, 5007), Those::AnsweredBy([127, 0, 0, 2].into())].map(asked);
            assert_eq!(narrow, [1, 0], "[50, 50] is a kernel before 5.8");
            // It names parts of an end that it does not tell.
            let all = || Message::new(CONNTRACK << 8 | GET, 0, &Those::All(2).header());
            let bad = || all().nest(FILTER, |m| m.u32(1, 1));
            let mut socket = Socket::netfilter().unwrap();
            assert_eq!(socket.dump(&bad()).unwrap_err().errno(), libc::EINVAL);
            let sent_to = |entry: &Reply| Ends::read(entry).is_some_and(|ends| ends.to.1 == 5007);
            assert_eq!(first_taken(&mut socket, [bad(), all()], |_| true).unwrap().len(), 50);
            assert_eq!(first_taken(&mut socket, [bad(), all()], sent_to).unwrap().len(), 1);
            assert!(first_taken(&mut socket, [bad(), bad()], |_| true).unwrap().is_empty());
        };
        std::thread::spawn(on_a_host).join().unwrap();
    }
}
