//! The conformance suite: every driver keeps the same promises, seen through a real mount.
//!
//! The mounts are detached: they are attached nowhere, and gone with their descriptor.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]
#![allow(clippy::print_stderr, reason = "what is skipped is said loudly")]
#![allow(missing_docs, reason = "tests")]

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_graphdriver::{Change, ChangeKind, Error, GraphDriver};
use gantry_linux::mount::{IdMap, RootMount};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, open_tree,
};
use tar::{EntryType, Header};

struct Bench {
    driver: Arc<dyn GraphDriver>,
    root: tempfile::TempDir,
}

impl Bench {
    fn new(name: &str) -> Self {
        let root = if name == "btrfs" { on_btrfs() } else { tempfile::tempdir().unwrap() };
        let driver = gantry_graphdriver::open(root.path(), Some(name)).unwrap().0;
        Self { driver, root }
    }

    fn layer(&self, id: &str, parent: Option<&str>, archive: &[u8]) -> Result<u64, Error> {
        self.driver.create(id, parent)?;
        let size = self.driver.apply(id, &mut &*archive)?;
        self.driver.commit(id)?;
        Ok(size)
    }

    fn mount(&self, id: &str, read_only: bool) -> Mounted {
        Mounted(attach(&self.driver.mount(id, read_only).unwrap()))
    }

    fn writable(&self, id: &str, parent: &str) -> Mounted {
        self.driver.create_writable(id, Some(parent), None).unwrap();
        self.mount(id, false)
    }

    fn diff(&self, id: &str) -> Vec<u8> {
        let mut archive = Vec::new();
        self.driver.diff(id, &mut archive).unwrap();
        archive
    }

    fn changes(&self, id: &str) -> Vec<(String, ChangeKind)> {
        let changes = self.driver.changes(id).unwrap();
        assert!(changes.is_sorted(), "{changes:?}");
        changes.into_iter().map(|Change { path, kind }| (path.display().to_string(), kind)).collect()
    }
}

/// A directory on a btrfs of its own, mounted in a mount namespace of this thread: both go with the thread.
fn on_btrfs() -> tempfile::TempDir {
    thread_local! {
        static IMAGE: std::cell::RefCell<Option<tempfile::TempDir>> = const { std::cell::RefCell::new(None) };
    }
    let run = |program: &str, arguments: &[&std::ffi::OsStr]| {
        let output = std::process::Command::new(program).args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("{program}, of Debian's btrfs-progs or mount: {error}"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    };
    gantry_linux::process::unshare(gantry_linux::process::CloneFlags::NEWNS).unwrap();
    run("mount", &["--make-rprivate".as_ref(), "/".as_ref()]);
    let directory = tempfile::tempdir().unwrap();
    let (image, mounted) = (directory.path().join("image"), directory.path().join("mounted"));
    fs::File::create(&image).unwrap().set_len(1 << 30).unwrap();
    fs::create_dir(&mounted).unwrap();
    run("mkfs.btrfs", &["-q".as_ref(), image.as_os_str()]);
    run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), mounted.as_os_str()]);
    let root = tempfile::tempdir_in(&mounted).unwrap();
    IMAGE.with(|kept| kept.replace(Some(directory)));
    root
}

struct Mounted(OwnedFd);

impl Mounted {
    fn at(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.at(path)).unwrap()
    }

    fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.at(path)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn attach(root: &RootMount) -> OwnedFd {
    match root {
        RootMount::Mapped { .. } => gantry_linux::mount::attach(root).unwrap(),
        RootMount::Bind { source } => {
            open_tree(CWD, source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).unwrap()
        }
        RootMount::Overlay { lower, upper, options } => {
            let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
            for path in lower {
                fsconfig_set_string(&context, "lowerdir+", path).unwrap();
            }
            if let Some(upper) = upper {
                fsconfig_set_string(&context, "upperdir", &upper.upper).unwrap();
                fsconfig_set_string(&context, "workdir", &upper.work).unwrap();
            }
            for (key, value) in options {
                match value {
                    Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()).unwrap(),
                    None => fsconfig_set_flag(&context, key.as_str()).unwrap(),
                }
            }
            fsconfig_create(&context).unwrap();
            fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap()
        }
    }
}

