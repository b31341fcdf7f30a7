//! A netlink socket: requests in one packet, their acknowledgements, and dumps.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_send_buffer_size_force, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use super::message::flag;
use super::{Attributes, Message, Reply};
use crate::{Error, Result, ResultExt};

const HEADER: usize = 16;
/// The kernel answers before `send` returns; whoever waits this long waits for nothing.
const DEADLINE: Duration = Duration::from_secs(10);
/// A transaction of ten thousand elements is one packet.
const SEND_BUFFER: usize = 16 * 1024 * 1024;
const RECEIVE_BUFFER: usize = 64 * 1024;
const TEXT: u16 = 1;
/// How often a dump is begun anew because the kernel's list changed under it.
const DUMPS: usize = 8;

/// Counted for the whole process, so that copies of one socket never take each other's answers for their own.
static SEQUENCE: AtomicU32 = AtomicU32::new(1);

/// A blocking netlink socket.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens `NETLINK_ROUTE` in the calling thread's network namespace.
    pub fn route() -> Result<Self> {
        // Route is protocol 0, which is what no protocol means.
        Self::open(None)
    }

    /// Opens `NETLINK_NETFILTER` in the calling thread's network namespace.
    pub fn netfilter() -> Result<Self> {
        let socket = Self::open(Some(netlink::NETFILTER))?;
        set_socket_send_buffer_size_force(&socket.fd, SEND_BUFFER).during("set send buffer of", "netlink socket")?;
        Ok(socket)
    }

    /// Uses a socket that somebody else opened, perhaps in another namespace. Nobody else may use it meanwhile.
    pub fn borrowed(fd: BorrowedFd<'_>) -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd, 3).during("copy", "netlink socket")?;
        Self::prepare(fd)
    }

    fn open(protocol: Option<rustix::net::Protocol>) -> Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)
            .during("open", "netlink socket")?;
        Self::prepare(fd)
    }

    fn prepare(fd: OwnedFd) -> Result<Self> {
        set_option(&fd, libc::NETLINK_EXT_ACK)?;
        set_option(&fd, libc::NETLINK_CAP_ACK)?;
        // Older than 4.20, or not for this protocol: then the kernel only checks less.
        let _less_checked = set_option(&fd, libc::NETLINK_GET_STRICT_CHK);
        set_socket_timeout(&fd, Timeout::Recv, Some(DEADLINE)).during("set timeout of", "netlink socket")?;
        Ok(Self { fd, buffer: vec![0; RECEIVE_BUFFER] })
    }

    /// The socket itself, to be passed on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// The number that the kernel has given the socket, with which it marks what the socket caused.
    pub fn port(&self) -> Result<u32> {
        let address = rustix::net::getsockname(&self.fd).during("read address of", "netlink socket")?;
        let address = netlink::SocketAddrNetlink::try_from(address).during("read address of", "netlink socket")?;
        Ok(address.pid())
    }

    /// Sends all messages in one packet and waits until the kernel has answered. The kernel goes through them in
    /// order, and goes on after one that fails; the first failure is returned. Only nf_tables messages inside
    /// [`super::transaction`] are done together or not at all.
    pub fn transact(&mut self, mut messages: Vec<Message>) -> Result<()> {
        // Failures are always reported, in order; so the acknowledgement of the last message stands for all.
        let Some(last) = messages.iter().rposition(|message| !message.frame) else {
            return Ok(());
        };
        let asked = std::mem::replace(&mut messages[last], Message::new(0, 0, &[]));
        messages[last] = asked.flags(flag(libc::NLM_F_ACK));
        let first = self.send(&mut messages)?;
        let mut failure = None;
        loop {
            let answers = self.receive(&messages[last])?;
            for (index, answer) in answers.into_iter().filter_map(|a| Some((position(first, &a, &messages)?, a))) {
                if answer.kind != ERROR {
                    continue;
                }
                if let Err(error) = verdict(&answer.body, answer.flags, &messages[index]) {
                    failure.get_or_insert(error);
                    // The whole transaction was refused: no message of it is answered any more.
                    if messages[index].frame {
                        return failure.map_or(Ok(()), Err);
                    }
                }
                if index == last {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Asks for one object.
    pub fn get(&mut self, message: Message) -> Result<Reply> {
        let mut messages = [message.flags(flag(libc::NLM_F_ACK))];
        let first = self.send(&mut messages)?;
        let mut found = None;
        loop {
            for answer in self.receive(&messages[0])? {
                if position(first, &answer, &messages).is_none() {
                    continue;
                }
                if answer.kind != ERROR {
                    found = Some(Reply { kind: answer.kind, body: answer.body });
                    continue;
                }
                verdict(&answer.body, answer.flags, &messages[0])?;
                let Message { operation, subject, .. } = &messages[0];
                return found.ok_or_else(|| Error::new(operation, subject, Errno::NODATA));
            }
        }
    }

    /// Asks for a list of objects; begun again when the list changed meanwhile.
    pub fn dump(&mut self, message: &Message) -> Result<Vec<Reply>> {
        self.dump_where(message, |_| true)
    }

    /// The objects of a list that are wanted: of one without end no more is held than these.
    pub fn dump_where(&mut self, message: &Message, wanted: impl Fn(&Reply) -> bool) -> Result<Vec<Reply>> {
        for _ in 0..DUMPS {
            if let Some(replies) = self.dump_once(message.clone(), &wanted)? {
                return Ok(replies);
            }
        }
        Err(Error::new(message.operation, format!("{}: it keeps changing", message.subject), Errno::INTR))
    }

    fn dump_once(&mut self, message: Message, wanted: impl Fn(&Reply) -> bool) -> Result<Option<Vec<Reply>>> {
        let mut messages = [message.flags(flag(libc::NLM_F_DUMP))];
        let first = self.send(&mut messages)?;
        let (mut replies, mut whole) = (Vec::new(), true);
        loop {
            for answer in self.receive(&messages[0])? {
                if position(first, &answer, &messages).is_none() {
                    continue;
                }
                whole &= answer.flags & flag(libc::NLM_F_DUMP_INTR) == 0;
                match answer.kind {
                    ERROR | DONE => {
                        verdict(&answer.body, answer.flags, &messages[0])?;
                        return Ok(whole.then_some(replies));
                    }
                    kind => replies.extend(Some(Reply { kind, body: answer.body }).filter(&wanted)),
                }
            }
        }
    }

    /// Sends the messages as one packet; the first one's sequence number.
    fn send(&mut self, messages: &mut [Message]) -> Result<u32> {
        let count = u32::try_from(messages.len()).unwrap_or(u32::MAX);
        let first = SEQUENCE.fetch_add(count, Ordering::Relaxed);
        let mut packet = Vec::new();
        for (sequence, message) in messages.iter_mut().enumerate() {
            message.seal(first.wrapping_add(u32::try_from(sequence).unwrap_or(0)));
            if message.too_long {
                return Err(Error::new(message.operation, message.subject.as_str(), Errno::MSGSIZE));
            }
            packet.extend_from_slice(&message.bytes);
        }
        let to = netlink::SocketAddrNetlink::new(0, 0);
        loop {
            match rustix::net::sendto(&self.fd, &packet, SendFlags::NOSIGNAL, &to) {
                Ok(_) => return Ok(first),
                Err(Errno::INTR) => {}
                Err(error) => {
                    let Message { operation, subject, .. } = &messages[0];
                    return Err(Error::new(operation, subject, error));
                }
            }
        }
    }

    fn receive(&mut self, asked: &Message) -> Result<Vec<Answer>> {
        let (length, whole) = loop {
            match rustix::net::recv(&self.fd, self.buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok((_, whole)) => break (whole.min(self.buffer.len()), whole),
                Err(Errno::INTR) => {}
                Err(error) => return Err(Error::new(asked.operation, asked.subject.as_str(), error)),
            }
        };
        if whole > length {
            self.buffer.resize(whole.next_power_of_two(), 0);
            return Err(Error::new(asked.operation, format!("{}: answer cut short", asked.subject), Errno::MSGSIZE));
        }
        Ok(answers(&self.buffer[..length]))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

const ERROR: u16 = 2;
const DONE: u16 = 3;

pub(super) struct Answer {
    pub(super) kind: u16,
    flags: u16,
    sequence: u32,
    pub(super) body: Vec<u8>,
}

pub(super) fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut all = Vec::new();
    while let Some(header) = bytes.get(..HEADER) {
        let u16_at = |at| u16::from_ne_bytes([header[at], header[at + 1]]);
        let u32_at = |at| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = u32_at(0) as usize;
        let Some(body) = bytes.get(HEADER..length) else { break };
        all.push(Answer { kind: u16_at(4), flags: u16_at(6), sequence: u32_at(8), body: body.to_vec() });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    all
}

/// Which of the messages is answered; none when it is a late answer to somebody else's.
fn position(first: u32, answer: &Answer, messages: &[Message]) -> Option<usize> {
    let index = answer.sequence.wrapping_sub(first) as usize;
    (index < messages.len()).then_some(index)
}

/// Reads an acknowledgement: error number, the request's header, and the kernel's words about it.
fn verdict(body: &[u8], flags: u16, message: &Message) -> Result<()> {
    let number = body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if number == 0 {
        return Ok(());
    }
    let mut subject = message.subject.clone();
    if flags & flag(libc::NLM_F_ACK_TLVS) != 0
        && let Some(text) = Attributes::new(body.get(4 + HEADER..).unwrap_or_default()).text(TEXT)
    {
        subject = format!("{subject} ({text})");
    }
    Err(Error::new(message.operation, subject, std::io::Error::from_raw_os_error(-number)))
}

fn set_option(fd: &OwnedFd, option: i32) -> Result<()> {
    let on: i32 = 1;
    let size = libc::socklen_t::try_from(size_of::<i32>()).expect("four bytes");
    // SAFETY: the descriptor is open and the kernel reads `size` bytes of `on`, which outlives the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const on).cast(), size) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()).during("set option of", "netlink socket") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET_LINK: u16 = libc::RTM_GETLINK;
    const SET_LINK: u16 = libc::RTM_NEWLINK;

    fn link_header(index: i32, up: bool) -> Vec<u8> {
        let flags = u32::from(up);
        [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &flags.to_ne_bytes()].concat()
    }

    fn in_namespace(test: impl FnOnce() + Send + 'static) {
        std::thread::spawn(|| {
            super::super::enter_new_namespace().unwrap();
            test();
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_new_namespace_has_one_link_and_it_can_be_brought_up_through_a_borrowed_socket() {
        in_namespace(|| {
            let socket = Socket::route().unwrap();
            let mut borrowed = Socket::borrowed(socket.as_fd()).unwrap();
            borrowed.transact(vec![Message::new(SET_LINK, 0, &link_header(1, true))]).unwrap();
            let links = borrowed.dump(&Message::new(GET_LINK, 0, &link_header(0, false))).unwrap();
            let names: Vec<_> = links.iter().filter_map(|l| l.attributes(16).text(libc::IFLA_IFNAME)).collect();
            assert_eq!(names, ["lo"]);
            assert_eq!(links[0].number_at(8) & 1, 1, "lo is up");
        });
    }

    #[test]
    fn the_first_failure_of_a_batch_is_told_with_its_object_and_errno() {
        in_namespace(|| {
            let mut socket = Socket::route().unwrap();
            let batch = vec![
                Message::new(SET_LINK, 0, &link_header(1, true)).named("raise", "lo"),
                Message::new(SET_LINK, 0, &link_header(77, true)).named("raise", "link 77"),
                Message::new(SET_LINK, 0, &link_header(78, true)).named("raise", "link 78"),
            ];
            let error = socket.transact(batch).unwrap_err();
            assert_eq!(error.errno(), libc::ENODEV);
            assert!(error.to_string().starts_with("raise link 77"), "{error}");
            let lo = socket.get(Message::new(GET_LINK, 0, &link_header(1, false))).unwrap();
            assert_eq!(lo.number_at(8) & 1, 1, "the message before it was carried out");
            assert_eq!(
                socket.get(Message::new(GET_LINK, 0, &link_header(9, false))).unwrap_err().errno(),
                libc::ENODEV
            );
        });
    }

    #[test]
    fn a_transaction_is_carried_out_whole_or_not_at_all() {
        in_namespace(|| {
            let mut socket = Socket::netfilter().unwrap();
            let header = [2, 0, 0, 0];
            let table = |name: &str| Message::new(NEW_TABLE, 0, &header).text(1, name).named("make table", name);
            let delete = Message::new(DELETE_TABLE, 0, &header).text(1, "absent").named("delete table", "absent");
            let error = socket.transact(super::super::transaction(vec![table("a"), delete, table("b")])).unwrap_err();
            assert_eq!(error.errno(), libc::ENOENT);
            assert!(error.to_string().starts_with("delete table absent"), "{error}");
            let list = |socket: &mut Socket| socket.dump(&Message::new(GET_TABLE, 0, &header)).unwrap().len();
            assert_eq!(list(&mut socket), 0);
            socket.transact(super::super::transaction(vec![table("a"), table("b")])).unwrap();
            assert_eq!(list(&mut socket), 2);
        });
    }

    const NEW_TABLE: u16 = super::super::NFTABLES << 8;
    const GET_TABLE: u16 = NEW_TABLE + 1;
    const DELETE_TABLE: u16 = NEW_TABLE + 2;
}
