//! Who fetches a part writes it, by one thread, which hashes every byte in order: as it comes, or from the disk where it
//! was there already.

use bytes::Bytes;
use gantry_api::reference::Digest;
use gantry_linux::Result;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::{Part, Parts};
use crate::manifest::finish;

/// Read at once of what is hashed from the disk.
const BUFFER: usize = 128 << 10;
/// `ENOSPC`.
const FULL: i32 = 28;

/// How far a part was hashed.
#[derive(Debug, Default)]
pub struct Ledger {
    hash: Sha256,
    hashed: u64,
}

/// Bytes and where they belong.
pub struct Piece {
    pub at: u64,
    pub bytes: Bytes,
}

/// What a part that has all its bytes is.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    /// It has this digest.
    Wrong(Digest),
}

/// Writes what comes until nothing more does. What was there is hashed first.
pub fn write(parts: &Parts, part: &Part, ledger: &mut Ledger, mut pieces: mpsc::Receiver<Piece>) -> Result<()> {
    ledger.catch_up(part)?;
    while let Some(Piece { at, bytes }) = pieces.blocking_recv() {
        match part.put(at, &bytes) {
            Err(error) if error.errno() == FULL && makes_room(parts) => part.put(at, &bytes)?,
            other => other?,
        }
        if at == ledger.hashed {
            ledger.hash.update(&bytes);
            ledger.hashed += bytes.len() as u64;
        }
        ledger.catch_up(part)?;
    }
    Ok(())
}

/// Other parts give way to one that is being fetched.
fn makes_room(parts: &Parts) -> bool {
    match parts.clear(std::time::Duration::ZERO) {
        Ok(cleared) => cleared.bytes > 0,
        Err(error) => {
            tracing::warn!(%error, "the disk is full, and unfinished downloads cannot be removed");
            false
        }
    }
}

impl Ledger {
    fn catch_up(&mut self, part: &Part) -> Result<()> {
        let mut buffer = Vec::new();
        while self.hashed < part.reach() {
            buffer.resize(BUFFER, 0);
            let read = part.read_at(self.hashed, &mut buffer)?;
            if read == 0 {
                // Somebody has truncated it: what is there is not what was written.
                return self.anew(part);
            }
            self.hash.update(&buffer[..read]);
            self.hashed += read as u64;
        }
        Ok(())
    }

    /// Throws the part away.
    pub fn anew(&mut self, part: &Part) -> Result<()> {
        *self = Self::default();
        part.throw_away()
    }

    /// Judges a part that has all its bytes; none when it has not.
    pub fn judge(&self, part: &Part) -> Option<Verdict> {
        if self.hashed != part.size {
            return None;
        }
        let found = finish(self.hash.clone());
        if found == part.digest {
            part.set_whole();
            return Some(Verdict::Right);
        }
        Some(Verdict::Wrong(found))
    }
}
