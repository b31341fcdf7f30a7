//! Uploads that nobody goes on with.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use gantry_linux::fs;

use super::{DATA, Uploads};
use crate::server::failure::Result;
use crate::server::store::{StoreError, blocking};
use crate::server::upload_id::UploadId;

impl Uploads {
    /// Removes uploads that nothing came for since `before`. Returns how many.
    ///
    /// # Errors
    /// The storage's, of the directory itself; one upload that cannot be removed is told in the log.
    pub async fn expire(&self, before: SystemTime) -> Result<usize> {
        let root = self.root.clone();
        let stale = blocking(move || stale(&root, before)).await.map_err(StoreError::from)?;
        let mut expired = 0;
        for id in stale {
            match self.expire_one(&id, before).await {
                Ok(gone) => expired += usize::from(gone),
                Err(failure) => tracing::warn!(upload = id.as_str(), %failure, "an upload that expired stays"),
            }
        }
        Ok(expired)
    }

    /// Whether it went: somebody may have gone on with it since it was seen to be stale.
    async fn expire_one(&self, id: &UploadId, before: SystemTime) -> Result<bool> {
        let known = self.sessions().get(id).cloned();
        let session = match known {
            Some(session) => Some(session),
            None => self.take_up(id).await,
        };
        let Some(session) = session else {
            // Nobody can go on with what has no note.
            let folder = self.root.join(id.as_str());
            blocking(move || fs::remove_dir_all(folder)).await.map_err(StoreError::from)?;
            return Ok(false);
        };
        // Somebody who writes now keeps it.
        let Ok(_turn) = Arc::clone(&session.progress).try_lock_owned() else { return Ok(false) };
        let folder = session.folder.clone();
        let stale = blocking(move || is_stale(&folder, before)).await;
        if stale {
            self.forget(&session).await?;
        }
        Ok(stale)
    }
}

fn stale(root: &Path, before: SystemTime) -> gantry_linux::Result<Vec<UploadId>> {
    let names = fs::list(root)?;
    let ids = names.iter().filter_map(|name| name.to_str()?.parse::<UploadId>().ok());
    Ok(ids.filter(|id| is_stale(&root.join(id.as_str()), before)).collect())
}

fn is_stale(folder: &Path, before: SystemTime) -> bool {
    let touched = fs::metadata(folder.join(DATA)).or_else(|_| fs::metadata(folder));
    touched.is_ok_and(|metadata| metadata.modified().is_ok_and(|modified| modified < before))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;
    use crate::server::names::{Algorithm, Name};

    const HOUR: Duration = Duration::from_secs(3600);

    fn name() -> Name {
        "a".parse().unwrap()
    }

    #[tokio::test]
    async fn an_upload_that_went_on_since_it_was_listed_stays() {
        let directory = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(directory.path().to_owned()).unwrap();
        let session = uploads.start(&name(), Algorithm::Sha256).await.unwrap();
        let data = session.folder.join(DATA);
        let long_ago = SystemTime::now() - 2 * HOUR;
        fs::open_with(&data, std::fs::OpenOptions::new().write(true)).unwrap().set_modified(long_ago).unwrap();
        let before = SystemTime::now() - HOUR;
        let listed = stale(directory.path(), before).unwrap();
        assert_eq!(listed, std::slice::from_ref(&session.id));
        uploads.append(&session, Full::new(Bytes::from_static(b"more")), None).await.unwrap();
        assert!(!uploads.expire_one(&listed[0], before).await.unwrap());
        assert_eq!(uploads.find(&name(), &session.id).await.unwrap().size().await.unwrap(), 4);
    }

    #[tokio::test]
    async fn one_that_cannot_be_removed_stays_itself_and_the_others_go() {
        let directory = tempfile::tempdir().unwrap();
        let uploads = Uploads::open(directory.path().to_owned()).unwrap();
        let mut sessions = Vec::new();
        for _ in 0..3 {
            sessions.push(uploads.start(&name(), Algorithm::Sha256).await.unwrap());
        }
        // What is in the way of the one that is listed first.
        let first = stale(directory.path(), SystemTime::now() + HOUR).unwrap().swap_remove(0);
        fs::create_dir_all(directory.path().join(format!("{}{first}", super::super::GONE)).join("full")).unwrap();
        assert_eq!(uploads.expire(SystemTime::now() + HOUR).await.unwrap(), 2);
        for session in sessions {
            let found = uploads.find(&name(), &session.id).await;
            if session.id == first {
                assert!(Arc::ptr_eq(&found.unwrap(), &session), "there are two sessions of an upload");
            } else {
                found.unwrap_err();
            }
        }
        // The next server removes what was in the way.
        let uploads = Uploads::open(directory.path().to_owned()).unwrap();
        assert_eq!(uploads.expire(SystemTime::now() + HOUR).await.unwrap(), 1);
        assert_eq!(fs::list(directory.path()).unwrap().len(), 0);
    }
}
