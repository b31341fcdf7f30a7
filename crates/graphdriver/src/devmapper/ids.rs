//! The numbers of a pool's devices, and who has which.
//!
//! A layer's directory says its device's number before the device is there, and is gone after it: what the pool has, some
//! directory knows, or it was forgotten by a power cut. A mark that is on disk before any number below it is used tells which
//! numbers can have been: those that no directory knows are deleted when the driver opens.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use gantry_linux::fs::{self, Durability};

use crate::Error;
use crate::store::note;

/// The file of the mark.
const MARK: &str = "devices";
/// How far it moves at once.
const STEP: u32 = 64;
/// The kernel's numbers of devices of a pool have 24 bits.
const LIMIT: u32 = 1 << 24;
/// The base device.
pub(super) const BASE: u32 = 0;

/// What a layer's directory says of its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device {
    pub id: u32,
    pub sectors: u64,
    /// Whether it is a container's.
    pub writable: bool,
}

const NOTE: &str = "device";

impl Device {
    pub(super) fn write(self, directory: &Path) -> Result<(), Error> {
        let kind = if self.writable { "writable" } else { "layer" };
        let text = format!("{} {} {kind}.\n", self.id, self.sectors);
        Ok(fs::write(directory.join(NOTE), text)?)
    }

    /// `None` where nothing was noted.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let Some(text) = note(directory, NOTE)? else { return Ok(None) };
        let damaged =
            || Error::Damaged { layer: directory.to_owned(), reason: "its note of its device is torn".to_owned() };
        let words: Vec<&str> = text.trim_end().split(' ').collect();
        let [id, sectors, kind] = words[..] else { return Err(damaged()) };
        let writable = match kind {
            "writable." => true,
            "layer." => false,
            _ => return Err(damaged()),
        };
        let (id, sectors) = id.parse().ok().zip(sectors.parse().ok()).ok_or_else(damaged)?;
        Ok(Some(Self { id, sectors, writable }))
    }
}

pub(super) struct Ids {
    mark: PathBuf,
    state: Mutex<State>,
}

struct State {
    used: BTreeSet<u32>,
    mark: u32,
}

impl Ids {
    /// With those that are known to be used.
    pub(super) fn open(home: &Path, used: impl IntoIterator<Item = u32>) -> Result<Self, Error> {
        let mut used: BTreeSet<u32> = used.into_iter().collect();
        used.insert(BASE);
        let text = note(home, MARK)?.unwrap_or_else(|| "0".to_owned());
        let damaged = |_| Error::Damaged { layer: home.join(MARK), reason: "it is no number".to_owned() };
        let mark = text.trim().parse().map_err(damaged)?;
        Ok(Self { mark: home.join(MARK), state: Mutex::new(State { used, mark }) })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that may be in the pool and that nobody knows.
    pub(super) fn forgotten(&self) -> Vec<u32> {
        let state = self.lock();
        (0..state.mark).filter(|id| !state.used.contains(id)).collect()
    }

    /// Whether no number was ever taken, not the base device's either.
    pub(super) fn is_new(&self) -> bool {
        self.lock().mark == 0
    }

    /// Before the base device is made.
    pub(super) fn take_base(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if state.mark == 0 { self.move_mark(&mut state, STEP) } else { Ok(()) }
    }

    fn move_mark(&self, state: &mut State, mark: u32) -> Result<(), Error> {
        fs::write_atomic(&self.mark, mark.to_string().as_bytes(), 0o600, Durability::Disk)?;
        state.mark = mark;
        Ok(())
    }

    /// Takes the lowest free number.
    pub(super) fn take(&self) -> Result<u32, Error> {
        let mut state = self.lock();
        let free = (1..LIMIT).find(|id| !state.used.contains(id));
        let id =
            free.ok_or_else(|| gantry_linux::Error::new("find", "a free device number", rustix::io::Errno::NOSPC))?;
        if id >= state.mark {
            self.move_mark(&mut state, id + STEP)?;
        }
        state.used.insert(id);
        Ok(id)
    }

    /// Its device is gone.
    pub(super) fn give_back(&self, id: u32) {
        self.lock().used.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_a_dead_daemon_may_have_used_are_remembered() {
        let home = tempfile::tempdir().unwrap();
        let ids = Ids::open(home.path(), []).unwrap();
        assert!(ids.forgotten().is_empty());
        assert_eq!((ids.take().unwrap(), ids.take().unwrap(), ids.take().unwrap()), (1, 2, 3));
        ids.give_back(2);
        assert_eq!(ids.take().unwrap(), 2);
        let next = Ids::open(home.path(), [3]).unwrap();
        let forgotten = next.forgotten();
        assert!(forgotten.starts_with(&[1, 2, 4]) && !forgotten.contains(&BASE), "{forgotten:?}");
        assert_eq!(next.take().unwrap(), 1);
    }

    #[test]
    fn a_torn_note_is_no_device() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Device::read(home.path()).unwrap(), None);
        let device = Device { id: 7, sectors: 2048, writable: true };
        device.write(home.path()).unwrap();
        assert_eq!(Device::read(home.path()).unwrap(), Some(device));
        for torn in ["", "7 20", "7 2048 writ", "x 2048 layer.\n"] {
            fs::write(home.path().join(NOTE), torn).unwrap();
            assert!(matches!(Device::read(home.path()), Err(Error::Damaged { .. })), "{torn:?}");
        }
    }
}