#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, kind: EntryType, name: &str, link: &str, data: &[u8], mode: u32) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(if mode == 0o750 { 77 } else { 0 });
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, name, "", data.as_bytes(), 0o644)
    }

    fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(EntryType::Directory, name, "", b"", mode)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.entry(EntryType::Link, name, target, b"", 0o644)
    }
}

fn base() -> Archive {
    Archive::default()
        .dir("./", 0o711)
        .dir("etc", 0o750)
        .file("etc/one", "one")
        .file("etc/two", "two")
        .dir("deep", 0o755)
        .dir("deep/er", 0o755)
        .file("deep/er/file", "deep")
        .entry(EntryType::Symlink, "link", "etc/one", b"", 0o777)
}

fn layers_show_through(name: &str) {
    let bench = Bench::new(name);
    assert_eq!(bench.layer("base", None, &base().0).unwrap(), 10);
    let upper = Archive::default()
        .file("etc/.wh.one", "")
        .file("etc/three", "3")
        .file("deep/.wh..wh..opq", "")
        .file("deep/new", "n");
    bench.layer("upper", Some("base"), &upper.0).unwrap();
    let mounted = bench.mount("upper", true);
    assert_eq!(mounted.names(""), ["deep", "etc", "link"]);
    assert_eq!(mounted.names("etc"), ["three", "two"]);
    assert_eq!(mounted.names("deep"), ["new"]);
    assert_eq!(mounted.read("etc/two"), "two");
    assert_eq!(fs::read_link(mounted.at("link")).unwrap(), Path::new("etc/one"));
    // Directories that the upper archive implied look as they do below; so does the root.
    let etc = mounted.at("etc").metadata().unwrap();
    assert_eq!((etc.permissions().mode() & 0o7777, etc.uid(), etc.mtime()), (0o750, 77, 1_000_000_000));
    assert_eq!(mounted.at("").metadata().unwrap().permissions().mode() & 0o7777, 0o711);
    assert_eq!(bench.mount("base", true).names("etc"), ["one", "two"]);
    assert_eq!((bench.driver.size("base").unwrap(), bench.driver.size("upper").unwrap()), (10, 2));
    assert_eq!(
        bench.changes("upper"),
        [
            ("/deep".to_owned(), ChangeKind::Modified),
            ("/deep/er".to_owned(), ChangeKind::Deleted),
            ("/deep/new".to_owned(), ChangeKind::Added),
            ("/etc".to_owned(), ChangeKind::Modified),
            ("/etc/one".to_owned(), ChangeKind::Deleted),
            ("/etc/three".to_owned(), ChangeKind::Added),
        ]
    );
}

fn writable_layers_keep_changes_to_themselves(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let mounted = bench.writable("web", "base");
    assert_eq!(mounted.at("").metadata().unwrap().permissions().mode() & 0o7777, 0o711);
    assert_eq!(bench.changes("web"), []);
    fs::write(mounted.at("etc/one"), "changed").unwrap();
    fs::remove_file(mounted.at("etc/two")).unwrap();
    fs::write(mounted.at("new"), "new").unwrap();
    fs::remove_dir_all(mounted.at("deep")).unwrap();
    fs::create_dir(mounted.at("deep")).unwrap();
    fs::write(mounted.at("deep/own"), "own").unwrap();
    assert_eq!(
        bench.changes("web"),
        [
            ("/deep".to_owned(), ChangeKind::Modified),
            ("/deep/er".to_owned(), ChangeKind::Deleted),
            ("/deep/own".to_owned(), ChangeKind::Added),
            ("/etc".to_owned(), ChangeKind::Modified),
            ("/etc/one".to_owned(), ChangeKind::Modified),
            ("/etc/two".to_owned(), ChangeKind::Deleted),
            ("/new".to_owned(), ChangeKind::Added),
        ]
    );
    assert_eq!(bench.driver.size("web").unwrap(), 13);
    drop(mounted);
    assert_eq!(bench.mount("base", true).read("etc/one"), "one");
    // The changes become a layer elsewhere.
    bench.layer("copy", Some("base"), &bench.diff("web")).unwrap();
    let copy = bench.mount("copy", true);
    assert_eq!(copy.names(""), ["deep", "etc", "link", "new"]);
    assert_eq!((copy.names("deep"), copy.names("etc")), (vec!["own".to_owned()], vec!["one".to_owned()]));
    assert_eq!(copy.read("etc/one"), "changed");
    assert_eq!(copy.at("etc").metadata().unwrap().uid(), 77);
    assert_eq!(bench.diff("web"), bench.diff("web"), "the same tree gives the same bytes");
}

