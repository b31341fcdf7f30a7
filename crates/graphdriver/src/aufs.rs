//! The aufs driver: a layer is the directory of its changes in aufs's own form, and aufs shows the union of it with those
//! below. What a layer changes is seen by comparing two unions, so the names that aufs keeps for itself are never seen.
//!
//! `layers/<id>/diff` is the directory and `parent` names the layer below. A draft is unpacked in overlayfs's form, as for
//! every driver, and translated when it is committed. No kernel of a distribution has aufs today, so this was never run on
//! one that has: what is not the kernel's is tested below, and the suite runs where the kernel has it.

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_linux::mount::{IdMap, RootMount, attach};
use gantry_linux::{ResultExt, fs};
use rustix::fs::{AtFlags, Mode, OFlags};

use crate::archive;
use crate::archive::{OPAQUE, WHITEOUT, recipe, split};
use crate::disk;
use crate::fixtures::Difference;
use crate::overlay::{apply_to_draft, begin_draft, clean_draft, file_system, undo_draft};
use crate::project::Projects;
use crate::store::{Store, complete_parent, note, noted_size};
use crate::tree::{self, Step, Walk, open_inside, show};
use crate::verify::{Form, Place, verify};
use crate::whole::{changed_bytes, compare, write_diff};
use crate::{Change, Error, GraphDriver, Options, Replaced};

struct Aufs {
    store: Store,
    projects: Projects,
    file_system: String,
}

/// Opens the driver in its directory, after trying that aufs works there.
pub(crate) fn open(root: &Path, options: &Options) -> Result<Arc<dyn GraphDriver>, Error> {
    let store = Store::open(root)?;
    let projects = Projects::open("aufs", &store, options, &["aufs.size", "size"])?;
    let file_system = file_system(store.root());
    probe(&store, &file_system)?;
    Ok(Arc::new(Aufs { store, projects, file_system }))
}

/// Makes a union of two branches and removes in it what the lower one has.
fn probe(store: &Store, file_system: &str) -> Result<(), Error> {
    let place = store.root().join("drafts").join(format!("probe-{}", fs::unique()));
    let tried = (|| {
        for part in ["upper", "lower"] {
            fs::create_dir_all(place.join(part))?;
        }
        fs::write(place.join("lower/below"), "")?;
        let union =
            attach(&RootMount::Aufs { branches: vec![place.join("upper"), place.join("lower")], writable: true })?;
        rustix::fs::unlinkat(&union, "below", AtFlags::empty()).during("remove", "a file in a union")?;
        fs::symlink_metadata(place.join("upper/.wh.below")).map(drop)
    })();
    fs::remove_dir_all(&place)?;
    let has = fs::read_to_string("/proc/filesystems").is_ok_and(|text| lists(&text, "aufs"));
    tried.map_err(|error| Error::Unsupported {
        driver: "aufs",
        path: store.root().to_path_buf(),
        reason: if has {
            format!(
                "aufs does not work on {file_system} ({error}): choose a data root on ext4 or xfs, or another driver"
            )
        } else {
            "the kernel has no aufs, as /proc/filesystems says; Debian's have none: use --storage-driver overlay"
                .to_owned()
        },
    })
}

/// Whether `/proc/filesystems` has a name.
fn lists(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.split_whitespace().next_back() == Some(name))
}

/// A layer's union, mounted for us alone.
struct View {
    _mount: OwnedFd,
    path: PathBuf,
}

impl Aufs {
    /// The directories of a layer and those below it, uppermost first.
    fn branches(&self, id: &str) -> Result<Vec<PathBuf>, Error> {
        let mut branches = Vec::new();
        let mut at = Some(id.to_owned());
        while let Some(id) = at {
            let layer = self.store.layer(&id)?;
            at = note(&layer, "parent")?;
            branches.push(layer.join("diff"));
        }
        Ok(branches)
    }

    fn view(&self, id: &str) -> Result<View, Error> {
        let mount = attach(&RootMount::Aufs { branches: self.branches(id)?, writable: false })?;
        Ok(View { path: format!("/proc/self/fd/{}", mount.as_raw_fd()).into(), _mount: mount })
    }

    fn view_below(&self, layer: &Path) -> Result<Option<View>, Error> {
        note(layer, "parent")?.map(|parent| self.view(&parent)).transpose()
    }

    /// Makes a draft all that a layer is.
    fn complete(&self, id: &str) -> Result<(), Error> {
        let draft = self.store.draft(id)?;
        let below = self.view_below(&draft)?;
        archive::finish(&draft, below.as_ref().map(|view| view.path.clone()).as_slice())?;
        // Half translated it is nothing that could be tried again.
        let translated = translate(&draft.join("diff")).and_then(|()| clean_draft(&self.store, &draft));
        undo_draft(&self.store, &draft, translated)
    }

