//! The host's ports that containers publish. Each one is held by a bound socket, so that other programs of the host are
//! told that it is in use; the socket never sees a packet, the firewall sends them on before. A long range of ports that
//! are the same inside is one lease and one element of the firewall, and no sockets: only what is in use is looked at.

mod holder;
mod table;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_linux::ResultExt as _;
use libcontainer::network::firewall::Element;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

pub use self::holder::listeners;
use self::table::{Span, Table};
use crate::{Error, Protocol, PublishedPort};

/// From so many on, ports that follow each other are one range.
const RANGE: usize = 64;

/// Who holds which port, on which address.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    table: Arc<Mutex<Table>>,
}

/// A port as it is to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Inside the container.
    pub container_port: u16,
    /// Transport.
    pub protocol: Protocol,
    /// The host's addresses, on all of which the port has the same number.
    pub addresses: Vec<IpAddr>,
    /// First host port; 0 takes a free one from the kernel's ephemeral range.
    pub host_port: u16,
    /// Last host port that may be taken.
    pub host_port_end: u16,
}

/// A port, or a range of them, that is taken for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    span: Span,
    container_port: u16,
    table: Arc<Mutex<Table>>,
    _held: Option<OwnedFd>,
}

impl Lease {
    /// Its ports as they are published.
    pub fn ports(&self) -> impl Iterator<Item = PublishedPort> + '_ {
        let Span { protocol, address: host_ip, first, last, .. } = self.span;
        (first..=last).map(move |host_port| PublishedPort {
            container_port: self.container_port + (host_port - first),
            protocol,
            host_ip,
            host_port,
        })
    }

    /// Whether its ports are IPv6's.
    pub const fn is_ipv6(&self) -> bool {
        self.span.address.is_ipv6()
    }

    /// What the firewall is told.
    pub const fn element(&self, container: IpAddr) -> Element {
        let Span { protocol, address: host, first: host_port, last: last_port, .. } = self.span;
        Element { host, protocol, host_port, last_port, container, container_port: self.container_port }
    }
}

impl Ports {
    /// Takes ports for each of the requests, in their order. Fixed ports come first, so that none of them goes to a range
    /// or a random request of the same container.
    ///
    /// # Errors
    /// A port that is in use, by whom; no free one in a range; an address that is none of the host's. Nothing is taken
    /// then.
    pub fn take(&self, container: &str, wanted: &[Wanted]) -> Result<Vec<Lease>, Error> {
        for port in wanted {
            check(port)?;
        }
        let container: Arc<str> = container.into();
        let mut runs = runs(wanted);
        runs.sort_by_key(|run| (wanted[run[0]].host_port == 0, wanted[run[0]].host_port_end));
        let mut taken = Vec::with_capacity(runs.len());
        for run in runs {
            let (first, last) = (&wanted[run[0]], &wanted[run[run.len() - 1]]);
            let leases = if run.len() > 1 {
                self.take_range(&container, first, last.host_port)?
            } else {
                self.take_first_free(&container, first)?
            };
            taken.push((run[0], leases));
        }
        taken.sort_by_key(|(place, _)| *place);
        Ok(taken.into_iter().flat_map(|(_, leases)| leases).collect())
    }

    fn take_first_free(&self, container: &Arc<str>, wanted: &Wanted) -> Result<Vec<Lease>, Error> {
        let (first, last) = (wanted.host_port, wanted.host_port_end.max(wanted.host_port));
        let mut failure = Refusal::Other(Error::Invalid("empty range of host ports".into()));
        for number in first..=last {
            match self.take_one(container, wanted, number) {
                Ok(leases) => return Ok(leases),
                Err(refusal) => failure = refusal,
            }
        }
        // Once, and when nobody waits for the table any more: it may look at every process.
        let failure = failure.tell(wanted.protocol);
        if first == last {
            return Err(failure);
        }
        let address = wanted.addresses[0];
        Err(Error::Exhausted(format!("no free port among {address}:{first}-{last}; the last one failed: {failure}")))
    }

