//! Unfinished uploads: a directory each, with the bytes that came and a note whose they are. They survive the server.
//!
//! Bytes are hashed as they come. The hash is kept in memory between two requests and made again from the file when the server
//! was restarted in between: the file is the truth. One request at a time writes; a newer one takes over from one that hangs on a
//! connection which is already dead.

mod expire;
mod write;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use gantry_linux::{ResultExt, fs};
use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Chunk;
use super::failure::{Code, Failure, Result, TooLarge};
use super::names::{Algorithm, Digest, Hash, Name};
use super::store::{StoreError, blocking};
use super::upload_id::UploadId;
use write::{drain, write_all};

/// Bytes that are gathered before they are hashed and written in one go.
const BATCH: usize = 256 << 10;
/// The same where not too many uploads do so: each time costs two switches between threads.
const LARGE_BATCH: usize = 1 << 20;
/// Uploads that gather more: memory stays flat.
const LARGE_BATCHES: usize = 16;
/// So long they wait for more than [`BATCH`].
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of one read when a hash is made again.
const REREAD: usize = 1 << 20;
/// How long who asks for an upload's size waits for whoever writes to it.
const ENDING: Duration = Duration::from_millis(200);
const ABOUT: &str = "about.json";
const DATA: &str = "data";
/// What the folder of one that has ended is called by until it is removed: no upload has such a name.
const GONE: &str = "gone-";

/// All unfinished uploads.
#[derive(Debug)]
pub struct Uploads {
    root: PathBuf,
    sessions: Mutex<HashMap<UploadId, Arc<Session>>>,
    large: Arc<Semaphore>,
}

/// One unfinished upload.
#[derive(Debug)]
pub struct Session {
    /// Its name.
    pub id: UploadId,
    folder: PathBuf,
    about: About,
    /// What was hashed so far; none before the first request after a restart.
    progress: Arc<AsyncMutex<Option<Progress>>>,
    /// Stops the request that writes now.
    writer: Mutex<CancellationToken>,
    /// Those that gather more.
    large: Arc<Semaphore>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct About {
    repository: Name,
    algorithm: String,
}

#[derive(Debug)]
struct Progress {
    hash: Hash,
    size: u64,
}

impl Uploads {
    /// Those of this directory, which is made, or freed of what a server did not come to removing.
    ///
    /// # Errors
    /// When it cannot be made or cleaned.
    pub fn open(root: PathBuf) -> gantry_linux::Result<Self> {
        fs::create_dir_mode(&root, 0o700)?;
        for name in fs::list(&root)?.iter().filter(|name| name.to_string_lossy().starts_with(GONE)) {
            fs::remove_dir_all(root.join(name))?;
        }
        Ok(Self { root, sessions: Mutex::default(), large: Arc::new(Semaphore::new(LARGE_BATCHES)) })
    }

    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn session(&self, id: UploadId, folder: PathBuf, about: About, progress: Option<Progress>) -> Session {
        let (progress, large) = (Arc::new(AsyncMutex::new(progress)), Arc::clone(&self.large));
        Session { id, folder, about, progress, writer: Mutex::default(), large }
    }

    /// Begins one.
    ///
    /// # Errors
    /// The storage's.
    pub async fn start(&self, repository: &Name, algorithm: Algorithm) -> Result<Arc<Session>> {
        let id = UploadId::random().map_err(|error| StoreError::Failed { what: format!("random bytes: {error}") })?;
        let about = About { repository: repository.clone(), algorithm: algorithm.as_str().to_owned() };
        let progress = Progress { hash: Hash::new(algorithm), size: 0 };
        let folder = self.root.join(id.as_str());
        let session = Arc::new(self.session(id, folder.clone(), about.clone(), Some(progress)));
        let text = serde_json::to_vec(&about).expect("words are JSON");
        let made = blocking(move || make(&folder, &text)).await;
        made.map_err(|error| Failure::from(StoreError::from(error)))?;
        self.sessions().insert(session.id.clone(), Arc::clone(&session));
        Ok(session)
    }

