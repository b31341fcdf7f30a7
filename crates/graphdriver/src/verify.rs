//! Whether a layer's files are as its archive says: kinds, modes, owners, extended attributes, sizes, device numbers, what is
//! missing, and what is there beside them. What the files contain is for the archive's digest to tell.
//!
//! The archive is read once, and each entry held against what is there now. A later entry of the same archive may have replaced
//! it, so that nothing is told before the end. On a whole layer nothing is kept but eight bytes for each path.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use gantry_linux::ResultExt;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::Error;
use crate::archive::entry::{Entries, Entry, Kind};
use crate::archive::name::clean;
use crate::archive::{AUFS, OPAQUE, WHITEOUT, split};
use crate::tree::{self, at, look_through, show};

mod beside;
mod compare;

/// How a layer lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its changes, with overlayfs's marks.
    Overlay,
    /// Its changes, with aufs's marks.
    Aufs,
    /// The whole tree. A copy shares nothing with the one below, so that the content of what it has from there is compared too.
    Whole { copied: bool },
}

/// A layer on the disk.
pub(crate) struct Place<'a> {
    pub root: &'a Path,
    /// What it is on top of, uppermost first: of a whole tree, one.
    pub below: &'a [PathBuf],
    pub form: Form,
}

/// Reads the archive of a layer and reports a line for each thing that is not as it says. What is below is looked at only where
/// that is known to be whole.
pub(crate) fn verify(
    place: &Place<'_>,
    archive: &mut dyn Read,
    below_is_whole: bool,
    report: &mut dyn FnMut(String),
) -> Result<(), Error> {
    let below = if below_is_whole { place.below } else { &[] };
    let mut check = Check {
        root: tree::open_root(place.root)?,
        below: below.iter().map(|path| tree::open_root(path)).collect::<Result<_, _>>()?,
        form: place.form,
        known: HashSet::new(),
        described: HashSet::new(),
        implied: BTreeSet::new(),
        whiteouts: BTreeSet::new(),
        opaque: BTreeSet::new(),
        targets: BTreeSet::new(),
        wrong: BTreeMap::new(),
        links: HashSet::new(),
        takes_users: false,
        parent: None,
        is_plain: true,
    };
    let asked = rustix::fs::fgetxattr(&check.root, "user.gantry", &mut [0_u8; 1][..]);
    check.takes_users = !matches!(asked, Err(Errno::OPNOTSUPP));
    let mut entries = Entries::new(archive, None);
    while let Some(entry) = entries.next()? {
        check.entry(&entry)?;
    }
    check.links_below();
    check.implied()?;
    check.hidden()?;
    check.beside(below_is_whole, place)?;
    check.tell(report);
    Ok(())
}

const MISSING: &str = "is missing";

/// Something that is not as it should be.
struct Wrong {
    text: String,
    /// The file that it should be a link to.
    target: Option<Vec<u8>>,
}

struct Check {
    root: OwnedFd,
    below: Vec<OwnedFd>,
    form: Form,
    /// Every path that the layer has.
    known: HashSet<u64>,
    /// Those of them that an entry describes.
    described: HashSet<u64>,
    /// Directories that are there only because something is in them.
    implied: BTreeSet<Vec<u8>>,
    /// What is hidden, and the directories below which everything is.
    whiteouts: BTreeSet<Vec<u8>>,
    opaque: BTreeSet<Vec<u8>>,
    /// What hard links lead to that no entry before them has.
    targets: BTreeSet<Vec<u8>>,
    /// What is wrong so far, by path.
    wrong: BTreeMap<Vec<u8>, Wrong>,
    /// What was a symbolic link once: what is written through it lies elsewhere.
    links: HashSet<u64>,
    /// The file system has attributes of users.
    takes_users: bool,
    /// The directory of the last entry, if it is there.
    parent: Option<(Vec<u8>, Option<OwnedFd>)>,
    /// No entry leads through a symbolic link: every path is where it says.
    is_plain: bool,
}

fn key(path: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    hasher.finish()
}

/// The path itself and those above it, without the root.
fn ways_up(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| Some(split(path).0)).take_while(|path| !path.is_empty())
}

impl Check {
    fn entry(&mut self, entry: &Entry) -> Result<(), Error> {
        let path = clean(&entry.path)?;
        let (directory, name) = split(&path);
        if path.split(|byte| *byte == b'/').any(|part| part.starts_with(AUFS) && part != OPAQUE) {
            return Ok(());
        }
        if self.leads_through_link(&path) {
            self.is_plain = false;
            return Ok(());
        }
        if name == OPAQUE {
            self.imply(directory);
            self.opaque.insert(directory.to_vec());
            return Ok(());
        }
        let hidden = name
            .strip_prefix(WHITEOUT)
            .map(|hidden| if directory.is_empty() { hidden.to_vec() } else { [directory, b"/", hidden].concat() });
        let hidden = hidden.or_else(|| matches!(entry.kind, Kind::Character(0, 0)).then(|| path.clone()));
        self.imply(directory);
        if let Some(hidden) = hidden {
            self.whiteouts.insert(hidden);
            return Ok(());
        }
        if entry.kind != Kind::Directory {
            // What was in a directory of this name went with it.
            let inside = [path.as_slice(), b"/"].concat();
            self.wrong.retain(|path, _| !path.starts_with(&inside));
            for set in [&mut self.implied, &mut self.whiteouts, &mut self.opaque] {
                set.retain(|path| !path.starts_with(&inside));
            }
        }
        if matches!(entry.kind, Kind::Symlink(_)) {
            self.links.insert(key(&path));
        }
        if !self.wrong.is_empty() {
            // Links to what was there before are not links to this.
            let replaced = |target: &Vec<u8>| {
                *target == path || target.strip_prefix(path.as_slice()).is_some_and(|rest| rest.starts_with(b"/"))
            };
            self.wrong.retain(|_, wrong| !wrong.target.as_ref().is_some_and(replaced));
        }
        self.implied.remove(&path);
        self.wrong.remove(&path);
        let is_again = !self.described.insert(key(&path));
        self.known.insert(key(&path));
        let wrong = match &entry.kind {
            Kind::Link(target) => self.link(&path, clean(target)?)?,
            _ => self.look(&path, entry, is_again)?,
        };
        if let Some(wrong) = wrong {
            self.wrong.insert(path, wrong);
        }
        Ok(())
    }

