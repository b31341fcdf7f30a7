//! Locks on open files (flock(2)), which end with their holder and never later.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use rustix::fs::FlockOperation;
use rustix::fs::flock;
use rustix::io::{Errno, Result};

/// An open file or directory that is locked until this is dropped.
#[derive(Debug)]
pub struct Lock(OwnedFd);

impl Lock {
    /// Locks it; `None` where an operation that does not wait finds it held by somebody else.
    ///
    /// # Errors
    /// The kernel's: a file system without locks, no memory for one.
    pub fn take(file: impl Into<OwnedFd>, operation: FlockOperation) -> Result<Option<Self>> {
        let file = file.into();
        match rustix::io::retry_on_intr(|| flock(&file, operation)) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Children between fork and exec may still have the descriptor: closing ours alone would not unlock. Where the
        // kernel refuses, closing is all that there is.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_holder_also_where_a_child_has_the_descriptor_for_a_moment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let take = |operation| Lock::take(file.reopen().unwrap(), operation).unwrap();
        let lock = take(FlockOperation::NonBlockingLockExclusive).unwrap();
        let childs = lock.as_fd().try_clone_to_owned().unwrap();
        assert!(take(FlockOperation::NonBlockingLockShared).is_none(), "held");
        drop(lock);
        assert!(take(FlockOperation::NonBlockingLockExclusive).is_some(), "let go");
        drop(childs);
    }
}
