//! A container's question, then what a server outside answers to it. First byte: how it is asked and of whom.
#![no_main]

use std::sync::OnceLock;

use gantry_networkdriver::names::{Judged, LONGEST_QUERY, Place, Resident, Transport, Upstream, Verdict, World, consider};
use hickory_proto::op::{Message, MessageType};
use libfuzzer_sys::fuzz_target;

/// The resolver's world belongs to one thread: each input has its own, of the same residents.
fn residents() -> &'static [Resident] {
    static RESIDENTS: OnceLock<Vec<Resident>> = OnceLock::new();
    RESIDENTS.get_or_init(|| {
        let resident = |name: &str, last: u8, upstream| Resident {
            container: name.into(),
            places: vec![Place {
                network: "n".into(),
                network_name: "front".into(),
                v4: Some([10, 0, 0, last].into()),
                v6: Some([0xfd00, 0, 0, 0, 0, 0, 0, last.into()].into()),
                names: vec![name.into(), "all".into()],
            }],
            links: Vec::new(),
            upstream,
        };
        let many = (3..60).map(|n| resident(&format!("r{n}"), n, Upstream::Host));
        [resident("web", 1, Upstream::Host), resident("shut", 2, Upstream::Nowhere)].into_iter().chain(many).collect()
    })
}

thread_local! {
    static WORLD: World = {
        let mut world = World::default();
        residents().iter().for_each(|resident| world.put(resident.clone()));
        world
    };
}

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    let transport = if how & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let asker = if how & 2 == 0 { "web" } else { "shut" };
    let Some((length, rest)) = rest.split_first_chunk::<2>() else { return };
    let (query, from_outside) = rest.split_at(usize::from(u16::from_be_bytes(*length)).min(rest.len()));
    WORLD.with(|world| match consider(query, transport, world, asker, usize::from(*how)) {
        Verdict::Reply(answer) => check_reply(query, &answer, transport),
        Verdict::Forward(asked) => {
            assert!(asker != "shut", "nothing leaves");
            assert!(query.len() <= LONGEST_QUERY);
            let id = u16::from_be_bytes([query[0], query[1]]);
            check_reply(query, &asked.failure(), transport);
            let Some(sent) = from_outside.first_chunk::<2>().map(|id| u16::from_be_bytes(*id)) else { return };
            if let Some(judged) = asked.judge(from_outside, sent) {
                assert!(from_outside.len() >= 12 && from_outside[2] & 0x80 != 0, "an answer");
                assert!(asked.judge(from_outside, sent ^ 1).is_none(), "of another number");
                let passed = asked.pass_back(from_outside.to_vec());
                assert_eq!(passed[..2], id.to_be_bytes());
                assert!(passed.len() <= usize::from(u16::MAX) || judged == Judged::Failed);
            }
        }
        Verdict::Ignore => assert!(query.len() < 12 || query[2] & 0x80 != 0 || Message::from_vec(query).is_err()),
    });
});

/// What is said is well formed, is an answer to this query, and fits.
fn check_reply(query: &[u8], answer: &[u8], transport: Transport) {
    let message = Message::from_vec(answer).expect("what we say can be read");
    assert_eq!(message.message_type, MessageType::Response);
    assert_eq!(message.id, u16::from_be_bytes([query[0], query[1]]));
    let room = match (transport, Message::from_vec(query)) {
        (Transport::Udp, Ok(asked)) => asked.edns.map_or(512, |edns| edns.max_payload().max(512)),
        _ => u16::MAX,
    };
    assert!(answer.len() <= usize::from(room), "{} bytes for {room}", answer.len());
}
