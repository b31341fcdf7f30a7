//! Which program of the host uses a port, as the kernel's tables of sockets tell.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use gantry_linux::fs;

use super::table::Span;
use crate::{Error, Protocol};

/// A socket of some program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    pub local: SocketAddr,
    inode: u64,
}

/// The first socket that is in the way of these ports, in the network namespace of the calling thread.
pub fn in_use(span: &Span) -> Result<Option<Socket>, Error> {
    let tables: &[(&str, bool)] = match (span.protocol, span.address) {
        // A socket of IPv6 that is bound to all addresses serves IPv4, too.
        (Protocol::Tcp, IpAddr::V4(_)) => &[("tcp", true), ("tcp6", true)],
        (Protocol::Tcp, IpAddr::V6(_)) => &[("tcp6", true)],
        (Protocol::Udp, IpAddr::V4(_)) => &[("udp", false), ("udp6", false)],
        (Protocol::Udp, IpAddr::V6(_)) => &[("udp6", false)],
        (Protocol::Sctp, _) => &[],
    };
    for (name, listening_only) in tables {
        let text = match fs::read_to_string(format!("/proc/thread-self/net/{name}")) {
            Ok(text) => text,
            // A kernel without IPv6.
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error.into()),
        };
        let meets = |socket: &Socket| {
            let both = socket.local.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            (span.first..=span.last).contains(&socket.local.port()) && (both || span.meets(socket.local.ip()))
        };
        if let Some(socket) = text.lines().skip(1).filter_map(|line| parse(line, *listening_only)).find(meets) {
            return Ok(Some(socket));
        }
    }
    Ok(None)
}

/// Where programs listen in the network namespace of a process; `None` where the process has ended, or the kernel's tables do
/// not tell (SCTP's).
pub fn listeners(process: i32, protocol: Protocol) -> Result<Option<Vec<SocketAddr>>, Error> {
    let (names, listening_only) = match protocol {
        Protocol::Tcp => (["tcp", "tcp6"], true),
        Protocol::Udp => (["udp", "udp6"], false),
        Protocol::Sctp => return Ok(None),
    };
    let mut all = Vec::new();
    for (number, name) in names.into_iter().enumerate() {
        match fs::read_to_string(format!("/proc/{process}/net/{name}")) {
            Ok(text) => {
                let sockets = text.lines().skip(1).filter_map(|line| parse(line, listening_only));
                all.extend(sockets.map(|socket| socket.local));
            }
            // A kernel without IPv6.
            Err(error) if error.is_not_found() && number == 1 => {}
            Err(error) if error.is_not_found() || error.errno() == libc::ESRCH || error.errno() == libc::EINVAL => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Some(all))
}

/// A line of `/proc/net/tcp` and its like: number, local and remote address, state, …, and the inode as the tenth.
fn parse(line: &str, listening_only: bool) -> Option<Socket> {
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace();
    let (address, port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    if listening_only && state != LISTEN {
        return None;
    }
    let inode = fields.nth(5)?.parse().ok()?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, each as the machine reads it.
    let words: Vec<[u8; 4]> = (0..address.len() / 8)
        .filter_map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok())
        .map(u32::to_ne_bytes)
        .collect();
    let ip = match words.as_slice() {
        [four] => IpAddr::V4(Ipv4Addr::from(*four)),
        [a, b, c, d] => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from([*a, *b, *c, *d].concat()).ok()?)),
        _ => return None,
    };
    Some(Socket { local: SocketAddr::new(ip.to_canonical(), port), inode })
}

impl Socket {
    /// Name and number of a process that has the socket; none where it has ended, or is not to be seen.
    pub fn program(&self) -> Option<String> {
        let wanted = format!("socket:[{}]", self.inode);
        let processes = fs::list("/proc").ok()?.into_iter();
        processes.filter_map(|name| name.to_str().and_then(|name| name.parse::<u32>().ok())).find_map(|process| {
            let directory = format!("/proc/{process}/fd");
            let mut descriptors = fs::list(&directory).ok()?.into_iter();
            descriptors.find(|name| {
                let link = fs::read_link(format!("{directory}/{}", name.to_string_lossy()));
                link.is_ok_and(|target| target.as_os_str() == wanted.as_str())
            })?;
            let name = fs::read_to_string(format!("/proc/{process}/comm")).ok()?;
            Some(format!("{} (process {process})", name.trim_end()))
        })
    }
}