    fn fill_writable(&self, draft: &Path, parent: Option<&str>) -> Result<(), Error> {
        let diff = draft.join("diff");
        if let Some(parent) = parent {
            fs::write(draft.join("parent"), parent)?;
            let (from, to) = (tree::open_root(&self.view(parent)?.path)?, tree::open_root(&diff)?);
            let stat = rustix::fs::fstat(&from).during("stat", "the root of a union")?;
            tree::copy_metadata((from.as_fd(), b""), &stat, (to.as_fd(), b""))?;
        }
        Ok(())
    }
}

impl GraphDriver for Aufs {
    fn name(&self) -> &'static str {
        "aufs"
    }

    fn status(&self) -> Vec<(String, String)> {
        let limits = self.projects.works().unwrap_or(false).to_string();
        vec![("Backing Filesystem".to_owned(), self.file_system.clone()), ("Limits Container Size".to_owned(), limits)]
    }

    fn applies_in_parallel(&self) -> bool {
        true
    }

    fn create(&self, id: &str, parent: Option<&str>) -> Result<(), Error> {
        begin_draft(&self.store, id, parent)
    }

    fn apply(&self, id: &str, archive: &mut dyn Read) -> Result<u64, Error> {
        apply_to_draft(&self.store, id, archive)
    }

    fn commit(&self, id: &str) -> Result<(), Error> {
        self.complete(id)?;
        self.store.publish(id, true)
    }

    fn replace(&self, draft: &str, id: &str) -> Result<(), Error> {
        self.complete(draft)?;
        self.store.replace(draft, id)
    }

    fn replaced(&self) -> Result<Vec<Replaced>, Error> {
        self.store.replaced()
    }

    fn release(&self, replaced: &Replaced) -> Result<(), Error> {
        self.store.release(replaced)
    }

    fn place(&self, draft: &str, id: &str, parent: Option<&str>) -> Result<(), Error> {
        self.store.place(draft, id, parent)
    }

    fn create_writable(&self, id: &str, parent: Option<&str>, limit: Option<u64>) -> Result<(), Error> {
        let project = self.projects.take(limit)?;
        let draft = self.store.begin(id)?;
        let made = (|| {
            fs::create_dir_mode(draft.join("diff"), 0o755)?;
            project
                .as_ref()
                .map_or(Ok(()), |project| project.mark(&draft.join("diff")).and_then(|()| project.limit()))?;
            self.fill_writable(&draft, parent)?;
            self.store.publish(id, false)
        })();
        undo_draft(&self.store, &draft, made)
    }

    fn map_owners(&self, id: &str, _map: &IdMap) -> Result<(), Error> {
        Err(Error::Unsupported {
            driver: "aufs",
            path: self.store.layer(id)?,
            reason: "aufs cannot be shown through a mapping of users: use another driver, or no --userns-remap"
                .to_owned(),
        })
    }

    fn complete_writable(&self, id: &str, parent: Option<&str>) -> Result<(), Error> {
        complete_parent(&self.store.layer(id)?, parent)
    }

    fn mount(&self, id: &str, read_only: bool) -> Result<RootMount, Error> {
        // Only layers of images have a note of their size.
        let writable = !read_only && noted_size(&self.store.layer(id)?)?.is_none();
        Ok(RootMount::Aufs { branches: self.branches(id)?, writable })
    }

    fn exists(&self, id: &str) -> bool {
        self.store.exists(id)
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        self.store.list()
    }

    fn changes(&self, id: &str) -> Result<Vec<Change>, Error> {
        let layer = self.store.layer(id)?;
        let (below, writable) = (self.view_below(&layer)?, noted_size(&layer)?.is_none());
        let found = compare(below.as_ref().map(|view| view.path.as_path()), &self.view(id)?.path, writable)?;
        Ok(found.iter().map(Difference::change).collect())
    }

    fn diff(&self, id: &str, archive: &mut dyn Write) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        if recipe::replay(&layer, &layer.join("diff"), archive)? {
            return Ok(());
        }
        let (below, writable) = (self.view_below(&layer)?, noted_size(&layer)?.is_none());
        write_diff(&layer, &self.view(id)?.path, below.as_ref().map(|view| view.path.as_path()), writable, archive)
    }

    fn verify(
        &self,
        id: &str,
        archive: &mut dyn Read,
        below_is_whole: bool,
        report: &mut dyn FnMut(String),
    ) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        let below = self.view_below(&layer)?;
        let paths: Vec<PathBuf> = below.iter().map(|view| view.path.clone()).collect();
        let place = Place { root: &layer.join("diff"), below: &paths, form: Form::Aufs };
        verify(&place, archive, below_is_whole, report).map_err(|error| error.inside(&layer))
    }

    fn size(&self, id: &str) -> Result<u64, Error> {
        let layer = self.store.layer(id)?;
        if let Some(size) = noted_size(&layer)? {
            return Ok(size);
        }
        let below = self.view_below(&layer)?;
        changed_bytes(&self.view(id)?.path, below.as_ref().map(|view| view.path.as_path()))
    }

    fn disk_use(&self, id: &str) -> Result<u64, Error> {
        disk::of_layer(&self.store.layer(id)?)
    }

    fn remove(&self, id: &str) -> Result<(), Error> {
        self.store.remove(id)
    }

    fn sweep(&self, drafts: bool) -> Result<(), Error> {
        self.store.sweep(drafts, |removed| self.projects.free(removed))
    }
}

