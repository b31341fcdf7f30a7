//! What other programs change, told by the kernel as it happens.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, socket_with};

use super::socket::answers;
use super::{Reply, Socket};
use crate::{Result, ResultExt};

/// nf_tables' group among those of nfnetlink.
const NFTABLES_GROUP: u32 = 7;
/// A flush of a large table is thousands of messages.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
const PACKET: usize = 64 * 1024;

/// A subscription.
#[derive(Debug)]
pub struct Events {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Events {
    /// The changes of nf_tables in the calling thread's network namespace, but those of one socket, which has sent
    /// something already: they do not even wake the reader.
    pub fn nftables(but: &Socket) -> Result<Self> {
        let what = "nf_tables changes";
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))
            .during("subscribe to", what)?;
        set_socket_recv_buffer_size_force(&fd, RECEIVE_BUFFER).during("subscribe to", what)?;
        pass_over(&fd, but.port()?)?;
        bind(&fd, &netlink::SocketAddrNetlink::new(0, 1 << (NFTABLES_GROUP - 1))).during("subscribe to", what)?;
        Ok(Self { fd, buffer: vec![0; PACKET] })
    }

    /// What has come so far, without waiting; `None` when some of it was lost.
    pub fn read(&mut self) -> Result<Option<Vec<Reply>>> {
        let mut all = Vec::new();
        loop {
            match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::empty()) {
                Ok((_, length)) => {
                    let packet = answers(&self.buffer[..length.min(PACKET)]).into_iter();
                    all.extend(packet.map(|answer| Reply { kind: answer.kind, body: answer.body }));
                }
                Err(Errno::AGAIN) => return Ok(Some(all)),
                Err(Errno::INTR) => {}
                Err(Errno::NOBUFS) => return Ok(None),
                Err(error) => return Err(error).during("read", "nf_tables changes"),
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Has the kernel leave out what the socket with this port caused.
fn pass_over(fd: &OwnedFd, port: u32) -> Result<()> {
    const PORT_IN_HEADER: u32 = 12;
    let step = |code: u32, jump: u8, value: u32| libc::sock_filter {
        code: u16::try_from(code).unwrap_or(0),
        jt: 0,
        jf: jump,
        k: value,
    };
    // The program reads numbers in network byte order.
    let port = u32::from_be_bytes(port.to_ne_bytes());
    let mut program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, PORT_IN_HEADER),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, port),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    ];
    let length = u16::try_from(program.len()).unwrap_or(0);
    let filter = libc::sock_fprog { len: length, filter: program.as_mut_ptr() };
    let size = libc::socklen_t::try_from(size_of_val(&filter)).unwrap_or(0);
    // SAFETY: the descriptor is open; the kernel reads `size` bytes of `filter` and the program that it points to,
    // which both outlive the call, and copies them.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const filter).cast(), size)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).during("attach filter to", "netlink socket") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Message, NFTABLES, enter_new_namespace, transaction};

    #[test]
    fn changes_of_others_are_told_and_those_of_ones_own_socket_are_not() {
        let body = || {
            enter_new_namespace().unwrap();
            let table = |name: &str| Message::new(NFTABLES << 8, 0x400, &[2, 0, 0, 0]).text(1, name);
            let (mut own, mut other) = (Socket::netfilter().unwrap(), Socket::netfilter().unwrap());
            own.transact(transaction(vec![table("first")])).unwrap();
            let mut events = Events::nftables(&own).unwrap();
            own.transact(transaction(vec![table("mine")])).unwrap();
            assert!(events.read().unwrap().unwrap().is_empty());
            other.transact(transaction(vec![table("theirs")])).unwrap();
            let seen = events.read().unwrap().unwrap();
            assert!(seen.iter().any(|event| event.attributes(4).text(1).as_deref() == Some("theirs")), "{seen:?}");
        };
        std::thread::spawn(body).join().unwrap();
    }
}
