//! The drivers whose layers are whole trees, each its parent's with changes of its own: vfs copies the parent (and works
//! everywhere), btrfs takes a snapshot of it (in constant time, sharing every block).
//!
//! `layers/<id>/root` is the tree and `parent` names the layer below; with btrfs `layers/<id>` is a subvolume. A draft is
//! unpacked beside the tree, as for overlay, and merged into it when it is committed.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_linux::mount::{IdMap, RootMount};
use gantry_linux::{btrfs, fs};

use crate::archive;
use crate::archive::recipe::DISPLACED;
use crate::copy::copy_tree;
use crate::disk;
use crate::fixtures::Difference;
use crate::options::bytes;
use crate::overlay::{apply_to_draft, begin_draft, clean_draft, prepare_draft, undo_draft};
use crate::project::{Project, Projects};
use crate::store::{Store, complete_parent, note, noted_size};
use crate::verify::{Form, Place, verify};
use crate::{Change, Error, GraphDriver, Options, Replaced, owners};

mod compare;
mod difference;
mod groups;
mod merge;

pub(crate) use compare::compare;
pub(crate) use difference::{changed_bytes, write_diff};
pub(crate) use merge::merge;

/// How a layer gets its parent's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Copy,
    Snapshot,
}

struct Whole {
    store: Store,
    kind: Kind,
    limits: Limits,
}

/// What limits the size of writable layers.
enum Limits {
    Projects(Projects),
    /// Quota groups; no layer may have less than so many bytes.
    Groups {
        minimum: u64,
    },
}

/// Opens vfs in its directory.
pub(crate) fn open_vfs(root: &Path, options: &Options) -> Result<Arc<dyn GraphDriver>, Error> {
    let store = Store::open(root)?;
    let limits = Limits::Projects(Projects::open("vfs", &store, options, &["vfs.size", "size"])?);
    Ok(Arc::new(Whole { store, kind: Kind::Copy, limits }))
}

/// Opens btrfs in its directory, which must be on that file system.
pub(crate) fn open_btrfs(root: &Path, options: &Options) -> Result<Arc<dyn GraphDriver>, Error> {
    options.only("btrfs", &["btrfs.min_space"])?;
    let mut minimum = 0;
    for (name, value) in options.iter() {
        minimum = bytes(name, value)?;
    }
    // The directory itself may not be there yet.
    let there = root.ancestors().find(|path| fs::symlink_metadata(path).is_ok()).unwrap_or(root);
    if !btrfs::is_btrfs(there)? {
        return Err(Error::Unsupported {
            driver: "btrfs",
            path: root.to_path_buf(),
            reason: "it is not on btrfs: choose another data root (--data-root) or another driver".to_owned(),
        });
    }
    Ok(Arc::new(Whole { store: Store::open(root)?, kind: Kind::Snapshot, limits: Limits::Groups { minimum } }))
}

/// What a snapshot has of its parent beside the tree.
const NOTES: [&str; 5] = ["parent", "size", "recipe", "owners", DISPLACED];

impl Whole {
    /// The tree of the layer below a layer or draft.
    fn parent_tree(&self, layer: &Path) -> Result<Option<PathBuf>, Error> {
        let parent = note(layer, "parent")?;
        parent.map(|parent| Ok(self.store.layer(&parent)?.join("root"))).transpose()
    }

    /// A draft with its parent's tree in `root`, shared.
    fn begin_snapshot(&self, id: &str, parent: Option<&str>) -> Result<PathBuf, Error> {
        let parent = parent.map(|parent| self.store.layer(parent)).transpose()?;
        let draft = self.store.begin_with(id, |path| match &parent {
            Some(parent) => btrfs::snapshot(parent, path),
            None => btrfs::create(path),
        })?;
        let made = (|| {
            for name in NOTES {
                let path = draft.join(name);
                match fs::symlink_metadata(&path) {
                    Err(error) if error.is_not_found() => {}
                    Err(error) => return Err(error.into()),
                    Ok(found) if found.is_dir() => fs::remove_dir_all(&path)?,
                    Ok(_) => fs::remove_file(&path)?,
                }
            }
            if parent.is_none() {
                fs::create_dir_mode(draft.join("root"), 0o755)?;
            }
            disk::forget(&draft)
        })();
        undo_draft(&self.store, &draft, made)?;
        Ok(draft)
    }