fn a_mapped_writable_layer_is_its_users_and_its_diff_is_as_they_see_it(name: &str) {
    let bench = Bench::new(name);
    // `etc` belongs to user 77, everything else to root.
    bench.layer("base", None, &base().0).unwrap();
    bench.driver.create_writable("mapped", Some("base"), None).unwrap();
    let map = IdMap { uids: vec![(0, 300_000, 1000)], gids: vec![(0, 400_000, 1000)] };
    bench.driver.map_owners("mapped", &map).unwrap();
    let owner = |path: PathBuf| {
        let stat = fs::symlink_metadata(path).unwrap();
        (stat.uid(), stat.gid())
    };
    {
        let mounted = bench.mount("mapped", false);
        for (path, uid) in [("", 300_000), ("etc", 300_077), ("etc/one", 300_000), ("link", 300_000)] {
            assert_eq!(owner(mounted.at(path)), (uid, 400_000), "{path:?}");
        }
        gantry_linux::fsids::as_owner((300_000, 400_000), || {
            fs::write(mounted.at("etc/one"), "changed").unwrap();
            fs::write(mounted.at("new"), "new").unwrap();
            std::os::unix::fs::chown(mounted.at("new"), Some(300_005), Some(400_006)).unwrap();
            Ok::<(), gantry_linux::Error>(())
        })
        .unwrap();
        assert_eq!(owner(mounted.at("etc/one")), (300_000, 400_000));
    }
    assert_eq!(owner(bench.mount("base", true).at("etc")), (77, 0), "layers below are as they were");
    let diff = bench.diff("mapped");
    let mut archive = tar::Archive::new(diff.as_slice());
    let mut owners: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let (uid, gid) = (entry.header().uid().unwrap(), entry.header().gid().unwrap());
            (entry.path().unwrap().to_str().unwrap().to_owned(), uid, gid)
        })
        .collect();
    owners.retain(|(path, ..)| path != "etc/");
    owners.sort();
    let expected = [("etc/one", 0, 0), ("new", 5, 6)];
    assert_eq!(owners, expected.map(|(path, uid, gid)| (path.to_owned(), uid, gid)));
}

