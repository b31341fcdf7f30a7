//! The overlay driver: a layer is the directory of its changes, and overlayfs shows it on top of those below.
//!
//! `layers/<id>/diff` is the directory; `lower` names the layers below, uppermost first, one a line, ended by a line
//! that is a full stop; `work` is the kernel's, for a writable layer. Drafts are unpacked without their parents.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_linux::ResultExt;
use gantry_linux::fs;
use gantry_linux::mount::{IdMap, OverlayUpper, RootMount};
use std::os::fd::AsFd;

use crate::archive::recipe::{self, DISPLACED};
use crate::archive::{self, Writer};
use crate::disk;
use crate::fixtures::{self, Difference, is_fixture};
use crate::project::{Project, Projects};
use crate::store::{Store, measure, note, noted_size};
use crate::tree::{self, Step, Walk};
use crate::verify::{Form, Place, verify};
use crate::{Change, ChangeKind, Error, GraphDriver, Options, Replaced, owners};

mod probe;

pub(crate) use probe::file_system;

/// What is never wanted, whatever the kernel was configured to: a layer's archive could not say it.
const OPTIONS: [(&str, &str); 3] = [("index", "off"), ("metacopy", "off"), ("redirect_dir", "nofollow")];

struct Overlay {
    store: Store,
    projects: Projects,
    file_system: String,
}

/// Opens the driver in its directory, after trying that overlayfs works there.
pub(crate) fn open(root: &Path, options: &Options) -> Result<Arc<dyn GraphDriver>, Error> {
    let store = Store::open(root)?;
    let projects = Projects::open("overlay", &store, options, &["overlay2.size", "overlay.size", "size"])?;
    fs::create_dir_mode(store.root().join("empty"), 0o755)?;
    let file_system = probe::probe(store.root())?;
    Ok(Arc::new(Overlay { store, projects, file_system }))
}

impl Overlay {
    /// The ids below a layer that is there, uppermost first.
    fn below(&self, layer: &Path) -> Result<Vec<String>, Error> {
        let text = note(layer, "lower")?.unwrap_or_default();
        let mut ids: Vec<_> = text.lines().map(str::to_owned).collect();
        if ids.pop().as_deref() == Some(".") {
            Ok(ids)
        } else {
            // A power cut took the end of a young writable layer.
            Err(Error::NotFound(format!("{} (its list of layers below is damaged)", layer.display())))
        }
    }

    fn write_below(&self, draft: &Path, parent: Option<&str>, together: &[&str]) -> Result<Vec<String>, Error> {
        let mut ids = Vec::new();
        if let Some(parent) = parent {
            ids.push(parent.to_owned());
            ids.extend(self.below(&self.find(parent, together)?)?);
        }
        let text: String = ids.iter().map(String::as_str).chain(["."]).map(|id| format!("{id}\n")).collect();
        fs::write(draft.join("lower"), text)?;
        Ok(ids)
    }

    /// The directory of a layer, or of a draft that becomes one together with what is on top of it.
    fn find(&self, id: &str, together: &[&str]) -> Result<PathBuf, Error> {
        if together.contains(&id) { self.store.draft(id) } else { self.store.layer(id) }
    }

    /// Makes a draft all that a layer is, `together` with those below it.
    fn complete(&self, id: &str, together: &[&str]) -> Result<(), Error> {
        let draft = self.store.draft(id)?;
        let parent = note(&draft, "parent")?;
        let below = self.write_below(&draft, parent.as_deref(), together)?;
        let lower =
            below.iter().map(|id| Ok(self.find(id, together)?.join("diff"))).collect::<Result<Vec<_>, Error>>()?;
        archive::finish(&draft, &lower).map_err(|error| error.inside(&draft))?;
        clean_draft(&self.store, &draft)
    }

    fn diffs(&self, ids: &[String]) -> Vec<PathBuf> {
        ids.iter().map(|id| self.store.layer_path(id).join("diff")).collect()
    }

