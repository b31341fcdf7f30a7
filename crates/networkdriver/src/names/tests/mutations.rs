//! Bytes that were changed on the way, or by somebody: what the fuzz target `names` asserts, on every machine that runs tests.

use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::RecordType::{A, AAAA, ANY, PTR};
use proptest::prelude::*;

use super::world::{answer, question, with_edns};
use crate::names::world::tests::{place, resident};
use crate::names::{LONGEST_QUERY, Transport, Upstream, Verdict, World, consider};

fn world() -> World {
    let mut world = World::default();
    for n in 1..60 {
        world.put(resident(&format!("c{n}"), vec![place("front", n, &[&format!("c{n}"), "all"])]));
    }
    let mut shut = resident("shut", vec![place("front", 99, &["shut"])]);
    shut.upstream = Upstream::Nowhere;
    world.put(shut);
    world
}

/// Honest queries and answers.
fn honest() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let name = prop_oneof![Just("c7."), Just("all.front."), Just("example.org."), Just("7.0.0.10.in-addr.arpa.")];
    let kind = prop_oneof![Just(A), Just(AAAA), Just(ANY), Just(PTR)];
    (name, kind, any::<bool>(), any::<u16>()).prop_map(|(name, kind, edns, room)| {
        let asked = question(7, name, kind);
        let outside = answer(&asked, &[[192, 0, 2, 1], [192, 0, 2, 2]]).to_vec().unwrap();
        let asked = if edns { with_edns(asked, room) } else { asked };
        (asked.to_vec().unwrap(), outside)
    })
}

/// Changes bytes, cuts, and appends.
fn changed(mut bytes: Vec<u8>, changes: &[(u16, u8)], cut: u16, more: &[u8]) -> Vec<u8> {
    for (at, byte) in changes {
        let at = usize::from(*at) % bytes.len().max(1);
        if let Some(place) = bytes.get_mut(at) {
            *place = *byte;
        }
    }
    if cut.is_multiple_of(4) {
        bytes.truncate(usize::from(cut) % (bytes.len() + 1));
    }
    bytes.extend_from_slice(more);
    bytes
}

proptest! {
    #[test]
    fn whatever_comes_is_answered_in_form_and_in_size_or_not_at_all(
        (query, outside) in honest(),
        on_query in prop::collection::vec(any::<(u16, u8)>(), 0..6),
        on_answer in prop::collection::vec(any::<(u16, u8)>(), 0..6),
        cuts in any::<(u16, u16)>(),
        more in prop::collection::vec(any::<u8>(), 0..40),
        tcp in any::<bool>(),
        is_shut in any::<bool>(),
    ) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let query = changed(query, &on_query, cuts.0, &more);
        let outside = changed(outside, &on_answer, cuts.1, &more);
        let asker = if is_shut { "shut" } else { "c1" };
        thread_local! {
            static WORLD: World = world();
        }
        let verdict = WORLD.with(|world| consider(&query, transport, world, asker, usize::from(cuts.0)));
        match verdict {
            Verdict::Reply(reply) => check_reply(&query, &reply, transport),
            Verdict::Forward(asked) => {
                prop_assert!(!is_shut && query.len() <= LONGEST_QUERY);
                check_reply(&query, &asked.failure(), transport);
                if let Some(sent) = outside.first_chunk::<2>().map(|id| u16::from_be_bytes(*id))
                    && asked.judge(&outside, sent).is_some()
                {
                    prop_assert!(outside.len() >= 12 && outside[2] & 0x80 != 0);
                    prop_assert!(asked.judge(&outside, sent ^ 1).is_none());
                    prop_assert_eq!(&asked.pass_back(outside)[..2], &query[..2]);
                }
            }
            Verdict::Ignore => prop_assert!(query.len() < 12 || query[2] & 0x80 != 0),
        }
    }
}

fn check_reply(query: &[u8], reply: &[u8], transport: Transport) {
    let message = Message::from_vec(reply).expect("what we say can be read");
    assert_eq!((message.message_type, message.id.to_be_bytes()), (MessageType::Response, [query[0], query[1]]));
    let room = match (transport, Message::from_vec(query)) {
        (Transport::Udp, Ok(asked)) => asked.edns.map_or(512, |edns| edns.max_payload().max(512)),
        _ => u16::MAX,
    };
    assert!(reply.len() <= usize::from(room), "{} bytes for {room}", reply.len());
}
