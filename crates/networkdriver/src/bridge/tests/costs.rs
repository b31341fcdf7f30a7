//! What a port costs, alone and among ten thousand.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use libcontainer::network::firewall::Element;

use super::world::{
    Namespace, ask, bridge, join, nft_table, on_a_host, options_of, publish, serve, try_join, wall_options,
};
use crate::{Bridge, Join, NetworkDriver as _, Protocol, PublishPort};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const MANY: u16 = 10_000;

fn element(host_port: u16) -> Element {
    Element {
        host: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        protocol: Protocol::Tcp,
        host_port,
        last_port: host_port,
        container: [172, 31, 0, 2].into(),
        container_port: 80,
    }
}

/// The median of adding and removing one.
fn cost_of_one(bridge: &Bridge) -> (Duration, Duration) {
    let mut firewall = bridge.options.wall.as_ref().unwrap().lock();
    let (mut adding, mut removing) = (Vec::new(), Vec::new());
    for port in 60_000..60_100 {
        let start = Instant::now();
        firewall.add(&[element(port)]).unwrap();
        adding.push(start.elapsed());
        let start = Instant::now();
        firewall.remove(&[element(port)]).unwrap();
        removing.push(start.elapsed());
    }
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    (median(adding), median(removing))
}

#[test]
#[allow(clippy::print_stderr, reason = "a measurement to read with --nocapture")]
fn one_port_among_ten_thousand_costs_what_the_first_does() {
    on_a_host(|| {
        let bridge = bridge();
        let first = cost_of_one(&bridge);
        let many: Vec<Element> = (1..=MANY).map(element).collect();
        let firewall = || bridge.options.wall.as_ref().unwrap().lock();
        let start = Instant::now();
        firewall().add(&many).unwrap();
        let all = start.elapsed();
        let last = cost_of_one(&bridge);
        let start = Instant::now();
        firewall().heal().unwrap();
        eprintln!("a port added and removed: alone {first:?}, among {MANY} {last:?}");
        eprintln!("{MANY} ports in one step {all:?}, healed in {:?}", start.elapsed());
        assert!(last.0 < first.0 * 3 && last.1 < first.1 * 3, "{first:?} {last:?}");
    });
}

#[test]
#[allow(clippy::print_stderr, reason = "a measurement to read with --nocapture")]
fn a_range_of_ten_thousand_ports_is_one_element_and_fast() {
    on_a_host(|| {
        let bridge = bridge();
        let ports = |first: u16| -> Vec<PublishPort> {
            (first..first + MANY).map(|port| publish("0.0.0.0", port, port, Protocol::Tcp)).collect()
        };
        let start = Instant::now();
        let web = join(&bridge, "web", ports(20_000));
        let joining = start.elapsed();
        assert_eq!(web.endpoint.ports.len(), usize::from(MANY));
        assert!(nft_table().is_none_or(|table| table.contains("tcp . 20000-29999 : ")));
        let _servers = [20_000, 25_000, 29_999].map(|port| (port, serve(&web, port)));
        for port in [20_000, 25_000, 29_999] {
            assert!(ask(LOOPBACK, port).is_some_and(|answer| answer.starts_with("web ")), "{port}");
        }
        let clash =
            try_join(&bridge, "second", &Namespace::new(), vec![publish("127.0.0.1", 29_999, 1, Protocol::Tcp)]);
        assert!(clash.unwrap_err().to_string().ends_with("port is already allocated, by container web"));
        let taken_over = {
            drop(bridge);
            let next = Bridge::open(options_of(&wall_options())).unwrap();
            next.restore(&web.endpoint).unwrap();
            next.restored().unwrap();
            next
        };
        assert!(ask(LOOPBACK, 29_999).is_some());
        let start = Instant::now();
        taken_over.leave(&web.endpoint).unwrap();
        let leaving = start.elapsed();
        eprintln!("join with {MANY} ports {joining:?}, leave {leaving:?}");
        // A socket for each of them takes a quarter of a second on this kind of machine, and all descriptors.
        assert!(
            joining < Duration::from_millis(250) && leaving < Duration::from_millis(250),
            "{joining:?} {leaving:?}"
        );
    });
}

#[test]
fn ports_that_are_shifted_inside_each_lead_to_their_own() {
    on_a_host(|| {
        let bridge = bridge();
        let shifted = (0..100).map(|at| publish("0.0.0.0", 8000 + at, 80 + at, Protocol::Tcp)).collect();
        let web = join(&bridge, "web", shifted);
        let (_first, _last) = (serve(&web, 80), serve(&web, 179));
        assert!(ask(LOOPBACK, 8000).is_some() && ask(LOOPBACK, 8099).is_some());
        assert!(ask(LOOPBACK, 8050).is_none());
    });
}

/// What it costs to connect, publish and withdraw, the more there is. By hand: its namespaces take a while.
#[test]
#[ignore = "a measurement"]
#[allow(clippy::print_stderr, reason = "a measurement to read with --nocapture")]
fn a_thousand_endpoints_with_ten_ports_each() {
    on_a_host(|| {
        let bridge = bridge();
        // The processor's time, as others hold the kernel's network lock as they like.
        let now = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
        };
        let timed = |work: &mut dyn FnMut()| {
            let start = now();
            work();
            now() - start
        };
        let median = |mut times: Vec<Duration>| {
            times.sort();
            times[times.len() / 2].as_micros()
        };
        let (mut all, mut probes) = (Vec::new(), Vec::new());
        eprintln!(
            "endpoints, ports: join without a port, join with one, leave without, leave with one (CPU, medians, us)"
        );
        for number in 0..=1000_u16 {
            if number % 250 == 0 {
                let (mut joins, mut publishes, mut leaves, mut withdraws) = (vec![], vec![], vec![], vec![]);
                for _ in 0..12 {
                    for (ports, joining, leaving) in [
                        (vec![], &mut joins, &mut leaves),
                        (vec![publish("0.0.0.0", 50_000, 80, Protocol::Tcp)], &mut publishes, &mut withdraws),
                    ] {
                        let namespace = Namespace::new();
                        let socket = namespace.route();
                        let mut endpoint = None;
                        let mut join = || {
                            let request = Join::new("probe", namespace.fd.as_fd(), socket.as_fd());
                            endpoint = Some(bridge.join(Join { ports: ports.clone(), ..request }).unwrap());
                        };
                        joining.push(timed(&mut join));
                        let endpoint = endpoint.unwrap();
                        leaving.push(timed(&mut || bridge.leave(&endpoint).unwrap()));
                        // A bridge has room for 1023 links.
                        bridge.disconnect(&endpoint, socket.as_fd()).unwrap();
                        // Kept until the end: a namespace that dies keeps the next one waiting.
                        probes.push(namespace);
                    }
                }
                let (joins, publishes) = (median(joins), median(publishes));
                let (leaves, withdraws) = (median(leaves), median(withdraws));
                eprintln!("{number}, {}: {joins}, {publishes}, {leaves}, {withdraws}", number * 10);
            }
            let ports =
                (0..10).map(|at| publish("0.0.0.0", 20_000 + number * 10 + at, 80 + at, Protocol::Tcp)).collect();
            all.push(join(&bridge, &format!("c{number}"), ports));
        }
        let table = libcontainer::network::link::links(&mut gantry_linux::netlink::Socket::route().unwrap()).unwrap();
        assert!(table.len() > 1000);
    });
}