    fn take_range(&self, container: &Arc<str>, wanted: &Wanted, last: u16) -> Result<Vec<Lease>, Error> {
        let span = |address| Span { last, ..Span::of(wanted, address, wanted.host_port, container) };
        let take = |address: &IpAddr| {
            let span = span(*address);
            // Looked at before the lock is taken: it reads the kernel's tables.
            let used = holder::in_use(&span)?;
            let mut table = self.lock();
            table.vacant(&span)?;
            match used {
                Some(taken) => Err(in_use(SocketAddr::new(span.address, taken.local.port()), Some(&taken))),
                None => Ok(self.lease(&mut table, span, wanted.container_port, None)),
            }
        };
        wanted.addresses.iter().map(take).collect()
    }

    /// One number on all of the addresses; where the kernel chooses, it is asked again when another one is taken there.
    fn take_one(&self, container: &Arc<str>, wanted: &Wanted, number: u16) -> Result<Vec<Lease>, Refusal> {
        const CHOICES: usize = 32;
        let mut table = self.lock();
        let mut failure = Refusal::Other(Error::Invalid("no address to publish on".into()));
        for _ in 0..if number == 0 { CHOICES } else { 1 } {
            match take_on_all(&table, container, wanted, number) {
                Ok(bound) => {
                    let lease = |(span, socket)| self.lease(&mut table, span, wanted.container_port, Some(socket));
                    return Ok(bound.into_iter().map(lease).collect());
                }
                Err(refusal) => failure = refusal,
            }
        }
        Err(failure)
    }

    /// Takes ports again that an endpoint has had all the time. Another program may have bound one while no daemon held
    /// it; the firewall's element comes first all the same, so that is only told.
    ///
    /// # Errors
    /// A port that another container has.
    pub fn retake(&self, container: &str, ports: &[PublishedPort]) -> Result<Vec<Lease>, Error> {
        let wanted: Vec<Wanted> = ports.iter().map(as_wanted).collect();
        let holder: Arc<str> = container.into();
        let retake = |run: Vec<usize>| {
            let (first, last) = (&wanted[run[0]], wanted[run[run.len() - 1]].host_port);
            let span = Span { last, ..Span::of(first, first.addresses[0], first.host_port, &holder) };
            let mut table = self.lock();
            table.vacant(&span)?;
            let held = if run.len() > 1 { None } else { rebind(container, &span) };
            Ok(self.lease(&mut table, span, first.container_port, held))
        };
        runs(&wanted).into_iter().map(retake).collect()
    }

    fn lease(&self, table: &mut Table, span: Span, container_port: u16, held: Option<OwnedFd>) -> Lease {
        table.insert(span.clone());
        Lease { span, container_port, table: Arc::clone(&self.table), _held: held }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.span);
    }
}

/// Binds the port on each address.
fn take_on_all(
    table: &Table,
    container: &Arc<str>,
    wanted: &Wanted,
    mut number: u16,
) -> Result<Vec<(Span, OwnedFd)>, Refusal> {
    let mut bound = Vec::with_capacity(wanted.addresses.len());
    for &address in &wanted.addresses {
        let asked = SocketAddr::new(address, number);
        if number != 0 {
            table.vacant(&Span::of(wanted, address, number, container))?;
        }
        let (chosen, socket) = bind(asked, wanted.protocol).map_err(|error| refusal(&error, asked))?;
        number = chosen;
        let span = Span::of(wanted, address, number, container);
        // A range holds no sockets, so the kernel may have chosen one of its ports.
        table.vacant(&span)?;
        bound.push((span, socket));
    }
    Ok(bound)
}

fn as_wanted(port: &PublishedPort) -> Wanted {
    let PublishedPort { container_port, protocol, host_ip, host_port, .. } = *port;
    Wanted { container_port, protocol, addresses: vec![host_ip], host_port, host_port_end: host_port }
}

fn rebind(container: &str, span: &Span) -> Option<OwnedFd> {
    let address = SocketAddr::new(span.address, span.first);
    match bind(address, span.protocol) {
        Ok((_, socket)) => Some(socket),
        Err(error) => {
            tracing::warn!(container, %address, %error, "published port is bound by another program");
            None
        }
    }
}

