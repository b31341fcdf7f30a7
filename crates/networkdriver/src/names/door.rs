//! The containers' side: their datagrams and connections, by the sockets that listen in their namespaces.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags};

use super::answer::{LONGEST_QUERY, Transport, Verdict, consider};
use super::process::{Process, Source};
use super::query::To;
use super::tcp::{Broken, Stream};

/// Datagrams and connections of one container that are taken before others have their turn.
const AT_ONCE: usize = 16;
/// Connections of one container.
const MOST_CLIENTS: usize = 64;
/// Questions of one connection that are asked outside at the same time; what comes behind them waits.
const MOST_WAITING: usize = 16;
/// A connection on which nothing happens is closed after this time.
const IDLE: Duration = Duration::from_secs(10);

/// A container's sockets.
pub struct Door {
    pub container: Rc<str>,
    pub datagrams: OwnedFd,
    pub connections: OwnedFd,
    /// Everything that is watched for it.
    pub sources: RefCell<HashSet<u64>>,
    /// How many questions of it are asked outside.
    pub queries: Cell<usize>,
    clients: Cell<usize>,
}

/// A connection of a container's.
pub struct Client {
    pub stream: Stream,
    pub door: Rc<Door>,
    pub deadline: Instant,
    /// How many questions of it are asked outside.
    waiting: usize,
}

impl Door {
    pub fn new(container: Rc<str>, datagrams: OwnedFd, connections: OwnedFd) -> Self {
        let (queries, clients, sources) = (Cell::new(0), Cell::new(0), RefCell::default());
        Self { container, datagrams, connections, sources, queries, clients }
    }

    /// Answers a datagram. One that the kernel does not take is as lost as one on a wire.
    pub fn answer(&self, to: SocketAddr, packet: &[u8]) {
        let _ = rustix::net::sendto(&self.datagrams, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, &to);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.door.clients.set(self.door.clients.get() - 1);
    }
}

impl Client {
    fn interest(&self) -> EventFlags {
        let reads = !self.stream.has_ended() && self.waiting < MOST_WAITING && !self.stream.is_full();
        let read = if reads { EventFlags::IN } else { EventFlags::empty() };
        if self.stream.is_full() { read | EventFlags::OUT } else { read }
    }

    fn is_done(&self) -> bool {
        self.stream.has_ended() && self.waiting == 0 && !self.stream.is_full()
    }
}

impl Process {
    pub(super) fn take_datagrams(&mut self, door: &Rc<Door>) {
        for _ in 0..AT_ONCE {
            let received = rustix::net::recvfrom(&door.datagrams, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT);
            let (length, from) = match received {
                Ok((length, _, Some(from))) => (length, from),
                Err(Errno::INTR) => continue,
                // Nothing more, or an error of an earlier answer that concerns nobody now.
                Ok(_) | Err(_) => return,
            };
            let Ok(from) = SocketAddr::try_from(from) else { continue };
            self.obey();
            self.turn = self.turn.wrapping_add(1);
            let packet = &self.buffer[..length];
            match consider(packet, Transport::Udp, &self.world, &door.container, self.turn) {
                Verdict::Reply(answer) => door.answer(from, &answer),
                Verdict::Ignore => {}
                Verdict::Forward(asked) => {
                    let packet = packet.to_vec();
                    if let Err(answer) = self.ask_outside(door, asked, packet, To::Datagram(from)) {
                        door.answer(from, &answer);
                    }
                }
            }
        }
    }

    pub(super) fn take_connections(&mut self, door: &Rc<Door>) {
        for _ in 0..AT_ONCE {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let Ok(socket) = rustix::net::accept_with(&door.connections, flags) else { return };
            if door.clients.get() >= MOST_CLIENTS || self.is_crowded() {
                // Closed, it may come back when others have left.
                continue;
            }
            door.clients.set(door.clients.get() + 1);
            let stream = Stream::new(socket, LONGEST_QUERY);
            let client = Client { stream, door: Rc::clone(door), deadline: Instant::now() + IDLE, waiting: 0 };
            // One that cannot be watched is closed.
            let _ = self.watch(Source::Client(client), EventFlags::IN);
        }
    }

    pub(super) fn hear_client(&mut self, token: u64, events: EventFlags) {
        if events.intersects(EventFlags::HUP | EventFlags::ERR) {
            // Nobody takes an answer any more.
            self.unwatch(token);
            return;
        }
        let heard = match self.sources.get_mut(&token) {
            Some(Source::Client(client)) => client.stream.flush().and_then(|()| client.stream.receive()),
            _ => return,
        };
        let answered = heard.and_then(|()| self.answer_client(token));
        self.settle_client(token, answered);
    }

    /// Answers what has come, unless too much of it waits for servers outside.
    fn answer_client(&mut self, token: u64) -> Result<(), Broken> {
        loop {
            let Some(Source::Client(client)) = self.sources.get_mut(&token) else { return Ok(()) };
            if client.waiting >= MOST_WAITING || client.stream.is_full() {
                return Ok(());
            }
            let Some(packet) = client.stream.next()? else { return Ok(()) };
            let door = Rc::clone(&client.door);
            self.obey();
            let Some(Source::Client(client)) = self.sources.get_mut(&token) else { return Ok(()) };
            self.turn = self.turn.wrapping_add(1);
            match consider(&packet, Transport::Tcp, &self.world, &door.container, self.turn) {
                Verdict::Reply(answer) => client.stream.send(&answer)?,
                // Whoever sends such a thing is no client.
                Verdict::Ignore => return Err(Broken),
                Verdict::Forward(asked) => {
                    client.waiting += 1;
                    if let Err(answer) = self.ask_outside(&door, asked, packet, To::Stream(token)) {
                        self.send_client(token, &answer)?;
                    }
                }
            }
        }
    }

    fn send_client(&mut self, token: u64, answer: &[u8]) -> Result<(), Broken> {
        let Some(Source::Client(client)) = self.sources.get_mut(&token) else { return Ok(()) };
        client.waiting = client.waiting.saturating_sub(1);
        client.stream.send(answer)
    }

    /// Gives a connection the answer that it waits for, and reads on.
    pub(super) fn answer_stream(&mut self, token: u64, answer: &[u8]) {
        let sent = self.send_client(token, answer).and_then(|()| self.answer_client(token));
        self.settle_client(token, sent);
    }

    fn settle_client(&mut self, token: u64, so_far: Result<(), Broken>) {
        let Some(Source::Client(client)) = self.sources.get_mut(&token) else { return };
        if so_far.is_err() || client.is_done() {
            self.unwatch(token);
            return;
        }
        let earlier = client.deadline;
        client.deadline = Instant::now() + IDLE;
        let interest = client.interest();
        self.watch_again(token, Some(earlier), interest);
    }
}
