//! The host's ports, each test on a host of its own.

use std::net::{TcpListener, UdpSocket};

use super::*;
use crate::Protocol;

fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let body = || {
        gantry_linux::netlink::enter_new_namespace().unwrap();
        let mut socket = gantry_linux::netlink::Socket::route().unwrap();
        socket.transact(vec![libcontainer::network::link::raise(1, "lo")]).unwrap();
        test();
    };
    std::thread::spawn(body).join().unwrap();
}

fn wanted(ip: [u8; 4], port: u16, end: u16) -> Wanted {
    let addresses = vec![IpAddr::from(ip)];
    Wanted { container_port: 80, protocol: Protocol::Tcp, addresses, host_port: port, host_port_end: end }
}

fn take(ports: &Ports, container: &str, wanted: &Wanted) -> Result<Lease, Error> {
    Ok(ports.take(container, std::slice::from_ref(wanted))?.remove(0))
}

#[test]
fn a_held_port_is_in_use_for_other_programs_and_free_after() {
    in_namespace(|| {
        let ports = Ports::default();
        let lease = take(&ports, "c", &wanted([0; 4], 8080, 8080)).unwrap();
        assert!(TcpListener::bind("127.0.0.1:8080").is_err());
        assert!(UdpSocket::bind("127.0.0.1:8080").is_ok());
        drop(lease);
        assert!(TcpListener::bind("127.0.0.1:8080").is_ok());
        assert!(ports.table.lock().unwrap().is_empty());
    });
}

#[test]
fn connections_in_time_wait_do_not_hold_a_port() {
    in_namespace(|| {
        let server = TcpListener::bind("127.0.0.1:8080").unwrap();
        let mut client = std::net::TcpStream::connect("127.0.0.1:8080").unwrap();
        // Whoever closes first is the one that waits: the server's side.
        drop((server.accept().unwrap(), server));
        assert_eq!(std::io::Read::read(&mut client, &mut [0]).unwrap(), 0);
        drop(client);
        let _lease = take(&Ports::default(), "c", &wanted([0; 4], 8080, 8080)).unwrap();
        assert!(TcpListener::bind("127.0.0.1:8080").is_err(), "std asks for SO_REUSEADDR, too");
        assert!(TcpListener::bind("0.0.0.0:8080").is_err());
    });
}

#[test]
fn conflicts_name_the_address_and_the_holder() {
    in_namespace(|| {
        let ports = Ports::default();
        let any = take(&ports, "0123456789abcdef", &wanted([0; 4], 80, 80)).unwrap();
        let text = take(&ports, "d", &wanted([127, 0, 0, 1], 80, 80)).unwrap_err().to_string();
        assert!(text.starts_with("Bind for 127.0.0.1:80 failed: port is already allocated"), "{text}");
        assert!(text.ends_with("0123456789ab"), "{text}");
        drop(any);
        let _one = take(&ports, "a", &wanted([127, 0, 0, 1], 80, 80)).unwrap();
        let _two = take(&ports, "b", &wanted([127, 0, 0, 2], 80, 80)).unwrap();
        assert!(matches!(take(&ports, "c", &wanted([0; 4], 80, 80)), Err(Error::Conflict(_))));
        let udp = Wanted { protocol: Protocol::Udp, ..wanted([0; 4], 80, 80) };
        assert!(take(&ports, "c", &udp).is_ok());
    });
}

#[test]
fn a_port_of_another_program_is_a_conflict_and_a_range_goes_past_it() {
    in_namespace(|| {
        let _program = TcpListener::bind("127.0.0.1:9000").unwrap();
        let ports = Ports::default();
        assert!(matches!(take(&ports, "c", &wanted([0; 4], 9000, 9000)), Err(Error::Conflict(_))));
        let lease = take(&ports, "c", &wanted([0; 4], 9000, 9001)).unwrap();
        assert_eq!(lease.span.first, 9001);
        let error = take(&ports, "d", &wanted([0; 4], 9000, 9001)).unwrap_err();
        assert!(matches!(&error, Error::Exhausted(text) if text.contains("9000-9001")), "{error}");
    });
}

#[test]
fn random_ports_come_from_the_ephemeral_range_and_differ() {
    in_namespace(|| {
        let ports = Ports::default();
        let leases: Vec<_> = (0..50).map(|_| take(&ports, "c", &wanted([0; 4], 0, 0)).unwrap()).collect();
        let mut numbers: Vec<u16> = leases.iter().map(|lease| lease.span.first).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 50);
        assert!(numbers[0] >= 32768 && numbers[49] <= 60999);
    });
}