    /// One that was begun for this repository, perhaps by an earlier server.
    ///
    /// # Errors
    /// `BLOB_UPLOAD_UNKNOWN`.
    pub async fn find(&self, repository: &Name, id: &UploadId) -> Result<Arc<Session>> {
        let known = self.sessions().get(id).cloned();
        let session = match known {
            Some(session) => session,
            None => self.take_up(id).await.ok_or_else(|| unknown(id))?,
        };
        if session.about.repository == *repository { Ok(session) } else { Err(unknown(id)) }
    }

    async fn take_up(&self, id: &UploadId) -> Option<Arc<Session>> {
        let folder = self.root.join(id.as_str());
        let path = folder.join(ABOUT);
        let read = path.clone();
        let about = blocking(move || fs::read_up_to(read, 4096)).await.ok()?;
        let about = serde_json::from_slice::<About>(&about).ok()?;
        let session = Arc::new(self.session(id.clone(), folder, about, None));
        let session = Arc::clone(self.sessions().entry(id.clone()).or_insert(session));
        // It may have ended between the two: then nobody else takes it from the map.
        if blocking(move || fs::metadata(path)).await.is_err_and(|error| error.is_not_found()) {
            self.sessions().remove(id);
            return None;
        }
        Some(session)
    }

    /// Gives one up. What writes to it is stopped first.
    ///
    /// # Errors
    /// The storage's.
    pub async fn cancel(&self, session: &Session) -> Result<()> {
        let _turn = session.turn().await;
        self.forget(session).await
    }

    /// Removes what is left of one that is done. The caller has its turn. It can be found as long as its folder is there, or a
    /// second session would be made of it.
    async fn forget(&self, session: &Session) -> Result<()> {
        let (folder, gone) = (session.folder.clone(), self.root.join(format!("{GONE}{}", session.id)));
        let to = gone.clone();
        let renamed = blocking(move || match fs::rename(folder, to) {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        });
        renamed.await.map_err(StoreError::from)?;
        self.sessions().remove(&session.id);
        let removed = blocking(move || fs::remove_dir_all(gone)).await;
        removed.map_err(|error| StoreError::from(error).into())
    }

    /// What failed for good leaves nothing. Where there is no space, what came of it would keep others from theirs; and of what a
    /// disk failed to write once, it says the next time that it did. The caller has the session's turn.
    async fn give_up(&self, session: &Session, failure: Failure) -> Failure {
        let is_over = failure.code == Code::Denied
            || matches!(failure.status, StatusCode::INSUFFICIENT_STORAGE | StatusCode::INTERNAL_SERVER_ERROR);
        if is_over && let Err(error) = self.forget(session).await {
            // The first error is the one that matters; the upload expires.
            tracing::warn!(upload = session.id.as_str(), %error, "an upload that failed stays");
        }
        failure
    }

    /// Appends a body. Returns how many bytes there are now.
    ///
    /// # Errors
    /// `RANGE_INVALID` when the chunk does not go on where the upload is; `BLOB_UPLOAD_INVALID` when the body breaks off: what came of it
    /// is kept.
    pub async fn append<B>(&self, session: &Session, body: B, chunk: Option<Chunk>) -> Result<u64>
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let mut turn = session.turn().await?;
        match turn.append(session, body, chunk).await {
            Err(failure) => Err(self.give_up(session, failure).await),
            size => size,
        }
    }

    /// Appends the last body, verifies the whole, gives it to `keep` as a file with its size, and forgets the upload. Content that is
    /// not what was promised is thrown away.
    ///
    /// # Errors
    /// `DIGEST_INVALID`, what [`Uploads::append`] says, or what `keep` says.
    pub async fn finish<B, K>(
        &self,
        session: &Session,
        body: B,
        chunk: Option<Chunk>,
        digest: &Digest,
        keep: K,
    ) -> Result<u64>
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: std::error::Error + 'static,
        K: AsyncFnOnce(&Path, u64) -> Result<()>,
    {
        let mut turn = session.turn().await?;
        let size = match turn.append(session, body, chunk).await {
            Err(failure) => return Err(self.give_up(session, failure).await),
            Ok(size) => size,
        };
        let found = turn.digest(session, digest.algorithm()).await?;
        if found != *digest {
            self.forget(session).await?;
            let message = format!("the {size} bytes that came are {found}, not {digest} as was promised");
            return Err(Failure::new(Code::DigestInvalid, message));
        }
        if let Err(failure) = keep(&session.folder.join(DATA), size).await {
            return Err(self.give_up(session, failure).await);
        }
        self.forget(session).await?;
        Ok(size)
    }
}

