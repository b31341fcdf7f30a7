//! Namespaces, a LAN, and servers that say who they are and whom they see.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use gantry_linux::fs;
use gantry_linux::netlink::{Message, Socket, enter_new_namespace, own_namespace};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    Bridge, BridgeOptions, Cidr, Endpoint, Error, Join, NetworkDriver as _, Protocol, PublishPort, Subnet, Wall,
    WallOptions,
};
use libcontainer::network::link;

pub const HOST_ON_LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const LAN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const HOST6_ON_LAN: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const LAN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const LONG: Duration = Duration::from_secs(5);
/// Long enough for a packet between namespaces, short enough to wait for one that must not come.
const SHORT: Duration = Duration::from_millis(400);

/// Runs the test as the only user of a new host.
pub fn on_a_host(test: impl FnOnce() + Send + 'static) {
    let body = || {
        enter_new_namespace().unwrap();
        let mut route = Socket::route().unwrap();
        route.transact(vec![link::raise(link::LOOPBACK, "lo")]).unwrap();
        test();
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn options() -> BridgeOptions {
    options_of(&wall_options())
}

/// With a firewall of its own, which nobody else may have meanwhile.
pub fn options_of(wall: &WallOptions) -> BridgeOptions {
    BridgeOptions { name: wall.name.clone(), wall: Some(Wall::open(wall).unwrap()), ..BridgeOptions::default() }
}

pub fn wall_options() -> WallOptions {
    WallOptions { name: "gvtest0".into(), ip_forward: false, hooks: true, shared: false }
}

pub fn bridge() -> Bridge {
    Bridge::open(options()).unwrap()
}

/// Another network namespace, which lives as long as this.
pub struct Namespace {
    pub fd: OwnedFd,
}

impl Namespace {
    pub fn new() -> Self {
        let make = || {
            enter_new_namespace().unwrap();
            own_namespace().unwrap()
        };
        Self { fd: std::thread::spawn(make).join().unwrap() }
    }

    /// Does something inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = || {
                move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                work()
            };
            scope.spawn(inside).join().unwrap()
        })
    }

    pub fn route(&self) -> Socket {
        self.inside(|| Socket::route().unwrap())
    }
}

/// A namespace that was joined.
pub struct Container {
    pub namespace: Namespace,
    pub endpoint: Endpoint,
}

pub fn try_join(
    bridge: &Bridge,
    name: &str,
    namespace: &Namespace,
    ports: Vec<PublishPort>,
) -> Result<Endpoint, Error> {
    let socket = namespace.route();
    bridge.join(Join { ports, ..Join::new(name, namespace.fd.as_fd(), socket.as_fd()) })
}

pub fn join(bridge: &Bridge, name: &str, ports: Vec<PublishPort>) -> Container {
    let namespace = Namespace::new();
    let endpoint = try_join(bridge, name, &namespace, ports).unwrap();
    Container { namespace, endpoint }
}

/// `-p ip:host:container/protocol`.
pub fn publish(ip: &str, host: u16, container: u16, protocol: Protocol) -> PublishPort {
    let host_ip = Some(ip.parse().unwrap());
    PublishPort { container_port: container, protocol, host_ip, host_port: host, host_port_end: host }
}

pub fn tcp(ip: &str, host: u16, container: u16) -> Vec<PublishPort> {
    vec![publish(ip, host, container, Protocol::Tcp)]
}

/// A cable with an end here and one in another namespace.
fn cable(here: &mut Socket, name: &str, there: &Namespace, other: &str) {
    let header = [0; 16];
    let fd = u32::try_from(there.fd.as_raw_fd()).unwrap();
    let end = |m: Message| m.raw(&header).text(libc::IFLA_IFNAME, other).u32(libc::IFLA_NET_NS_FD, fd);
    let pair = Message::new(libc::RTM_NEWLINK, 0x600, &header)
        .text(libc::IFLA_IFNAME, name)
        .nest(libc::IFLA_LINKINFO, |m| m.text(1, "veth").nest(2, |m| m.nest(1, end)));
    here.transact(vec![pair]).unwrap();
}

/// A machine beside the host, which knows the host as its gateway.
pub fn lan() -> Namespace {
    let lan = Namespace::new();
    let mut host = Socket::route().unwrap();
    cable(&mut host, "lan0", &lan, "lan1");
    for (socket, name, address) in [(&mut host, "lan0", HOST_ON_LAN), (&mut lan.route(), "lan1", LAN)] {
        let link = link::link(socket, name).unwrap().unwrap();
        let cidr = Cidr { address, prefix: 24 };
        socket.transact(vec![link::add_address(link.index, cidr), link::raise(link.index, name)]).unwrap();
    }
    fs::write("/proc/sys/net/ipv4/conf/lan0/forwarding", "1").unwrap();
    let mut inside = lan.route();
    let index = link::link(&mut inside, "lan1").unwrap().unwrap().index;
    inside.transact(vec![link::set_default_route(index, HOST_ON_LAN)]).unwrap();
    lan
}

/// The same with IPv6 beside IPv4.
pub fn lan_of_both() -> Namespace {
    let lan = lan();
    fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    let mut sides = [(Socket::route().unwrap(), "lan0", HOST6_ON_LAN), (lan.route(), "lan1", LAN6)];
    for (socket, name, address) in &mut sides {
        let index = link::link(socket, name).unwrap().unwrap().index;
        let subnet = Subnet { address: (*address).into(), prefix: 64 };
        socket.transact(vec![link::add_address(index, subnet)]).unwrap();
        if *name == "lan1" {
            socket.transact(vec![link::set_default_route(index, HOST6_ON_LAN)]).unwrap();
        }
    }
    lan
}