    fn open_lower(&self, layer: &Path) -> Result<Vec<std::os::fd::OwnedFd>, Error> {
        let diffs = self.diffs(&self.below(layer)?);
        Ok(diffs.iter().map(|diff| tree::open_root(diff)).collect::<Result<_, _>>()?)
    }

    fn fill_writable(&self, draft: &Path, parent: Option<&str>, project: Option<&Project>) -> Result<(), Error> {
        let below = self.write_below(draft, parent, &[])?;
        let (diff, work) = (draft.join("diff"), draft.join("work"));
        fs::create_dir_mode(&diff, 0o755)?;
        fs::create_dir_mode(&work, 0o700)?;
        if let Some(project) = project {
            // Both, for the kernel moves files from one to the other.
            project.mark(&diff)?;
            project.mark(&work)?;
            project.limit()?;
        }
        if let Some(below) = self.diffs(&below).first() {
            let (from, to) = (tree::open_root(below)?, tree::open_root(&diff)?);
            let stat = rustix::fs::fstat(&from).during("stat", below.display())?;
            tree::copy_metadata((from.as_fd(), b""), &stat, (to.as_fd(), b""))?;
        }
        Ok(())
    }

    /// What the layer changes, sorted; of a container's layer what counts.
    fn differences(&self, layer: &Path) -> Result<Vec<Difference>, Error> {
        let lower = self.open_lower(layer)?;
        let owners = owners::read(layer)?;
        let outside = |uid, gid| owners.as_ref().and_then(|map| map.outside(uid, gid)).unwrap_or((uid, gid));
        let mut found = Vec::new();
        let mut walk = Walk::new(tree::open_root(&layer.join("diff"))?)?;
        while let Some(step) = walk.next()? {
            let Step::Entry { dir, name, path, stat } = step else { continue };
            let mut below = tree::look_through(&lower, &path)?;
            if let Some((_, before)) = &mut below {
                // As a copy of it would be owned.
                (before.st_uid, before.st_gid) = outside(before.st_uid, before.st_gid);
            }
            let (kind, mut itself) = match (&below, tree::is_whiteout(&stat)) {
                (None, true) => continue,
                (Some(_), true) => (ChangeKind::Deleted, true),
                (None, false) => (ChangeKind::Added, true),
                (Some((old, before)), false) => {
                    (ChangeKind::Modified, !tree::same((old.as_fd(), b"", before), (dir.as_fd(), &name, &stat))?)
                }
            };
            if tree::is_dir(&stat) && below.is_some_and(|(_, below)| tree::is_dir(&below)) {
                let own = tree::open_dir(&dir, &name).during("open", tree::show(&path))?;
                if tree::is_opaque(&own) {
                    itself = true;
                    for gone in tree::names_through(&lower, &path)? {
                        if tree::stat(&own, &gone).is_err() {
                            let path = [path.as_slice(), b"/", gone.as_slice()].concat();
                            found.push(Difference {
                                path,
                                kind: ChangeKind::Deleted,
                                itself: true,
                                fixture: false,
                                inode: None,
                            });
                        }
                    }
                }
            }
            let fixture = is_fixture(&path, &stat, outside(0, 0));
            found.push(Difference { path, kind, itself, fixture, inode: tree::shared_inode(&stat) });
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        // A layer of an image is told as it is.
        Ok(if noted_size(layer)?.is_none() { fixtures::visible(found) } else { found })
    }
}

impl GraphDriver for Overlay {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn status(&self) -> Vec<(String, String)> {
        let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let limits = self.projects.works().unwrap_or(false);
        vec![
            line("Backing Filesystem", &self.file_system),
            line("Supports d_type", "true"),
            line("Using metacopy", "false"),
            line("Native Overlay Diff", "true"),
            line("userxattr", "false"),
            line("Limits Container Size", if limits { "true" } else { "false" }),
        ]
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
        self.commit_all(&[id])
    }

    fn place(&self, draft: &str, id: &str, parent: Option<&str>) -> Result<(), Error> {
        self.store.place(draft, id, parent)
    }

