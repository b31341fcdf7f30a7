//! Where a container's questions for names arrive: sockets in its network namespace that listen on 127.0.0.11, and a
//! table there that makes port 53 of that address theirs.
//!
//! They are bound to a free port, so that a container may serve names itself, on every address at port 53. Two rewrites of
//! the port, without connection tracking, lead there and back: of what goes to 127.0.0.11 before it is tracked, and of what
//! comes from it after, so that a container which tracks its connections sees one.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;

use gantry_linux::netlink::{Message, NFTABLES, Socket, transaction};
use gantry_linux::{Error, Result, ResultExt};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::firewall::expression::{End, Transport, rewrite_port};
use super::link;

/// The address that containers ask.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const PORT: u16 = 53;
const TABLE: &str = "gantry-names";
/// Connections that are accepted one after the other.
const BACKLOG: i32 = 64;

const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// The table belongs to the socket that makes it: the container's own `nft flush ruleset` passes it by.
const OWNED: u32 = 0x2;

/// The sockets. Dropped, the table is gone, where the kernel has owners of tables (5.12).
#[derive(Debug)]
pub struct NameSockets {
    /// Datagrams arrive there.
    pub datagrams: OwnedFd,
    /// Connections arrive there.
    pub connections: OwnedFd,
    /// Owns the table.
    _table: Socket,
}

impl NameSockets {
    /// Opens them in the network namespace of the calling thread, and raises its loopback: before, its addresses are nobody's.
    ///
    /// # Errors
    /// The kernel's refusal, as for a kernel without nf_tables.
    pub fn open() -> Result<Self> {
        Socket::route()?.transact(vec![link::raise(link::LOOPBACK, "lo")])?;
        let datagrams = bound(SocketType::DGRAM)?;
        let connections = bound(SocketType::STREAM)?;
        rustix::net::listen(&connections, BACKLOG).during("listen on", ADDRESS)?;
        let table = load(port_of(&datagrams)?, port_of(&connections)?)?;
        Ok(Self { datagrams, connections, _table: table })
    }
}

fn bound(kind: SocketType) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, kind, flags, None).during("bind", ADDRESS)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(ADDRESS, 0)).during("bind", ADDRESS)?;
    Ok(socket)
}

fn port_of(socket: &OwnedFd) -> Result<u16> {
    let address = rustix::net::getsockname(socket).during("read address of", "socket")?;
    let address = SocketAddr::try_from(address).map_err(|_| Errno::AFNOSUPPORT).during("read address of", "socket")?;
    Ok(address.port())
}

fn load(datagrams: u16, connections: u16) -> Result<Socket> {
    let mut socket = Socket::netfilter()?;
    match socket.transact(transaction(layout(OWNED, datagrams, connections))) {
        Err(error) if is_old(&error) => socket.transact(transaction(layout(0, datagrams, connections)))?,
        other => other?,
    }
    Ok(socket)
}

fn is_old(error: &Error) -> bool {
    matches!(error.errno(), libc::EOPNOTSUPP | libc::EINVAL)
}

fn layout(flags: u32, datagrams: u16, connections: u16) -> Vec<Message> {
    const OUTPUT: u32 = 3;
    let message = |kind| Message::new(NFTABLES << 8 | kind, CREATE | APPEND, &[2, 0, 0, 0]).text(1, TABLE);
    let mut messages =
        vec![Message::new(NFTABLES << 8 | NEW_TABLE, CREATE, &[2, 0, 0, 0]).text(1, TABLE).be32(2, flags)];
    for (chain, priority) in [("asking", -300_i32), ("answering", 300)] {
        let hooked = Message::new(NFTABLES << 8 | NEW_CHAIN, CREATE, &[2, 0, 0, 0]).text(1, TABLE).text(3, chain);
        let hooked = hooked.nest(4, |m| m.be32(1, OUTPUT).attribute(2, priority.to_be_bytes()));
        messages.push(hooked.text(7, "filter"));
    }
    for (transport, port) in [(UDP, datagrams), (TCP, connections)] {
        let ask = rewrite_port(End::Destination, ADDRESS, transport, PORT, port);
        let answer = rewrite_port(End::Source, ADDRESS, transport, port, PORT);
        for (chain, rule) in [("asking", ask), ("answering", answer)] {
            let fill = |m| rule.into_iter().fold(m, |m, expression| expression(m));
            messages.push(message(NEW_RULE).text(2, chain).nest(4, fill));
        }
    }
    messages.into_iter().map(|message| message.named("load nftables table", TABLE)).collect()
}

const TCP: Transport = Transport(6, 16);
const UDP: Transport = Transport(17, 6);

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    fn in_namespace(test: impl FnOnce() + Send + 'static) {
        let body = || {
            gantry_linux::netlink::enter_new_namespace().unwrap();
            test();
        };
        std::thread::spawn(body).join().unwrap();
    }

    /// Answers one datagram and one connection with what was asked.
    fn echo(sockets: &NameSockets) {
        let datagrams = UdpSocket::from(sockets.datagrams.try_clone().unwrap());
        let connections = TcpListener::from(sockets.connections.try_clone().unwrap());
        datagrams.set_nonblocking(false).unwrap();
        connections.set_nonblocking(false).unwrap();
        std::thread::spawn(move || {
            let mut packet = [0; 64];
            let (length, from) = datagrams.recv_from(&mut packet).unwrap();
            datagrams.send_to(&packet[..length], from).unwrap();
            let (mut stream, _) = connections.accept().unwrap();
            stream.read_exact(&mut packet[..5]).unwrap();
            stream.write_all(&packet[..5]).unwrap();
        });
    }

    fn ask() {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        client.connect((ADDRESS, 53)).unwrap();
        client.send(b"hello").unwrap();
        let mut packet = [0; 64];
        assert_eq!(client.recv(&mut packet).unwrap(), 5, "from port 53, or a connected socket does not hear it");
        let mut stream = TcpStream::connect((ADDRESS, 53)).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.read_exact(&mut packet[..5]).unwrap();
    }

    #[test]
    fn port_53_of_the_address_leads_to_the_sockets() {
        in_namespace(|| {
            let sockets = NameSockets::open().unwrap();
            echo(&sockets);
            ask();
        });
    }

    #[test]
    fn a_server_of_the_containers_own_has_port_53_everywhere_else() {
        in_namespace(|| {
            let sockets = NameSockets::open().unwrap();
            let server = UdpSocket::bind("0.0.0.0:53").unwrap();
            let _listener = TcpListener::bind("0.0.0.0:53").unwrap();
            echo(&sockets);
            ask();
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(b"mine", "127.0.0.1:53").unwrap();
            let mut packet = [0; 64];
            let (length, from) = server.recv_from(&mut packet).unwrap();
            assert_eq!(&packet[..length], b"mine");
            server.send_to(b"yours", from).unwrap();
            let (length, from) = client.recv_from(&mut packet).unwrap();
            assert_eq!((&packet[..length], from.port()), (&b"yours"[..], 53));
        });
    }

    #[test]
    fn the_table_is_the_sockets_own() {
        in_namespace(|| {
            let sockets = NameSockets::open().unwrap();
            let delete = || {
                let table = Message::new(NFTABLES << 8 | 2, 0, &[2, 0, 0, 0]).text(1, TABLE);
                Socket::netfilter().unwrap().transact(transaction(vec![table.named("delete", TABLE)]))
            };
            assert_eq!(delete().unwrap_err().errno(), libc::EPERM);
            drop(sockets);
            assert_eq!(delete().unwrap_err().errno(), libc::ENOENT);
        });
    }
}
