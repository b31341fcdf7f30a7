//! Whether the container's questions for names are answered: they are asked from within its network namespace.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use gantry_linux::ResultExt as _;
use libcontainer::network::link::IpFamily;
use libcontainer::network::names::ADDRESS;

use super::{Check, Exam, Finding, Fix, Look, restart};
use crate::Error;
use crate::files::{server, values};
use crate::places::random;

const PORT: u16 = 53;
/// The resolver answers from memory.
const AT_HOME: Duration = Duration::from_secs(2);
/// It gives its servers 4.8 seconds.
const OUTSIDE: Duration = Duration::from_secs(6);
const A: u16 = 1;
const NS: u16 = 2;
const SERVER_FAILURE: u8 = 2;

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Answer {
    code: u8,
    records: u16,
}

impl Exam<'_> {
    pub(super) fn names(&mut self) -> Look {
        let found = |what: String, fix: Fix| {
            let Fix(fix, remedy) = fix;
            Ok(Some(Finding { check: Check::Names, network: String::new(), what, fix, remedy }))
        };
        let Some(socket) = self.patient.datagrams else { return Ok(None) };
        let copy = rustix::io::fcntl_dupfd_cloexec(socket, 3).during("copy", "datagram socket")?;
        let socket = UdpSocket::from(copy);
        let servers: Vec<IpAddr> = values(self.patient.resolv_conf, "nameserver").filter_map(server).collect();
        if servers.is_empty() {
            let fix = "write one there, or remove the line's mistake: nameserver 127.0.0.11";
            return found("the container's /etc/resolv.conf names no server".into(), fix.into());
        }
        let Some(first) = servers.iter().copied().find(IpAddr::is_ipv4) else { return Ok(None) };
        let resolver = first == IpAddr::V4(ADDRESS);
        if let Some(name) = self.patient.known_name.filter(|_| resolver) {
            match ask(&socket, first, name, A, AT_HOME)? {
                Some(Answer { code: 0, records: 1.. }) => {}
                None => {
                    let what = format!("the resolver does not answer the container at {first}");
                    return found(what, restart());
                }
                Some(_) => {
                    let what = format!("the resolver does not know the container's own name {name}");
                    return found(what, "restart the daemon, which tells it again".into());
                }
            }
        }
        let leads_out = self.patient.stays.iter().any(|stay| !stay.driver.info().internal);
        if !leads_out {
            return Ok(None);
        }
        for server in servers.iter().copied().filter(IpAddr::is_ipv4) {
            // Whatever it says, it is there; only that it could not find out is no answer.
            if ask(&socket, server, "", NS, OUTSIDE)?.is_some_and(|answer| answer.code != SERVER_FAILURE) {
                return Ok(None);
            }
        }
        if resolver {
            let what = "none of the servers that the resolver asks for names outside answers".into();
            return found(what, "look at the servers of the host's /etc/resolv.conf, or give others with --dns".into());
        }
        // Packets to those that are beyond the host are forwarded; the resolver asks from the host itself.
        let patient = self.patient;
        let beyond = |server: &IpAddr| !server.is_loopback() && !patient.stays.iter().any(|stay| stay.is_near(*server));
        if servers.iter().filter(|server| server.is_ipv4()).any(beyond) {
            for stay in &patient.stays {
                if let Some(cause) = self.shut(stay, IpFamily::V4, true)? {
                    return Ok(Some(cause));
                }
            }
        }
        let list: Vec<String> = servers.iter().map(ToString::to_string).collect();
        let what = format!("none of the container's name servers answers: {}", list.join(", "));
        found(what, "give others with --dns, or open the way to them".into())
    }
}

/// Asks for the records of a name (the root's name is empty); none when nothing comes back in time.
fn ask(socket: &UdpSocket, server: IpAddr, name: &str, kind: u16, patience: Duration) -> Result<Option<Answer>, Error> {
    let mut id = [0; 2];
    random(&mut id)?;
    let question = question(id, name, kind);
    if socket.send_to(&question, SocketAddr::new(server, PORT)).is_err() {
        // No route there, or a firewall of the container's own.
        return Ok(None);
    }
    let end = Instant::now() + patience;
    let mut buffer = [0; 1500];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left)).during("set timeout of", "datagram socket")?;
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if from.ip() == server => {
                if let Some(answer) = read(&buffer[..length], id) {
                    return Ok(Some(answer));
                }
            }
            // An earlier question's answer, or somebody else's word.
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            // In time, or because nobody listens there.
            Err(_) => return Ok(None),
        }
    }
}

fn question(id: [u8; 2], name: &str, kind: u16) -> Vec<u8> {
    const RECURSE: [u8; 2] = [1, 0];
    let mut packet = [&id[..], &RECURSE, &[0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap_or(0));
        packet.extend_from_slice(label.as_bytes());
    }
    packet.push(0);
    packet.extend_from_slice(&kind.to_be_bytes());
    packet.extend_from_slice(&[0, 1]);
    packet
}

fn read(packet: &[u8], id: [u8; 2]) -> Option<Answer> {
    const RESPONSE: u8 = 0x80;
    let head = packet.get(..12)?;
    let ours = head[..2] == id && head[2] & RESPONSE != 0;
    ours.then(|| Answer { code: head[3] & 0xf, records: u16::from_be_bytes([head[6], head[7]]) })
}
