//! A blob on its way from upstream: fetched once, read by all who ask for it meanwhile, kept when it is what it must be.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gantry_linux::fs;
use http::{Method, StatusCode};
use reqwest::header::CONTENT_LENGTH;
use tokio::sync::{mpsc, watch};

use super::place::{Kind, Place, Trouble};
use super::shelf::{Room, Shelf};
use crate::http::is_part;
use crate::server::store::{Key, StoreError, blocking};
use crate::server::{Digest, Failure, Hash, Name};

/// Attempts that bring nothing.
const ATTEMPTS: u32 = 3;
/// The pause before the second of them; each further one doubles.
const PAUSE: Duration = Duration::from_millis(200);
/// What is read of the file at once, for who reads while it grows.
const READ: u64 = 128 << 10;

/// How far a fetch is.
#[derive(Clone)]
pub enum Progress {
    /// Upstream was asked.
    Asked,
    /// It comes, into this file.
    Coming(Arc<Spool>, u64),
    /// It is whole, verified and kept.
    Whole(Arc<Spool>),
    /// It did not come.
    Failed(Trouble),
}

/// What comes is written to and read from.
pub struct Spool {
    file: File,
    /// As many bytes as upstream promised.
    pub size: u64,
}

/// All that is on its way.
#[derive(Default)]
pub struct Fetches {
    running: Mutex<HashMap<(Name, Digest), watch::Receiver<Progress>>>,
}

/// One blob, to be fetched.
struct Fetch {
    fetches: Arc<Fetches>,
    shelf: Arc<Shelf>,
    place: Arc<Place>,
    name: Name,
    digest: Digest,
    progress: watch::Sender<Progress>,
}

impl Fetches {
    /// Joins the fetch of a blob, or begins it. It goes on when everybody who asked for it has left.
    pub fn join(
        self: &Arc<Self>,
        shelf: &Arc<Shelf>,
        place: &Arc<Place>,
        name: &Name,
        digest: &Digest,
    ) -> watch::Receiver<Progress> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.clone(), digest.clone());
        if let Some(progress) = running.get(&key) {
            return progress.clone();
        }
        let (progress, watched) = watch::channel(Progress::Asked);
        running.insert(key, watched.clone());
        let fetch = Fetch {
            fetches: self.clone(),
            shelf: shelf.clone(),
            place: place.clone(),
            name: name.clone(),
            digest: digest.clone(),
            progress,
        };
        tokio::spawn(fetch.run());
        watched
    }
}

impl Drop for Fetch {
    /// Whoever asks from here on begins anew, also when this one panicked.
    fn drop(&mut self) {
        let mut running = self.fetches.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&(self.name.clone(), self.digest.clone()));
    }
}

impl Fetch {
    async fn run(self) {
        let _slot = self.place.slots.acquire().await.expect("never closed");
        let staged = self.shelf.stage();
        let outcome = self.bring(&staged).await;
        if outcome.is_err() {
            let path = staged.clone();
            if let Err(error) = blocking(move || fs::remove_file(path)).await
                && !error.is_not_found()
            {
                tracing::warn!("what came of {} stays until the next start: {error}", self.digest);
            }
        }
        let progress = match outcome {
            Ok(spool) => Progress::Whole(spool),
            Err(trouble) => {
                tracing::warn!("{} of {} did not come: {}", self.digest, self.name, trouble.failure.message);
                Progress::Failed(trouble)
            }
        };
        self.progress.send_replace(progress);
    }

    async fn bring(&self, staged: &Path) -> Result<Arc<Spool>, Trouble> {
        let path = format!("blobs/{}", self.digest);
        let mut answer = self.place.ask(&self.name, Method::GET, &path, 0).await?;
        let length = answer.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        let Some(size) = length else {
            return Err(self.place.refused(&format!("it does not say how large {} is", self.digest)));
        };
        let file = staged.to_owned();
        let options = OpenOptions::new().read(true).write(true).create_new(true).clone();
        let file = blocking(move || fs::open_with(file, &options)).await;
        let spool = Arc::new(Spool { file: file.map_err(|error| broken(error.into()))?, size });
        self.progress.send_replace(Progress::Coming(spool.clone(), 0));
        let mut coming = Coming {
            spool: spool.clone(),
            hash: Hash::new(self.digest.algorithm()),
            received: 0,
            room: self.shelf.room(size),
        };
        let (mut attempts, mut pause) = (1, PAUSE);
        loop {
            let before = coming.received;
            match self.read(answer, &mut coming).await {
                Ok(()) => break,
                Err(trouble) if trouble.kind != Kind::Away => return Err(trouble),
                Err(_) if coming.received > before => (attempts, pause) = (1, PAUSE),
                Err(trouble) if attempts >= ATTEMPTS => return Err(trouble),
                Err(_) => attempts += 1,
            }
            // Where it broke off it is taken up again.
            answer = loop {
                tokio::time::sleep(pause).await;
                pause *= 2;
                match self.place.ask(&self.name, Method::GET, &path, coming.received).await {
                    Ok(answer) => break answer,
                    Err(trouble) if trouble.kind != Kind::Away || attempts >= ATTEMPTS => return Err(trouble),
                    Err(_) => attempts += 1,
                }
            };
        }
        self.keep(staged, coming).await?;
        Ok(spool)
    }