    fn commit_all(&self, ids: &[&str]) -> Result<(), Error> {
        ids.iter().try_for_each(|id| self.complete(id, ids))?;
        self.store.publish_all(ids)
    }

    fn replace(&self, draft: &str, id: &str) -> Result<(), Error> {
        self.complete(draft, &[])?;
        self.store.replace(draft, id)
    }

    fn replaced(&self) -> Result<Vec<Replaced>, Error> {
        self.store.replaced()
    }

    fn release(&self, replaced: &Replaced) -> Result<(), Error> {
        self.store.release(replaced)
    }

    fn check(&self, id: &str) -> Result<(), Error> {
        let layer = self.store.check(id, "diff")?;
        self.below(&layer)
            .map(drop)
            .map_err(|_| Error::Damaged { layer, reason: "its list of the layers below is damaged".to_owned() })
    }

    fn create_writable(&self, id: &str, parent: Option<&str>, limit: Option<u64>) -> Result<(), Error> {
        let project = self.projects.take(limit)?;
        let draft = self.store.begin(id)?;
        let made = self.fill_writable(&draft, parent, project.as_ref()).and_then(|()| self.store.publish(id, false));
        undo_draft(&self.store, &draft, made)
    }

    fn complete_writable(&self, id: &str, parent: Option<&str>) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        if self.below(&layer).is_err() {
            self.write_below(&layer, parent, &[])?;
        }
        Ok(())
    }

    fn mount(&self, id: &str, read_only: bool) -> Result<RootMount, Error> {
        let layer = self.store.layer(id)?;
        let mut lower = self.diffs(&self.below(&layer)?);
        let (diff, work) = (layer.join("diff"), layer.join("work"));
        let upper = if !read_only && fs::symlink_metadata(&work).is_ok() {
            Some(OverlayUpper { upper: diff, work })
        } else {
            lower.insert(0, diff);
            None
        };
        // The kernel wants one lower directory below an upper one, and two without it.
        while lower.len() < if upper.is_some() { 1 } else { 2 } {
            lower.push(self.store.root().join("empty"));
        }
        let options = OPTIONS.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect();
        owners::mapped(&layer, RootMount::Overlay { lower, upper, options })
    }

