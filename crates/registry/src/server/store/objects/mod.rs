//! A bucket of S3, or of what speaks its protocol, as storage. `documents/` by key, `content/<algorithm>/<2 digits>/<digits>`, and
//! `touched/` beside it: an object cannot be made young again, so whoever needs content writes a mark of the same name.
//!
//! Content comes verified from a file of this machine, in one request or in parts, and has its name when all of it is there. The
//! times are the bucket's, in seconds, and are rounded up: nothing is older than it looks.

mod settings;
mod transport;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use gantry_linux::{ResultExt, fs};
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{BackoffConfig, GetOptions, ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use tokio::sync::{Semaphore, mpsc};

use super::{DOCUMENT_LIMIT, Entry, Key, Result, Source, Stat, Storage, StoreError, blocking, fits};
use crate::http::printable;
use crate::server::hooks::Future;
use crate::server::names::{Algorithm, Digest};

pub use settings::{Keys, S3Settings};

/// Bytes of a part: the least that S3 takes of all but the last one.
const PART: u64 = 5 << 20;
/// The most parts that an object may have.
const PARTS: u64 = 10_000;
/// Parts that are on their way at once, of all uploads: memory stays flat.
const AT_ONCE: usize = 2;
/// What cannot be done in that time is an error: somebody waits for it.
const PATIENCE: Duration = Duration::from_secs(30);
const RETRIES: usize = 5;

/// A bucket.
#[derive(Debug, Clone)]
pub struct Objects(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    store: AmazonS3,
    /// Of all names: empty, or with a slash at its end.
    prefix: String,
    sending: Semaphore,
}

impl Objects {
    /// Opens it, and asks for something, so that a wrong name or key is seen at once.
    ///
    /// # Errors
    /// When it cannot be reached, is not there, or the keys do not open it.
    pub async fn open(settings: &S3Settings, keys: Keys) -> Result<Self> {
        let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: RETRIES, retry_timeout: PATIENCE };
        let mut builder = AmazonS3Builder::new()
            .with_bucket_name(&settings.bucket)
            .with_region(&settings.region)
            .with_access_key_id(keys.id)
            .with_secret_access_key(keys.secret)
            .with_virtual_hosted_style_request(settings.virtual_hosts || settings.endpoint.is_none())
            .with_disable_bulk_delete(true)
            .with_retry(retry)
            .with_http_connector(transport::Connector::new(settings)?);
        if let Some(token) = keys.session {
            builder = builder.with_token(token);
        }
        if let Some(endpoint) = settings.address() {
            builder = builder.with_endpoint(endpoint).with_allow_http(true);
        }
        let what = format!("open the bucket {}", settings.bucket);
        let store = builder.build().map_err(|error| failed(&what, &error))?;
        let prefix = if settings.prefix.is_empty() { String::new() } else { format!("{}/", settings.prefix) };
        let bucket = Bucket { store, prefix, sending: Semaphore::new(AT_ONCE) };
        bucket.list(Key::repositories().as_str(), &what).await?;
        Ok(Self(Arc::new(bucket)))
    }
}

impl Bucket {
    fn document(&self, key: &Key) -> Path {
        self.path(&format!("documents/{key}"))
    }

    fn content(&self, digest: &Digest) -> Path {
        self.of_digest("content", digest)
    }

    /// What says when content was needed last.
    fn mark(&self, digest: &Digest) -> Path {
        self.of_digest("touched", digest)
    }

    fn of_digest(&self, folder: &str, digest: &Digest) -> Path {
        let (algorithm, hex) = (digest.algorithm().as_str(), digest.hex());
        self.path(&format!("{folder}/{algorithm}/{}/{hex}", &hex[..2]))
    }

    /// Names are made of parsed words, which are the same in a path.
    fn path(&self, name: &str) -> Path {
        Path::from(format!("{}{name}", self.prefix))
    }

    async fn head(&self, path: &Path) -> Result<Option<ObjectMeta>> {
        present(self.store.head(path).await).map_err(|error| failed(&format!("look for {path}"), &error))
    }

    async fn read(&self, path: &Path) -> Result<Option<Bytes>> {
        let during = |error| failed(&format!("read {path}"), &error);
        let Some(got) = present(self.store.get(path).await).map_err(during)? else { return Ok(None) };
        if got.meta.size > DOCUMENT_LIMIT as u64 {
            let reason = format!("it has {} bytes, and a document at most {DOCUMENT_LIMIT}", got.meta.size);
            return Err(StoreError::Damaged { what: path.to_string(), reason });
        }
        got.bytes().await.map(Some).map_err(during)
    }

