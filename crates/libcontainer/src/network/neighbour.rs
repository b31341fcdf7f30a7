//! Who answers for an address on a link: the kernel is made to ask (ARP, or IPv6's neighbour discovery), and what it hears is
//! read from its table.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use gantry_linux::Error;
use gantry_linux::netlink::{Message, Socket};

use super::link::{family, ip, octets};

const NEW: u16 = 28;
const GET: u16 = 30;
const HEADER: usize = 12;
const CREATE: u16 = 0x400;
const REPLACE: u16 = 0x100;

const ADDRESS: u16 = 1;
const HARDWARE: u16 = 2;

const REACHABLE: u16 = 0x02;
const PROBE: u16 = 0x10;
const FAILED: u16 = 0x20;
const NO_ARP: u16 = 0x40;
const PERMANENT: u16 = 0x80;
/// Has the kernel ask, as a packet to the address would.
const USE: u8 = 1;

/// The kernel asks three times, a second apart.
const PATIENCE: Duration = Duration::from_millis(4500);
/// How often its table is looked at meanwhile.
const EVERY: Duration = Duration::from_millis(5);

/// What the kernel knows of a neighbour.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Neighbour {
    state: u16,
    mac: Option<Vec<u8>>,
}

/// Asks who has the address on the link: the hardware address that answers, `None` when nobody does. One that somebody has
/// put into the table for ever, or that is not to be asked for, is believed, as the kernel does.
///
/// # Errors
/// The kernel's refusals.
pub fn who_has(socket: &mut Socket, link: u32, address: IpAddr) -> Result<Option<Vec<u8>>, Error> {
    let known = find(socket, link, address)?;
    if let Some(Neighbour { state, mac }) = &known
        && state & (PERMANENT | NO_ARP) != 0
    {
        return Ok(mac.clone());
    }
    // One that answered a while ago is asked whether it is there still, and where it is not, everybody is.
    let mac = known.filter(|neighbour| neighbour.state & FAILED == 0).and_then(|neighbour| neighbour.mac);
    if mac.is_some()
        && let Some(answered) = answer(socket, link, address, mac)?
    {
        return Ok(Some(answered));
    }
    answer(socket, link, address, None)
}

/// Has the kernel ask, of whoever has a hardware address or of everybody, and waits for what it hears.
fn answer(socket: &mut Socket, link: u32, address: IpAddr, of: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, Error> {
    socket.transact(vec![ask(link, address, of)])?;
    let end = Instant::now() + PATIENCE;
    loop {
        match find(socket, link, address)? {
            Some(Neighbour { state, mac }) if state & REACHABLE != 0 => return Ok(mac),
            Some(Neighbour { state, .. }) if state & FAILED != 0 => return Ok(None),
            _ if Instant::now() > end => return Ok(None),
            _ => std::thread::sleep(EVERY),
        }
    }
}

fn ask(link: u32, address: IpAddr, mac: Option<Vec<u8>>) -> Message {
    let (state, flags) = if mac.is_some() { (PROBE, 0) } else { (0, USE) };
    let header = header(link, address, state, flags);
    let message = Message::new(NEW, CREATE | REPLACE, &header).attribute(ADDRESS, octets(address));
    let message = mac.into_iter().fold(message, |message, mac| message.attribute(HARDWARE, mac));
    message.named("ask for", format!("neighbour {address}"))
}

fn header(link: u32, address: IpAddr, state: u16, flags: u8) -> Vec<u8> {
    [&[family(address), 0, 0, 0][..], &link.to_ne_bytes(), &state.to_ne_bytes(), &[flags, 0]].concat()
}

fn find(socket: &mut Socket, link: u32, address: IpAddr) -> Result<Option<Neighbour>, Error> {
    let question = Message::new(GET, 0, &header(0, address, 0, 0)).named("list", "neighbours");
    let replies = socket.dump(&question)?;
    let found = replies.iter().find(|reply| {
        reply.number_at(4) == link && reply.attributes(HEADER).find(ADDRESS).and_then(ip) == Some(address)
    });
    Ok(found.map(|reply| Neighbour {
        state: reply.body.get(8..10).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]])),
        mac: reply.attributes(HEADER).find(HARDWARE).map(<[u8]>::to_vec),
    }))
}