/// A machine in another LAN, to which that beside the host is the router; with the addresses that it has.
pub fn behind(router: &Namespace) -> (Namespace, [IpAddr; 2]) {
    let far = Namespace::new();
    cable(&mut router.route(), "far0", &far, "far1");
    let ip = |arguments: &str| {
        let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
        assert!(status.success(), "ip {arguments}");
    };
    router.inside(|| {
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            fs::write(format!("/proc/sys/net/{setting}"), "1").unwrap();
        }
        ip("addr add 198.51.100.1/24 dev far0");
        ip("addr add 2001:db8:1::1/64 dev far0 nodad");
        ip("link set far0 up");
    });
    far.inside(|| {
        ip("addr add 198.51.100.2/24 dev far1");
        ip("addr add 2001:db8:1::2/64 dev far1 nodad");
        ip("link set far1 up");
        ip("route add default via 198.51.100.1");
        ip("-6 route add default via 2001:db8:1::1");
    });
    ip(&format!("route add 198.51.100.0/24 via {LAN}"));
    ip(&format!("-6 route add 2001:db8:1::/64 via {LAN6}"));
    (far, ["198.51.100.2", "2001:db8:1::2"].map(|address| address.parse().unwrap()))
}

/// A server that tells each client its own name and the address that it sees.
pub struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves in the calling thread's namespace.
    pub fn start(name: &str, address: impl Into<IpAddr>, port: u16) -> Self {
        let listener = TcpListener::bind((address.into(), port)).unwrap();
        let (accepting, name) = (listener.try_clone().unwrap(), name.to_owned());
        let thread = std::thread::spawn(move || {
            while let Ok((mut stream, peer)) = accepting.accept() {
                // A client that has gone away misses its answer.
                let _gone = stream.write_all(format!("{name} {}", peer.ip().to_canonical()).as_bytes());
            }
        });
        Self { listener, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

pub fn serve(container: &Container, port: u16) -> Server {
    let name = container.endpoint.container.as_str();
    container.namespace.inside(|| Server::start(name, Ipv4Addr::UNSPECIFIED, port))
}

/// Serves IPv4 and IPv6.
pub fn serve_both(container: &Container, port: u16) -> Server {
    let name = container.endpoint.container.as_str();
    container.namespace.inside(|| Server::start(name, Ipv6Addr::UNSPECIFIED, port))
}

/// Which of these are reached from the calling thread's namespace; they are tried at the same time.
pub fn reached(targets: &[SocketAddr]) -> Vec<SocketAddr> {
    std::thread::scope(|scope| {
        let tries: Vec<_> = targets.iter().map(|at| (at, scope.spawn(|| ask_within(*at, SHORT).is_some()))).collect();
        tries.into_iter().filter_map(|(at, answered)| answered.join().unwrap().then_some(*at)).collect()
    })
}

/// What the server there says: `name seen-address`.
pub fn ask(address: impl Into<IpAddr>, port: u16) -> Option<String> {
    ask_within(SocketAddr::new(address.into(), port), LONG)
}

/// Whether nobody is reached there.
pub fn unreachable(address: impl Into<IpAddr>, port: u16) -> bool {
    ask_within(SocketAddr::new(address.into(), port), SHORT).is_none()
}

fn ask_within(address: SocketAddr, time: Duration) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, time).ok()?;
    stream.set_read_timeout(Some(time)).unwrap();
    stream.shutdown(Shutdown::Write).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

/// A datagram there and back; the address that the server saw.
pub fn udp_round_trip(server: &UdpSocket, client: &UdpSocket, to: SocketAddr) -> Option<IpAddr> {
    for socket in [server, client] {
        socket.set_read_timeout(Some(LONG)).unwrap();
    }
    client.send_to(b"ping", to).ok()?;
    let mut buffer = [0; 16];
    let (length, peer) = server.recv_from(&mut buffer).ok()?;
    server.send_to(&buffer[..length], peer).ok()?;
    let (length, from) = client.recv_from(&mut buffer).ok()?;
    (&buffer[..length] == b"ping" && from == to).then_some(peer.ip())
}

/// Tells, loudly, that something could not be tested.
#[allow(clippy::print_stderr, reason = "a skipped check must be seen")]
pub fn skipped(why: &str) {
    let line = format!("SKIPPED: networkdriver: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("GANTRY_SKIPS") {
        let file = fs::open_with(path, std::fs::OpenOptions::new().append(true).create(true)).unwrap();
        gantry_linux::socket::write_all(&file, format!("{line}\n").as_bytes()).unwrap();
    }
}

/// The table as `nft` reads it, with every run of white space as one space; none where there is no `nft`.
pub fn nft_table() -> Option<String> {
    let Ok(output) = Command::new("nft").args(["list", "table", "ip", "gvtest0"]).output() else {
        skipped("no nft here, install nftables to have the firewall judged by it");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// The names of the host's links, sorted.
pub fn link_names() -> Vec<String> {
    let links = link::links(&mut Socket::route().unwrap()).unwrap();
    let mut names: Vec<_> = links.into_iter().map(|link| link.name).collect();
    names.sort();
    names
}
