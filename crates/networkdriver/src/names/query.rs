//! The other side: questions that servers outside are asked, one server after the other.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::answer::{Asked, Judged};
use super::door::Door;
use super::process::{Process, Source};
use super::tcp::Stream;
use super::world::Upstream;

/// Questions of one container that are under way; further ones fail at once.
const MOST_OF_ONE: usize = 128;
/// Questions of all.
const MOST_OF_ALL: usize = 4096;
/// C libraries ask again after five seconds: until then a question has its answer, or its failure.
const PATIENCE: Duration = Duration::from_millis(4800);
/// How long a server is waited for while there is another one.
const PER_SERVER: Duration = Duration::from_millis(1500);
/// Packets on the socket of one question that are looked at before others have their turn.
const AT_ONCE: usize = 8;

/// Who waits for the answer.
#[derive(Debug, Clone, Copy)]
pub enum To {
    /// Whoever sent a datagram from there.
    Datagram(SocketAddr),
    /// A connection, by its token.
    Stream(u64),
}

/// A question that is under way, with a socket of its own: its port is the kernel's choice, and only the server that it
/// is connected to is heard.
pub struct Query {
    pub door: Rc<Door>,
    /// When this server is given up.
    pub deadline: Instant,
    asked: Asked,
    /// With a number of ours.
    packet: Vec<u8>,
    id: u16,
    to: To,
    way: Way,
    servers: Rc<[SocketAddr]>,
    at: usize,
    /// When the question is given up.
    end: Instant,
    /// What a server said that could not answer.
    refusal: Option<Vec<u8>>,
}

enum Way {
    Datagram(OwnedFd),
    Stream(Stream),
}

/// What a server's socket says.
enum Heard {
    Nothing,
    /// To be sent on, when there is room.
    Writing,
    Answer(Vec<u8>),
    Truncated(Vec<u8>),
    /// With what it said, if it said something.
    Failed(Option<Vec<u8>>),
}

impl Query {
    pub fn fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Datagram(socket) => socket.as_fd(),
            Way::Stream(stream) => stream.as_fd(),
        }
    }

    /// Listens to the server, without waiting.
    fn hear(&mut self, buffer: &mut [u8]) -> Heard {
        match &mut self.way {
            Way::Datagram(socket) => {
                for _ in 0..AT_ONCE {
                    let length = match rustix::net::recv(&*socket, &mut *buffer, RecvFlags::DONTWAIT) {
                        Ok((length, _)) => length,
                        Err(Errno::INTR) => continue,
                        Err(Errno::AGAIN) => return Heard::Nothing,
                        // As when no server is there.
                        Err(_) => return Heard::Failed(None),
                    };
                    if let Some(judged) = self.asked.judge(&buffer[..length], self.id) {
                        return heard(judged, buffer[..length].to_vec());
                    }
                }
                Heard::Nothing
            }
            Way::Stream(stream) => {
                if stream.flush().and_then(|()| stream.receive()).is_err() {
                    return Heard::Failed(None);
                }
                match stream.next() {
                    Ok(Some(answer)) => match self.asked.judge(&answer, self.id) {
                        Some(Judged::Failed) => Heard::Failed(Some(answer)),
                        Some(_) => Heard::Answer(answer),
                        None => Heard::Failed(None),
                    },
                    Ok(None) if !stream.has_ended() && stream.is_full() => Heard::Writing,
                    Ok(None) if !stream.has_ended() => Heard::Nothing,
                    _ => Heard::Failed(None),
                }
            }
        }
    }

    fn wait(&mut self) {
        let now = Instant::now();
        let last = self.at + 1 >= self.servers.len();
        self.deadline = if last { self.end } else { self.end.min(now + PER_SERVER) };
    }

    /// Asks the server whose turn it is, or those after it where that fails at once. `false`: none is left.
    fn ask(&mut self) -> bool {
        let Some((at, socket)) = send_to_first(&self.servers, self.at, &self.packet) else { return false };
        self.at = at;
        self.way = Way::Datagram(socket);
        self.wait();
        true
    }

    /// Asks the same server again, by a connection.
    fn ask_by_stream(&mut self) -> bool {
        let Some(server) = self.servers.get(self.at).copied() else { return false };
        let Ok(socket) = connected(server, SocketType::STREAM) else { return false };
        let mut stream = Stream::new(socket, usize::from(u16::MAX));
        let sent = stream.send(&self.packet).is_ok();
        self.way = Way::Stream(stream);
        self.wait();
        sent
    }
}

fn heard(judged: Judged, answer: Vec<u8>) -> Heard {
    match judged {
        Judged::Good => Heard::Answer(answer),
        Judged::Truncated => Heard::Truncated(answer),
        Judged::Failed => Heard::Failed(Some(answer)),
    }
}

