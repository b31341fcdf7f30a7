//! What goes out comes back, called as Docker calls it.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};

use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
use tar::EntryType;

use super::super::{Error, Options};
use super::{Place, archive, names};

#[test]
fn a_tree_comes_back_with_all_that_it_had() {
    let place = Place::new();
    let tree = place.at("tree");
    fs::create_dir_all(tree.join("sub")).unwrap();
    fs::write(tree.join("file"), "content").unwrap();
    fs::set_permissions(tree.join("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    std::os::unix::fs::chown(tree.join("sub"), Some(5), Some(4_000_000)).unwrap();
    fs::set_permissions(tree.join("sub"), fs::Permissions::from_mode(0o1700)).unwrap();
    fs::hard_link(tree.join("file"), tree.join("sub/again")).unwrap();
    symlink("/nowhere/at all", tree.join("link")).unwrap();
    mknodat(CWD, tree.join("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    mknodat(CWD, tree.join("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    rustix::fs::setxattr(tree.join("file"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    let time = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(12345));
    fs::File::open(tree.join("sub")).unwrap().set_times(time).unwrap();

    let packed = place.pack("/tree", "copy").unwrap();
    fs::create_dir(place.at("to")).unwrap();
    assert_eq!(place.unpack("/to", &packed).unwrap(), 7);

    let copy = place.at("to/copy");
    let meta = |path: &str| fs::symlink_metadata(copy.join(path)).unwrap();
    assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "content");
    assert_eq!(meta("file").mode() & 0o7777, 0o4751);
    assert_eq!(meta("file").ino(), meta("sub/again").ino());
    let sub = meta("sub");
    assert_eq!((sub.mode() & 0o7777, sub.uid(), sub.gid(), sub.mtime()), (0o1700, 5, 4_000_000, 12345));
    assert_eq!(fs::read_link(copy.join("link")).unwrap().to_str(), Some("/nowhere/at all"));
    assert!(meta("fifo").file_type().is_fifo());
    assert_eq!(meta("null").rdev(), makedev(1, 3));
    assert!(!copy.join("socket").exists());
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(copy.join("file"), "user.note", value.as_mut_slice()).unwrap();
    assert_eq!(&value[..length], b"kept");
}

#[test]
fn an_archive_is_named_as_docker_names_it() {
    let place = Place::new();
    fs::create_dir_all(place.at("d/e")).unwrap();
    fs::write(place.at("d/f"), "").unwrap();
    assert_eq!(names(&place.pack("/d", "d").unwrap()), ["d/", "d/e/", "d/f"]);
    assert_eq!(names(&place.pack("/d/.", ".").unwrap()), ["./", "./e/", "./f"]);
    assert_eq!(names(&place.pack("/d/f", "f").unwrap()), ["f"]);
    assert_eq!(names(&place.pack("/", "/").unwrap()), ["/", "/d/", "/d/e/", "/d/f"]);
    let mut whole = Vec::new();
    super::super::pack_root(place.root.as_fd(), &mut whole, None).unwrap();
    assert_eq!(names(&whole), ["d/", "d/e/", "d/f"]);
}

#[test]
fn a_link_is_a_link_unless_the_path_ends_with_a_slash() {
    let place = Place::new();
    fs::create_dir(place.at("d")).unwrap();
    fs::write(place.at("d/f"), "").unwrap();
    symlink("/d", place.at("link")).unwrap();
    assert_eq!(names(&place.pack("/link", "link").unwrap()), ["link"]);
    assert_eq!(names(&place.pack("/link/", "link").unwrap()), ["link/", "link/f"]);
    assert_eq!(names(&place.pack("/link/.", ".").unwrap()), ["./", "./f"]);
    assert!(matches!(place.pack("/d/f/", "f"), Err(Error::NotDirectory(_))));
    assert!(matches!(place.pack("/none", "none"), Err(Error::NotFound(_))));
    symlink("loop", place.at("loop")).unwrap();
    assert!(matches!(place.pack("/loop/x", "x"), Err(Error::Unreachable(_))));
}

#[test]
fn a_path_is_described_in_gos_words() {
    let place = Place::new();
    fs::create_dir_all(place.at("a/b")).unwrap();
    fs::write(place.at("a/b/f"), "12345").unwrap();
    fs::set_permissions(place.at("a/b/f"), fs::Permissions::from_mode(0o6755)).unwrap();
    symlink("../a/b", place.at("a/up")).unwrap();
    symlink("/a/up/f", place.at("far")).unwrap();
    symlink("/../../none/x", place.at("dangling")).unwrap();
    mknodat(CWD, place.at("null"), FileType::CharacterDevice, Mode::RUSR, makedev(1, 3)).unwrap();
    let stat = |path: &str| super::super::stat(place.root.as_fd(), path.as_bytes()).unwrap();
    let file = stat("a/b/f");
    assert_eq!((file.name.as_slice(), file.size, file.mode), (&b"f"[..], 5, 1 << 23 | 1 << 22 | 0o755));
    assert_eq!(stat("/a/b/").mode >> 31, 1);
    assert_eq!(stat("/").name, b"/");
    assert_eq!(stat("/null").mode, 1 << 26 | 1 << 21 | 0o400);
    assert_eq!((stat("/far").mode, stat("/far").link_target.as_slice()), (1 << 27 | 0o777, &b"/a/b/f"[..]));
    assert_eq!(stat("/dangling").link_target, b"/none/x");
    assert_eq!(stat("/a/b/f").link_target, b"");
}

#[test]
fn the_kernels_own_file_systems_are_empty() {
    let proc = gantry_linux::mount::bind("/proc".as_ref(), false).unwrap();
    assert!(matches!(super::super::stat(proc.as_fd(), b"/version"), Err(Error::NotFound(_))));
    let mut packed = Vec::new();
    super::super::pack(proc.as_fd(), b"/", b"/", &mut packed, None).unwrap();
    assert_eq!(names(&packed), ["/"]);
    let entry = archive(&[(EntryType::Regular, "f", "", "x")]);
    let refused = super::super::unpack(proc.as_fd(), b"/sys", &mut entry.as_slice(), Options::default());
    assert!(matches!(refused, Err(Error::NotFound(_))));
}

#[test]
fn a_read_only_mount_takes_nothing() {
    use gantry_linux::mount::{Attributes, bind, set_attributes};
    let place = Place::new();
    let root = bind(&place.at(""), false).unwrap();
    set_attributes(&root, false, &Attributes::set(Attributes::READ_ONLY)).unwrap();
    let entry = archive(&[(EntryType::Regular, "f", "", "x")]);
    let refused = super::super::unpack(root.as_fd(), b"/", &mut entry.as_slice(), Options::default());
    assert!(matches!(refused, Err(Error::ReadOnly(_))), "{refused:?}");
}

#[test]
fn a_directory_and_something_else_replace_each_other_only_when_allowed() {
    let place = Place::new();
    let file = archive(&[(EntryType::Regular, "x", "", "new")]);
    let directory = archive(&[(EntryType::Directory, "x/", "", ""), (EntryType::Regular, "x/f", "", "new")]);
    let strict = Options { no_overwrite_dir_non_dir: true, ..Options::default() };
    fs::create_dir_all(place.at("x/deep/er")).unwrap();
    fs::write(place.at("x/deep/er/f"), "").unwrap();
    let refused = place.unpack_with("/", &file, strict).unwrap_err();
    assert!(refused.to_string().contains("cannot overwrite directory"), "{refused}");
    place.unpack("/", &file).unwrap();
    assert_eq!(fs::read_to_string(place.at("x")).unwrap(), "new");
    let refused = place.unpack_with("/", &directory, strict).unwrap_err();
    assert!(refused.to_string().contains("cannot overwrite non-directory"), "{refused}");
    place.unpack("/", &directory).unwrap();
    assert_eq!(fs::read_to_string(place.at("x/f")).unwrap(), "new");
    fs::write(place.at("x/kept"), "").unwrap();
    place.unpack_with("/", &directory, strict).unwrap();
    assert!(place.at("x/kept").exists());
    assert!(matches!(place.unpack("/x/f", &file), Err(Error::NotDirectory(_))));
    assert!(matches!(place.unpack("/none", &file), Err(Error::NotFound(_))));
}

#[test]
fn owners_are_the_archives_or_the_one_that_is_asked_for() {
    let place = Place::new();
    let file = archive(&[(EntryType::Regular, "f", "", ""), (EntryType::Symlink, "l", "/etc", "")]);
    for (owner, expected) in [(None, (1234, 1234)), (Some((7, 8)), (7, 8))] {
        place.unpack_with("/", &file, Options { owner, ..Options::default() }).unwrap();
        for name in ["f", "l"] {
            let metadata = fs::symlink_metadata(place.at(name)).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), expected);
        }
    }
}

#[test]
fn an_images_directory_is_copied_whole() {
    let place = Place::new();
    fs::create_dir_all(place.at("data/sub")).unwrap();
    fs::write(place.at("data/sub/f"), "x").unwrap();
    std::os::unix::fs::chown(place.at("data"), Some(33), Some(34)).unwrap();
    fs::set_permissions(place.at("data"), fs::Permissions::from_mode(0o2770)).unwrap();
    symlink("/data", place.at("link")).unwrap();
    fs::create_dir(place.outside().with_file_name("volume")).unwrap();
    let volume = place.outside().with_file_name("volume");
    let to = crate::tree::open_root(&volume).unwrap();
    super::super::copy_tree(place.root.as_fd(), b"/link", &to).unwrap();
    assert_eq!(fs::read_to_string(volume.join("sub/f")).unwrap(), "x");
    let metadata = fs::metadata(&volume).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (33, 34, 0o2770));
    assert!(matches!(super::super::copy_tree(place.root.as_fd(), b"/none", &to), Err(Error::NotFound(_))));
    assert!(matches!(super::super::copy_tree(place.root.as_fd(), b"/data/sub/f", &to), Err(Error::NotDirectory(_))));
}