    /// A draft with its parent's tree in `root`, copied.
    fn begin_copy(&self, id: &str, parent: Option<&str>, project: Option<&Project>) -> Result<PathBuf, Error> {
        let draft = self.store.begin(id)?;
        undo_draft(&self.store, &draft, self.copy(parent, &draft.join("root"), project))?;
        Ok(draft)
    }

    fn copy(&self, parent: Option<&str>, root: &Path, project: Option<&Project>) -> Result<(), Error> {
        fs::create_dir_mode(root, 0o755)?;
        project.map_or(Ok(()), |project| project.mark(root))?;
        if let Some(parent) = parent {
            copy_tree(&self.store.layer(parent)?.join("root"), root)?;
        }
        // The copy is not what is limited: what will be written to it is.
        project.map_or(Ok(()), Project::limit)
    }

    /// A writable draft whose size is limited.
    fn begin_writable(&self, id: &str, parent: Option<&str>, limit: Option<u64>) -> Result<PathBuf, Error> {
        let minimum = match &self.limits {
            Limits::Projects(projects) => return self.begin_copy(id, parent, projects.take(limit)?.as_ref()),
            Limits::Groups { minimum } => *minimum,
        };
        let Some(limit) = limit.filter(|limit| *limit > 0) else { return self.begin_snapshot(id, parent) };
        if limit < minimum {
            let reason = format!("{limit} bytes are less than btrfs.min_space, {minimum}: give more, or no limit");
            return Err(Error::NoLimit { driver: "btrfs", path: self.store.root().to_path_buf(), reason });
        }
        btrfs::enable_quota(self.store.root())?;
        let draft = self.begin_snapshot(id, parent)?;
        undo_draft(&self.store, &draft, btrfs::limit(&draft, limit).map_err(Error::from))?;
        Ok(draft)
    }

    /// What is left to do for a draft when all is unpacked and its parent is there.
    fn finish(&self, id: &str) -> Result<(), Error> {
        let draft = self.store.draft(id)?;
        let parent = self.parent_tree(&draft)?;
        archive::finish(&draft, parent.as_slice()).map_err(|error| error.inside(&draft))?;
        // Half merged it is nothing that could be tried again.
        undo_draft(&self.store, &draft, self.merge(&draft))
    }

    /// Merges what was unpacked into the parent's tree.
    fn merge(&self, draft: &Path) -> Result<(), Error> {
        let (diff, root) = (draft.join("diff"), draft.join("root"));
        if self.kind == Kind::Copy {
            self.copy(note(draft, "parent")?.as_deref(), &root, None)?;
        }
        merge(&diff, &root, &draft.join("grave"))?;
        self.store.discard(&diff)?;
        clean_draft(&self.store, draft)
    }
}

