//! Layers on layers, as a mount shows them and as the driver tells their changes.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use gantry_graphdriver::{ChangeKind, Error};
use gantry_linux::mount::IdMap;
use rustix::fs::XattrFlags;

use super::bench::{Archive, Bench, base};

pub fn layers_show_through(name: &str) {
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

pub fn writable_layers_keep_changes_to_themselves(name: &str) {
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

pub fn a_mapped_writable_layer_is_its_users_and_its_diff_is_as_they_see_it(name: &str) {
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

pub fn hard_links_reach_into_layers_below(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    bench.layer("middle", Some("base"), &Archive::default().file("other", "x").0).unwrap();
    bench.layer("upper", Some("middle"), &Archive::default().link("etc/again", "/etc/one").0).unwrap();
    let mounted = bench.mount("upper", true);
    assert_eq!(mounted.read("etc/again"), "one");
    assert_eq!(mounted.at("etc/again").metadata().unwrap().ino(), mounted.at("etc/one").metadata().unwrap().ino());
    assert_eq!(mounted.at("etc").metadata().unwrap().uid(), 77);
    drop(mounted);
    let mounted = bench.writable("web", "upper");
    fs::hard_link(mounted.at("other"), mounted.at("linked")).unwrap();
    fs::hard_link(mounted.at("etc/two"), mounted.at("second")).unwrap();
    drop(mounted);
    let added = ["/linked", "/second"].map(|path| (path.to_owned(), ChangeKind::Added));
    assert_eq!(bench.changes("web"), added, "the files are what they were");
    let diff = bench.diff("web");
    let mut archive = tar::Archive::new(diff.as_slice());
    let directory = archive.entries().unwrap().map(Result::unwrap).find(|entry| &*entry.path_bytes() == b"etc/");
    let owner = directory.map(|directory| directory.header().uid().unwrap());
    assert_eq!(owner, Some(77), "with a name in a directory comes the directory, or it is made anew elsewhere");
    bench.layer("next", Some("upper"), &diff).unwrap();
    let mounted = bench.mount("next", true);
    assert_eq!(mounted.at("linked").metadata().unwrap().ino(), mounted.at("other").metadata().unwrap().ino());
    bench.driver.create("bad", Some("base")).unwrap();
    bench.driver.apply("bad", &mut &*Archive::default().link("l", "etc/none").0).unwrap();
    assert!(matches!(bench.driver.commit("bad"), Err(Error::Archive(_))));
    assert!(!bench.driver.exists("bad"));
}

pub fn deep_stacks_of_layers_are_one_root(name: &str) {
    let bench = Bench::new(name);
    // A thin device is a snapshot, however deep; and the virtual machine is slow.
    let depth = if name.starts_with("devmapper") { 60 } else { 100 };
    // As a registry gives them: long ids, unpacked before their parents are committed where that is allowed.
    let id = |index: usize| format!("{index:064x}");
    let parallel = bench.driver.applies_in_parallel();
    let order: Vec<_> = if parallel { (0..depth).rev().collect() } else { (0..depth).collect() };
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
        for index in 0..depth {
            bench.driver.commit(&id(index)).unwrap();
        }
    } else {
        assert!(matches!(bench.driver.create("orphan", Some("none")), Err(Error::NotFound(_))));
    }
    let mounted = bench.writable("web", &id(depth - 1));
    assert_eq!(mounted.names("").len(), depth + 1);
    assert_eq!(mounted.read("same"), (depth - 1).to_string());
    fs::write(mounted.at("f0"), "y").unwrap();
    assert_eq!(bench.changes("web"), [("/f0".to_owned(), ChangeKind::Modified)]);
}

pub fn drafts_are_placed_late_and_become_layers_together(name: &str) {
    let bench = Bench::new(name);
    let layers = ["one", "two", "three"].map(|id| Archive::default().dir("d", 0o750).file(&format!("d/{id}"), id).0);
    let parents = [None, Some("one"), Some("two")];
    if bench.driver.applies_in_parallel() {
        // The uppermost first, on top of nothing that is known yet, and one by another id.
        for (draft, archive) in ["one", "loose", "three"].iter().zip(&layers).rev() {
            bench.driver.create(draft, None).unwrap();
            bench.driver.apply(draft, &mut archive.as_slice()).unwrap();
        }
    }
    for ((id, parent), archive) in ["one", "two", "three"].iter().zip(parents).zip(&layers) {
        if bench.driver.applies_in_parallel() {
            bench.driver.place(if *id == "two" { "loose" } else { id }, id, parent).unwrap();
        } else {
            bench.layer(id, parent, archive).unwrap();
        }
    }
    if bench.driver.applies_in_parallel() {
        bench.driver.commit_all(&["one", "two", "three"]).unwrap();
    }
    assert_eq!(bench.mount("three", true).names("d"), ["one", "three", "two"]);
    assert_eq!(bench.mount("two", true).names("d"), ["one", "two"]);
    assert_eq!(bench.diff("two"), layers[1]);
    assert_eq!(bench.driver.list().unwrap(), ["one", "three", "two"]);
}

pub fn what_an_engine_makes_for_its_mounts_is_not_told(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    for (id, parent) in [("image", Some("base")), ("scratch", None)] {
        bench.driver.create_writable(id, parent, None).unwrap();
        let mounted = bench.mount(id, false);
        for directory in ["dev", "etc", "proc", "sys"].iter().filter(|name| !mounted.at(name).exists()) {
            fs::create_dir(mounted.at(directory)).unwrap();
        }
        for file in [".dockerenv", "etc/hosts", "etc/hostname", "etc/resolv.conf"] {
            fs::write(mounted.at(file), "").unwrap();
        }
        assert_eq!(bench.changes(id), [], "{id}");
        assert_eq!(bench.diff(id), [0; 1024], "{id}");
        fs::write(mounted.at("etc/own"), "own").unwrap();
        fs::write(mounted.at("etc/hosts"), "somebody's own").unwrap();
        fs::create_dir(mounted.at("volume")).unwrap();
        assert_eq!(
            bench.changes(id),
            [
                ("/etc".to_owned(), ChangeKind::Modified),
                ("/etc/hosts".to_owned(), ChangeKind::Added),
                ("/etc/own".to_owned(), ChangeKind::Added),
                ("/volume".to_owned(), ChangeKind::Added),
            ],
            "{id}"
        );
    }
    // Of an image's layer everything is told.
    bench.layer("empty", None, &Archive::default().dir("etc", 0o755).file("etc/hosts", "").0).unwrap();
    assert_eq!(bench.changes("empty").len(), 2);
}

pub fn what_is_copied_up_and_not_changed_is_not_told(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let mounted = bench.writable("web", "base");
    drop(fs::OpenOptions::new().append(true).open(mounted.at("etc/one")).unwrap());
    fs::write(mounted.at("etc/passing"), "").unwrap();
    fs::remove_file(mounted.at("etc/passing")).unwrap();
    assert_eq!(bench.changes("web"), []);
    rustix::fs::setxattr(mounted.at("etc/one"), "user.mark", b"1", XattrFlags::empty()).unwrap();
    fs::set_permissions(mounted.at("deep"), fs::Permissions::from_mode(0o700)).unwrap();
    let told = ["/deep", "/etc", "/etc/one"].map(|path| (path.to_owned(), ChangeKind::Modified));
    assert_eq!(bench.changes("web"), told);
}

pub fn where_a_layer_lies_is_told_in_dockers_words(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    bench.layer("upper", Some("base"), &Archive::default().file("upper", "u").0).unwrap();
    drop(bench.writable("web", "upper"));
    let places = |id: &str| bench.driver.places(id).unwrap();
    let told = |id: &str| places(id).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
    let value = |id: &str, wanted: &str| places(id).into_iter().find(|(word, _)| *word == wanted).unwrap().1;
    match bench.driver.name() {
        "overlay" => {
            assert_eq!(told("base"), ["MergedDir", "UpperDir"]);
            assert_eq!(told("upper"), ["MergedDir", "UpperDir", "LowerDir"]);
            assert_eq!(told("web"), ["MergedDir", "UpperDir", "LowerDir", "WorkDir"]);
            let beside = |id: &str| Path::new(&value(id, "UpperDir")).with_file_name("merged");
            assert!(["base", "web"].iter().all(|id| Path::new(&value(id, "MergedDir")) == beside(id)));
            assert!(fs::exists(Path::new(&value("upper", "UpperDir")).join("upper")).unwrap());
            let lower = [value("upper", "UpperDir"), value("base", "UpperDir")].join(":");
            assert_eq!(value("web", "LowerDir"), lower);
            assert!(Path::new(&value("web", "WorkDir")).is_dir());
        }
        "devmapper" => {
            assert_eq!(told("web"), ["DeviceId", "DeviceName", "DeviceSize"]);
            assert_ne!(value("web", "DeviceName"), value("upper", "DeviceName"));
            assert!(value("web", "DeviceSize").parse::<u64>().unwrap() >= 256 << 20);
        }
        _ => assert_eq!(told("web"), [""; 0]),
    }
}
