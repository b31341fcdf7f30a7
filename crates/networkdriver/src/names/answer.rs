//! A query's bytes in, an answer's bytes out, or the decision to ask elsewhere. Pure; what it reads is hostile.
//!
//! Only the header, the one question and the additional records of a query are looked at, and of an answer from outside
//! only header and question: everything else travels as bytes.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Header, HeaderCounts, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};

use super::world::{Found, Upstream, World};

/// A longer query is nobody's honest one.
pub const LONGEST_QUERY: usize = 4096;
/// For how many seconds an answer from here holds: a container's address may be another one's soon.
const TTL: u32 = 5;
/// Addresses in one answer.
const MOST_ANSWERS: usize = 256;
/// What every client of UDP takes, and what we say that we take.
const PLAIN_ROOM: u16 = 512;
const OUR_ROOM: u16 = 1232;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "plain words")]
pub enum Transport {
    Udp,
    Tcp,
}

/// What becomes of a query.
#[derive(Debug)]
pub enum Verdict {
    /// It is answered with these bytes.
    Reply(Vec<u8>),
    /// Servers outside are asked.
    Forward(Asked),
    /// It gets no answer: it is none, or cannot be read as far as its header.
    Ignore,
}

/// A query that is passed on.
#[derive(Debug, Clone)]
pub struct Asked {
    metadata: Metadata,
    question: Query,
    with_edns: bool,
    room: usize,
}

/// What an answer from outside says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// It is the client's answer.
    Good,
    /// As [`Judged::Good`], but cut short: by TCP there is more.
    Truncated,
    /// The server cannot answer; another one may.
    Failed,
}

/// Decides what becomes of a query of the container `asker`. `turn` chooses which of several addresses comes first.
#[must_use]
pub fn consider(packet: &[u8], transport: Transport, world: &World, asker: &str, turn: usize) -> Verdict {
    let mut decoder = BinDecoder::new(packet);
    let Ok(Header { metadata, counts }) = Header::read(&mut decoder) else { return Verdict::Ignore };
    if metadata.message_type == MessageType::Response {
        // Answering answers is how two servers talk for ever.
        return Verdict::Ignore;
    }
    let refuse = |code| Verdict::Reply(encode(&reply(&metadata, code)));
    if metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    if packet.len() > LONGEST_QUERY || counts.queries != 1 {
        return refuse(ResponseCode::FormErr);
    }
    let Ok(question) = Query::read(&mut decoder) else { return refuse(ResponseCode::FormErr) };
    let Ok(edns) = read_edns(&mut decoder, counts) else { return refuse(ResponseCode::FormErr) };
    let room = match transport {
        Transport::Udp => edns.as_ref().map_or(PLAIN_ROOM, Edns::max_payload).max(PLAIN_ROOM).into(),
        Transport::Tcp => usize::from(u16::MAX),
    };
    let asked = Asked { metadata, question, with_edns: edns.is_some(), room };
    if edns.is_some_and(|edns| edns.version() > 0) {
        return Verdict::Reply(encode(&asked.reply(ResponseCode::BADVERS)));
    }
    let Some(resident) = world.resident(asker) else {
        return Verdict::Reply(encode(&asked.reply(ResponseCode::ServFail)));
    };
    if let Some(records) = known(&asked.question, world, asker, turn) {
        return Verdict::Reply(asked.with(records));
    }
    match resident.upstream {
        Upstream::Nowhere => Verdict::Reply(encode(&asked.reply(ResponseCode::NXDomain))),
        Upstream::Host | Upstream::Servers(_) => Verdict::Forward(asked),
    }
}

/// The records for a name that a container has, none where it has none of that type; `None` where no container has it.
fn known(question: &Query, world: &World, asker: &str, turn: usize) -> Option<Vec<RData>> {
    if question.query_class != DNSClass::IN {
        return None;
    }
    if question.query_type == RecordType::PTR
        && let Some(address) = address_of(&question.name)
    {
        let name = Name::from_ascii(format!("{}.", world.reverse(asker, address)?)).ok()?;
        return Some(vec![RData::PTR(PTR(name))]);
    }
    let Found { mut v4, mut v6 } = world.lookup(asker, &text_of(&question.name)?)?;
    let (first, second) = (turn % v4.len().max(1), turn % v6.len().max(1));
    v4.rotate_left(first);
    v6.rotate_left(second);
    let v4 = v4.into_iter().map(|address| RData::A(A(address)));
    let v6 = v6.into_iter().map(|address| RData::AAAA(AAAA(address)));
    Some(match question.query_type {
        RecordType::A => v4.collect(),
        RecordType::AAAA => v6.collect(),
        RecordType::ANY => v4.chain(v6).collect(),
        _ => Vec::new(),
    })
}

