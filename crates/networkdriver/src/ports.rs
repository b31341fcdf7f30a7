//! The host's ports that containers publish. Each one is held by a bound socket, so that other programs of the host are
//! told that it is in use; the socket never sees a packet, the firewall sends them on before.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use gantry_linux::ResultExt as _;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::{Error, Protocol, PublishPort, PublishedPort};

type Key = (Protocol, u16);
type Table = Arc<Mutex<HashMap<Key, Vec<(Ipv4Addr, String)>>>>;

/// Who holds which port, on which address.
#[derive(Debug, Clone, Default)]
pub struct Ports {
    table: Table,
}

/// A port that is taken for as long as this lives.
#[derive(Debug)]
pub struct Lease {
    /// The port as it is published.
    pub port: PublishedPort,
    address: Ipv4Addr,
    table: Table,
    _held: Option<OwnedFd>,
}

impl Ports {
    /// Takes the first free port of the request.
    pub fn take(&self, container: &str, wanted: &PublishPort) -> Result<Lease, Error> {
        let address = checked(wanted)?;
        let mut failure = None;
        for number in wanted.host_port..=wanted.host_port_end.max(wanted.host_port) {
            match self.take_one(container, wanted, address, number) {
                Ok(lease) => return Ok(lease),
                Err(error) => failure = Some(error),
            }
        }
        let failure = failure.unwrap_or_else(|| Error::Invalid("empty range of host ports".into()));
        if wanted.host_port_end <= wanted.host_port {
            return Err(failure);
        }
        let (first, last) = (wanted.host_port, wanted.host_port_end);
        Err(Error::Exhausted(format!("no free port among {address}:{first}-{last}; the last one failed: {failure}")))
    }

    /// Takes a port again that an endpoint has had all the time. Another program may have bound it while no daemon
    /// held it; the firewall's element comes first all the same, so that is only told.
    pub fn retake(&self, container: &str, port: &PublishedPort) -> Result<Lease, Error> {
        let wanted = PublishPort {
            container_port: port.container_port,
            protocol: port.protocol,
            host_ip: port.host_ip,
            host_port: port.host_port,
            host_port_end: port.host_port,
        };
        let address = checked(&wanted)?;
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        vacant(&table, address, port.protocol, port.host_port)?;
        let held = match bind(address, port.protocol, port.host_port) {
            Ok((_, socket)) => Some(socket),
            Err(error) => {
                tracing::warn!(container, %address, port = port.host_port, %error, "published port is bound by another program");
                None
            }
        };
        table.entry((port.protocol, port.host_port)).or_default().push((address, container.into()));
        Ok(Lease { port: port.clone(), address, table: Arc::clone(&self.table), _held: held })
    }

    fn take_one(&self, container: &str, wanted: &PublishPort, address: Ipv4Addr, number: u16) -> Result<Lease, Error> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if number != 0 {
            vacant(&table, address, wanted.protocol, number)?;
        }
        // Port 0 lets the kernel choose from its ephemeral range.
        let (number, socket) = bind(address, wanted.protocol, number).map_err(|error| match error.errno() {
            libc::EADDRINUSE => {
                Error::Conflict(format!("Bind for {address}:{number} failed: port is already allocated"))
            }
            libc::EADDRNOTAVAIL => {
                Error::Invalid(format!("Bind for {address}:{number} failed: no interface of the host has this address"))
            }
            _ => error.into(),
        })?;
        table.entry((wanted.protocol, number)).or_default().push((address, container.into()));
        let port = PublishedPort {
            container_port: wanted.container_port,
            protocol: wanted.protocol,
            host_ip: address.into(),
            host_port: number,
        };
        Ok(Lease { port, address, table: Arc::clone(&self.table), _held: Some(socket) })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (self.port.protocol, self.port.host_port);
        if let Some(holders) = table.get_mut(&key) {
            holders.retain(|(address, _)| *address != self.address);
            if holders.is_empty() {
                table.remove(&key);
            }
        }
    }
}

fn checked(wanted: &PublishPort) -> Result<Ipv4Addr, Error> {
    if wanted.container_port == 0 {
        return Err(Error::Invalid("invalid container port: 0".into()));
    }
    match wanted.host_ip {
        IpAddr::V4(address) => Ok(address),
        IpAddr::V6(address) => Err(Error::Invalid(format!(
            "cannot publish port {} on {address}: the bridge has IPv4 only, give an IPv4 address",
            wanted.container_port
        ))),
    }
}

/// A port on all addresses conflicts with the same port on any.
fn vacant(
    table: &HashMap<Key, Vec<(Ipv4Addr, String)>>,
    address: Ipv4Addr,
    protocol: Protocol,
    number: u16,
) -> Result<(), Error> {
    let holders = table.get(&(protocol, number)).map(Vec::as_slice).unwrap_or_default();
    let clash = |other: Ipv4Addr| other == address || other.is_unspecified() || address.is_unspecified();
    match holders.iter().find(|(other, _)| clash(*other)) {
        None => Ok(()),
        Some((_, holder)) => Err(Error::Conflict(format!(
            "Bind for {address}:{number} failed: port is already allocated, by container {}",
            short(holder)
        ))),
    }
}

/// The first twelve digits of an id.
pub fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}