    /// The directories that something in `directory` brings with it.
    fn imply(&mut self, directory: &[u8]) {
        for above in ways_up(directory) {
            if !self.known.insert(key(above)) {
                break;
            }
            self.implied.insert(above.to_vec());
        }
    }

    /// The directory of a path; none where it is not there, or is reached through a symbolic link.
    fn open_parent(&mut self, directory: &[u8]) -> Result<Option<&OwnedFd>, Error> {
        if self.parent.as_ref().is_none_or(|(have, _)| have != directory) {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let opened = match openat2(&self.root, at(directory), flags, Mode::empty(), resolve) {
                Ok(opened) => Some(opened),
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => None,
                Err(error) => return Err(error).during("open", show(directory)).map_err(Error::from),
            };
            self.parent = Some((directory.to_vec(), opened));
        }
        Ok(self.parent.as_ref().and_then(|(_, opened)| opened.as_ref()))
    }

    /// Whether a path leads through what was a symbolic link once.
    fn leads_through_link(&self, path: &[u8]) -> bool {
        !self.links.is_empty() && ways_up(split(path).0).any(|above| self.links.contains(&key(above)))
    }

    fn look(&mut self, path: &[u8], entry: &Entry, is_again: bool) -> Result<Option<Wrong>, Error> {
        let (directory, name) = split(path);
        let past = compare::Past { is_again, takes_users: self.takes_users };
        let wrong = |text: String| Wrong { text, target: None };
        let Some(parent) = self.open_parent(directory)? else {
            return Ok(Some(wrong(MISSING.to_owned())));
        };
        match tree::stat(parent, at(name)) {
            Err(Errno::NOENT) => Ok(Some(wrong(MISSING.to_owned()))),
            Err(error) => Err(error).during("stat", show(path)).map_err(Error::from),
            Ok(stat) => {
                let found = compare::entry(parent.as_fd(), name, &stat, entry, past)?;
                Ok(found.map(wrong))
            }
        }
    }

    /// A hard link is the same file as its target.
    fn link(&mut self, path: &[u8], target: Vec<u8>) -> Result<Option<Wrong>, Error> {
        if self.leads_through_link(&target) {
            self.is_plain = false;
            return Ok(None);
        }
        if !self.described.contains(&key(&target)) {
            self.targets.insert(target.clone());
        }
        let (own, other) = (stat_inside(&self.root, path)?, stat_inside(&self.root, &target)?);
        let text = match (own, other) {
            (Some(own), Some(other)) if own.st_ino == other.st_ino => return Ok(None),
            (None, _) => MISSING.to_owned(),
            _ => format!("is no hard link to {} any more", show(&target)),
        };
        Ok(Some(Wrong { text, target: Some(target) }))
    }

    /// What only layers below have was copied up under its own name.
    fn links_below(&mut self) {
        for target in std::mem::take(&mut self.targets) {
            self.imply(split(&target).0);
            self.known.insert(key(&target));
        }
    }

    /// Implied directories are as they are below, and so is the root.
    fn implied(&mut self) -> Result<(), Error> {
        let mut implied = std::mem::take(&mut self.implied);
        if !self.described.contains(&key(b"")) {
            implied.insert(Vec::new());
        }
        for path in implied {
            let text = match stat_inside(&self.root, &path)? {
                None => Some(MISSING.to_owned()),
                Some(stat) if !tree::is_dir(&stat) => Some("is no directory".to_owned()),
                Some(stat) => match look_through(&self.below, &path)? {
                    Some((below, before)) if tree::is_dir(&before) => {
                        let own = tree::open_dir(&self.root, &path).during("open", show(&path))?;
                        compare::directories((below.as_fd(), &before), (own.as_fd(), &stat))?
                    }
                    _ => None,
                },
            };
            if let Some(text) = text {
                self.wrong.insert(path, Wrong { text, target: None });
            }
        }
        Ok(())
    }

    /// Tells what is wrong, but not what is wrong only because something above it is missing.
    fn tell(&self, report: &mut dyn FnMut(String)) {
        for (path, wrong) in &self.wrong {
            let missing = |above: &[u8]| self.wrong.get(above).is_some_and(|above| above.text == MISSING);
            if !ways_up(split(path).0).any(missing) {
                report(format!("/{} {}", show(path), wrong.text));
            }
        }
    }
}

/// What lies at a path, links not followed.
fn stat_inside(root: &OwnedFd, path: &[u8]) -> Result<Option<rustix::fs::Stat>, Error> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match openat2(root, at(path), flags, Mode::empty(), resolve) {
        Ok(found) => Ok(Some(rustix::fs::fstat(&found).during("stat", show(path))?)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error).during("open", show(path)).map_err(Error::from),
    }
}