impl GraphDriver for Whole {
    fn name(&self) -> &'static str {
        match self.kind {
            Kind::Copy => "vfs",
            Kind::Snapshot => "btrfs",
        }
    }

    fn status(&self) -> Vec<(String, String)> {
        let limits = match &self.limits {
            Limits::Projects(projects) => projects.works().unwrap_or(false),
            Limits::Groups { .. } => true,
        };
        vec![("Limits Container Size".to_owned(), limits.to_string())]
    }

    /// A snapshot can only be taken of what is there.
    fn applies_in_parallel(&self) -> bool {
        self.kind == Kind::Copy
    }

    fn create(&self, id: &str, parent: Option<&str>) -> Result<(), Error> {
        if self.kind == Kind::Copy {
            return begin_draft(&self.store, id, parent);
        }
        let draft = self.begin_snapshot(id, parent)?;
        undo_draft(&self.store, &draft, prepare_draft(&draft, parent))
    }

    fn apply(&self, id: &str, archive: &mut dyn Read) -> Result<u64, Error> {
        apply_to_draft(&self.store, id, archive)
    }

    fn commit(&self, id: &str) -> Result<(), Error> {
        self.finish(id)?;
        self.store.publish(id, true)
    }

    fn place(&self, draft: &str, id: &str, parent: Option<&str>) -> Result<(), Error> {
        match self.kind {
            Kind::Copy => self.store.place(draft, id, parent),
            Kind::Snapshot => Ok(()),
        }
    }

    /// Nobody has a layer mounted but for the moment of a copy: a container's tree is its own.
    fn replace(&self, draft: &str, id: &str) -> Result<(), Error> {
        self.finish(draft)?;
        self.store.replace(draft, id)?;
        let mut replaced = self.store.replaced()?.into_iter().filter(|replaced| replaced.id == id);
        replaced.try_for_each(|replaced| self.store.release(&replaced))
    }

    fn replaced(&self) -> Result<Vec<Replaced>, Error> {
        self.store.replaced()
    }

    fn release(&self, replaced: &Replaced) -> Result<(), Error> {
        self.store.release(replaced)
    }

    fn check(&self, id: &str) -> Result<(), Error> {
        self.store.check(id, "root").map(drop)
    }

    fn create_writable(&self, id: &str, parent: Option<&str>, limit: Option<u64>) -> Result<(), Error> {
        let draft = self.begin_writable(id, parent, limit)?;
        let made = (|| {
            if let Some(parent) = parent {
                fs::write(draft.join("parent"), parent)?;
            }
            self.store.publish(id, false)
        })();
        undo_draft(&self.store, &draft, made)
    }

    fn complete_writable(&self, id: &str, parent: Option<&str>) -> Result<(), Error> {
        complete_parent(&self.store.layer(id)?, parent)
    }

    fn mount(&self, id: &str, _read_only: bool) -> Result<RootMount, Error> {
        let layer = self.store.layer(id)?;
        owners::mapped(&layer, RootMount::Bind { source: layer.join("root") })
    }

    /// The whole tree is shown through the mapping; on disk its owners are those that the container sees.
    fn map_owners(&self, id: &str, map: &IdMap) -> Result<(), Error> {
        owners::write(&self.store.layer(id)?, map)
    }

    fn exists(&self, id: &str) -> bool {
        self.store.exists(id)
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        self.store.list()
    }

    fn changes(&self, id: &str) -> Result<Vec<Change>, Error> {
        let layer = self.store.layer(id)?;
        let writable = noted_size(&layer)?.is_none();
        let found = compare(self.parent_tree(&layer)?.as_deref(), &layer.join("root"), writable)?;
        Ok(found.iter().map(Difference::change).collect())
    }

    fn diff(&self, id: &str, archive: &mut dyn Write) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        let writable = noted_size(&layer)?.is_none();
        write_diff(&layer, &layer.join("root"), self.parent_tree(&layer)?.as_deref(), writable, archive)
    }

    fn verify(
        &self,
        id: &str,
        archive: &mut dyn Read,
        below_is_whole: bool,
        report: &mut dyn FnMut(String),
    ) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        let below = self.parent_tree(&layer)?;
        let form = Form::Whole { copied: self.kind == Kind::Copy };
        let place = Place { root: &layer.join("root"), below: below.as_slice(), form };
        verify(&place, archive, below_is_whole, report).map_err(|error| error.inside(&layer))
    }

    fn size(&self, id: &str) -> Result<u64, Error> {
        let layer = self.store.layer(id)?;
        match noted_size(&layer)? {
            Some(size) => Ok(size),
            None => changed_bytes(&layer.join("root"), self.parent_tree(&layer)?.as_deref()),
        }
    }

    fn disk_use(&self, id: &str) -> Result<u64, Error> {
        disk::of_layer(&self.store.layer(id)?)
    }

    fn remove(&self, id: &str) -> Result<(), Error> {
        self.store.remove(id)
    }

    fn sweep(&self, drafts: bool) -> Result<(), Error> {
        match &self.limits {
            Limits::Projects(projects) => self.store.sweep(drafts, |removed| projects.free(removed)),
            // Subvolumes go in constant time; what is left in the trash goes file by file.
            Limits::Groups { .. } => {
                let noted = groups::remove_noted(&self.store);
                // A full disk may keep them; then it needs what goes now all the more.
                noted.and(self.store.sweep(drafts, |removed| groups::delete_subvolumes(&self.store, removed)))
            }
        }
    }
}