/// Sends to the first server from this one on that can be sent to; which one it is.
fn send_to_first(servers: &[SocketAddr], from: usize, packet: &[u8]) -> Option<(usize, OwnedFd)> {
    servers.iter().enumerate().skip(from).find_map(|(at, server)| {
        let socket = connected(*server, SocketType::DGRAM).ok()?;
        rustix::net::send(&socket, packet, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).ok()?;
        Some((at, socket))
    })
}

fn connected(server: SocketAddr, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match rustix::net::connect(&socket, &server) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error),
    }
}

impl Process {
    /// Asks servers outside. An error is the answer that says so: it cannot be asked, or too much is asked already.
    pub(super) fn ask_outside(
        &mut self,
        door: &Rc<Door>,
        asked: Asked,
        mut packet: Vec<u8>,
        to: To,
    ) -> Result<(), Vec<u8>> {
        let failure = asked.failure();
        if door.queries.get() >= MOST_OF_ONE || self.queries >= MOST_OF_ALL || self.is_crowded() {
            return Err(failure);
        }
        let servers: Rc<[SocketAddr]> = match self.world.resident(&door.container).map(|resident| &resident.upstream) {
            Some(Upstream::Host) => self.servers.list().into(),
            Some(Upstream::Servers(own)) => own.iter().map(|ip| SocketAddr::from((*ip, 53))).collect(),
            Some(Upstream::Nowhere) | None => return Err(failure),
        };
        let mut random = [0; 2];
        // Only a kernel whose random numbers are not ready yet refuses, and then nothing is asked that could be guessed.
        let random_read = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
        let (Ok(2), Some(id)) = (random_read, packet.first_chunk_mut::<2>()) else { return Err(failure) };
        *id = random;
        let Some((at, socket)) = send_to_first(&servers, 0, &packet) else { return Err(failure) };
        let now = Instant::now();
        let mut query = Box::new(Query {
            door: Rc::clone(door),
            deadline: now,
            asked,
            packet,
            id: u16::from_be_bytes(random),
            to,
            way: Way::Datagram(socket),
            servers,
            at,
            end: now + PATIENCE,
            refusal: None,
        });
        query.wait();
        self.watch_query(query).map_err(|_| failure)
    }

    fn watch_query(&mut self, query: Box<Query>) -> gantry_linux::Result<()> {
        let full = matches!(&query.way, Way::Stream(stream) if stream.is_full());
        let door = Rc::clone(&query.door);
        self.watch(Source::Query(query), if full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN })?;
        self.queries += 1;
        door.queries.set(door.queries.get() + 1);
        Ok(())
    }

    fn take_query(&mut self, token: u64) -> Option<Box<Query>> {
        match self.unwatch(token) {
            Some(Source::Query(query)) => Some(query),
            _ => None,
        }
    }

    pub(super) fn hear_server(&mut self, token: u64) {
        let Some(Source::Query(query)) = self.sources.get_mut(&token) else { return };
        let heard = query.hear(&mut self.buffer);
        let deadline = Some(query.deadline);
        match heard {
            Heard::Nothing => self.watch_again(token, deadline, EventFlags::IN),
            Heard::Writing => self.watch_again(token, deadline, EventFlags::IN | EventFlags::OUT),
            Heard::Answer(answer) => self.finish(token, answer),
            Heard::Truncated(answer) => self.ask_for_more(token, answer),
            Heard::Failed(said) => {
                query.refusal = said.or_else(|| query.refusal.take());
                self.give_server_up(token);
            }
        }
    }

    /// An answer was cut short: who asked by a connection gets all of it, others ask again by one.
    fn ask_for_more(&mut self, token: u64, answer: Vec<u8>) {
        let Some(mut query) = self.take_query(token) else { return };
        if let To::Stream(_) = query.to
            && query.ask_by_stream()
        {
            self.go_on(query);
        } else {
            self.deliver(&query, answer);
        }
    }

    /// The next server, if there is one.
    pub(super) fn give_server_up(&mut self, token: u64) {
        let Some(mut query) = self.take_query(token) else { return };
        query.at += 1;
        if Instant::now() < query.end && query.ask() {
            self.go_on(query);
            return;
        }
        let answer = query.refusal.take().unwrap_or_else(|| query.asked.failure());
        self.deliver(&query, answer);
    }

    fn go_on(&mut self, query: Box<Query>) {
        let (door, to, failure) = (Rc::clone(&query.door), query.to, query.asked.failure());
        if self.watch_query(query).is_err() {
            self.deliver_to(&door, to, &failure);
        }
    }

    fn finish(&mut self, token: u64, answer: Vec<u8>) {
        let Some(query) = self.take_query(token) else { return };
        self.deliver(&query, answer);
    }

    fn deliver(&mut self, query: &Query, answer: Vec<u8>) {
        let answer = query.asked.pass_back(answer);
        self.deliver_to(&query.door, query.to, &answer);
    }

    fn deliver_to(&mut self, door: &Door, to: To, answer: &[u8]) {
        match to {
            To::Datagram(address) => door.answer(address, answer),
            To::Stream(token) => self.answer_stream(token, answer),
        }
    }
}
