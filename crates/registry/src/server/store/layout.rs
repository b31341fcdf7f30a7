//! An OCI layout as a storage that only reads: what a stick or a disc brings to a machine without a network.
//!
//! Its index says which images there are; what repositories have is worked out once, and kept in memory.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::SystemTime;

use bytes::Bytes;
use gantry_api::reference::Reference;
use gantry_linux::fs;
use serde_json::{Value, json};

use super::directory::{present, stat_of};
use super::{Entry, Key, Piece, Result, Source, Stat, Storage, StoreError, blocking};
use crate::server::document::{Descriptor, Document, is_manifest};
use crate::server::failure::{Code, Failure};
use crate::server::hooks::Future;
use crate::server::names::{Algorithm, Digest, Name, Tag, Target};
use crate::server::repositories::{Manifest, Repositories};

/// The largest index or manifest that is read.
const DOCUMENT_LIMIT: usize = 4 << 20;
const INDEX: &str = "index.json";
const MARK: &str = "oci-layout";
/// Where containerd and Docker write an image's whole name, and where everybody writes its tag or name.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// A layout that is served.
#[derive(Debug)]
pub struct Layout {
    blobs: PathBuf,
    documents: RwLock<BTreeMap<String, Bytes>>,
    sealed: std::sync::atomic::AtomicBool,
}

impl Layout {
    /// Opens a layout. Images without a repository of their own are `name`'s.
    ///
    /// # Errors
    /// When it is none, or a manifest in it cannot be read.
    pub async fn open(root: &Path, name: &Name) -> std::result::Result<Arc<Self>, Failure> {
        let index = read_json(&root.join(INDEX)).await?;
        let layout = Arc::new(Self {
            blobs: root.join("blobs"),
            documents: RwLock::default(),
            sealed: std::sync::atomic::AtomicBool::new(false),
        });
        let repositories = Repositories::new(Arc::clone(&layout) as Arc<dyn Storage>);
        for entry in index["manifests"].as_array().into_iter().flatten() {
            let descriptor: Descriptor = serde_json::from_value(entry.clone()).map_err(|error| invalid(root, error))?;
            let (name, tag) = name_of(entry, name);
            layout.take(&repositories, &name, &descriptor, tag.as_slice()).await?;
        }
        layout.sealed.store(true, std::sync::atomic::Ordering::Release);
        Ok(layout)
    }

    /// Takes a manifest and what it lists into a repository.
    async fn take(
        &self,
        repositories: &Repositories,
        name: &Name,
        top: &Descriptor,
        tags: &[Tag],
    ) -> std::result::Result<(), Failure> {
        let mut next = vec![(top.clone(), tags)];
        let mut seen = HashSet::new();
        while let Some((descriptor, tags)) = next.pop() {
            if !seen.insert(descriptor.digest.clone()) {
                continue;
            }
            // A platform that is not here is not served; an image of the index must be.
            let Some(bytes) = self.document(&descriptor).await? else {
                if descriptor.digest == top.digest {
                    return Err(invalid(&self.blobs, format!("{} is not there", top.digest)));
                }
                continue;
            };
            let kind = Some(descriptor.media_type.as_str()).filter(|kind| !kind.is_empty());
            let document = Document::read(&bytes, kind)?;
            for blob in &document.blobs {
                self.link(name, blob).await?;
            }
            for listed in &document.manifests {
                if is_manifest(&listed.media_type) {
                    next.push((listed.clone(), &[]))
                } else {
                    self.link(name, listed).await?
                }
            }
            let (digest, media_type) = (descriptor.digest, document.media_type.clone());
            repositories.put_manifest(name, &Manifest { digest, media_type, bytes }, &document, tags).await?;
        }
        Ok(())
    }

    async fn link(&self, name: &Name, blob: &Descriptor) -> std::result::Result<(), Failure> {
        let link = json!({ "size": blob.size }).to_string();
        Ok(self.write(&Key::blob(name, &blob.digest), link.into()).await?)
    }