/// Puts aufs's whiteouts and opaque marks in the place of overlayfs's. The times of directories stay.
fn translate(diff: &Path) -> Result<(), Error> {
    let root = tree::open_root(diff)?;
    let mut found = Vec::new();
    let mut walk = Walk::new(tree::open_root(diff)?)?;
    while let Some(step) = walk.next()? {
        let Step::Entry { dir, name, path, stat } = step else { continue };
        if tree::is_whiteout(&stat) {
            found.push((split(&path).0.to_vec(), Some(name)));
        } else if tree::is_dir(&stat) && tree::is_opaque(tree::open_dir(&dir, &name).during("open", show(&path))?) {
            found.push((path, None));
        }
    }
    let make = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    for (path, name) in found {
        let dir = open_inside(&root, &path, OFlags::RDONLY | OFlags::DIRECTORY).during("open", show(&path))?;
        let stat = rustix::fs::fstat(&dir).during("stat", show(&path))?;
        let mark = match name {
            Some(name) => {
                rustix::fs::unlinkat(&dir, name.as_slice(), AtFlags::empty()).during("remove", show(&name))?;
                [WHITEOUT, &name].concat()
            }
            None => {
                tree::clear_opaque(&dir)?;
                OPAQUE.to_vec()
            }
        };
        rustix::fs::openat(&dir, mark.as_slice(), make, Mode::RUSR | Mode::RGRP | Mode::ROTH)
            .during("make whiteout", show(&mark))?;
        rustix::fs::futimens(&dir, &tree::times_of(&stat)).during("set times of", show(&path))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{CWD, FileType};

    use super::*;

    #[test]
    fn a_kernel_lists_its_file_systems_one_a_line() {
        let text = "nodev\tsysfs\nnodev\taufs_like\n\text4\nnodev\toverlay\n";
        assert!(!lists(text, "aufs"));
        assert!(lists(text, "overlay") && lists(text, "ext4"));
        assert!(lists("nodev\taufs\n", "aufs"));
    }

    #[test]
    fn whiteouts_and_opaque_directories_are_translated_and_times_stay() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        std::fs::create_dir_all(at("etc/opaque")).unwrap();
        std::fs::write(at("etc/opaque/new"), "n").unwrap();
        for gone in ["gone", "etc/also gone"] {
            rustix::fs::mknodat(CWD, at(gone), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
        tree::set_opaque(tree::open_root(&at("etc/opaque")).unwrap()).unwrap();
        for path in ["etc/opaque", "etc", ""] {
            rustix::fs::futimens(tree::open_root(&at(path)).unwrap(), &tree::times(1_000_000_000, 5)).unwrap();
        }
        translate(place.path()).unwrap();
        let names = |path: &str| {
            let names = tree::names(tree::open_root(&at(path)).unwrap()).unwrap();
            names.into_iter().map(|name| String::from_utf8(name).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(""), [".wh.gone", "etc"]);
        assert_eq!(names("etc"), [".wh.also gone", "opaque"]);
        assert_eq!(names("etc/opaque"), [".wh..wh..opq", "new"]);
        assert!(!tree::is_opaque(tree::open_root(&at("etc/opaque")).unwrap()));
        assert!(at(".wh.gone").metadata().unwrap().is_file());
        for path in ["etc/opaque", "etc", ""] {
            assert_eq!(at(path).metadata().unwrap().mtime(), 1_000_000_000, "{path:?}");
        }
    }

    #[test]
    fn branches_are_a_layer_and_what_is_below_it_in_this_order() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::open(place.path()).unwrap();
        let projects = Projects::open("aufs", &store, &Options::default(), &[]).unwrap();
        let driver = Aufs { store, projects, file_system: String::new() };
        for (id, parent) in [("base", None), ("middle", Some("base")), ("top", Some("middle"))] {
            let draft = driver.store.begin(id).unwrap();
            if let Some(parent) = parent {
                std::fs::write(draft.join("parent"), parent).unwrap();
            }
            driver.store.publish(id, false).unwrap();
        }
        let diff = |id| driver.store.layer_path(id).join("diff");
        assert_eq!(driver.branches("top").unwrap(), [diff("top"), diff("middle"), diff("base")]);
        assert!(matches!(driver.branches("none"), Err(Error::NotFound(_))));
    }

    #[test]
    fn a_kernel_without_aufs_is_told_apart_from_a_directory_on_which_it_does_not_work() {
        let place = tempfile::tempdir().unwrap();
        let has = lists(&std::fs::read_to_string("/proc/filesystems").unwrap(), "aufs");
        let Err(error) = open(place.path(), &Options::default()) else { return };
        assert!(matches!(error, Error::Unsupported { .. }), "{error}");
        assert_eq!(error.to_string().contains("the kernel has no aufs"), !has, "{error}");
        assert!(std::fs::read_dir(place.path().join("drafts")).unwrap().next().is_none());
    }
}