    fn map_owners(&self, id: &str, map: &IdMap) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        owners::write(&layer, map)?;
        // What is written belongs to others outside: first of all the root.
        let diff = layer.join("diff");
        let stat = rustix::fs::stat(&diff).during("stat", diff.display())?;
        let Some((uid, gid)) = map.outside(stat.st_uid, stat.st_gid) else { return Ok(()) };
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        Ok(rustix::fs::chown(&diff, Some(uid), Some(gid)).during("change owner of", diff.display())?)
    }

    /// `MergedDir` is where a mount would be: a root is mounted in its container's mount namespace alone, and an image's nowhere.
    fn places(&self, id: &str) -> Result<Vec<(&'static str, String)>, Error> {
        let layer = self.store.layer(id)?;
        let shown = |path: &Path| path.to_string_lossy().into_owned();
        let lower: Vec<String> = self.diffs(&self.below(&layer)?).iter().map(|diff| shown(diff)).collect();
        let mut places = vec![("MergedDir", shown(&layer.join("merged"))), ("UpperDir", shown(&layer.join("diff")))];
        if !lower.is_empty() {
            places.push(("LowerDir", lower.join(":")));
        }
        let work = layer.join("work");
        if fs::symlink_metadata(&work).is_ok() {
            places.push(("WorkDir", shown(&work)));
        }
        Ok(places)
    }

    fn exists(&self, id: &str) -> bool {
        self.store.exists(id)
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        self.store.list()
    }

    fn changes(&self, id: &str) -> Result<Vec<Change>, Error> {
        Ok(self.differences(&self.store.layer(id)?)?.iter().map(Difference::change).collect())
    }

    fn diff(&self, id: &str, archive: &mut dyn Write) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        if recipe::replay(&layer, &layer.join("diff"), archive)? {
            return Ok(());
        }
        let differences = self.differences(&layer)?;
        let mut told = fixtures::with_links(&differences, &layer.join("diff"))?;
        told.extend(differences.into_iter().map(|difference| difference.path));
        let owners = owners::read(&layer)?;
        let mut writer = Writer::new(archive, owners.as_ref());
        let mut walk = Walk::new(tree::open_root(&layer.join("diff"))?)?;
        while let Some(step) = walk.next()? {
            let Step::Entry { dir, name, path, stat } = step else { continue };
            if !told.contains(&path) {
                continue;
            }
            if tree::is_whiteout(&stat) {
                writer.whiteout(&path)?;
                continue;
            }
            writer.entry(dir.as_fd(), &name, &path, &stat)?;
            if tree::is_dir(&stat) && tree::is_opaque(tree::open_dir(&dir, &name).during("open", tree::show(&path))?) {
                writer.opaque(&path)?;
            }
        }
        writer.finish()
    }

    fn verify(
        &self,
        id: &str,
        archive: &mut dyn Read,
        below_is_whole: bool,
        report: &mut dyn FnMut(String),
    ) -> Result<(), Error> {
        let layer = self.store.layer(id)?;
        let below = self.diffs(&self.below(&layer)?);
        let place = Place { root: &layer.join("diff"), below: &below, form: Form::Overlay };
        verify(&place, archive, below_is_whole, report).map_err(|error| error.inside(&layer))
    }

    fn size(&self, id: &str) -> Result<u64, Error> {
        let layer = self.store.layer(id)?;
        noted_size(&layer)?.map_or_else(|| measure(&layer.join("diff")), Ok)
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

/// A draft is unpacked into overlayfs's form whatever the driver.
pub(crate) fn begin_draft(store: &Store, id: &str, parent: Option<&str>) -> Result<(), Error> {
    let draft = store.begin_layer(id)?;
    undo_draft(store, &draft, prepare_draft(&draft, parent))
}

/// Makes what an archive is unpacked into.
pub(crate) fn prepare_draft(draft: &Path, parent: Option<&str>) -> Result<(), Error> {
    let diff = draft.join("diff");
    fs::create_dir_mode(&diff, 0o755)?;
    tree::set_implied(tree::open_root(&diff)?)?;
    fs::create_dir_mode(draft.join("grave"), 0o700)?;
    fs::create_dir_mode(draft.join(DISPLACED), 0o700)?;
    if let Some(parent) = parent {
        fs::write(draft.join("parent"), parent)?;
    }
    Ok(())
}

pub(crate) fn apply_to_draft(store: &Store, id: &str, archive: &mut dyn Read) -> Result<u64, Error> {
    let draft = store.draft(id)?;
    let wrote = |bytes| store.writeback().wrote(bytes);
    let content = archive::apply(&draft, archive, &wrote).map_err(|error| error.inside(&draft))?;
    let before = noted_size(&draft)?.unwrap_or(0);
    fs::write(draft.join("size"), (before + content).to_string())?;
    Ok(content)
}

/// Removes what only a draft has.
pub(crate) fn clean_draft(store: &Store, draft: &Path) -> Result<(), Error> {
    match fs::remove_dir(draft.join("grave")) {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        Err(_) => store.discard(&draft.join("grave"))?,
    }
    match fs::remove_file(draft.join("later")) {
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => {}
    }
    let displaced = draft.join(DISPLACED);
    // It is gone where an earlier attempt failed later.
    if fs::symlink_metadata(&displaced).is_ok() && fs::list(&displaced)?.is_empty() {
        fs::remove_dir(displaced)?;
    }
    if noted_size(draft)?.is_none() {
        fs::write(draft.join("size"), "0")?;
    }
    Ok(())
}

/// Removes the draft when making it failed; the first error is the one that matters.
pub(crate) fn undo_draft(store: &Store, draft: &Path, made: Result<(), Error>) -> Result<(), Error> {
    if made.is_err()
        && let Err(error) = store.discard(draft)
    {
        tracing::warn!(%error, "a failed draft stays until the next sweep");
    }
    made.map_err(|error| error.inside(draft))
}
