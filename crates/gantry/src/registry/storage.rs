//! Where images are kept: in a directory, or in a bucket that the configuration names.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Error, Result};
use gantry_registry::server::config::StorageSettings;
use gantry_registry::server::store::{Directory, Objects};
use gantry_registry::server::{Root, Storage};

/// Opens it for who changes it, with the directory `place`, which nobody else may have.
pub async fn open(place: &Path, settings: &StorageSettings) -> Result<Root> {
    let opened = match bucket(settings).await? {
        Some(bucket) => Root::beside(place, bucket),
        None => Root::open(place),
    };
    opened.context("open the registry's directory")
}

/// For reading only: also while a server runs.
pub async fn look(place: &Path, settings: &StorageSettings) -> Result<Arc<dyn Storage>> {
    match bucket(settings).await? {
        Some(bucket) => Ok(bucket),
        None => Ok(Arc::new(Directory::look(place).context("open the registry's directory")?)),
    }
}

async fn bucket(settings: &StorageSettings) -> Result<Option<Arc<dyn Storage>>> {
    let Some(s3) = &settings.s3 else { return Ok(None) };
    let keys = s3.keys(|name| std::env::var(name).ok()).map_err(Error::msg)?;
    Ok(Some(Arc::new(Objects::open(s3, keys).await?)))
}
