//! A host with a resolver, containers that ask, and servers outside.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_linux::netlink::{Socket, enter_new_namespace, own_namespace};
use gantry_linux::{fs, socket};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use libcontainer::network::link;
use libcontainer::network::names::{ADDRESS, NameSockets};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::names::{Doors, Options, Place, Resident, Resolver, Upstream, serve};

pub const LONG: Duration = Duration::from_secs(10);

/// Runs the test as the only user of a new host. Every 127.* address is its own.
pub fn on_a_host(test: impl FnOnce(&Host) + Send + 'static) {
    let body = || {
        enter_new_namespace().unwrap();
        raise_loopback();
        let directory = tempfile::tempdir().unwrap();
        let (ended, ends) = channel();
        let host = Host { directory, ended: Arc::new(Mutex::new(ended)), ends };
        host.use_servers(&[]);
        test(&host);
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

fn raise_loopback() {
    Socket::route().unwrap().transact(vec![link::raise(link::LOOPBACK, "lo")]).unwrap();
}

pub struct Host {
    pub directory: tempfile::TempDir,
    ended: Arc<Mutex<std::sync::mpsc::Sender<()>>>,
    /// Hears of each resolver that has ended.
    pub ends: Receiver<()>,
}

impl Host {
    pub fn options(&self) -> Options {
        let path = |name| self.directory.path().join(name);
        Options { exec_root: path("run"), resolv_conf: path("resolv.conf"), behind_stub: path("behind.conf") }
    }

    pub fn exec_root(&self) -> PathBuf {
        self.options().exec_root
    }

    /// What the host's `resolv.conf` names.
    pub fn use_servers(&self, servers: &[&str]) {
        let text: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        fs::write(self.options().resolv_conf, text).unwrap();
    }

    /// A daemon's end of a resolver, which is there already or runs in a thread.
    pub fn resolver(&self) -> Resolver {
        let (options, ended) = (self.options(), Arc::clone(&self.ended));
        let start = move || {
            let (ours, theirs) = socket::pair().unwrap();
            let (options, ended) = (options.clone(), Arc::clone(&ended));
            std::thread::spawn(move || {
                serve(&options, theirs).unwrap();
                ended.lock().unwrap().send(()).ok();
            });
            Ok(ours)
        };
        Resolver::open(&self.exec_root(), Box::new(start)).unwrap()
    }
}

/// A container's network namespace with its sockets.
pub struct Container {
    pub id: String,
    namespace: OwnedFd,
    sockets: NameSockets,
}

impl Container {
    pub fn new(id: &str) -> Self {
        let make = || {
            enter_new_namespace().unwrap();
            let sockets = NameSockets::open().unwrap();
            (own_namespace().unwrap(), sockets)
        };
        let (namespace, sockets) = std::thread::spawn(make).join().unwrap();
        Self { id: id.into(), namespace, sockets }
    }

    /// Of a supervisor that is this test.
    pub fn doors(&self) -> Doors {
        self.doors_of(rustix::process::getpid())
    }

    pub fn doors_of(&self, supervisor: Pid) -> Doors {
        Doors {
            datagrams: self.sockets.datagrams.try_clone().unwrap(),
            connections: self.sockets.connections.try_clone().unwrap(),
            life: pidfd_open(supervisor, PidfdFlags::empty()).unwrap(),
        }
    }

    pub fn resident(&self, last: u8, upstream: Upstream) -> Resident {
        let place = Place {
            network: "n".into(),
            network_name: "front".into(),
            v4: Some(Ipv4Addr::new(10, 0, 0, last)),
            v6: None,
            names: vec![self.id.clone(), format!("alias-of-{}", self.id)],
        };
        Resident { container: self.id.clone(), places: vec![place], links: Vec::new(), upstream }
    }

    /// Is known to the resolver with this address.
    pub fn join(&self, resolver: &Resolver, last: u8, upstream: Upstream) {
        resolver.put(self.resident(last, upstream), Some(&self.doors()));
    }

    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = || {
                move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            };
            scope.spawn(inside).join().unwrap()
        })
    }

    /// A socket that asks.
    pub fn socket(&self) -> UdpSocket {
        self.inside(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.connect((ADDRESS, 53)).unwrap();
            socket.set_read_timeout(Some(LONG)).unwrap();
            socket
        })
    }

    pub fn connection(&self) -> TcpStream {
        self.inside(|| {
            let stream = TcpStream::connect((ADDRESS, 53)).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            stream
        })
    }

    pub fn ask(&self, name: &str, kind: RecordType) -> Message {
        let socket = self.socket();
        socket.send(&question(7, name, kind).to_vec().unwrap()).unwrap();
        let mut packet = [0; 4096];
        let length = socket.recv(&mut packet).unwrap();
        let answer = Message::from_vec(&packet[..length]).unwrap();
        assert_eq!((answer.id, answer.message_type), (7, MessageType::Response));
        answer
    }

    pub fn ask_by_stream(&self, name: &str, kind: RecordType) -> Message {
        let mut stream = self.connection();
        write_framed(&mut stream, &question(7, name, kind).to_vec().unwrap());
        Message::from_vec(&read_framed(&mut stream).unwrap()).unwrap()
    }
}

pub fn question(id: u16, name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub fn with_edns(mut message: Message, room: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(room);
    message.set_edns(edns);
    message
}

pub fn write_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], message].concat()).unwrap();
}

pub fn read_framed(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// The addresses of an answer.
pub fn addresses(message: &Message) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    };
    message.answers.iter().filter_map(|record| address(&record.data)).collect()
}

/// What a server outside does with a datagram: the packets that it sends back.
pub type Behaviour = Box<dyn FnMut(&Message) -> Vec<Message> + Send>;

/// A server outside, on an address of the host's.
pub struct Server {
    /// Every question that came.
    pub asked: Receiver<Message>,
}

impl Server {
    pub fn new(address: &str, mut behaviour: Behaviour) -> Self {
        let socket = UdpSocket::bind((address, 53)).unwrap();
        let (send, asked) = channel();
        std::thread::spawn(move || {
            let mut packet = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut packet) {
                let question = Message::from_vec(&packet[..length]).unwrap();
                for answer in behaviour(&question) {
                    socket.send_to(&answer.to_vec().unwrap(), from).unwrap();
                }
                if send.send(question).is_err() {
                    return;
                }
            }
        });
        Self { asked }
    }

    /// One that says this address for every name.
    pub fn saying(address: &str, said: [u8; 4]) -> Self {
        Self::new(address, Box::new(move |question| vec![answer(question, &[said])]))
    }

    /// Also takes connections, and answers there.
    pub fn with_streams(address: &str, behaviour: Behaviour, mut by_stream: Behaviour) -> Self {
        let listener = TcpListener::bind((address, 53)).unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let question = Message::from_vec(&read_framed(&mut stream).unwrap()).unwrap();
                for answer in by_stream(&question) {
                    write_framed(&mut stream, &answer.to_vec().unwrap());
                }
            }
        });
        Self::new(address, behaviour)
    }
}

pub fn answer(question: &Message, said: &[[u8; 4]]) -> Message {
    let mut message = Message::response(question.id, OpCode::Query);
    message.add_query(question.queries[0].clone());
    let name = question.queries[0].name.clone();
    for address in said {
        let data = RData::A(hickory_proto::rr::rdata::A((*address).into()));
        message.add_answer(hickory_proto::rr::Record::from_rdata(name.clone(), 60, data));
    }
    message
}

pub fn refusal(question: &Message, code: ResponseCode) -> Message {
    let mut message = answer(question, &[]);
    message.metadata.response_code = code;
    message
}
