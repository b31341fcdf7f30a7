//! What a layer has beside what its archive says: marks that are missing, names that are nobody's, and what of a whole tree is not
//! as in the layer below.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_linux::ResultExt;
use rustix::fs::{FileType, Mode, OFlags, openat};

use super::{Check, Form, MISSING, Place, Wrong, key, stat_inside, ways_up};
use crate::archive::{OPAQUE, WHITEOUT, split};
use crate::fixtures::Difference;
use crate::tree::{self, Step, Walk, show};
use crate::whole::compare;
use crate::{ChangeKind, Error};

impl Check {
    fn is_wrong(&mut self, path: &[u8], text: &str) {
        self.wrong.entry(path.to_vec()).or_insert_with(|| Wrong { text: text.to_owned(), target: None });
    }

    /// What the archive hides is hidden.
    pub(super) fn hidden(&mut self) -> Result<(), Error> {
        for path in self.whiteouts.clone() {
            if self.known.contains(&key(&path)) {
                continue;
            }
            let found = stat_inside(&self.root, &path)?;
            let hides = match self.form {
                Form::Overlay => found.is_some_and(|stat| tree::is_whiteout(&stat)),
                Form::Aufs => stat_inside(&self.root, &marked(&path))?.is_some(),
                Form::Whole { .. } => found.is_none(),
            };
            if !hides {
                self.is_wrong(&path, "is not hidden");
            }
        }
        Ok(())
    }

    /// What is there and should not be; told only where every path is where it says.
    pub(super) fn beside(&mut self, below_is_whole: bool, place: &Place<'_>) -> Result<(), Error> {
        if !self.is_plain {
            return Ok(());
        }
        match self.form {
            Form::Overlay | Form::Aufs => self.changes(),
            Form::Whole { copied } if below_is_whole => self.whole(place, copied),
            Form::Whole { .. } => Ok(()),
        }
    }

    fn changes(&mut self) -> Result<(), Error> {
        let mut walk = Walk::new(self.root.try_clone().during("duplicate", "descriptor")?)?;
        let mut stranger: Option<Vec<u8>> = None;
        while let Some(step) = walk.next()? {
            let Step::Entry { dir, name, path, stat } = step else { continue };
            if stranger.as_ref().is_some_and(|above| ways_up(&path).any(|way| way == above.as_slice())) {
                continue;
            }
            let is_dir = tree::is_dir(&stat);
            let is_known = match self.form {
                Form::Aufs if name == OPAQUE => self.hides_all(split(&path).0),
                Form::Aufs if name.starts_with(WHITEOUT) => self.whiteouts.contains(&unmarked(&path)),
                Form::Overlay if tree::is_whiteout(&stat) => self.whiteouts.contains(&path),
                _ => self.known.contains(&key(&path)),
            };
            if !is_known {
                self.is_wrong(&path, "is not of this layer");
                stranger = is_dir.then(|| path.clone());
            } else if is_dir && self.form == Form::Overlay {
                let own = tree::open_dir(&dir, &name).during("open", show(&path))?;
                match (self.hides_all(&path), tree::is_opaque(&own)) {
                    (true, false) => self.is_wrong(&path, "does not hide what is below it"),
                    (false, true) => self.is_wrong(&path, "hides what is below it"),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Whether a directory of the layer hides everything that is below it.
    fn hides_all(&self, path: &[u8]) -> bool {
        self.opaque.contains(path) || self.whiteouts.contains(path)
    }

    fn whole(&mut self, place: &Place<'_>, copied: bool) -> Result<(), Error> {
        let below = place.below.first().map(std::path::PathBuf::as_path);
        let mut stranger: Option<Vec<u8>> = None;
        for Difference { path, kind, itself, .. } in compare(below, place.root, false)? {
            if !itself || self.known.contains(&key(&path)) {
                continue;
            }
            if stranger.as_ref().is_some_and(|above| ways_up(&path).any(|way| way == above.as_slice())) {
                continue;
            }
            match kind {
                ChangeKind::Added => {
                    self.is_wrong(&path, "is not of this layer");
                    stranger = Some(path);
                }
                ChangeKind::Modified => self.is_wrong(&path, "is not as in the layer below"),
                ChangeKind::Deleted => {
                    let above = |above: &[u8]| self.opaque.contains(above) || self.whiteouts.contains(above);
                    if !ways_up(&path).any(above) && !self.opaque.contains(&b""[..]) {
                        self.is_wrong(&path, MISSING);
                    }
                }
            }
        }
        match below.filter(|_| copied) {
            Some(below) => self.copies(below),
            None => Ok(()),
        }
    }

    /// The content of what was copied from below.
    fn copies(&mut self, below: &Path) -> Result<(), Error> {
        let below = tree::open_root(below)?;
        let mut walk = Walk::new(self.root.try_clone().during("duplicate", "descriptor")?)?;
        while let Some(step) = walk.next()? {
            let Step::Entry { dir, name, path, stat } = step else { continue };
            if tree::file_type(&stat) != FileType::RegularFile
                || self.known.contains(&key(&path))
                || self.wrong.contains_key(&path)
            {
                continue;
            }
            if stat_inside(&below, &path)?.is_some_and(|before| before.st_size == stat.st_size)
                && !same_content(&dir, &name, &below, &path)?
            {
                self.is_wrong(&path, "has not the content that it has in the layer below");
            }
        }
        Ok(())
    }
}

fn same_content(dir: &OwnedFd, name: &[u8], below: &OwnedFd, path: &[u8]) -> Result<bool, Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let one = openat(dir, name, flags, Mode::empty()).during("open", show(path))?;
    let other = tree::open_inside(below, path, flags).during("open", show(path))?;
    let (mut one, mut other) = (std::fs::File::from(one), std::fs::File::from(other));
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        for (file, buffer) in [(&mut one, &mut left), (&mut other, &mut right)] {
            buffer.clear();
            file.take(128 << 10).read_to_end(buffer).during("read", show(path))?;
        }
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

/// Where aufs says that a path is hidden.
fn marked(path: &[u8]) -> Vec<u8> {
    let (directory, name) = split(path);
    if directory.is_empty() { [WHITEOUT, name].concat() } else { [directory, b"/", WHITEOUT, name].concat() }
}

/// The path that is hidden there.
fn unmarked(path: &[u8]) -> Vec<u8> {
    let (directory, name) = split(path);
    let name = name.strip_prefix(WHITEOUT).unwrap_or(name);
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}