impl Session {
    /// Bytes that have come.
    ///
    /// # Errors
    /// `BLOB_UPLOAD_UNKNOWN` when it has ended.
    pub async fn size(&self) -> Result<u64> {
        // Who lost his connection may ask before its end was seen here, and what it brought is written.
        let _ended = tokio::time::timeout(ENDING, self.progress.lock()).await;
        let path = self.folder.join(DATA);
        match blocking(move || fs::metadata(path)).await {
            Ok(metadata) => Ok(metadata.len()),
            Err(_) => Err(unknown(&self.id)),
        }
    }

    /// Stops who writes, and waits until it has stopped.
    async fn turn(&self) -> Result<Turn> {
        let stop = CancellationToken::new();
        let before = std::mem::replace(&mut *self.writer.lock().unwrap_or_else(PoisonError::into_inner), stop.clone());
        before.cancel();
        let progress = Arc::clone(&self.progress).lock_owned().await;
        let path = self.folder.join(DATA);
        let file = blocking(move || fs::open_with(path, OpenOptions::new().read(true).write(true))).await;
        // Whoever had the turn before may have finished it.
        let file = file.map_err(|_| unknown(&self.id))?;
        Ok(Turn { progress, file: Arc::new(file), stop, large: Arc::clone(&self.large).try_acquire_owned().ok() })
    }
}

/// The right to write to an upload.
struct Turn {
    progress: OwnedMutexGuard<Option<Progress>>,
    file: Arc<File>,
    stop: CancellationToken,
    /// It gathers more.
    large: Option<OwnedSemaphorePermit>,
}