    /// Reads an answer to its end.
    async fn read(&self, mut answer: reqwest::Response, coming: &mut Coming<'_>) -> Result<(), Trouble> {
        let mut skip = match is_part(&answer, coming.received) {
            Ok(true) => 0,
            // An upstream that does not know ranges sends all of it again.
            Ok(false) => coming.received,
            Err(_) => {
                return Err(self.place.refused(&format!("it sent another part of {} than was asked for", self.digest)));
            }
        };
        while let Some(mut bytes) = self.place.chunk(&mut answer).await? {
            let known = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
            skip -= known as u64;
            drop(bytes.split_to(known));
            if coming.received + bytes.len() as u64 > coming.spool.size {
                return Err(self.place.refused(&format!("it sent more of {} than it said", self.digest)));
            }
            coming.write(bytes).await.map_err(broken)?;
            self.progress.send_replace(Progress::Coming(coming.spool.clone(), coming.received));
        }
        if coming.received == coming.spool.size {
            return Ok(());
        }
        let reason = format!("{} broke off after {} of {} bytes", self.digest, coming.received, coming.spool.size);
        Err(self.place.away(StatusCode::BAD_GATEWAY, &reason))
    }

    async fn keep(&self, staged: &Path, coming: Coming<'_>) -> Result<(), Trouble> {
        let size = coming.received;
        let found = coming.hash.finish();
        if found != self.digest {
            return Err(self.place.refused(&format!("it sent {found} for {}: nothing of it is kept", self.digest)));
        }
        self.shelf.take(staged, &self.digest, coming.room).await.map_err(broken)?;
        let key = Key::blob(&self.name, &self.digest);
        self.shelf.name(&self.name, &self.digest, &key, link(size)).await.map_err(broken)
    }
}

/// The document that says that a repository has a blob.
pub fn link(size: u64) -> Bytes {
    serde_json::json!({ "size": size }).to_string().into()
}

/// The disk of this registry failed, not upstream.
pub fn broken(error: StoreError) -> Trouble {
    Trouble { failure: Failure::from(error), kind: Kind::Refused }
}

struct Coming<'a> {
    spool: Arc<Spool>,
    hash: Hash,
    received: u64,
    room: Room<'a>,
}

impl Coming<'_> {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let (spool, at) = (self.spool.clone(), self.received);
        self.room.hold(at + bytes.len() as u64).await?;
        self.hash.update(&bytes);
        self.received += bytes.len() as u64;
        let written = blocking(move || spool.file.write_all_at(&bytes, at)).await;
        written.map_err(|error| gantry_linux::Error::new("write", "a blob from upstream", error).into())
    }
}

/// Waits until upstream has begun to send: the file and its size.
pub async fn begun(place: &Place, progress: &mut watch::Receiver<Progress>) -> Result<Arc<Spool>, Trouble> {
    match tokio::time::timeout(place.patience(), coming(progress)).await {
        Ok(begun) => begun,
        Err(_) => {
            let reason =
                format!("it has not begun to send it within {:?}, perhaps as it sends others", place.patience());
            Err(place.late(StatusCode::GATEWAY_TIMEOUT, &reason))
        }
    }
}

async fn coming(progress: &mut watch::Receiver<Progress>) -> Result<Arc<Spool>, Trouble> {
    loop {
        match progress.borrow_and_update().clone() {
            Progress::Asked => {}
            Progress::Coming(spool, _) | Progress::Whole(spool) => return Ok(spool),
            Progress::Failed(trouble) => return Err(trouble),
        }
        if progress.changed().await.is_err() {
            return Err(broken(StoreError::Failed { what: "a fetch ended without a word".to_owned() }));
        }
    }
}

/// Sends `length` bytes from `offset` as they come. The last byte goes out only after all were verified: who is sent
/// something wrong sees that it broke off.
pub async fn follow(
    mut progress: watch::Receiver<Progress>,
    offset: u64,
    length: u64,
    to: mpsc::Sender<io::Result<Bytes>>,
) {
    let (mut at, end) = (offset, offset + length);
    while at < end {
        let current = progress.borrow_and_update().clone();
        let (spool, ready) = match current {
            // Whoever follows has waited for the beginning.
            Progress::Asked => return,
            Progress::Coming(spool, received) => {
                let ready = received.min(spool.size.saturating_sub(1)).min(end);
                (spool, ready)
            }
            Progress::Whole(spool) => (spool, end),
            Progress::Failed(trouble) => {
                // Nobody listens any more: that is their business.
                let _ = to.send(Err(io::Error::other(trouble.failure.message))).await;
                return;
            }
        };
        if ready <= at {
            if progress.changed().await.is_err() {
                let _ = to.send(Err(io::Error::other("the fetch ended without a word"))).await;
                return;
            }
            continue;
        }
        let wanted = (ready - at).min(READ);
        let read = blocking(move || {
            let mut bytes = vec![0; usize::try_from(wanted).map_err(io::Error::other)?];
            spool.file.read_exact_at(&mut bytes, at)?;
            Ok(Bytes::from(bytes))
        });
        at += wanted;
        if to.send(read.await).await.is_err() {
            return;
        }
    }
}