/// The requests by their places, those together that are one long range of ports that are the same inside.
fn runs(wanted: &[Wanted]) -> Vec<Vec<usize>> {
    let may_run = |place: &usize| {
        let port = &wanted[*place];
        port.host_port == port.host_port_end && port.host_port == port.container_port
    };
    let (mut same, others): (Vec<usize>, Vec<usize>) = (0..wanted.len()).partition(may_run);
    let key = |place: usize| (wanted[place].protocol, &wanted[place].addresses, wanted[place].host_port);
    same.sort_by(|a, b| key(*a).cmp(&key(*b)));
    let follows = |a: &usize, b: &usize| {
        let (protocol, addresses, port) = key(*a);
        port.checked_add(1).is_some_and(|next| (protocol, addresses, next) == key(*b))
    };
    let mut runs: Vec<Vec<usize>> = others.into_iter().map(|place| vec![place]).collect();
    for run in same.chunk_by(follows) {
        if run.len() >= RANGE {
            runs.push(run.to_vec());
        } else {
            runs.extend(run.iter().map(|place| vec![*place]));
        }
    }
    runs
}

fn check(wanted: &Wanted) -> Result<(), Error> {
    if wanted.container_port == 0 {
        return Err(Error::Invalid("invalid container port: 0".into()));
    }
    if wanted.addresses.contains(&IpAddr::V6(Ipv6Addr::LOCALHOST)) {
        return Err(Error::Invalid(format!(
            "cannot publish port {} on ::1: the kernel sends nothing from there to a container, publish it on 127.0.0.1",
            wanted.container_port
        )));
    }
    Ok(())
}

fn in_use(address: SocketAddr, holder: Option<&holder::Socket>) -> Error {
    let by = holder.and_then(holder::Socket::program).map(|program| format!(", by {program}")).unwrap_or_default();
    Error::Conflict(format!("Bind for {address} failed: port is already allocated{by}"))
}

/// Why a port could not be had.
enum Refusal {
    /// Some program of the host is bound to it.
    InUse(SocketAddr),
    Other(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Refusal {
    /// For a person, with the program's name where it can be seen.
    fn tell(self, protocol: Protocol) -> Error {
        let address = match self {
            Self::InUse(address) => address,
            Self::Other(error) => return error,
        };
        let span = Span { address: address.ip(), first: address.port(), last: address.port(), ..Span::none(protocol) };
        // Who it is only makes the message better.
        in_use(address, holder::in_use(&span).ok().flatten().as_ref())
    }
}

fn refusal(error: &gantry_linux::Error, address: SocketAddr) -> Refusal {
    let failed = |why: &str| Refusal::Other(Error::Invalid(format!("Bind for {address} failed: {why}")));
    match error.errno() {
        libc::EADDRINUSE => Refusal::InUse(address),
        libc::EADDRNOTAVAIL => failed("no interface of the host has this address"),
        libc::EAFNOSUPPORT => failed("this host has no IPv6"),
        libc::EPROTONOSUPPORT => failed("this kernel has no SCTP, load its module sctp"),
        _ => failed(&error.to_string()),
    }
}

/// The first twelve digits of an id.
pub fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

fn bind(wanted: SocketAddr, protocol: Protocol) -> gantry_linux::Result<(u16, OwnedFd)> {
    let family = if wanted.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        Protocol::Sctp => (SocketType::STREAM, Some(ipproto::SCTP)),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, number).during("bind", wanted)?;
    if wanted.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true).during("bind", wanted)?;
    }
    // Connections of the port that are in TIME_WAIT do not hold it, as for every server; from then on it is ours alone.
    let waits = protocol == Protocol::Tcp && wanted.port() != 0;
    sockopt::set_socket_reuseaddr(&socket, waits).during("bind", wanted)?;
    rustix::net::bind(&socket, &wanted).during("bind", wanted)?;
    sockopt::set_socket_reuseaddr(&socket, false).during("bind", wanted)?;
    let bound = rustix::net::getsockname(&socket).during("bind", wanted)?;
    let bound = SocketAddr::try_from(bound).map_err(|_| Errno::AFNOSUPPORT).during("bind", wanted)?;
    Ok((bound.port(), socket))
}