impl Turn {
    async fn append<B>(&mut self, session: &Session, mut body: B, chunk: Option<Chunk>) -> Result<u64>
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let mut progress = match self.progress.take() {
            Some(progress) => progress,
            None => self.again(session, session.about.algorithm()).await?,
        };
        if let Some(chunk) = chunk.filter(|chunk| chunk.offset != progress.size) {
            let message = format!("the chunk begins at {}, but the upload has {} bytes", chunk.offset, progress.size);
            *self.progress = Some(progress);
            return Err(Failure::new(Code::RangeInvalid, message));
        }
        let limit = chunk.map_or(u64::MAX, |chunk| chunk.length);
        let (outcome, came) = self.write_body(&mut progress, &mut body, limit).await;
        let size = progress.size;
        *self.progress = Some(progress);
        outcome?;
        if chunk.is_some_and(|chunk| chunk.length != came) {
            let message = format!("the chunk has {came} bytes, but Content-Range says {limit}");
            return Err(Failure::new(Code::SizeInvalid, message));
        }
        Ok(size)
    }

    /// Writes while the next bytes come. Returns what came of it, and how many bytes did.
    async fn write_body<B>(&self, progress: &mut Progress, body: &mut B, limit: u64) -> (Result<()>, u64)
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let mut came = 0;
        loop {
            let (batch, end) = self.gather(body).await;
            let length = batch.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
            came += length;
            if came > limit {
                let message = format!("more bytes came than the {limit} that Content-Range says");
                return (Err(Failure::new(Code::SizeInvalid, message)), came);
            }
            if length > 0
                && let Err(failure) = self.write(progress, batch).await
            {
                drain(body).await;
                return (Err(failure), came);
            }
            match end {
                None => {}
                Some(outcome) => return (outcome, came),
            }
        }
    }

    /// The next bytes, and how the body ended when it did.
    async fn gather<B>(&self, body: &mut B) -> (Vec<Bytes>, Option<Result<()>>)
    where
        B: Body<Data = Bytes> + Send + Unpin,
        B::Error: std::error::Error + 'static,
    {
        let (mut batch, mut length) = (Vec::new(), 0);
        let most = if self.large.is_some() { LARGE_BATCH } else { BATCH };
        let pause = tokio::time::sleep(PAUSE);
        tokio::pin!(pause);
        while length < most {
            let frame = tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    let message = "another request goes on with this upload";
                    return (batch, Some(Err(Failure::new(Code::BlobUploadInvalid, message))));
                }
                frame = body.frame() => frame,
                () = &mut pause, if length >= BATCH => break,
            };
            match frame {
                None => return (batch, Some(Ok(()))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        length += bytes.len();
                        batch.push(bytes);
                    }
                }
                Some(Err(error)) => {
                    return (batch, Some(Err(broken(&error))));
                }
            }
        }
        (batch, None)
    }

    async fn write(&self, progress: &mut Progress, batch: Vec<Bytes>) -> Result<()> {
        let (file, mut hash, start) = (Arc::clone(&self.file), progress.hash.clone(), progress.size);
        let written = blocking(move || {
            if let Err(error) = write_all(&file, &batch, start) {
                // What was not hashed is not there. A file that cannot be cut is longer than it says, and is seen by its digest.
                let _ = file.set_len(start);
                return Err(error).during("write", "an upload");
            }
            batch.iter().for_each(|bytes| hash.update(bytes));
            Ok((hash, start + batch.iter().map(|bytes| bytes.len() as u64).sum::<u64>()))
        });
        let (hash, size) = written.await.map_err(StoreError::from)?;
        (progress.hash, progress.size) = (hash, size);
        Ok(())
    }

    /// What all the bytes are by this algorithm.
    async fn digest(&mut self, session: &Session, algorithm: Algorithm) -> Result<Digest> {
        match self.progress.take() {
            Some(progress) if progress.hash.algorithm() == algorithm => Ok(progress.hash.finish()),
            _ => Ok(self.again(session, algorithm).await?.hash.finish()),
        }
    }

    /// Hashes the file anew.
    async fn again(&self, session: &Session, algorithm: Algorithm) -> Result<Progress> {
        let (file, path) = (Arc::clone(&self.file), session.folder.join(DATA));
        let progress = blocking(move || {
            let (mut hash, mut size, mut buffer) = (Hash::new(algorithm), 0, vec![0; REREAD]);
            loop {
                match file.read_at(&mut buffer, size).during("read", path.display())? {
                    0 => return Ok::<_, gantry_linux::Error>(Progress { hash, size }),
                    length => {
                        hash.update(&buffer[..length]);
                        size += length as u64;
                    }
                }
            }
        });
        Ok(progress.await.map_err(StoreError::from)?)
    }
}

impl About {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ALL.into_iter().find(|known| known.as_str() == self.algorithm).unwrap_or(Algorithm::Sha256)
    }
}

/// The note last: a folder without it is litter.
fn make(folder: &Path, about: &[u8]) -> gantry_linux::Result<()> {
    fs::create_dir(folder)?;
    let made = fs::write_new(folder.join(DATA), b"", 0o600)
        .and_then(|_| fs::write_atomic(folder.join(ABOUT), about, 0o600, fs::Durability::Process));
    if made.is_err() {
        // The first error is the one that matters.
        let _ = fs::remove_dir_all(folder);
    }
    made
}

/// A body that ended before its end.
fn broken(error: &(dyn std::error::Error + 'static)) -> Failure {
    let failure = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    if let Some(TooLarge(limit)) = failure.and_then(|error| error.downcast_ref()) {
        return Failure::body_too_large(*limit);
    }
    let message = format!("the body broke off: {error}; what came is kept, ask for its size and go on");
    Failure::new(Code::BlobUploadInvalid, message)
}

fn unknown(id: &UploadId) -> Failure {
    let message = format!("there is no upload {id} here: it was finished, given up, or expired; begin a new one");
    Failure::new(Code::BlobUploadUnknown, message)
}
