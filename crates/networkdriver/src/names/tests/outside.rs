//! What no container is called is asked outside.

use std::net::{TcpListener, UdpSocket};
use std::time::Instant;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType::A;

use super::world::{
    Container, LONG, Server, addresses, answer, on_a_host, question, read_framed, refusal, write_framed,
};
use crate::names::Upstream;

fn one_container(host: &super::world::Host, upstream: Upstream) -> (Container, crate::names::Resolver) {
    let resolver = host.resolver();
    let web = Container::new("web");
    web.join(&resolver, 1, upstream);
    (web, resolver)
}

fn said(message: &Message) -> Vec<String> {
    addresses(message).iter().map(ToString::to_string).collect()
}

#[test]
fn a_question_goes_out_with_another_number_and_its_answer_comes_back_with_the_clients() {
    on_a_host(|host| {
        let server = Server::saying("127.1.0.1", [192, 0, 2, 7]);
        host.use_servers(&["127.1.0.1"]);
        let (web, _resolver) = one_container(host, Upstream::Host);
        let mut numbers = std::collections::HashSet::new();
        for _ in 0..20 {
            assert_eq!(said(&web.ask("example.org.", A)), ["192.0.2.7"]);
            let asked = server.asked.recv_timeout(LONG).unwrap();
            assert_eq!(asked.queries, question(0, "example.org.", A).queries);
            numbers.insert(asked.id);
        }
        assert!(numbers.len() > 15, "{numbers:?}");
        assert_eq!(said(&web.ask_by_stream("example.org.", A)), ["192.0.2.7"]);
    });
}

#[test]
fn answers_with_another_number_question_or_sender_are_not_believed() {
    on_a_host(|host| {
        let liar = UdpSocket::bind("127.1.0.1:5353").unwrap();
        let tricks = move |question: &Message| {
            let mut wrong_number = answer(question, &[[6, 6, 6, 1]]);
            wrong_number.metadata.id ^= 1;
            let mut wrong_name = answer(question, &[[6, 6, 6, 2]]);
            wrong_name.queries[0].name = "example.net.".parse().unwrap();
            let mut no_answer = answer(question, &[[6, 6, 6, 3]]);
            no_answer.metadata.message_type = hickory_proto::op::MessageType::Query;
            vec![wrong_number, wrong_name, no_answer, answer(question, &[[192, 0, 2, 7]])]
        };
        let _server = Server::new("127.1.0.1", Box::new(tricks));
        host.use_servers(&["127.1.0.1"]);
        let (web, _resolver) = one_container(host, Upstream::Host);
        assert_eq!(said(&web.ask("example.org.", A)), ["192.0.2.7"]);
        drop(liar);
    });
}

#[test]
fn a_server_that_is_not_there_refuses_or_fails_is_passed_over_at_once() {
    on_a_host(|host| {
        let _failing = Server::new("127.1.0.2", Box::new(|question| vec![refusal(question, ResponseCode::ServFail)]));
        let _refusing = Server::new("127.1.0.3", Box::new(|question| vec![refusal(question, ResponseCode::Refused)]));
        let _good = Server::saying("127.1.0.4", [192, 0, 2, 7]);
        host.use_servers(&["127.1.0.1", "127.1.0.2", "127.1.0.3", "127.1.0.4"]);
        let (web, _resolver) = one_container(host, Upstream::Host);
        let begun = Instant::now();
        assert_eq!(said(&web.ask("example.org.", A)), ["192.0.2.7"]);
        assert!(begun.elapsed().as_millis() < 1000, "{:?}", begun.elapsed());
        host.use_servers(&["127.1.0.3"]);
        while web.ask("example.org.", A).response_code != ResponseCode::Refused {
            assert!(begun.elapsed() < LONG, "what the last server said comes back");
        }
    });
}

