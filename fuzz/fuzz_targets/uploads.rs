//! Uploads against a model, a string of bytes for each: begun, gone on with by whoever says where, cut off, taken over, finished,
//! given up, expired, taken up by the next server. What came is there, once and in order; what ended is gone.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use arbitrary::Arbitrary;
use bytes::Bytes;
use hyper::body::{Body, Frame};
use libfuzzer_sys::fuzz_target;
use tokio::sync::Notify;

use server::Chunk;
use server::failure::{Code, Failure};
use server::names::{Algorithm, Digest, Name};
use server::upload_id::UploadId;
use server::uploads::Uploads;

#[path = "../src/uploads_server.rs"]
mod server;

/// The most that one request brings: more than is gathered before it is written.
const BATCH: usize = 1 << 20;
const NAMES: [&str; 2] = ["a", "a/b"];

#[derive(Debug, Arbitrary)]
enum Op {
    Start { name: bool, sha512: bool },
    Append { which: u8, name: bool, body: Sent, at: At },
    TakeOver { which: u8, hangs: Sent, body: Sent },
    Finish { which: u8, body: Sent, at: At, right: bool, sha512: bool, kept: bool },
    Cancel { which: u8 },
    Restart,
    Expire { all: bool },
}

/// A body: pieces, and whether it breaks off after them. A large one repeats its bytes.
#[derive(Debug, Arbitrary)]
struct Sent {
    pieces: Vec<Vec<u8>>,
    large: bool,
    breaks: bool,
}

/// What `Content-Range` says.
#[derive(Debug, Arbitrary)]
enum At {
    Nothing,
    End,
    Elsewhere(u16),
    Longer(u8),
    Shorter(u8),
}

struct Sending {
    pieces: std::vec::IntoIter<Vec<u8>>,
    breaks: bool,
    /// Told when all was taken, after which nothing comes.
    hangs: Option<Arc<Notify>>,
}

impl Sent {
    fn pieces(&self) -> Vec<Vec<u8>> {
        let repeat = if self.large { (BATCH + 1) / self.pieces.iter().map(Vec::len).sum::<usize>().max(64) + 1 } else { 1 };
        std::iter::repeat_n(&self.pieces, repeat).flatten().filter(|piece| !piece.is_empty()).cloned().collect()
    }

    fn bytes(&self) -> Vec<u8> {
        self.pieces().concat()
    }

    fn body(&self) -> Sending {
        Sending { pieces: self.pieces().into_iter(), breaks: self.breaks, hangs: None }
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(piece) = self.pieces.next() {
            return Poll::Ready(Some(Ok(Frame::data(piece.into()))));
        }
        if let Some(hangs) = &self.hangs {
            hangs.notify_one();
            return Poll::Pending;
        }
        let breaks = std::mem::take(&mut self.breaks);
        Poll::Ready(breaks.then(|| Err(io::ErrorKind::ConnectionReset.into())))
    }
}

#[derive(Debug)]
struct Known {
    name: Name,
    came: Vec<u8>,
}

struct World<'a> {
    root: &'a Path,
    uploads: Uploads,
    known: BTreeMap<String, Known>,
}

fn name(which: bool) -> Name {
    NAMES[usize::from(which)].parse().expect("a name")
}

