//! Devices of the host that are handed to a container (OCI `linux.netDevices`, runtime spec 1.3): moved into its network
//! namespace with their permanent addresses, renamed, and brought up there. A namespace that goes gives physical devices
//! back to the host by itself and destroys virtual ones; only a start that fails moves them back.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use gantry_linux::netlink::{Message, Reply, Socket};
use gantry_linux::process::{self, CloneFlags};
use gantry_linux::{Result as SystemResult, ResultExt};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::link::{self, Link};
use crate::error::{Error, Result};

const LONGEST_NAME: usize = 15;
const ADDRESS_HEADER: usize = 8;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
/// `IFA_F_PERMANENT`: configured by somebody, not learned from a router.
const PERMANENT: u32 = 0x80;
const ADDRESS_FLAGS: u16 = 8;
/// `RT_SCOPE_UNIVERSE`
const GLOBAL: u8 = 0;

/// A device to be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetDevice {
    /// Its name on the host.
    pub host: String,
    /// Its name in the container.
    pub container: String,
}

/// Devices that were moved, to be moved back when what follows fails.
#[derive(Debug)]
pub struct Moved {
    devices: Vec<NetDevice>,
    /// The namespace that they came from.
    home: OwnedFd,
}

/// Refuses names that no link can have, and two devices of one name.
pub fn validate(devices: &[NetDevice]) -> Result<()> {
    let mut names = BTreeSet::new();
    for device in devices {
        for name in [&device.host, &device.container] {
            check_name(name)?;
        }
        if !names.insert(&device.container) {
            return Err(Error::Invalid(format!(
                "two network devices are to be named {} in the container",
                device.container
            )));
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<()> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > LONGEST_NAME || name == "." || name == ".." || name.contains(bad) {
        return Err(Error::Invalid(format!(
            "network device {name:?}: a link's name has 1 to {LONGEST_NAME} bytes, no slash, colon or space"
        )));
    }
    Ok(())
}

/// Moves devices from the caller's network namespace into the one behind `netns`. On failure every one of them is where
/// it was. Routes that used them are gone, as the kernel has it.
pub fn move_into(netns: BorrowedFd<'_>, devices: &[NetDevice]) -> Result<Moved> {
    validate(devices)?;
    let home = open_own()?;
    let mut moved = Moved { devices: Vec::new(), home };
    if devices.is_empty() {
        return Ok(moved);
    }
    let mut here = Socket::route()?;
    let mut there = socket_in(netns)?;
    for device in devices {
        // Before anything is moved: a name that is missing or taken is the usual mistake.
        find(&mut here, &device.host)?;
        if link::link(&mut there, &device.container)?.is_some() {
            return Err(Error::Invalid(format!(
                "network device {}: the container has one of that name",
                device.container
            )));
        }
    }
    for device in devices {
        if let Err(error) = transfer(&mut here, &mut there, netns, device, &mut moved.devices) {
            return Err(match moved.undo(netns) {
                Ok(()) => error,
                Err(second) => Error::Invalid(format!("{error}; and moving devices back: {second}")),
            });
        }
    }
    Ok(moved)
}

impl Moved {
    /// Moves the devices back from the container's namespace, under their old names and with their addresses. Goes on after a failure, and
    /// returns the first.
    pub fn undo(self, netns: BorrowedFd<'_>) -> Result<()> {
        if self.devices.is_empty() {
            return Ok(());
        }
        let mut here = Socket::route()?;
        let mut there = socket_in(netns)?;
        let mut failure = None;
        for NetDevice { host, container } in self.devices.into_iter().rev() {
            let back = NetDevice { host: container, container: host };
            let mut unused = Vec::new();
            failure = failure.or(transfer(&mut there, &mut here, self.home.as_fd(), &back, &mut unused).err());
        }
        failure.map_or(Ok(()), Err)
    }
}

/// One device from one namespace to the other; it is noted in `moved` as soon as it is there.
fn transfer(
    from: &mut Socket,
    to: &mut Socket,
    netns: BorrowedFd<'_>,
    device: &NetDevice,
    moved: &mut Vec<NetDevice>,
) -> Result<()> {
    let link = find(from, &device.host)?;
    let addresses = addresses(from, link.index)?;
    from.transact(vec![give_away(&link, &device.container, netns)])?;
    moved.push(device.clone());
    let inside = find(to, &device.container)?;
    let mut messages: Vec<Message> = addresses.iter().map(|address| address.add(inside.index)).collect();
    messages.push(link::raise(inside.index, &device.container));
    Ok(to.transact(messages)?)
}

fn find(socket: &mut Socket, name: &str) -> Result<Link> {
    link::link(socket, name)?
        .ok_or_else(|| Error::Invalid(format!("network device {name} is not there; look at `ip link`")))
}

/// Moves and renames in one step, so that the name on the way can collide with nothing.
fn give_away(link: &Link, name: &str, netns: BorrowedFd<'_>) -> Message {
    let netns = u32::try_from(netns.as_raw_fd()).unwrap_or(u32::MAX);
    link::change(link.index)
        .text(libc::IFLA_IFNAME, name)
        .u32(libc::IFLA_NET_NS_FD, netns)
        .named("move", format!("network device {} to the container as {name}", link.name))
}

/// An address of either family, as the kernel had it.
struct Address {
    family: u8,
    prefix: u8,
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    fn read(reply: &Reply) -> Option<Self> {
        let (family, prefix, flags, scope) =
            (*reply.body.first()?, *reply.body.get(1)?, *reply.body.get(2)?, *reply.body.get(3)?);
        let attributes = |kind| reply.attributes(ADDRESS_HEADER).find(kind).map(<[u8]>::to_vec);
        let long_flags = reply.attributes(ADDRESS_HEADER).u32(ADDRESS_FLAGS).unwrap_or(flags.into());
        if scope != GLOBAL || long_flags & PERMANENT == 0 {
            return None;
        }
        let kept = [libc::IFA_LOCAL, libc::IFA_ADDRESS, libc::IFA_BROADCAST];
        let attributes = kept.into_iter().filter_map(|kind| Some((kind, attributes(kind)?))).collect();
        Some(Self { family, prefix, attributes })
    }

    fn add(&self, index: u32) -> Message {
        // Another host may not have it: it is the device's own, so duplicates need not be looked for (IFA_F_NODAD).
        const NO_DUPLICATES: u8 = 0x02;
        let header = [&[self.family, self.prefix, NO_DUPLICATES, GLOBAL][..], &index.to_ne_bytes()].concat();
        let message = Message::new(libc::RTM_NEWADDR, CREATE | EXCLUSIVE, &header);
        let message = self.attributes.iter().fold(message, |m, (kind, value)| m.attribute(*kind, value));
        message.named("add address to", "network device of the container")
    }
}

fn addresses(socket: &mut Socket, index: u32) -> SystemResult<Vec<Address>> {
    let question = Message::new(libc::RTM_GETADDR, 0, &[0; ADDRESS_HEADER]).named("list", "addresses");
    let replies = socket.dump(&question)?;
    Ok(replies.iter().filter(|reply| reply.number_at(4) == index).filter_map(Address::read).collect())
}

fn open_own() -> SystemResult<OwnedFd> {
    let path = "/proc/thread-self/ns/net";
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", path)
}

/// A route socket in another network namespace. The calling thread goes there and comes back.
fn socket_in(netns: BorrowedFd<'_>) -> SystemResult<Socket> {
    let own = open_own()?;
    process::setns(netns, CloneFlags::NEWNET, "the container")?;
    let socket = Socket::route();
    process::setns(&own, CloneFlags::NEWNET, "the caller")?;
    socket
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(host: &str, container: &str) -> NetDevice {
        NetDevice { host: host.into(), container: container.into() }
    }

    /// Runs in a thread with a network namespace of its own, and one more for the container.
    fn in_namespaces(test: impl FnOnce(OwnedFd) + Send) {
        std::thread::scope(|scope| {
            let run = scope.spawn(|| {
                process::unshare(CloneFlags::NEWNET).expect("a namespace for the container");
                let container = open_own().expect("open it");
                process::unshare(CloneFlags::NEWNET).expect("a namespace for the host");
                test(container);
            });
            run.join().expect("the test");
        });
    }

    fn make(socket: &mut Socket, name: &str, address: [u8; 4]) {
        const INFO_KIND: u16 = 1;
        let pair = Message::new(libc::RTM_NEWLINK, CREATE | EXCLUSIVE, &[0; 16])
            .text(libc::IFLA_IFNAME, name)
            .u32(libc::IFLA_MTU, 1400)
            .nest(libc::IFLA_LINKINFO, |m| m.text(INFO_KIND, "veth"));
        socket.transact(vec![pair]).expect("make a pair of links");
        let index = link::link(socket, name).expect("ask").expect("there").index;
        let cidr = super::super::Cidr { address: address.into(), prefix: 24 };
        socket.transact(vec![link::add_address(index, cidr), link::raise(index, name)]).expect("address");
        let v6 = Address {
            family: 10,
            prefix: 64,
            attributes: vec![(libc::IFA_ADDRESS, [&[0xfd, 0][..], &[0; 13], &[address[3]]].concat())],
        };
        socket.transact(vec![v6.add(index)]).expect("IPv6 address");
    }

    #[test]
    fn devices_move_with_their_addresses_under_their_new_names_and_are_up() {
        in_namespaces(|container| {
            let mut here = Socket::route().expect("socket");
            make(&mut here, "one0", [10, 9, 8, 7]);
            let index = link::link(&mut here, "one0").unwrap().unwrap().index;
            assert_eq!(addresses(&mut here, index).unwrap().len(), 2);
            let moved = move_into(container.as_fd(), &[device("one0", "inside0")]).expect("move");
            assert!(link::link(&mut here, "one0").unwrap().is_none());
            let mut there = socket_in(container.as_fd()).expect("socket inside");
            let inside = link::link(&mut there, "inside0").unwrap().expect("there under its new name");
            assert!(inside.up && inside.mtu == 1400);
            assert_eq!(addresses(&mut there, inside.index).unwrap().len(), 2);
            moved.undo(container.as_fd()).expect("move back");
            let back = link::link(&mut here, "one0").unwrap().expect("back under its old name");
            assert_eq!(addresses(&mut here, back.index).unwrap().len(), 2);
        });
    }

    #[test]
    fn a_move_that_cannot_be_complete_leaves_every_device_where_it_was() {
        in_namespaces(|container| {
            let mut here = Socket::route().expect("socket");
            make(&mut here, "one0", [10, 9, 8, 7]);
            let both = [device("one0", "a0"), device("two0", "b0")];
            assert!(move_into(container.as_fd(), &both).unwrap_err().to_string().contains("two0 is not there"));
            let taken = [device("one0", "lo")];
            assert!(move_into(container.as_fd(), &taken).unwrap_err().to_string().contains("one of that name"));
            assert!(link::link(&mut here, "one0").unwrap().is_some());
        });
    }

    #[test]
    fn names_that_no_link_can_have_are_refused() {
        for name in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-bytes-ab"] {
            assert!(validate(&[device(name, "ok")]).is_err(), "{name}");
            assert!(validate(&[device("ok", name)]).is_err(), "{name}");
        }
        assert!(validate(&[device("a", "same"), device("b", "same")]).is_err());
        validate(&[device("a", "b"), device("b", "a")]).expect("names may be exchanged");
    }
}