fn special_files_survive_the_round_trip(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let mounted = bench.writable("web", "base");
    let long = "l".repeat(255);
    fs::write(mounted.at(&long), "long").unwrap();
    fs::hard_link(mounted.at(&long), mounted.at("etc/hard")).unwrap();
    fs::set_permissions(mounted.at(&long), fs::Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::setxattr(mounted.at(&long), "user.kind", b"\0=\n", XattrFlags::empty()).unwrap();
    rustix::fs::mknodat(&mounted.0, "null", FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(1, 3)).unwrap();
    rustix::fs::mknodat(&mounted.0, "pipe", FileType::Fifo, Mode::RUSR, 0).unwrap();
    std::os::unix::fs::symlink("x".repeat(300), mounted.at("far")).unwrap();
    let sparse = fs::File::create(mounted.at("sparse")).unwrap();
    sparse.set_len(8 << 20).unwrap();
    std::os::unix::fs::chown(mounted.at("sparse"), Some(3_000_000), Some(5)).unwrap();
    drop(mounted);
    bench.layer("copy", Some("base"), &bench.diff("web")).unwrap();
    let copy = bench.mount("copy", true);
    let meta = copy.at(&long).metadata().unwrap();
    assert_eq!((meta.nlink(), meta.permissions().mode() & 0o7777), (2, 0o4755));
    assert_eq!(copy.at("etc/hard").metadata().unwrap().ino(), meta.ino());
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(copy.at(&long), "user.kind", value.as_mut_slice()).unwrap();
    assert_eq!(&value[..length], b"\0=\n");
    assert_eq!(copy.at("null").metadata().unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert!(copy.at("pipe").metadata().unwrap().file_type().is_fifo());
    assert_eq!(fs::read_link(copy.at("far")).unwrap().as_os_str().len(), 300);
    let sparse = copy.at("sparse").metadata().unwrap();
    assert_eq!((sparse.len(), sparse.uid(), sparse.gid()), (8 << 20, 3_000_000, 5));
}

fn hard_links_reach_into_layers_below(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    bench.layer("middle", Some("base"), &Archive::default().file("other", "x").0).unwrap();
    bench.layer("upper", Some("middle"), &Archive::default().link("etc/again", "/etc/one").0).unwrap();
    let mounted = bench.mount("upper", true);
    assert_eq!(mounted.read("etc/again"), "one");
    assert_eq!(mounted.at("etc/again").metadata().unwrap().ino(), mounted.at("etc/one").metadata().unwrap().ino());
    assert_eq!(mounted.at("etc").metadata().unwrap().uid(), 77);
    bench.driver.create("bad", Some("base")).unwrap();
    bench.driver.apply("bad", &mut &*Archive::default().link("l", "etc/none").0).unwrap();
    assert!(matches!(bench.driver.commit("bad"), Err(Error::Archive(_))));
    assert!(!bench.driver.exists("bad"));
}

fn sixty_layers_are_one_root(name: &str) {
    let bench = Bench::new(name);
    // As a registry gives them: long ids, unpacked before their parents are committed where that is allowed.
    let id = |index: usize| format!("{index:064x}");
    let parallel = bench.driver.applies_in_parallel();
    let order: Vec<_> = if parallel { (0..60).rev().collect() } else { (0..60).collect() };
    for index in order {
        let parent = (index > 0).then(|| id(index - 1));
        bench.driver.create(&id(index), parent.as_deref()).unwrap();
        let archive = Archive::default().file(&format!("f{index}"), "x").file("same", &index.to_string());
        bench.driver.apply(&id(index), &mut &*archive.0).unwrap();
        if !parallel {
            bench.driver.commit(&id(index)).unwrap();
        }
    }
    if parallel {
        assert!(matches!(bench.driver.commit(&id(1)), Err(Error::NotFound(_))), "its parent is not there");
        for index in 0..60 {
            bench.driver.commit(&id(index)).unwrap();
        }
    } else {
        assert!(matches!(bench.driver.create("orphan", Some("none")), Err(Error::NotFound(_))));
    }
    let mounted = bench.writable("web", &id(59));
    assert_eq!(mounted.names("").len(), 61);
    assert_eq!(mounted.read("same"), "59");
    fs::write(mounted.at("f0"), "y").unwrap();
    assert_eq!(bench.changes("web"), [("/f0".to_owned(), ChangeKind::Modified)]);
}

fn removed_layers_are_gone_at_once(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    drop(bench.writable("web", "base"));
    assert_eq!(bench.driver.list().unwrap(), ["base", "web"]);
    assert!(matches!(bench.driver.create_writable("web", Some("base"), None), Err(Error::Exists(_))));
    assert!(matches!(bench.driver.create("base", None), Err(Error::Exists(_))));
    assert!(matches!(bench.driver.create_writable("x", Some("none"), None), Err(Error::NotFound(_))));
    bench.driver.remove("web").unwrap();
    bench.driver.remove("web").unwrap();
    assert!(!bench.driver.exists("web"));
    assert!(matches!(bench.driver.mount("web", false), Err(Error::NotFound(_))));
    drop(bench.writable("web", "base"));
    bench.driver.remove("web").unwrap();
    bench.driver.sweep(false).unwrap();
    let trash = bench.root.path().join(bench.driver.name()).join("trash");
    assert_eq!(fs::read_dir(trash).unwrap().count(), 0);
    assert_eq!(bench.driver.list().unwrap(), ["base"]);
    for id in ["../base", "", ".", "a/b"] {
        assert!(bench.driver.create(id, None).is_err(), "{id:?}");
        bench.driver.remove(id).unwrap();
    }
}

fn drafts_of_the_dead_are_removed(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    bench.driver.create("draft", Some("base")).unwrap();
    bench.driver.apply("draft", &mut &*base().0).unwrap();
    assert!(!bench.driver.exists("draft"));
    let Bench { driver, root } = bench;
    drop(driver);
    let driver = gantry_graphdriver::open(root.path(), None).unwrap().0;
    assert_eq!(driver.name(), name);
    assert_eq!(driver.list().unwrap(), ["base"]);
    assert!(matches!(driver.commit("draft"), Err(Error::NotFound(_))));
    driver.create("draft", Some("base")).unwrap();
    driver.sweep(true).unwrap();
    assert!(matches!(driver.commit("draft"), Err(Error::NotFound(_))));
    assert_eq!(fs::read_dir(root.path().join(name).join("drafts")).unwrap().count(), 0);
}

fn sparse_copies_stay_sparse(name: &str) {
    let bench = Bench::new(name);
    bench.driver.create_writable("base", None, None).unwrap();
    let mounted = bench.mount("base", false);
    fs::File::create(mounted.at("sparse")).unwrap().set_len(64 << 20).unwrap();
    drop(mounted);
    drop(bench.writable("web", "base"));
    let blocks = bench.mount("web", true).at("sparse").metadata().unwrap().blocks();
    assert!(blocks < 64, "{blocks}");
}

fn archives_of_gnu_tar_are_read(name: &str) {
    let bench = Bench::new(name);
    let place = tempfile::tempdir().unwrap();
    let source = place.path().join("source");
    fs::create_dir_all(source.join("d".repeat(200))).unwrap();
    fs::write(source.join("d".repeat(200)).join("f".repeat(250)), "long").unwrap();
    fs::write(source.join("ünicode"), "u").unwrap();
    std::os::unix::fs::symlink("t".repeat(200), source.join("link")).unwrap();
    fs::hard_link(source.join("ünicode"), source.join("hard")).unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    for at in (0..40).map(|piece| piece << 20) {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", at).unwrap();
    }
    for (format, options) in [("gnu", &["-S"][..]), ("pax", &["--xattrs"]), ("ustar", &["--exclude=d*"])] {
        let mut tar = std::process::Command::new("tar");
        tar.arg("-C").arg(&source).arg(format!("--format={format}")).args(options).args([
            "--exclude-caches",
            "-cf",
            "-",
        ]);
        if format == "ustar" {
            tar.arg("--exclude=link");
        }
        let output = tar.arg(".").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        bench.layer(format, None, &output.stdout).unwrap();
        assert!(bench.diff(format) == output.stdout, "{format}");
        let mounted = bench.mount(format, true);
        assert_eq!(fs::read(mounted.at("sparse")).unwrap(), fs::read(source.join("sparse")).unwrap(), "{format}");
        assert_eq!(mounted.at("hard").metadata().unwrap().nlink(), 2);
        if format != "ustar" {
            assert_eq!(mounted.read(&format!("{}/{}", "d".repeat(200), "f".repeat(250))), "long");
            assert_eq!(fs::read_link(mounted.at("link")).unwrap().as_os_str().len(), 200);
        }
        let time = |path: &Path| path.metadata().unwrap().mtime();
        assert_eq!(time(&mounted.at("")), time(&source));
    }
}

/// Whatever order, spelling and padding the archive has: it comes back, also what it brought and then replaced.
fn a_layer_gives_back_its_archive_byte_for_byte(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let mut archive = Archive::default()
        .file("etc/.wh.one", "content that a whiteout should not have")
        .file("twice", "first")
        .file("twice", "second")
        .dir("dir", 0o755)
        .file("dir/inside", "inside")
        .entry(EntryType::Symlink, "by", "dir", b"", 0o777)
        .file("by/through", "through a link")
        .file("dir/through", "replaced under its own name")
        .entry(EntryType::Symlink, "by", "deep", b"", 0o777)
        .file("deep/.wh..wh..opq", "")
        .dir("stays", 0o755)
        .entry(EntryType::Symlink, "via", "/stays", b"", 0o777)
        .file("via/kept", "where the link led")
        .entry(EntryType::Symlink, "via", "deep", b"", 0o777)
        .link("hard", "twice")
        .file("twice", "third")
        .file("dir", "a file where a directory was")
        .file("large", &"0123456789".repeat(50_000))
        .entry(EntryType::XGlobalHeader, "comment", "", b"22 comment=0123456789ab\n", 0o644)
        .0;
    archive.extend_from_slice(&[0; 1024]);
    archive.extend_from_slice(b"what follows the end");
    bench.layer("upper", Some("base"), &archive).unwrap();
    assert!(bench.diff("upper") == archive);
    assert!(bench.diff("base") == base().0, "it has no end mark and gets none");
    let mounted = bench.mount("upper", true);
    assert_eq!((mounted.read("twice"), mounted.read("hard")), ("third".to_owned(), "second".to_owned()));
    drop(mounted);

    // A store that was copied has other inodes.
    let layer = bench.root.path().join(name).join("layers/upper");
    let copy = layer.with_extension("copy");
    let copied = std::process::Command::new("cp").arg("-a").args([&layer, &copy]).status().unwrap();
    assert!(copied.success());
    fs::rename(&layer, layer.with_extension("before")).unwrap();
    fs::rename(&copy, &layer).unwrap();
    assert!(bench.diff("upper") == archive);

    // A file that is shorter than it was is no archive.
    let large = layer.join(if name == "overlay" { "diff/large" } else { "root/large" });
    fs::OpenOptions::new().write(true).open(large).unwrap().set_len(5).unwrap();
    assert!(matches!(bench.driver.diff("upper", &mut Vec::new()), Err(Error::Damaged { .. })));
}

/// GNU tar reads what is written.
fn gnu_tar_reads_what_is_written(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let mounted = bench.writable("web", "base");
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    fs::create_dir(mounted.at(&"d".repeat(200))).unwrap();
    fs::write(mounted.at(&long), "long").unwrap();
    fs::remove_file(mounted.at("etc/one")).unwrap();
    drop(mounted);
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("diff.tar"), bench.diff("web")).unwrap();
    let output = std::process::Command::new("tar").args(["-tf"]).arg(place.path().join("diff.tar")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    assert_eq!(names.lines().collect::<Vec<_>>(), [&format!("{}/", "d".repeat(200)), &long, "etc/", "etc/.wh.one"]);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whether the machine has what the driver's tests need; says loudly what it lacks.
fn can_test(driver: &str) -> bool {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let has = driver != "btrfs" || std::process::Command::new("mkfs.btrfs").arg("--version").output().is_ok();
    if !has {
        let line = "SKIPPED: the suite of the graphdriver btrfs: mkfs.btrfs is not installed (Debian: btrfs-progs)";
        ONCE.call_once(|| {
            eprintln!("{line}");
            if let Some(path) = std::env::var_os("GANTRY_SKIPS") {
                let mut list = fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
                std::io::Write::write_all(&mut list, format!("{line}\n").as_bytes()).unwrap();
            }
        });
    }
    has
}

macro_rules! suite {
    ($($driver:ident: $($promise:ident)*;)*) => {$(
        mod $driver {
            $(#[test]
            fn $promise() {
                if super::can_test(stringify!($driver)) {
                    super::$promise(stringify!($driver));
                }
            })*
        }
    )*};
}

suite! {
    overlay: layers_show_through writable_layers_keep_changes_to_themselves special_files_survive_the_round_trip
        hard_links_reach_into_layers_below sixty_layers_are_one_root removed_layers_are_gone_at_once
        drafts_of_the_dead_are_removed sparse_copies_stay_sparse archives_of_gnu_tar_are_read
        gnu_tar_reads_what_is_written a_layer_gives_back_its_archive_byte_for_byte
        a_mapped_writable_layer_is_its_users_and_its_diff_is_as_they_see_it;
    vfs: layers_show_through writable_layers_keep_changes_to_themselves special_files_survive_the_round_trip
        hard_links_reach_into_layers_below sixty_layers_are_one_root removed_layers_are_gone_at_once
        drafts_of_the_dead_are_removed sparse_copies_stay_sparse archives_of_gnu_tar_are_read
        gnu_tar_reads_what_is_written a_layer_gives_back_its_archive_byte_for_byte
        a_mapped_writable_layer_is_its_users_and_its_diff_is_as_they_see_it;
    btrfs: layers_show_through writable_layers_keep_changes_to_themselves special_files_survive_the_round_trip
        hard_links_reach_into_layers_below sixty_layers_are_one_root removed_layers_are_gone_at_once
        drafts_of_the_dead_are_removed sparse_copies_stay_sparse archives_of_gnu_tar_are_read
        gnu_tar_reads_what_is_written a_layer_gives_back_its_archive_byte_for_byte
        a_mapped_writable_layer_is_its_users_and_its_diff_is_as_they_see_it;
}