    async fn write(&self, path: &Path, bytes: Bytes) -> Result<()> {
        let written = self.store.put(path, PutPayload::from_bytes(bytes)).await;
        written.map(drop).map_err(|error| failed(&format!("write {path}"), &error))
    }

    async fn delete(&self, path: &Path) -> Result<()> {
        let deleted = present(self.store.delete(path).await);
        deleted.map(drop).map_err(|error| failed(&format!("delete {path}"), &error))
    }

    async fn list(&self, folder: &str, what: &str) -> Result<Vec<Entry>> {
        let listed = self.store.list_with_delimiter(Some(&self.path(folder))).await;
        let listed = listed.map_err(|error| failed(what, &error))?;
        let entry = |path: &Path, folder| path.filename().map(|name| Entry { name: name.to_owned(), folder });
        let folders = listed.common_prefixes.iter().filter_map(|path| entry(path, true));
        let mut entries: Vec<_> =
            folders.chain(listed.objects.iter().filter_map(|object| entry(&object.location, false))).collect();
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    async fn stat(&self, digest: &Digest) -> Result<Option<Stat>> {
        let (content, mark) = (self.content(digest), self.mark(digest));
        let (content, mark) = tokio::try_join!(self.head(&content), self.head(&mark))?;
        let Some(content) = content else { return Ok(None) };
        let marked = mark.map_or(SystemTime::UNIX_EPOCH, |mark| touched(&mark));
        Ok(Some(Stat { size: content.size, touched: touched(&content).max(marked) }))
    }

    async fn upload(&self, staged: &FilePath, digest: &Digest, size: u64) -> Result<()> {
        let path = self.content(digest);
        let opened = staged.to_owned();
        let file = Arc::new(blocking(move || fs::open(opened)).await?);
        if size <= PART {
            let _permit = self.sending.acquire().await;
            let bytes = piece(&file, 0, size).await?;
            return self.write(&path, bytes).await;
        }
        let during = |error| failed(&format!("write {path}"), &error);
        let id = self.store.create_multipart(&path).await.map_err(during)?;
        let completed = async {
            let parts = self.send_parts(&file, &path, &id, size).await?;
            self.store.complete_multipart(&path, &id, parts).await.map_err(during)
        };
        let completed = completed.await;
        if completed.is_err()
            && let Err(error) = self.store.abort_multipart(&path, &id).await
        {
            tracing::warn!("the parts of {path} stay in the bucket, which may expire them itself: {error}");
        }
        completed.map(drop)
    }

    async fn send_parts(&self, file: &Arc<File>, path: &Path, id: &String, size: u64) -> Result<Vec<PartId>> {
        let length = PART.max(size.div_ceil(PARTS));
        let send = async |number: u64| {
            let _permit = self.sending.acquire().await;
            let at = number * length;
            let bytes = piece(file, at, length.min(size - at)).await?;
            let number = usize::try_from(number).unwrap_or(usize::MAX);
            let sent = self.store.put_part(path, id, number, PutPayload::from_bytes(bytes)).await;
            sent.map_err(|error| failed(&format!("write part {number} of {path}"), &error))
        };
        futures_util::stream::iter(0..size.div_ceil(length)).map(send).buffered(AT_ONCE).try_collect().await
    }

    async fn open(&self, digest: &Digest, offset: u64, length: u64) -> Result<Option<Source>> {
        let (path, (send, receive)) = (self.content(digest), mpsc::channel(2));
        if length == 0 {
            return Ok(self.head(&path).await?.map(|_| Source::Stream(receive)));
        }
        let options = GetOptions { range: Some((offset..offset + length).into()), ..GetOptions::default() };
        let got = present(self.store.get_opts(&path, options).await);
        let Some(got) = got.map_err(|error| failed(&format!("read {path}"), &error))? else { return Ok(None) };
        tokio::spawn(async move {
            let mut parts = got.into_stream();
            while let Some(part) = parts.next().await {
                // Nobody reads on: that is their business.
                if send.send(part.map_err(std::io::Error::other)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Some(Source::Stream(receive)))
    }
}

/// A part of a file.
async fn piece(file: &Arc<File>, offset: u64, length: u64) -> Result<Bytes> {
    let file = Arc::clone(file);
    let read = move || {
        let mut bytes = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
        file.read_exact_at(&mut bytes, offset)?;
        Ok(Bytes::from(bytes))
    };
    let read: std::io::Result<Bytes> = blocking(read).await;
    Ok(read.during("read", "an upload")?)
}

fn present<T>(result: object_store::Result<T>) -> object_store::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(what: &str, error: &object_store::Error) -> StoreError {
    let reason = printable(&error.to_string());
    // As MinIO and others say it; S3 itself is never full.
    if ["StorageFull", "QuotaExceeded"].iter().any(|word| reason.contains(word)) {
        return StoreError::Full { what: what.to_owned() };
    }
    StoreError::Away { what: format!("{what}: {reason}") }
}

/// The bucket's clock has seconds.
fn touched(object: &ObjectMeta) -> SystemTime {
    SystemTime::from(object.last_modified) + Duration::from_secs(1)
}

impl Storage for Objects {
    fn read<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<Bytes>>> {
        Box::pin(async { self.0.read(&self.0.document(key)).await })
    }

    fn write<'a>(&'a self, key: &'a Key, document: Bytes) -> Future<'a, Result<()>> {
        Box::pin(async move {
            fits(key, &document)?;
            self.0.write(&self.0.document(key), document).await
        })
    }

    fn remove<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>> {
        Box::pin(async {
            let path = self.0.document(key);
            let there = self.0.head(&path).await?.is_some();
            if there {
                self.0.delete(&path).await?;
            }
            Ok(there)
        })
    }

    fn touched<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<SystemTime>>> {
        Box::pin(async { Ok(self.0.head(&self.0.document(key)).await?.as_ref().map(touched)) })
    }

    /// Whoever touches a document holds what guards it against writers.
    fn touch<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>> {
        Box::pin(async {
            let path = self.0.document(key);
            let Some(document) = self.0.read(&path).await? else { return Ok(false) };
            self.0.write(&path, document).await?;
            Ok(true)
        })
    }

    fn list<'a>(&'a self, folder: &'a Key) -> Future<'a, Result<Vec<Entry>>> {
        Box::pin(async move { self.0.list(&format!("documents/{folder}"), &format!("list {folder}")).await })
    }

    fn stat<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>> {
        Box::pin(self.0.stat(digest))
    }

    fn open<'a>(&'a self, digest: &'a Digest, offset: u64, length: u64) -> Future<'a, Result<Option<Source>>> {
        Box::pin(self.0.open(digest, offset, length))
    }

    fn bring<'a>(&'a self, staged: &'a FilePath, digest: &'a Digest, size: u64) -> Future<'a, Result<()>> {
        Box::pin(self.0.upload(staged, digest, size))
    }

    /// A collection may have taken it since it was brought; and what came in parts is as old as their beginning.
    fn adopt<'a>(&'a self, staged: &'a FilePath, digest: &'a Digest, size: u64) -> Future<'a, Result<()>> {
        Box::pin(async move {
            let there = self.0.head(&self.0.content(digest)).await?;
            if there.is_none_or(|there| there.size != size) {
                self.0.upload(staged, digest, size).await?;
            }
            self.0.write(&self.0.mark(digest), Bytes::from_static(b"needed")).await
        })
    }