#[test]
fn nonsense_is_refused() {
    let ports = Ports::default();
    let six = Wanted { addresses: vec!["::1".parse().unwrap()], ..wanted([0; 4], 80, 80) };
    assert!(matches!(take(&ports, "c", &six), Err(Error::Invalid(_))));
    let zero = Wanted { container_port: 0, ..wanted([0; 4], 80, 80) };
    assert!(matches!(take(&ports, "c", &zero), Err(Error::Invalid(_))));
}

#[test]
fn a_program_that_has_the_port_is_named() {
    in_namespace(|| {
        let ports = Ports::default();
        let own = format!("(process {})", std::process::id());
        for (program, address) in
            [("127.0.0.1:9000", "0.0.0.0"), ("0.0.0.0:9001", "127.0.0.1"), ("[::]:9002", "0.0.0.0")]
        {
            let listener = TcpListener::bind(program).unwrap();
            let port = listener.local_addr().unwrap().port();
            let request = Wanted { addresses: vec![address.parse().unwrap()], ..wanted([0; 4], port, port) };
            let text = take(&ports, "c", &request).unwrap_err().to_string();
            assert!(text.contains("port is already allocated, by ") && text.ends_with(&own), "{text}");
        }
    });
}

fn range(first: u16, last: u16) -> Vec<Wanted> {
    (first..=last).map(|port| Wanted { container_port: port, ..wanted([0; 4], port, port) }).collect()
}

#[test]
fn a_long_range_is_one_lease_without_sockets_and_still_taken() {
    in_namespace(|| {
        let ports = Ports::default();
        let mut leases = ports.take("c", &range(20_000, 29_999)).unwrap();
        assert_eq!(leases.len(), 1);
        assert_eq!(leases[0].ports().count(), 10_000);
        for number in [20_000, 25_000, 29_999] {
            let error = take(&ports, "d", &wanted([127, 0, 0, 1], number, number)).unwrap_err();
            assert!(error.to_string().ends_with("by container c"), "{error}");
        }
        assert!(ports.take("d", &range(29_900, 30_100)).is_err());
        let beside = ports.take("d", &range(30_000, 30_100)).unwrap();
        drop((leases.remove(0), beside));
        assert!(ports.table.lock().unwrap().is_empty());
        let _program = TcpListener::bind("127.0.0.1:25000").unwrap();
        let error = ports.take("c", &range(20_000, 29_999)).unwrap_err().to_string();
        assert!(error.starts_with("Bind for 0.0.0.0:25000 failed: port is already allocated, by "), "{error}");
        assert!(ports.table.lock().unwrap().is_empty());
    });
}

#[test]
fn both_families_get_the_same_number_and_the_others_do_not_conflict() {
    in_namespace(|| {
        let ports = Ports::default();
        let both = vec![IpAddr::from([0; 4]), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let leases = ports.take("c", &[Wanted { addresses: both, ..wanted([0; 4], 0, 0) }]).unwrap();
        let numbers: Vec<u16> = leases.iter().map(|lease| lease.span.first).collect();
        assert_eq!((leases[0].is_ipv6(), leases[1].is_ipv6(), numbers[0]), (false, true, numbers[1]));
        let six = |number| Wanted { addresses: vec![Ipv6Addr::UNSPECIFIED.into()], ..wanted([0; 4], number, number) };
        assert!(take(&ports, "d", &six(numbers[0])).is_err());
        let _four = take(&ports, "d", &wanted([0; 4], 8080, 8080)).unwrap();
        let _six = take(&ports, "e", &six(8080)).unwrap();
    });
}

#[test]
fn leases_are_in_the_order_of_the_requests() {
    in_namespace(|| {
        let requests = [wanted([0; 4], 0, 0), wanted([0; 4], 9000, 9001), wanted([0; 4], 9000, 9000)];
        let leases = Ports::default().take("c", &requests).unwrap();
        let numbers: Vec<u16> = leases.iter().map(|lease| lease.span.first).collect();
        assert_eq!(numbers[1..], [9001, 9000]);
    });
}

#[test]
fn sctp_is_held_or_refused_with_the_reason() {
    in_namespace(|| {
        let request = Wanted { protocol: Protocol::Sctp, ..wanted([0; 4], 9000, 9000) };
        if let Err(error) = take(&Ports::default(), "c", &request) {
            assert!(error.to_string().contains("this kernel has no SCTP"), "{error}");
        }
    });
}
