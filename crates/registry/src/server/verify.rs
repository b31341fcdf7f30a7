//! Reads everything that is kept and says what is not as it was pushed.

use super::document::{Document, is_manifest};
use super::failure::Result;
use super::names::{Digest, Hash, Name, Target};
use super::repositories::{ManifestLink, Repositories};
use super::store::{Key, SHARDS, Source};

const PAGE: usize = 256;

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Read {
    /// Pieces of content.
    pub content: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Repositories.
    pub repositories: u64,
}

/// Hashes all content and follows every tag, manifest and blob. `tell` learns what is wrong.
///
/// # Errors
/// The storage's, where it is not one piece of content that cannot be read.
pub async fn all(repositories: &Repositories, tell: &mut dyn FnMut(String)) -> Result<Read> {
    let mut read = Read::default();
    for shard in 0..SHARDS {
        for digest in repositories.storage().contents(u8::try_from(shard).unwrap_or(u8::MAX)).await? {
            read.content += 1;
            match hash(repositories, &digest).await? {
                Ok((found, size)) if found == digest => read.bytes += size,
                Ok((found, _)) => tell(format!("content {digest} is damaged: it is {found}; push it again")),
                Err(reason) => tell(format!("content {digest} cannot be read: {reason}")),
            }
        }
    }
    let mut after: Option<String> = None;
    loop {
        let names = repositories.names(after.as_deref(), PAGE).await?;
        let Some(last) = names.last() else { return Ok(read) };
        after = Some(last.as_str().to_owned());
        for name in &names {
            read.repositories += 1;
            repository(repositories, name, tell).await?;
        }
    }
}

/// What content is now; the inner error is of reading it.
async fn hash(repositories: &Repositories, digest: &Digest) -> Result<std::result::Result<(Digest, u64), String>> {
    let storage = repositories.storage();
    let Some(stat) = storage.stat(digest).await? else { return Ok(Err("it has gone meanwhile".to_owned())) };
    let mut hash = Hash::new(digest.algorithm());
    let mut source = storage.open(digest, 0, stat.size).await?;
    loop {
        let part = match &mut source {
            None => return Ok(Err("it has gone meanwhile".to_owned())),
            Some(Source::File(piece)) => piece.next().await,
            Some(Source::Stream(parts)) => parts.recv().await,
        };
        match part {
            None => return Ok(Ok((hash.finish(), stat.size))),
            Some(Ok(bytes)) => hash.update(&bytes),
            Some(Err(error)) => return Ok(Err(error.to_string())),
        }
    }
}

async fn repository(repositories: &Repositories, name: &Name, tell: &mut dyn FnMut(String)) -> Result<()> {
    for tag in repositories.tags(name).await? {
        let target = Target::Tag(tag.clone());
        if let Some(digest) = repositories.resolve(name, &target).await?
            && repositories.storage().touched(&Key::manifest(name, &digest)).await?.is_none()
        {
            tell(format!("{name}:{tag} leads to {digest}, which is not there; push it again or delete the tag"));
        }
    }
    for digest in repositories.digests(&Key::manifests(name)).await? {
        let Some(link) = repositories.read::<ManifestLink>(&Key::manifest(name, &digest)).await? else { continue };
        let document = match repositories.content(&digest, link.size).await {
            Ok(Some(bytes)) => Document::read(&bytes, Some(&link.media_type)).map_err(|failure| failure.message),
            Ok(None) => Err("its content is not there".to_owned()),
            Err(failure) => Err(failure.message),
        };
        match document {
            Err(reason) => tell(format!("manifest {digest} of {name} cannot be read: {reason}")),
            Ok(document) => parts(repositories, name, &digest, &document, tell).await?,
        }
    }
    Ok(())
}

/// Manifests that an index lists may be missing; blobs may not.
async fn parts(
    repositories: &Repositories,
    name: &Name,
    digest: &Digest,
    document: &Document,
    tell: &mut dyn FnMut(String),
) -> Result<()> {
    let listed = document.manifests.iter().filter(|part| !is_manifest(&part.media_type));
    for part in document.blobs.iter().chain(listed) {
        match repositories.blob(name, &part.digest).await? {
            Some(stat) if stat.size == part.size => {}
            Some(stat) => tell(format!(
                "manifest {digest} of {name} says that {} has {} bytes, it has {}",
                part.digest, part.size, stat.size
            )),
            None => tell(format!("manifest {digest} of {name} names {}, which is not there", part.digest)),
        }
    }
    Ok(())
}