    fn put<'a>(&'a self, digest: &'a Digest, bytes: Bytes) -> Future<'a, Result<()>> {
        Box::pin(async { self.0.write(&self.0.content(digest), bytes).await })
    }

    fn refresh<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>> {
        Box::pin(async {
            let Some(content) = self.0.head(&self.0.content(digest)).await? else { return Ok(None) };
            self.0.write(&self.0.mark(digest), Bytes::from_static(b"needed")).await?;
            Ok(Some(Stat { size: content.size, touched: SystemTime::now() }))
        })
    }

    /// The mark goes first: content without one is collected later, a mark without content never.
    fn discard<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<bool>> {
        Box::pin(async {
            let path = self.0.content(digest);
            let there = self.0.head(&path).await?.is_some();
            self.0.delete(&self.0.mark(digest)).await?;
            self.0.delete(&path).await?;
            Ok(there)
        })
    }

    fn contents(&self, shard: u8) -> Future<'_, Result<Vec<Digest>>> {
        Box::pin(async move {
            let list = async |algorithm: Algorithm| {
                let folder = format!("content/{}/{shard:02x}", algorithm.as_str());
                let digest = |entry: Entry| format!("{}:{}", algorithm.as_str(), entry.name).parse().ok();
                let listed = self.0.list(&folder, &format!("list {folder}")).await?;
                Ok::<Vec<Digest>, StoreError>(listed.into_iter().filter_map(digest).collect())
            };
            let (mut found, more) = tokio::try_join!(list(Algorithm::Sha256), list(Algorithm::Sha512))?;
            found.extend(more);
            Ok(found)
        })
    }
}