#[test]
fn a_server_that_is_silent_is_given_up_while_the_client_still_waits() {
    on_a_host(|host| {
        let _silent = Server::new("127.1.0.1", Box::new(|_| Vec::new()));
        let _good = Server::saying("127.1.0.2", [192, 0, 2, 7]);
        host.use_servers(&["127.1.0.1", "127.1.0.2"]);
        let (web, _resolver) = one_container(host, Upstream::Host);
        let begun = Instant::now();
        assert_eq!(said(&web.ask("example.org.", A)), ["192.0.2.7"]);
        assert!((1.0..4.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    });
}

#[test]
fn a_long_answer_is_cut_for_datagrams_and_whole_for_connections() {
    on_a_host(|host| {
        let cut = |question: &Message| {
            let mut message = answer(question, &[]);
            message.metadata.truncation = true;
            vec![message]
        };
        let whole = |question: &Message| vec![answer(question, &[[192, 0, 2, 7]; 500])];
        let _server = Server::with_streams("127.1.0.1", Box::new(cut), Box::new(whole));
        // This one sends more than was asked for.
        let _long = Server::new("127.1.0.2", Box::new(|question| vec![answer(question, &[[192, 0, 2, 8]; 60])]));
        host.use_servers(&["127.1.0.1"]);
        let (web, resolver) = one_container(host, Upstream::Host);
        let short = web.ask("example.org.", A);
        assert!(short.truncation && short.answers.is_empty());
        assert_eq!(web.ask_by_stream("example.org.", A).answers.len(), 500);
        resolver.put(web.resident(1, Upstream::Servers(vec!["127.1.0.2".parse().unwrap()])), None);
        let short = web.ask("example.org.", A);
        assert!(short.truncation && short.answers.is_empty());
        assert_eq!(web.ask_by_stream("example.org.", A).answers.len(), 60);
    });
}

#[test]
fn a_server_by_connection_that_breaks_off_is_a_failure_and_not_a_wait() {
    on_a_host(|host| {
        let cut = |question: &Message| {
            let mut message = answer(question, &[]);
            message.metadata.truncation = true;
            vec![message]
        };
        let _server = Server::with_streams("127.1.0.1", Box::new(cut), Box::new(|_| Vec::new()));
        host.use_servers(&["127.1.0.1"]);
        let (web, _resolver) = one_container(host, Upstream::Host);
        let begun = Instant::now();
        assert_eq!(web.ask_by_stream("example.org.", A).response_code, ResponseCode::ServFail);
        assert!(begun.elapsed().as_millis() < 2000);
    });
}

#[test]
fn where_nothing_may_leave_nothing_does() {
    on_a_host(|host| {
        let server = Server::saying("127.1.0.1", [192, 0, 2, 7]);
        let _listener = TcpListener::bind("127.1.0.1:53").unwrap();
        host.use_servers(&["127.1.0.1"]);
        let (web, resolver) = one_container(host, Upstream::Nowhere);
        assert_eq!(web.ask("example.org.", A).response_code, ResponseCode::NXDomain);
        assert_eq!(web.ask_by_stream("example.org.", A).response_code, ResponseCode::NXDomain);
        // With a way out, this is the first question that comes.
        resolver.put(web.resident(1, Upstream::Host), None);
        web.ask("first.example.org.", A);
        let first = server.asked.recv_timeout(LONG).unwrap();
        assert_eq!(first.queries[0].name.to_string(), "first.example.org.");
    });
}

#[test]
fn a_containers_own_servers_are_asked_instead_of_the_hosts() {
    on_a_host(|host| {
        let _hosts = Server::saying("127.1.0.1", [192, 0, 2, 1]);
        let _own = Server::saying("127.1.0.2", [192, 0, 2, 2]);
        host.use_servers(&["127.1.0.1"]);
        let (web, resolver) = one_container(host, Upstream::Servers(vec!["127.1.0.2".parse().unwrap()]));
        assert_eq!(said(&web.ask("example.org.", A)), ["192.0.2.2"]);
        resolver.put(web.resident(1, Upstream::Host), None);
        assert_eq!(said(&web.ask("example.org.", A)), ["192.0.2.1"]);
    });
}

#[test]
fn the_hosts_servers_are_followed_while_containers_run() {
    on_a_host(|host| {
        let _first = Server::saying("127.1.0.1", [192, 0, 2, 1]);
        let _second = Server::saying("127.1.0.2", [192, 0, 2, 2]);
        host.use_servers(&["127.1.0.1"]);
        let (web, _resolver) = one_container(host, Upstream::Host);
        assert_eq!(said(&web.ask("example.org.", A)), ["192.0.2.1"]);
        let path = host.options().resolv_conf;
        gantry_linux::fs::write(path.with_extension("new"), "nameserver 127.1.0.2\n").unwrap();
        gantry_linux::fs::rename(path.with_extension("new"), &path).unwrap();
        let begun = Instant::now();
        while said(&web.ask("example.org.", A)) != ["192.0.2.2"] {
            assert!(begun.elapsed() < LONG, "the change is not seen");
        }
    });
}

#[test]
fn a_flood_of_one_container_fails_at_its_limit_and_hurts_nobody_else() {
    on_a_host(|host| {
        let _silent = Server::new("127.1.0.1", Box::new(|_| Vec::new()));
        let _good = Server::saying("127.1.0.2", [192, 0, 2, 7]);
        host.use_servers(&["127.1.0.1"]);
        let (web, resolver) = one_container(host, Upstream::Host);
        let other = Container::new("other");
        other.join(&resolver, 2, Upstream::Servers(vec!["127.1.0.2".parse().unwrap()]));
        let socket = web.socket();
        for id in 0..150 {
            socket.send(&question(id, "example.org.", A).to_vec().unwrap()).unwrap();
        }
        let mut packet = [0; 512];
        for _ in 0..22 {
            let length = socket.recv(&mut packet).unwrap();
            assert_eq!(Message::from_vec(&packet[..length]).unwrap().response_code, ResponseCode::ServFail);
        }
        assert_eq!(said(&other.ask("example.org.", A)), ["192.0.2.7"]);
        assert_eq!(said(&web.ask("other.", A)), ["10.0.0.2"], "names of containers are answered all the same");
    });
}

#[test]
fn questions_of_a_connection_are_asked_outside_side_by_side() {
    on_a_host(|host| {
        let _server = Server::saying("127.1.0.1", [192, 0, 2, 7]);
        host.use_servers(&["127.1.0.1"]);
        let (web, _resolver) = one_container(host, Upstream::Host);
        let mut stream = web.connection();
        for id in 0..60 {
            write_framed(&mut stream, &question(id, "example.org.", A).to_vec().unwrap());
        }
        let mut ids: Vec<u16> =
            (0..60).map(|_| Message::from_vec(&read_framed(&mut stream).unwrap()).unwrap().id).collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..60).collect::<Vec<u16>>());
    });
}
