//! What could not be moved to the trash, so that the sweep tries again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::Error;

/// The paths. One at a time makes a path go: a sweep that is still at it must not meet what is made anew in its place.
#[derive(Debug, Default)]
pub(crate) struct Left {
    state: Mutex<State>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    paths: BTreeSet<PathBuf>,
    busy: BTreeSet<PathBuf>,
}

impl Left {
    /// Has `discard` make the path go, which is left where that fails.
    pub(crate) fn unless(&self, path: &Path, discard: impl FnOnce() -> Result<(), Error>) -> Result<(), Error> {
        let mut state = self.lock();
        while state.busy.contains(path) {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.attempt(state, path, discard)
    }

    /// The same for each that is left; what fails keeps no other, and the first failure is told.
    pub(crate) fn each(&self, mut discard: impl FnMut(&Path) -> Result<(), Error>) -> Result<(), Error> {
        let paths = self.lock().paths.clone();
        let mut outcome = Ok(());
        for path in &paths {
            let state = self.lock();
            // Meanwhile somebody else may have seen to it.
            if state.paths.contains(path) {
                outcome = outcome.and(self.attempt(state, path, || discard(path)));
            }
        }
        outcome
    }

    fn attempt(
        &self,
        mut state: MutexGuard<'_, State>,
        path: &Path,
        discard: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        state.paths.remove(path);
        state.busy.insert(path.to_path_buf());
        drop(state);
        let mut attempt = Attempt { left: self, path, is_gone: false };
        let outcome = discard();
        attempt.is_gone = outcome.is_ok();
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who makes a path go, also when that panics.
struct Attempt<'a> {
    left: &'a Left,
    path: &'a Path,
    is_gone: bool,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut state = self.left.lock();
        if let Some(path) = state.busy.take(self.path)
            && !self.is_gone
        {
            state.paths.insert(path);
        }
        self.left.done.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    fn failed() -> Result<(), Error> {
        Err(Error::NotFound("a failure".to_owned()))
    }

    #[test]
    fn while_one_path_goes_slowly_others_are_discarded_and_who_discards_that_very_one_waits_for_it() {
        let (left, slow, other) = (Left::default(), Path::new("/slow"), Path::new("/other"));
        left.unless(slow, failed).unwrap_err();
        let (told, hears) = channel();
        std::thread::scope(|scope| {
            let mut others = None;
            let swept = left.each(|path| {
                assert_eq!(path, slow);
                let (left, tell) = (&left, told.clone());
                scope.spawn(move || tell.send(left.unless(other, || Ok(())).map(|()| other)).ok());
                let discarded = hears.recv_timeout(Duration::from_secs(10));
                let tell = told.clone();
                others = Some(scope.spawn(move || tell.send(left.unless(slow, || Ok(())).map(|()| slow)).ok()));
                assert!(discarded.expect("it waits for another path").unwrap() == other);
                assert!(hears.try_recv().is_err(), "one at a time");
                failed()
            });
            swept.unwrap_err();
            assert_eq!(hears.recv().unwrap().unwrap(), slow);
        });
        assert!(left.lock().paths.is_empty() && left.lock().busy.is_empty());
    }

    #[test]
    fn what_fails_is_left_and_keeps_no_other() {
        let left = Left::default();
        ["/a", "/b", "/c"].iter().for_each(|path| drop(left.unless(Path::new(path), failed)));
        left.each(|path| if path == Path::new("/b") { Ok(()) } else { failed() }).unwrap_err();
        assert_eq!(left.lock().paths, ["/a", "/c"].map(PathBuf::from).into());
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| left.each(|_| panic!("amid it")))).unwrap_err();
        assert_eq!(left.lock().paths.len(), 2);
        left.each(|_| Ok(())).unwrap();
        assert!(left.lock().paths.is_empty());
    }
}
