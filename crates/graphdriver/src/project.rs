//! Limits of writable layers by the project quotas of the file system below, xfs or ext4.
//!
//! A layer with a limit has a project of its own: its directories are marked with a number, and what is made in them
//! inherits it. The mark is the only note of it, so it is found again whatever happened. The limit is taken back before
//! the files are deleted; with the last of them the number is free.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gantry_linux::ResultExt;
use gantry_linux::quota::{self, Usage};
use rustix::io::Errno;

use crate::options::bytes;
use crate::store::Store;
use crate::{Error, Options, tree};

/// Small numbers are those that people give out.
const FIRST: u32 = 1 << 24;
const NUMBERS: u32 = (i32::MAX as u32) - FIRST;

/// What of a layer may be marked.
const PARTS: [&[u8]; 3] = [b"diff", b"work", b"root"];

/// The projects of one driver.
pub(crate) struct Projects {
    driver: &'static str,
    home: PathBuf,
    /// The limit of layers that were given none; 0 is none.
    default: u64,
    /// The last number that was tried.
    last: Mutex<u32>,
}

/// A project for a layer that is being made.
pub(crate) struct Project {
    home: OwnedFd,
    number: u32,
    limit: u64,
}

impl Projects {
    /// For a driver whose setting of that many names is the limit of layers that are given none.
    pub(crate) fn open(driver: &'static str, store: &Store, options: &Options, names: &[&str]) -> Result<Self, Error> {
        options.only(driver, names)?;
        let home = store.root().to_path_buf();
        let mut projects = Self { driver, last: Mutex::new(start(&home)?), home, default: 0 };
        for (name, value) in options.iter() {
            projects.default = bytes(name, value)?;
            if projects.default > 0 && !projects.works()? {
                let (option, reason) = (format!("{name}={value}"), projects.refuse().to_string());
                return Err(Error::Option { option, reason });
            }
        }
        Ok(projects)
    }

    /// Whether the file system has project quotas that hold.
    pub(crate) fn works(&self) -> Result<bool, Error> {
        Ok(quota::limits_projects(tree::open_root(&self.home)?)?)
    }

    /// A project for a new layer with this limit; none where there is none. Nothing was made yet.
    pub(crate) fn take(&self, limit: Option<u64>) -> Result<Option<Project>, Error> {
        let limit = limit.unwrap_or(self.default);
        if limit == 0 {
            return Ok(None);
        }
        if !self.works()? {
            return Err(self.refuse());
        }
        let home = tree::open_root(&self.home)?;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Another daemon's, or those of layers that were there before this one started, are in use.
        for _ in 0..NUMBERS {
            *last = FIRST + (*last - FIRST + 1) % NUMBERS;
            if quota::usage(&home, *last)? == Usage::default() {
                return Ok(Some(Project { home, number: *last, limit }));
            }
        }
        Err(self.cannot("every project number of its file system is in use".to_owned()))
    }

    /// Takes back the limits of removed layers. One that cannot be taken back keeps no other.
    pub(crate) fn free(&self, removed: &[PathBuf]) -> Result<(), Error> {
        let home = tree::open_root(&self.home)?;
        if !quota::limits_projects(&home)? {
            return Ok(());
        }
        let mut outcome = Ok(());
        for layer in removed {
            let Ok(layer) = tree::open_root(layer) else { continue };
            for part in PARTS {
                outcome = outcome.and(free(&home, &layer, part));
            }
        }
        outcome
    }

    fn refuse(&self) -> Error {
        let file_system = crate::overlay::file_system(&self.home);
        self.cannot(format!(
            "its {file_system} has no project quotas: mount it with the option pquota (xfs), or prjquota (ext4 made with \
             -O quota,project), or use --storage-driver btrfs or devmapper"
        ))
    }

    fn cannot(&self, reason: String) -> Error {
        Error::NoLimit { driver: self.driver, path: self.home.clone(), reason }
    }
}

/// Takes back the limit of a part of a layer, if it has one.
fn free(home: &OwnedFd, layer: &OwnedFd, part: &[u8]) -> Result<(), Error> {
    let directory = match tree::open_dir(layer, part) {
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
        other => other.during("open", tree::show(part))?,
    };
    let number = quota::project(&directory)?.unwrap_or_default();
    if number >= FIRST && quota::usage(home, number)?.limit > 0 {
        quota::limit(home, number, 0)?;
    }
    Ok(())
}

/// Where the search for a free number begins: stores on one file system begin at different places.
fn start(home: &Path) -> Result<u32, Error> {
    let stat = rustix::fs::stat(home).during("stat", home.display())?;
    let mut hasher = DefaultHasher::new();
    stat.st_ino.hash(&mut hasher);
    Ok(FIRST + u32::try_from(hasher.finish() % u64::from(NUMBERS)).unwrap_or_default())
}

impl Project {
    /// Makes an empty directory one of the project.
    pub(crate) fn mark(&self, directory: &Path) -> Result<(), Error> {
        Ok(quota::set_project(tree::open_root(directory)?, self.number)?)
    }

    /// From here on so much more than there is may be written.
    pub(crate) fn limit(&self) -> Result<(), Error> {
        let held = quota::usage(&self.home, self.number)?.bytes;
        Ok(quota::limit(&self.home, self.number, held.saturating_add(self.limit))?)
    }
}
