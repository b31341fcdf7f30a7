//! The process: containers come and go, daemons too, and it itself.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType::{A, AAAA, PTR};

use super::world::{Container, LONG, addresses, on_a_host, question, read_framed, with_edns, write_framed};
use crate::names::order::{self, Order, SOCKET};
use crate::names::{ADDRESS, Upstream};

fn text(message: &hickory_proto::op::Message) -> Vec<String> {
    addresses(message).iter().map(ToString::to_string).collect()
}

#[test]
fn neighbours_are_told_each_others_names_by_datagram_and_by_connection() {
    on_a_host(|host| {
        let resolver = host.resolver();
        let (web, db) = (Container::new("web"), Container::new("db"));
        web.join(&resolver, 1, Upstream::Nowhere);
        db.join(&resolver, 2, Upstream::Nowhere);
        assert_eq!(text(&web.ask("db.", A)), ["10.0.0.2"]);
        assert_eq!(text(&db.ask("alias-of-WEB.", A)), ["10.0.0.1"]);
        assert_eq!(text(&db.ask_by_stream("web.front.", A)), ["10.0.0.1"]);
        assert_eq!(db.ask("web.", AAAA).response_code, ResponseCode::NoError);
        assert_eq!(db.ask("1.0.0.10.in-addr.arpa.", PTR).answers.len(), 1);
        assert_eq!(db.ask_by_stream("cache.", A).response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn what_a_daemon_says_holds_for_every_question_after_it() {
    on_a_host(|host| {
        let resolver = host.resolver();
        let (web, db) = (Container::new("web"), Container::new("db"));
        web.join(&resolver, 1, Upstream::Nowhere);
        db.join(&resolver, 0, Upstream::Nowhere);
        for last in 1..200 {
            resolver.put(db.resident(last, Upstream::Nowhere), None);
            assert_eq!(text(&web.ask("db.", A)), [format!("10.0.0.{last}")]);
        }
        resolver.remove("db");
        assert_eq!(web.ask("db.", A).response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn many_questions_of_one_connection_are_answered_and_a_torn_one_ends_it() {
    on_a_host(|host| {
        let resolver = host.resolver();
        let web = Container::new("web");
        web.join(&resolver, 1, Upstream::Nowhere);
        let mut stream = web.connection();
        let packet = with_edns(question(3, "web.", A), 1232).to_vec().unwrap();
        let all: Vec<u8> = [&u16::try_from(packet.len()).unwrap().to_be_bytes()[..], &packet].concat().repeat(200);
        let mut writer = stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &all).unwrap());
        for _ in 0..200 {
            read_framed(&mut stream).unwrap();
        }
        writing.join().unwrap();
        // As in aardvark's endless loop: a length, and then the end.
        std::io::Write::write_all(&mut stream, &[0, 50, 1, 2, 3]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(read_framed(&mut stream).is_err());
        let mut rude = web.connection();
        std::io::Write::write_all(&mut rude, &[0xff, 0xff]).unwrap();
        assert!(read_framed(&mut rude).is_err());
        assert_eq!(text(&web.ask_by_stream("web.", A)), ["10.0.0.1"]);
    });
}

#[test]
fn a_container_has_so_many_connections_and_no_more() {
    on_a_host(|host| {
        let resolver = host.resolver();
        let (web, db) = (Container::new("web"), Container::new("db"));
        web.join(&resolver, 1, Upstream::Nowhere);
        db.join(&resolver, 2, Upstream::Nowhere);
        let packet = question(3, "web.", A).to_vec().unwrap();
        let mut streams: Vec<_> = (0..64).map(|_| web.connection()).collect();
        for stream in &mut streams {
            write_framed(stream, &packet);
            read_framed(stream).unwrap();
        }
        let mut beyond = web.connection();
        assert!(read_framed(&mut beyond).is_err());
        assert_eq!(text(&db.ask_by_stream("web.", A)), ["10.0.0.1"], "it is nobody else's limit");
        drop(streams);
        assert_eq!(text(&web.ask("web.", A)), ["10.0.0.1"]);
    });
}

#[test]
fn names_are_answered_while_no_daemon_is_there_and_the_next_one_goes_on() {
    on_a_host(|host| {
        let (web, db) = (Container::new("web"), Container::new("db"));
        let resolver = host.resolver();
        web.join(&resolver, 1, Upstream::Nowhere);
        db.join(&resolver, 2, Upstream::Nowhere);
        resolver.sync().unwrap();
        drop(resolver);
        assert_eq!(text(&web.ask("db.", A)), ["10.0.0.2"]);
        let next = host.resolver();
        assert_eq!(text(&web.ask("db.", A)), ["10.0.0.2"], "also before the new one has said anything");
        web.join(&next, 3, Upstream::Nowhere);
        next.forget_others();
        assert_eq!(text(&web.ask("web.", A)), ["10.0.0.3"]);
        assert_eq!(web.ask("db.", A).response_code, ResponseCode::NXDomain, "it had ended meanwhile");
        assert!(host.ends.try_recv().is_err(), "it is the same process");
    });
}

#[test]
fn a_resolver_that_ends_is_started_again_with_the_supervisors_sockets_and_no_question_is_lost() {
    on_a_host(|host| {
        let resolver = host.resolver();
        let web = std::sync::Arc::new(Container::new("web"));
        let supervisor = std::sync::Arc::clone(&web);
        resolver.set_doors(Box::new(move |id| (id == "web").then(|| supervisor.doors())));
        web.join(&resolver, 1, Upstream::Nowhere);
        for _ in 0..3 {
            let directory = gantry_linux::fs::open(host.exec_root().join(ADDRESS)).unwrap();
            let other = gantry_linux::socket::connect(&directory, SOCKET).unwrap();
            order::send(&other, &Order::Leave, &[]).unwrap();
            assert_eq!(text(&web.ask("web.", A)), ["10.0.0.1"]);
            host.ends.recv_timeout(LONG).unwrap();
        }
    });
}

#[test]
fn a_resolver_that_cannot_be_started_is_tried_again_and_told_everything() {
    on_a_host(|host| {
        let (options, tries) = (host.options(), AtomicUsize::new(0));
        let start = move || {
            if tries.fetch_add(1, Ordering::Relaxed) < 2 {
                return Err("not yet".to_owned());
            }
            let (ours, theirs) = gantry_linux::socket::pair().unwrap();
            let options = options.clone();
            std::thread::spawn(move || crate::names::serve(&options, theirs).unwrap());
            Ok(ours)
        };
        let resolver = crate::names::Resolver::open(&host.exec_root(), Box::new(start)).unwrap();
        let web = std::sync::Arc::new(Container::new("web"));
        let supervisor = std::sync::Arc::clone(&web);
        resolver.set_doors(Box::new(move |id| (id == "web").then(|| supervisor.doors())));
        web.join(&resolver, 1, Upstream::Nowhere);
        assert_eq!(text(&web.ask("web.", A)), ["10.0.0.1"]);
    });
}

#[test]
fn the_sockets_of_a_container_are_given_back_with_its_supervisor_and_the_last_one_out_ends_it() {
    on_a_host(|host| {
        let mut supervisor = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let web = Container::new("web");
        let resolver = host.resolver();
        let pid = rustix::process::Pid::from_child(&supervisor);
        resolver.put(web.resident(1, Upstream::Nowhere), Some(&web.doors_of(pid)));
        assert_eq!(text(&web.ask("web.", A)), ["10.0.0.1"]);
        drop(resolver);
        assert_eq!(text(&web.ask("web.", A)), ["10.0.0.1"]);
        assert_eq!(host.ends.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        drop(supervisor.stdin.take());
        host.ends.recv_timeout(LONG).unwrap();
        supervisor.wait().unwrap();
    });
}

#[test]
fn a_second_resolver_does_not_take_the_place_of_one_that_serves() {
    on_a_host(|host| {
        let _resolver = host.resolver();
        let (_daemon, theirs) = gantry_linux::socket::pair().unwrap();
        let error = crate::names::serve(&host.options(), theirs).unwrap_err();
        assert_eq!(error.errno(), libc::EADDRINUSE);
    });
}

#[test]
fn sockets_of_an_earlier_run_never_take_the_place_of_a_containers_new_ones() {
    on_a_host(|host| {
        let resolver = host.resolver();
        let (earlier, web) = (Container::new("web"), Container::new("web"));
        earlier.join(&resolver, 1, Upstream::Nowhere);
        let (asked, is_asked) = std::sync::mpsc::channel();
        let (go, may_go) = std::sync::mpsc::channel::<()>();
        let may_go = std::sync::Mutex::new(may_go);
        resolver.set_doors(Box::new(move |_| {
            asked.send(()).unwrap();
            may_go.lock().unwrap().recv().unwrap();
            Some(earlier.doors())
        }));
        let directory = gantry_linux::fs::open(host.exec_root().join(ADDRESS)).unwrap();
        let other = gantry_linux::socket::connect(&directory, SOCKET).unwrap();
        order::send(&other, &Order::Leave, &[]).unwrap();
        is_asked.recv_timeout(LONG).unwrap();
        // While the supervisor of its earlier run is asked, it is started anew.
        web.join(&resolver, 2, Upstream::Nowhere);
        go.send(()).unwrap();
        resolver.sync().unwrap();
        assert_eq!(text(&web.ask("web.", A)), ["10.0.0.2"]);
        resolver.put(web.resident(3, Upstream::Nowhere), None);
        assert_eq!(text(&web.ask("web.", A)), ["10.0.0.3"], "and so it stays");
    });
}

#[test]
fn sockets_that_did_not_all_arrive_are_told_of_and_the_container_keeps_what_it_has() {
    on_a_host(|host| {
        let resolver = host.resolver();
        let web = Container::new("web");
        web.join(&resolver, 1, Upstream::Nowhere);
        let directory = gantry_linux::fs::open(host.exec_root().join(ADDRESS)).unwrap();
        let daemon = gantry_linux::socket::connect(&directory, SOCKET).unwrap();
        let put = Order::Put(Box::new(web.resident(2, Upstream::Nowhere)));
        order::send(&daemon, &put, &[std::os::fd::AsFd::as_fd(&web.doors().datagrams)]).unwrap();
        let packet = gantry_linux::socket::receive(&daemon).unwrap().unwrap();
        let reply: order::Reply = order::understand(&packet).unwrap();
        assert_eq!(reply, order::Reply::Incomplete { container: "web".into(), descriptors: 1 });
        assert_eq!(text(&web.ask("web.", A)), ["10.0.0.2"]);
    });
}
