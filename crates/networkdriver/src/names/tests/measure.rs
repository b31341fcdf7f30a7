//! What an answer costs; ignored by default: `cargo test --release -p gantry-networkdriver measure -- --ignored --nocapture`.
#![allow(clippy::print_stdout, reason = "a measurement is printed")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use hickory_proto::rr::RecordType::A;
use rustix::time::{ClockId, clock_gettime};

use super::world::{Container, Server, on_a_host, question, with_edns};
use crate::names::world::tests::{place, resident};
use crate::names::{Transport, Upstream, World, consider};
use libcontainer::network::names::NameSockets;

/// CPU time of this process: of client, resolver and kernel together.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn per(what: &str, count: u32, work: impl FnOnce()) {
    let (begun, before) = (Instant::now(), used());
    work();
    let (wall, cpu) = (begun.elapsed() / count, (used() - before) / count);
    println!("{what}: {wall:?} each ({:.0}/s), CPU {cpu:?}", 1.0 / wall.as_secs_f64());
}

#[test]
#[ignore = "a measurement"]
fn what_an_answer_costs() {
    let mut world = World::default();
    for n in 0..1000 {
        world.put(resident(&format!("c{n}"), vec![place("front", 7, &[&format!("name-{n}")])]));
    }
    let packet = with_edns(question(1, "name-500.", A), 1232).to_vec().unwrap();
    per("an answer from 1,000 names, without the kernel", 200_000, || {
        for turn in 0..200_000 {
            black_box(consider(black_box(&packet), Transport::Udp, &world, "c1", turn));
        }
    });
    on_a_host(|host| {
        let _server = Server::saying("127.1.0.1", [192, 0, 2, 7]);
        host.use_servers(&["127.1.0.1"]);
        let resolver = host.resolver();
        let web = Container::new("web");
        web.join(&resolver, 1, Upstream::Host);
        let ask = |name: &'static str| {
            let (socket, packet) = (web.socket(), question(1, name, A).to_vec().unwrap());
            move || {
                let mut answer = [0; 512];
                socket.send(&packet).unwrap();
                socket.recv(&mut answer).unwrap();
            }
        };
        let known = ask("web.");
        per("a known name, asked and answered one after the other", 20_000, || (0..20_000).for_each(|_| known()));
        let (socket, packet) = (web.socket(), question(1, "web.", A).to_vec().unwrap());
        per("a known name, 16 asked at once", 32_000, || {
            let mut answer = [0; 512];
            for _ in 0..2000 {
                (0..16).for_each(|_| assert!(socket.send(&packet).is_ok()));
                (0..16).for_each(|_| assert!(socket.recv(&mut answer).is_ok()));
            }
        });
        let unknown = ask("example.org.");
        per("a name that a server outside is asked for", 10_000, || (0..10_000).for_each(|_| unknown()));
    });
}

#[test]
#[ignore = "a measurement"]
fn what_the_sockets_cost() {
    // Before threads have namespaces of their own: the first ones warm the kernel up.
    for count in [5_u32, 100] {
        let (mut making, mut opening, mut cpu) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let before_all = used();
        for _ in 0..count {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let begun = Instant::now();
                    gantry_linux::netlink::enter_new_namespace().unwrap();
                    making += begun.elapsed();
                    let (begun, before) = (Instant::now(), used());
                    let sockets = NameSockets::open().unwrap();
                    opening += begun.elapsed();
                    cpu += used() - before;
                    drop(sockets);
                });
            });
        }
        let all = (used() - before_all) / count;
        println!(
            "{count} namespaces: made in {:?}, sockets in {:?} (CPU {:?}); all with their end CPU {all:?}",
            making / count,
            opening / count,
            cpu / count
        );
    }
}
