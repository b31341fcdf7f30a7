//! `nft flush ruleset` in a loop, while somebody uses what is open and somebody tries what is shut.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gantry_linux::netlink::{Message, NFTABLES, Socket};

use super::isolation::Networks;
use super::world::{HOST_ON_LAN, Namespace, on_a_host, skipped, wall_options};
use crate::WallOptions;

const FLUSHES: usize = 30;
const RECOVERY: Duration = Duration::from_millis(100);

fn flush() -> bool {
    match Command::new("nft").args(["flush", "ruleset"]).status() {
        Ok(status) => status.success(),
        Err(_) => {
            skipped("no nft here, install nftables to have the tables flushed");
            false
        }
    }
}

/// Tries again and again to reach what it must not; the first that was reached.
fn attack(from: &Namespace, targets: &[SocketAddr], stop: &AtomicBool, tries: &AtomicUsize) -> Option<SocketAddr> {
    from.inside(|| {
        while !stop.load(Ordering::Relaxed) {
            for target in targets {
                tries.fetch_add(1, Ordering::Relaxed);
                if TcpStream::connect_timeout(target, Duration::from_millis(20)).is_ok() {
                    return Some(*target);
                }
            }
        }
        None
    })
}

/// Runs the work while each forbidden way is tried from a thread of its own; nothing of it may get through.
fn under_attack<T>(networks: &Networks, work: impl FnOnce() -> T) -> T {
    let (stop, tries) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (stop, tries) = (&stop, &tries);
    std::thread::scope(|scope| {
        let attackers: Vec<_> = networks
            .forbidden()
            .into_iter()
            .map(|(what, from, targets)| (what, scope.spawn(move || attack(from, &targets, stop, tries))))
            .collect();
        let result = work();
        stop.store(true, Ordering::Relaxed);
        for (what, attacker) in attackers {
            assert_eq!(attacker.join().unwrap(), None, "{what} got through");
        }
        assert!(tries.load(Ordering::Relaxed) > 50, "nobody tried");
        result
    })
}

/// A connection from the LAN through the published port, that echoes.
fn echo(networks: &Networks) -> TcpStream {
    let listener = networks.web.namespace.inside(|| TcpListener::bind("0.0.0.0:90").unwrap());
    let client = networks.lan.inside(|| TcpStream::connect((HOST_ON_LAN, 8081)).unwrap());
    let (mut server, _) = listener.accept().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok(length @ 1..) = server.read(&mut buffer) {
            if server.write_all(&buffer[..length]).is_err() {
                return;
            }
        }
    });
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    client
}

fn there_and_back(client: &mut TcpStream) {
    client.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still here");
}

#[test]
fn an_owned_table_is_not_flushed_and_connections_live_on() {
    on_a_host(|| {
        let networks = Networks::new(&wall_options());
        if !networks.wall.is_owned() || !flush() {
            return; // A kernel before 6.9, which the next test is about.
        }
        let mut client = echo(&networks);
        under_attack(&networks, || {
            for _ in 0..FLUSHES {
                assert!(flush());
                there_and_back(&mut client);
                assert!(networks.lan.inside(|| TcpStream::connect((HOST_ON_LAN, 8080)).is_ok()));
            }
        });
    });
}

/// How long until the table is there again.
fn recovery() -> Duration {
    let start = Instant::now();
    let mut socket = Socket::netfilter().unwrap();
    let there = |socket: &mut Socket| {
        let table = Message::new(NFTABLES << 8 | 1, 0, &[2, 0, 0, 0]).text(1, "gvtest0").named("find", "table");
        socket.get(table).is_ok()
    };
    while !there(&mut socket) {
        assert!(start.elapsed() < Duration::from_secs(5), "nobody healed the table");
        std::thread::yield_now();
    }
    start.elapsed()
}

#[test]
#[allow(clippy::print_stderr, reason = "a measurement to read with --nocapture")]
fn a_table_that_can_be_flushed_is_back_within_a_tenth_of_a_second_and_nothing_passes_meanwhile() {
    on_a_host(|| {
        let networks = Networks::new(&WallOptions { shared: true, ..wall_options() });
        if !flush() {
            return;
        }
        recovery();
        let mut times: Vec<Duration> = under_attack(&networks, || {
            let flush_and_wait = |_| {
                assert!(flush());
                let time = recovery();
                assert!(networks.lan.inside(|| TcpStream::connect((HOST_ON_LAN, 8080)).is_ok()));
                time
            };
            (0..FLUSHES).map(flush_and_wait).collect()
        });
        times.sort();
        eprintln!("healed after: median {:?}, longest {:?}", times[FLUSHES / 2], times[FLUSHES - 1]);
        // Under emulation a moment is long.
        let says_so = |path| gantry_linux::fs::read_to_string(path).is_ok_and(|text| text.contains("QEMU"));
        let emulated = says_so("/sys/class/dmi/id/sys_vendor") || says_so("/proc/cpuinfo");
        let slow = if emulated { times[FLUSHES / 2] } else { times[FLUSHES * 9 / 10] };
        assert!(slow < RECOVERY, "{times:?}");
        networks.assert_shut("after all of it");
    });
}