fn bind(address: Ipv4Addr, protocol: Protocol, number: u16) -> gantry_linux::Result<(u16, OwnedFd)> {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let wanted = SocketAddrV4::new(address, number);
    let socket =
        rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None).during("bind", wanted)?;
    // Connections of the port that are in TIME_WAIT do not hold it, as for every server; from then on it is ours alone.
    let waits = protocol == Protocol::Tcp && number != 0;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, waits).during("bind", wanted)?;
    rustix::net::bind(&socket, &wanted).during("bind", wanted)?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, false).during("bind", wanted)?;
    let bound = rustix::net::getsockname(&socket).during("bind", wanted)?;
    let bound = SocketAddrV4::try_from(bound).map_err(|_| Errno::AFNOSUPPORT).during("bind", wanted)?;
    Ok((bound.port(), socket))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn in_namespace(test: impl FnOnce() + Send + 'static) {
        let body = || {
            gantry_linux::netlink::enter_new_namespace().unwrap();
            let mut socket = gantry_linux::netlink::Socket::route().unwrap();
            socket.transact(vec![libcontainer::network::link::raise(1, "lo")]).unwrap();
            test();
        };
        std::thread::spawn(body).join().unwrap();
    }

    fn wanted(ip: [u8; 4], port: u16, end: u16) -> PublishPort {
        let (protocol, host_ip) = (Protocol::Tcp, IpAddr::from(ip));
        PublishPort { container_port: 80, protocol, host_ip, host_port: port, host_port_end: end }
    }

    #[test]
    fn a_held_port_is_in_use_for_other_programs_and_free_after() {
        in_namespace(|| {
            let ports = Ports::default();
            let lease = ports.take("c", &wanted([0; 4], 8080, 8080)).unwrap();
            assert!(TcpListener::bind("127.0.0.1:8080").is_err());
            assert!(UdpSocket::bind("127.0.0.1:8080").is_ok());
            drop(lease);
            assert!(TcpListener::bind("127.0.0.1:8080").is_ok());
            assert!(ports.table.lock().unwrap().is_empty());
        });
    }

    #[test]
    fn connections_in_time_wait_do_not_hold_a_port() {
        in_namespace(|| {
            let server = TcpListener::bind("127.0.0.1:8080").unwrap();
            let mut client = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
            // Whoever closes first is the one that waits: the server's side.
            drop((server.accept().unwrap(), server));
            assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
            drop(client);
            let _lease = Ports::default().take("c", &wanted([0; 4], 8080, 8080)).unwrap();
            assert!(TcpListener::bind("127.0.0.1:8080").is_err(), "std asks for SO_REUSEADDR, too");
            assert!(TcpListener::bind("0.0.0.0:8080").is_err());
        });
    }

    #[test]
    fn conflicts_name_the_address_and_the_holder() {
        in_namespace(|| {
            let ports = Ports::default();
            let any = ports.take("0123456789abcdef", &wanted([0; 4], 80, 80)).unwrap();
            let text = ports.take("d", &wanted([127, 0, 0, 1], 80, 80)).unwrap_err().to_string();
            assert!(text.starts_with("Bind for 127.0.0.1:80 failed: port is already allocated"), "{text}");
            assert!(text.ends_with("0123456789ab"), "{text}");
            drop(any);
            let _one = ports.take("a", &wanted([127, 0, 0, 1], 80, 80)).unwrap();
            let _two = ports.take("b", &wanted([127, 0, 0, 2], 80, 80)).unwrap();
            assert!(matches!(ports.take("c", &wanted([0; 4], 80, 80)), Err(Error::Conflict(_))));
            let udp = PublishPort { protocol: Protocol::Udp, ..wanted([0; 4], 80, 80) };
            assert!(ports.take("c", &udp).is_ok());
        });
    }

    #[test]
    fn a_port_of_another_program_is_a_conflict_and_a_range_goes_past_it() {
        in_namespace(|| {
            let _program = TcpListener::bind("127.0.0.1:9000").unwrap();
            let ports = Ports::default();
            assert!(matches!(ports.take("c", &wanted([0; 4], 9000, 9000)), Err(Error::Conflict(_))));
            let lease = ports.take("c", &wanted([0; 4], 9000, 9001)).unwrap();
            assert_eq!(lease.port.host_port, 9001);
            let error = ports.take("d", &wanted([0; 4], 9000, 9001)).unwrap_err();
            assert!(matches!(&error, Error::Exhausted(text) if text.contains("9000-9001")), "{error}");
        });
    }

    #[test]
    fn random_ports_come_from_the_ephemeral_range_and_differ() {
        in_namespace(|| {
            let ports = Ports::default();
            let leases: Vec<_> = (0..50).map(|_| ports.take("c", &wanted([0; 4], 0, 0)).unwrap()).collect();
            let mut numbers: Vec<u16> = leases.iter().map(|lease| lease.port.host_port).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), 50);
            assert!(numbers[0] >= 32768 && numbers[49] <= 60999);
        });
    }

    #[test]
    fn nonsense_is_refused() {
        let ports = Ports::default();
        let six = PublishPort { host_ip: "::1".parse().unwrap(), ..wanted([0; 4], 80, 80) };
        assert!(matches!(ports.take("c", &six), Err(Error::Invalid(_))));
        let zero = PublishPort { container_port: 0, ..wanted([0; 4], 80, 80) };
        assert!(matches!(ports.take("c", &zero), Err(Error::Invalid(_))));
    }
}