impl World<'_> {
    fn pick(&self, which: u8) -> Option<UploadId> {
        let at = usize::from(which).checked_rem(self.known.len())?;
        self.known.keys().nth(at)?.parse().ok()
    }

    /// What the request says, how much of the body is kept, and what the answer is.
    fn expect(&self, id: &UploadId, body: &Sent, at: &At) -> (Option<Chunk>, usize, Option<Code>) {
        let (size, length) = (self.known[id.as_str()].came.len() as u64, body.bytes().len());
        let said = |offset, length: u64| (length > 0).then_some(Chunk { offset, length });
        let chunk = match at {
            At::Nothing => None,
            At::End => said(size, length as u64),
            At::Elsewhere(offset) => said(u64::from(*offset), length as u64),
            At::Longer(by) => said(size, length as u64 + u64::from(*by)),
            At::Shorter(by) => said(size, (length as u64).saturating_sub(u64::from(*by))),
        };
        let Some(Chunk { offset, length: limit }) = chunk else {
            return (chunk, length, body.breaks.then_some(Code::BlobUploadInvalid));
        };
        if offset != size {
            return (chunk, 0, Some(Code::RangeInvalid));
        }
        if length as u64 > limit {
            return (chunk, within(body, limit), Some(Code::SizeInvalid));
        }
        let code = if body.breaks {
            Some(Code::BlobUploadInvalid)
        } else {
            (length as u64 != limit).then_some(Code::SizeInvalid)
        };
        (chunk, length, code)
    }

    async fn start(&mut self, name: Name, sha512: bool) {
        let algorithm = if sha512 { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let session = self.uploads.start(&name, algorithm).await.expect("an upload");
        self.known.insert(session.id.as_str().to_owned(), Known { name, came: Vec::new() });
    }

    async fn append(&mut self, id: UploadId, named: Name, body: &Sent, at: &At) {
        let (chunk, kept, code) = self.expect(&id, body, at);
        let known = self.known.get_mut(id.as_str()).expect("it is known");
        let found = self.uploads.find(&named, &id).await;
        if named != known.name {
            return assert_eq!(found.err().map(|failure| failure.code), Some(Code::BlobUploadUnknown));
        }
        let done = self.uploads.append(&*found.expect("it is there"), body.body(), chunk).await;
        known.came.extend_from_slice(&body.bytes()[..kept]);
        match done {
            Ok(size) => assert_eq!((code, size), (None, known.came.len() as u64)),
            Err(failure) => assert_eq!(Some(failure.code), code, "{failure}"),
        }
    }

    /// The second comes while the first hangs.
    async fn take_over(&mut self, id: UploadId, hangs: &Sent, body: &Sent) {
        let known = self.known.get_mut(id.as_str()).expect("it is known");
        let session = self.uploads.find(&known.name, &id).await.expect("it is there");
        let hung = Arc::new(Notify::new());
        let hanging = Sending { hangs: Some(hung.clone()), breaks: false, ..hangs.body() };
        let second = async {
            hung.notified().await;
            self.uploads.append(&session, body.body(), None).await
        };
        let (first, second) = tokio::join!(self.uploads.append(&session, hanging, None), second);
        assert_eq!(first.err().map(|failure| failure.code), Some(Code::BlobUploadInvalid));
        known.came.extend(hangs.bytes());
        known.came.extend(body.bytes());
        match second {
            Ok(size) => assert_eq!((body.breaks, size), (false, known.came.len() as u64)),
            Err(failure) => assert!(body.breaks && failure.code == Code::BlobUploadInvalid, "{failure}"),
        }
    }

    async fn finish(&mut self, id: UploadId, body: &Sent, at: &At, right: bool, sha512: bool, keeps: bool) {
        let (chunk, kept, code) = self.expect(&id, body, at);
        let known = self.known.get_mut(id.as_str()).expect("it is known");
        known.came.extend_from_slice(&body.bytes()[..kept]);
        let algorithm = if sha512 { Algorithm::Sha512 } else { Algorithm::Sha256 };
        let digest = Digest::of(algorithm, if right { &known.came } else { b"something else" });
        let session = self.uploads.find(&known.name, &id).await.expect("it is there");
        let taken = RefCell::new(None);
        let keep = async |staged: &Path, size: u64| {
            let bytes = std::fs::read(staged).expect("what was taken over");
            assert_eq!(bytes.len() as u64, size);
            taken.replace(Some(bytes));
            if keeps { Ok(()) } else { Err(Failure::new(Code::Unavailable, "not now")) }
        };
        let done = self.uploads.finish(&session, body.body(), chunk, &digest, keep).await;
        let right = digest == Digest::of(algorithm, &known.came);
        let (expected, ends) = match code {
            Some(code) => (Some(code), false),
            None if !right => (Some(Code::DigestInvalid), true),
            None if !keeps => (Some(Code::Unavailable), false),
            None => (None, true),
        };
        assert_eq!(done.err().map(|failure| failure.code), expected);
        let shown = code.is_none() && right;
        assert_eq!(taken.into_inner().as_ref(), shown.then_some(&known.came));
        if ends {
            self.known.remove(id.as_str());
            self.is_gone(&id).await;
        }
    }

    async fn is_gone(&self, id: &UploadId) {
        for name in NAMES {
            let found = self.uploads.find(&name.parse().expect("a name"), id).await;
            assert_eq!(found.err().map(|failure| failure.code), Some(Code::BlobUploadUnknown));
        }
    }

    async fn run(&mut self, op: &Op) {
        match op {
            Op::Start { name: which, sha512 } => self.start(name(*which), *sha512).await,
            Op::Append { which, name: named, body, at } => {
                if let Some(id) = self.pick(*which) {
                    self.append(id, name(*named), body, at).await;
                }
            }
            Op::TakeOver { which, hangs, body } => {
                if let Some(id) = self.pick(*which) {
                    self.take_over(id, hangs, body).await;
                }
            }
            Op::Finish { which, body, at, right, sha512, kept } => {
                if let Some(id) = self.pick(*which) {
                    self.finish(id, body, at, *right, *sha512, *kept).await;
                }
            }
            Op::Cancel { which } => {
                let Some(id) = self.pick(*which) else { return };
                let known = self.known.remove(id.as_str()).expect("it is known");
                let session = self.uploads.find(&known.name, &id).await.expect("it is there");
                self.uploads.cancel(&session).await.expect("given up");
                self.is_gone(&id).await;
            }
            Op::Restart => self.uploads = Uploads::open(self.root.to_owned()).expect("the next server"),
            Op::Expire { all } => {
                let hour = Duration::from_secs(3600);
                let before = if *all { SystemTime::now() + hour } else { SystemTime::now() - hour };
                let gone = self.uploads.expire(before).await.expect("a sweep");
                assert_eq!(gone, if *all { self.known.len() } else { 0 });
                if *all {
                    self.known.clear();
                }
            }
        }
    }

    /// What is on disk is what the model says, and nothing else.
    async fn check(&self) {
        for (id, known) in &self.known {
            let session = self.uploads.find(&known.name, &id.parse().expect("an id")).await.expect("it is there");
            assert_eq!(session.size().await.expect("its size"), known.came.len() as u64);
        }
        let there = std::fs::read_dir(self.root).expect("the directory").count();
        assert_eq!(there, self.known.len(), "something is left");
    }
}

/// How much of a body is written when more comes than was said: the batches that were whole before it was seen.
fn within(body: &Sent, limit: u64) -> usize {
    let (mut written, mut batch) = (0, 0);
    for piece in body.pieces() {
        batch += piece.len();
        if batch >= BATCH {
            if (written + batch) as u64 > limit {
                return written;
            }
            written += batch;
            batch = 0;
        }
    }
    written
}

fuzz_target!(|ops: Vec<Op>| {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("uploads");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let uploads = Uploads::open(root.clone()).expect("the first server");
        let mut world = World { root: &root, uploads, known: BTreeMap::new() };
        for op in ops.iter().take(24) {
            world.run(op).await;
            world.check().await;
        }
    });
});