/// Lower-case, without the dot at the end. `None` for what no container can be called, as a label with a dot in it.
fn text_of(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name.iter() {
        let label = std::str::from_utf8(label).ok().filter(|label| !label.contains('.'))?;
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(label);
    }
    text.make_ascii_lowercase();
    (!text.is_empty()).then_some(text)
}

/// The address whose name is asked for.
fn address_of(name: &Name) -> Option<IpAddr> {
    let mut name = name.clone();
    name.set_fqdn(true);
    let network = name.parse_arpa_name().ok()?;
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

fn read_edns(decoder: &mut BinDecoder<'_>, counts: HeaderCounts) -> Result<Option<Edns>, ()> {
    if counts.answers != 0 || counts.authorities != 0 {
        // A request for a part of a zone has some: it is the server's business.
        return Ok(None);
    }
    let additionals = Message::read_records(decoder, counts.additionals.into(), true, OpCode::Query);
    additionals.map(|(_, edns, _)| edns).map_err(drop)
}

fn reply(to: &Metadata, code: ResponseCode) -> Message {
    let mut message = Message::response(to.id, to.op_code);
    message.metadata = Metadata::response_from_request(to);
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message
}

/// What we say ourselves always has a form; the header alone says as much as is left where it has not.
fn encode(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap_or_else(|_| {
        let mut bare = message.id.to_be_bytes().to_vec();
        bare.extend([0x80, 0x80 | 2, 0, 0, 0, 0, 0, 0, 0, 0]);
        bare
    })
}

impl Asked {
    /// The name and type, for messages.
    #[must_use]
    pub fn question(&self) -> &Query {
        &self.question
    }

    fn reply(&self, code: ResponseCode) -> Message {
        let mut message = reply(&self.metadata, code);
        message.add_query(self.question.clone());
        if self.with_edns {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_ROOM);
            message.set_edns(edns);
        }
        message
    }

    fn with(&self, records: Vec<RData>) -> Vec<u8> {
        let mut message = self.reply(ResponseCode::NoError);
        message.metadata.authoritative = true;
        if !records.is_empty() {
            // The owner's name is a pointer: two bytes, and ten until the data.
            let length = |data: &RData| 12 + if matches!(data, RData::A(_)) { 4 } else { 16 };
            let taken = encode(&message).len();
            let name = |data: &RData| if let RData::PTR(name) = data { name.0.len() + 12 } else { length(data) };
            let mut left = self.room.saturating_sub(taken);
            let mut all = true;
            for data in records.into_iter().take(MOST_ANSWERS) {
                match left.checked_sub(name(&data)) {
                    Some(rest) => left = rest,
                    None => all = false,
                }
                if !all {
                    break;
                }
                message.add_answer(Record::from_rdata(self.question.name.clone(), TTL, data));
            }
            message.metadata.truncation = !all;
        }
        encode(&message)
    }

    /// The bytes for the client: the server's with the client's number, or what says that they are too many.
    #[must_use]
    pub fn pass_back(&self, mut answer: Vec<u8>) -> Vec<u8> {
        if answer.len() > self.room {
            let mut message = self.reply(ResponseCode::NoError);
            message.metadata.truncation = true;
            return encode(&message);
        }
        if let Some(id) = answer.first_chunk_mut::<2>() {
            *id = self.metadata.id.to_be_bytes();
        }
        answer
    }

    /// The answer when no server gave one.
    #[must_use]
    pub fn failure(&self) -> Vec<u8> {
        encode(&self.reply(ResponseCode::ServFail))
    }

    /// What a packet from a server says, if it is the answer to this question that was sent with this number.
    #[must_use]
    pub fn judge(&self, packet: &[u8], id: u16) -> Option<Judged> {
        let mut decoder = BinDecoder::new(packet);
        let Header { metadata, counts } = Header::read(&mut decoder).ok()?;
        if metadata.message_type != MessageType::Response || metadata.id != id {
            return None;
        }
        let failed = matches!(
            metadata.response_code,
            ResponseCode::ServFail | ResponseCode::Refused | ResponseCode::NotImp | ResponseCode::FormErr
        );
        match counts.queries {
            // A server that does not understand the question need not repeat it.
            0 if failed => return Some(Judged::Failed),
            1 if Query::read(&mut decoder).ok()? == self.question => {}
            _ => return None,
        }
        Some(match (failed, metadata.truncation) {
            (true, _) => Judged::Failed,
            (false, true) => Judged::Truncated,
            (false, false) => Judged::Good,
        })
    }
}
