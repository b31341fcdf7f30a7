//! What is answered to which bytes.

use std::net::Ipv4Addr;

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use super::world::{addresses, question, with_edns};
use crate::names::world::tests::{place, resident};
use crate::names::{LONGEST_QUERY, Transport, Upstream, Verdict, World, consider};

fn world() -> World {
    let mut world = World::default();
    let mut web = place("front", 1, &["web"]);
    web.v6 = Some("fd00::1".parse().unwrap());
    world.put(resident("web", vec![web]));
    world.put(resident("db", vec![place("front", 2, &["db", "Store"])]));
    for n in 0..100 {
        world.put(resident(&format!("r{n}"), vec![place("front", 100 + n, &["many"])]));
    }
    let mut shut = resident("shut", vec![place("front", 3, &["shut"])]);
    shut.upstream = Upstream::Nowhere;
    world.put(shut);
    world
}

fn told(packet: &[u8], transport: Transport, asker: &str, turn: usize) -> Option<Message> {
    match consider(packet, transport, &world(), asker, turn) {
        Verdict::Reply(bytes) => Some(Message::from_vec(&bytes).unwrap()),
        Verdict::Forward(_) | Verdict::Ignore => None,
    }
}

fn ask(asker: &str, name: &str, kind: RecordType) -> Option<Message> {
    told(&question(9, name, kind).to_vec().unwrap(), Transport::Udp, asker, 0)
}

#[test]
fn a_name_is_answered_in_each_family_and_kept_as_it_was_written() {
    let answer = ask("db", "WeB.", RecordType::A).unwrap();
    assert_eq!(addresses(&answer), [Ipv4Addr::new(10, 0, 0, 1)]);
    assert_eq!(answer.queries[0].name.to_string(), "WeB.");
    assert_eq!((answer.id, answer.recursion_available, answer.authoritative), (9, true, true));
    assert_eq!(
        addresses(&ask("db", "web.", RecordType::AAAA).unwrap()),
        ["fd00::1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert_eq!(ask("db", "web.", RecordType::ANY).unwrap().answers.len(), 2);
    assert_eq!(addresses(&ask("web", "store.", RecordType::A).unwrap()), [Ipv4Addr::new(10, 0, 0, 2)]);
    assert_eq!(addresses(&ask("web", "store.front.", RecordType::A).unwrap()).len(), 1);
}

#[test]
fn a_name_that_is_known_has_no_data_of_other_types_and_is_asked_nowhere() {
    for kind in [RecordType::AAAA, RecordType::MX, RecordType::TXT, RecordType::HTTPS, RecordType::PTR] {
        let answer = ask("web", "db.", kind).unwrap();
        assert_eq!((answer.response_code, answer.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
}

#[test]
fn names_that_no_container_has_are_asked_outside_unless_nothing_may_leave() {
    for name in ["example.org.", "nobody.", ".", "a\\.b."] {
        let packet = question(9, name, RecordType::A).to_vec().unwrap();
        assert!(matches!(consider(&packet, Transport::Udp, &world(), "web", 0), Verdict::Forward(_)), "{name}");
        assert_eq!(ask("shut", name, RecordType::A).unwrap().response_code, ResponseCode::NXDomain);
    }
    assert_eq!(addresses(&ask("shut", "web.", RecordType::A).unwrap()).len(), 1);
    assert_eq!(ask("stranger", "web.", RecordType::A).unwrap().response_code, ResponseCode::ServFail);
}

#[test]
fn an_address_is_named_in_both_families() {
    let name = |address: &str| {
        let answer = ask("db", address, RecordType::PTR)?;
        answer.answers.iter().find_map(|record| match &record.data {
            RData::PTR(name) => Some(name.0.to_string()),
            _ => None,
        })
    };
    assert_eq!(name("1.0.0.10.in-addr.arpa.").as_deref(), Some("web.front."));
    let six = format!("1.{}0.0.d.f.ip6.arpa.", "0.".repeat(27));
    assert_eq!(name(&six).as_deref(), Some("web.front."));
    assert_eq!(name("0.0.10.in-addr.arpa."), None, "a network is no address");
    assert_eq!(name("77.0.0.10.in-addr.arpa."), None);
}

#[test]
fn several_addresses_take_turns_and_what_does_not_fit_is_cut_and_said_to_be() {
    let query = question(9, "many.", RecordType::A).to_vec().unwrap();
    let first = |turn| addresses(&told(&query, Transport::Udp, "web", turn).unwrap())[0];
    assert_ne!(first(0), first(1));
    assert_eq!(first(0), first(100));
    let plain = told(&query, Transport::Udp, "web", 0).unwrap();
    assert!(plain.truncation && plain.to_vec().unwrap().len() <= 512 && plain.answers.len() > 25);
    let wide = with_edns(question(9, "many.", RecordType::A), 4000).to_vec().unwrap();
    let wide = told(&wide, Transport::Udp, "web", 0).unwrap();
    assert!(!wide.truncation && wide.answers.len() == 100 && wide.edns.is_some());
    let stream = told(&query, Transport::Tcp, "web", 0).unwrap();
    assert!(!stream.truncation && stream.answers.len() == 100);
}

#[test]
fn what_is_no_question_of_ours_is_refused_and_answers_are_never_answered() {
    let packet = |change: fn(&mut Message)| {
        let mut message = question(9, "web.", RecordType::A);
        change(&mut message);
        message.to_vec().unwrap()
    };
    let code = |packet: &[u8]| told(packet, Transport::Udp, "db", 0).map(|answer| answer.response_code);
    assert_eq!(code(&packet(|m| m.metadata.op_code = OpCode::Update)), Some(ResponseCode::NotImp));
    assert_eq!(code(&packet(|m| m.queries.clear())), Some(ResponseCode::FormErr));
    assert_eq!(code(&packet(|m| m.queries.push(m.queries[0].clone()))), Some(ResponseCode::FormErr));
    assert_eq!(code(&packet(|m| m.metadata.message_type = hickory_proto::op::MessageType::Response)), None);
    let mut newer = with_edns(question(9, "web.", RecordType::A), 1232);
    newer.edns.as_mut().unwrap().set_version(1);
    assert_eq!(code(&newer.to_vec().unwrap()), Some(ResponseCode::BADSIG), "16 is BADVERS too");
    let mut long = packet(|_| {});
    long.resize(LONGEST_QUERY + 1, 0);
    assert_eq!(code(&long), Some(ResponseCode::FormErr));
}

#[test]
fn cut_and_looping_packets_end_at_once() {
    let whole = with_edns(question(9, "web.", RecordType::A), 1232).to_vec().unwrap();
    for cut in 0..whole.len() {
        let verdict = consider(&whole[..cut], Transport::Tcp, &world(), "db", 0);
        assert!(!matches!(verdict, Verdict::Forward(_)), "{cut}");
        assert_eq!(matches!(verdict, Verdict::Ignore), cut < 12, "{cut}");
    }
    // A name that is a pointer to itself.
    let mut looping = whole[..12].to_vec();
    looping.extend([0xc0, 12, 0, 1, 0, 1]);
    looping[11] = 0;
    let answer = told(&looping, Transport::Udp, "db", 0).unwrap();
    assert_eq!(answer.response_code, ResponseCode::FormErr);
}