    async fn document(&self, descriptor: &Descriptor) -> std::result::Result<Option<Bytes>, Failure> {
        let path = self.path(&descriptor.digest);
        let read = blocking(move || present(fs::read_up_to(path, DOCUMENT_LIMIT))).await.map_err(StoreError::from)?;
        let Some(bytes) = read else { return Ok(None) };
        let found = Digest::of(descriptor.digest.algorithm(), &bytes);
        if found != descriptor.digest {
            return Err(invalid(&self.blobs, format!("{} is damaged: it is {found}", descriptor.digest)));
        }
        Ok(Some(bytes.into()))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Adds an image of a registry to a layout, which is made where there is none. Returns its digest.
    ///
    /// # Errors
    /// When the image or a part of it is not there, or the layout cannot be written.
    pub async fn add(root: &Path, from: &Repositories, name: &Name, tag: &Tag) -> std::result::Result<Digest, Failure> {
        let target = Target::Tag(tag.clone());
        let unknown = || crate::server::repositories::manifest_unknown(name, &target);
        let top = from.manifest(name, &target).await?.ok_or_else(unknown)?;
        let mut next = vec![top.clone()];
        let mut seen = HashSet::new();
        while let Some(manifest) = next.pop() {
            if !seen.insert(manifest.digest.clone()) {
                continue;
            }
            let document = Document::read(&manifest.bytes, Some(&manifest.media_type))?;
            let listed = document.manifests.iter().filter(|listed| !is_manifest(&listed.media_type));
            for blob in document.blobs.iter().chain(listed) {
                export(root, from, name, &blob.digest, blob.size).await?;
            }
            export(root, from, name, &manifest.digest, manifest.bytes.len() as u64).await?;
            for listed in &document.manifests {
                // A platform that the registry does not have is not copied.
                next.extend(from.manifest(name, &Target::Digest(listed.digest.clone())).await?);
            }
        }
        note(root, name, tag, &top).await?;
        Ok(top.digest)
    }
}

fn invalid(path: &Path, reason: impl std::fmt::Display) -> Failure {
    Failure::new(Code::ManifestInvalid, format!("the OCI layout {}: {reason}", path.display()))
}

async fn read_json(path: &Path) -> std::result::Result<Value, Failure> {
    let path = path.to_owned();
    let read = path.clone();
    let bytes = blocking(move || fs::read_up_to(read, DOCUMENT_LIMIT)).await;
    let bytes = bytes.map_err(|error| invalid(&path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| invalid(&path, error))
}

/// Whose image an entry of the index is, and its tag.
fn name_of(entry: &Value, otherwise: &Name) -> (Name, Option<Tag>) {
    for annotation in NAMES {
        let Some(text) = entry["annotations"][annotation].as_str() else { continue };
        if let Ok(tag) = text.parse() {
            return (otherwise.clone(), Some(tag));
        }
        if let Ok(reference) = Reference::parse(text).map(Reference::with_default_tag)
            && let Ok(name) = reference.path().parse()
        {
            return (name, reference.tag().and_then(|tag| tag.parse().ok()));
        }
    }
    (otherwise.clone(), "latest".parse().ok())
}

/// Copies content into a layout; what is there stays.
async fn export(
    root: &Path,
    from: &Repositories,
    name: &Name,
    digest: &Digest,
    size: u64,
) -> std::result::Result<(), Failure> {
    let folder = root.join("blobs").join(digest.algorithm().as_str());
    let path = folder.join(digest.hex());
    let missing = || invalid(root, format!("{digest}, which {name} needs, is not in the registry"));
    let mut source = from.storage().open(digest, 0, size).await?.ok_or_else(missing)?;
    let staged = folder.join(format!(".{}", fs::unique()));
    let (made, there) = (folder.clone(), path.clone());
    let there = blocking(move || fs::create_dir_all(made).map(|()| fs::metadata(there).is_ok())).await;
    if there.map_err(StoreError::from)? {
        return Ok(());
    }
    let written = async {
        let opened = staged.clone();
        let file = Arc::new(blocking(move || fs::create(opened)).await.map_err(StoreError::from)?);
        loop {
            let part = match &mut source {
                Source::File(piece) => piece.next().await,
                Source::Stream(parts) => parts.recv().await,
            };
            let Some(part) = part else { break };
            let part = part.map_err(|error| invalid(root, format!("read {digest}: {error}")))?;
            let (file, subject) = (Arc::clone(&file), staged.display().to_string());
            let wrote = blocking(move || std::io::Write::write_all(&mut &*file, &part)).await;
            wrote.map_err(|error| StoreError::from(gantry_linux::Error::new("write", subject, error)))?;
        }
        let (staged, path) = (staged.clone(), path);
        let placed = blocking(move || {
            fs::sync_file(&staged)?;
            fs::rename(&staged, &path)
        });
        placed.await.map_err(StoreError::from)?;
        Ok(())
    };
    let written: std::result::Result<(), Failure> = written.await;
    if written.is_err() {
        // The first error is the one that matters.
        let _ = blocking(move || fs::remove_file(staged)).await;
    }
    written
}

/// Writes an image into the index, in place of one that had its name.
async fn note(root: &Path, name: &Name, tag: &Tag, manifest: &Manifest) -> std::result::Result<(), Failure> {
    let whole = format!("{name}:{tag}");
    let path = root.join(INDEX);
    let there = path.clone();
    let mut index = if blocking(move || fs::metadata(there).is_ok()).await {
        read_json(&path).await?
    } else {
        json!({ "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [] })
    };
    let Some(manifests) = index["manifests"].as_array_mut() else {
        return Err(invalid(&path, "it lists no manifests"));
    };
    manifests.retain(|entry| entry["annotations"][NAMES[1]].as_str() != Some(&whole));
    manifests.push(json!({
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": manifest.bytes.len(),
        "annotations": { NAMES[1]: whole },
    }));
    let (mark, text) = (root.join(MARK), index.to_string());
    let written = blocking(move || {
        fs::write_atomic(mark, br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644, fs::Durability::Disk)?;
        fs::write_atomic(path, text.as_bytes(), 0o644, fs::Durability::Disk)
    });
    Ok(written.await.map_err(StoreError::from)?)
}

impl Storage for Layout {
    fn read<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<Bytes>>> {
        Box::pin(async { Ok(self.documents().get(key.as_str()).cloned()) })
    }

    fn write<'a>(&'a self, key: &'a Key, document: Bytes) -> Future<'a, Result<()>> {
        Box::pin(async {
            self.unsealed()?;
            let mut documents = self.documents.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            documents.insert(key.as_str().to_owned(), document);
            Ok(())
        })
    }

    fn remove<'a>(&'a self, _: &'a Key) -> Future<'a, Result<bool>> {
        Box::pin(async { Err(StoreError::ReadOnly) })
    }

    fn touched<'a>(&'a self, key: &'a Key) -> Future<'a, Result<Option<SystemTime>>> {
        Box::pin(async { Ok(self.documents().contains_key(key.as_str()).then(SystemTime::now)) })
    }

    fn touch<'a>(&'a self, key: &'a Key) -> Future<'a, Result<bool>> {
        Box::pin(async { Ok(self.documents().contains_key(key.as_str())) })
    }

    fn list<'a>(&'a self, folder: &'a Key) -> Future<'a, Result<Vec<Entry>>> {
        Box::pin(async move {
            let prefix = format!("{folder}/");
            let mut entries: Vec<Entry> = Vec::new();
            let documents = self.documents();
            let below = documents.range(prefix.clone()..).map_while(|(key, _)| key.strip_prefix(&prefix));
            for rest in below {
                let (name, folder) = rest.split_once('/').map_or((rest, false), |(name, _)| (name, true));
                // The same folder's documents may have others' between them: a/b, a-b, a/c.
                if !entries.iter().any(|entry| entry.name == name) {
                    entries.push(Entry { name: name.to_owned(), folder });
                }
            }
            entries.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(entries)
        })
    }

    fn stat<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>> {
        let path = self.path(digest);
        Box::pin(async move {
            let metadata = blocking(move || present(fs::metadata(path))).await?;
            Ok(metadata.map(|metadata| stat_of(&metadata)).transpose()?)
        })
    }

    fn open<'a>(&'a self, digest: &'a Digest, offset: u64, length: u64) -> Future<'a, Result<Option<Source>>> {
        let path = self.path(digest);
        Box::pin(async move {
            let file = blocking(move || present(fs::open(path))).await?;
            Ok(file.map(|file| Source::File(Piece::new(file, offset, length))))
        })
    }

    fn adopt<'a>(&'a self, _: &'a Path, _: &'a Digest, _: u64) -> Future<'a, Result<()>> {
        Box::pin(async { Err(StoreError::ReadOnly) })
    }

    /// While the layout is opened its manifests are in their places already.
    fn put<'a>(&'a self, _: &'a Digest, _: Bytes) -> Future<'a, Result<()>> {
        Box::pin(async { self.unsealed() })
    }

    fn refresh<'a>(&'a self, digest: &'a Digest) -> Future<'a, Result<Option<Stat>>> {
        self.stat(digest)
    }

    fn discard<'a>(&'a self, _: &'a Digest) -> Future<'a, Result<bool>> {
        Box::pin(async { Err(StoreError::ReadOnly) })
    }

    fn contents(&self, shard: u8) -> Future<'_, Result<Vec<Digest>>> {
        let (blobs, first) = (self.blobs.clone(), format!("{shard:02x}"));
        Box::pin(async move {
            let list = move || {
                let mut found = Vec::new();
                for algorithm in Algorithm::ALL {
                    let names = present(fs::list(blobs.join(algorithm.as_str())))?.unwrap_or_default();
                    let names = names.into_iter().filter_map(|name| name.into_string().ok());
                    let parse = |name: String| format!("{}:{name}", algorithm.as_str()).parse().ok();
                    found.extend(names.filter(|name| name.starts_with(&first)).filter_map(parse));
                }
                Ok::<_, gantry_linux::Error>(found)
            };
            Ok(blocking(list).await?)
        })
    }
}

impl Layout {
    fn documents(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<String, Bytes>> {
        self.documents.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn unsealed(&self) -> Result<()> {
        if self.sealed.load(std::sync::atomic::Ordering::Acquire) { Err(StoreError::ReadOnly) } else { Ok(()) }
    }
}
