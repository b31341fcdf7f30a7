//! The vfs driver: every layer is a whole tree, a copy of its parent with its own changes. It works everywhere and
//! costs the most; blocks are shared where the file system can.
//!
//! `layers/<id>/root` is the tree and `parent` names the layer below. A draft is unpacked beside, as for overlay, and
//! merged into the copy when it is committed.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_linux::ResultExt;
use gantry_linux::fs;
use gantry_linux::mount::{IdMap, RootMount};
use rustix::fs::{FileType, OFlags};

use crate::archive::{self, Writer, recipe, split};
use crate::copy::copy_tree;
use crate::overlay::{apply_to_draft, begin_draft, clean_draft, undo_draft};
use crate::store::{Store, note, noted_size};
use crate::tree::{self, open_inside};
use crate::{Change, ChangeKind, Error, GraphDriver, owners};

mod compare;
mod merge;

struct Vfs {
    store: Store,
}

/// Opens the driver in its directory.
pub(crate) fn open(root: &Path) -> Result<Arc<dyn GraphDriver>, Error> {
    Ok(Arc::new(Vfs { store: Store::open(root)? }))
}

impl Vfs {
    /// The tree of the layer below a layer or draft.
    fn parent_tree(&self, layer: &Path) -> Result<Option<PathBuf>, Error> {
        let parent = note(layer, "parent")?;
        parent.map(|parent| Ok(self.store.layer(&parent)?.join("root"))).transpose()
    }

    fn compare(&self, layer: &Path) -> Result<Vec<(Vec<u8>, ChangeKind)>, Error> {
        compare::compare(self.parent_tree(layer)?.as_deref(), &layer.join("root"))
    }

    fn fill_writable(&self, draft: &Path, parent: Option<&str>) -> Result<(), Error> {
        let root = draft.join("root");
        fs::create_dir_mode(&root, 0o755)?;
        if let Some(parent) = parent {
            copy_tree(&self.store.layer(parent)?.join("root"), &root)?;
            fs::write(draft.join("parent"), parent)?;
        }
        Ok(())
    }
}

impl GraphDriver for Vfs {
    fn name(&self) -> &'static str {
        "vfs"
    }

    fn status(&self) -> Vec<(String, String)> {
        Vec::new()
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
        let draft = self.store.draft(id)?;
        let parent = self.parent_tree(&draft)?;
        archive::finish(&draft, parent.as_slice())?;
        let (diff, root) = (draft.join("diff"), draft.join("root"));
        // An earlier attempt may have failed half-way.
        self.store.discard(&root)?;
        fs::create_dir_mode(&root, 0o755)?;
        if let Some(parent) = parent {
            copy_tree(&parent, &root)?;
        }
        merge::merge(&diff, &root, &draft.join("grave"))?;
        self.store.discard(&diff)?;
        clean_draft(&self.store, &draft)?;
        self.store.publish(id, true)
    }

    fn create_writable(&self, id: &str, parent: Option<&str>) -> Result<(), Error> {
        let draft = self.store.begin(id)?;
        let made = self.fill_writable(&draft, parent).and_then(|()| self.store.publish(id, false));
        undo_draft(&self.store, &draft, made)
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
        let changes = self.compare(&self.store.layer(id)?)?;
        Ok(changes.iter().map(|(path, kind)| Change::at(path, *kind)).collect())
    }

    fn diff(&self, id: &str, archive: &mut dyn Write) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        if recipe::replay(&layer, &layer.join("root"), archive)? {
            return Ok(());
        }
        let root = tree::open_root(&layer.join("root"))?;
        let mut writer = Writer::new(archive, None);
        for (path, kind) in self.compare(&layer)? {
            if kind == ChangeKind::Deleted {
                writer.whiteout(&path)?;
                continue;
            }
            let (directory, name) = split(&path);
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            let dir = open_inside(&root, directory, flags).during("open", tree::show(directory))?;
            let stat = tree::stat(&dir, name).during("stat", tree::show(&path))?;
            writer.entry(dir.as_fd(), name, &path, &stat)?;
        }
        writer.finish()
    }

    fn size(&self, id: &str) -> Result<u64, Error> {
        let layer = self.store.layer(id)?;
        if let Some(size) = noted_size(&layer)? {
            return Ok(size);
        }
        let root = tree::open_root(&layer.join("root"))?;
        let mut bytes = 0;
        for (path, kind) in self.compare(&layer)? {
            if kind != ChangeKind::Deleted {
                let (_, stat) = tree::look_through(std::slice::from_ref(&root), &path)?
                    .ok_or_else(|| Error::NotFound(tree::show(&path).to_string()))?;
                if tree::file_type(&stat) == FileType::RegularFile {
                    bytes += u64::try_from(stat.st_size).unwrap_or(0);
                }
            }
        }
        Ok(bytes)
    }

    fn remove(&self, id: &str) -> Result<(), Error> {
        self.store.remove(id)
    }

    fn sweep(&self, drafts: bool) -> Result<(), Error> {
        self.store.sweep(drafts)
    }
}
