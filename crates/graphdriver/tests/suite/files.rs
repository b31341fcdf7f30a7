//! Files of every kind, kept as they are.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use rustix::fs::{FileType, Mode, XattrFlags};

use super::bench::{Bench, base};

/// Permitted and effective, in the form without a user namespace (`VFS_CAP_REVISION_2`).
const CAP_NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

pub fn special_files_survive_the_round_trip(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let mounted = bench.writable("web", "base");
    let long = "l".repeat(255);
    fs::write(mounted.at(&long), "long").unwrap();
    fs::hard_link(mounted.at(&long), mounted.at("etc/hard")).unwrap();
    fs::set_permissions(mounted.at(&long), fs::Permissions::from_mode(0o4755)).unwrap();
    rustix::fs::setxattr(mounted.at(&long), "user.kind", b"\0=\n", XattrFlags::empty()).unwrap();
    fs::write(mounted.at("ping"), "ping").unwrap();
    rustix::fs::setxattr(mounted.at("ping"), "security.capability", &CAP_NET_RAW, XattrFlags::empty()).unwrap();
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
    let mut value = [0; 32];
    let length = rustix::fs::getxattr(copy.at(&long), "user.kind", value.as_mut_slice()).unwrap();
    assert_eq!(&value[..length], b"\0=\n");
    let length = rustix::fs::getxattr(copy.at("ping"), "security.capability", value.as_mut_slice()).unwrap();
    assert_eq!(value[..length], CAP_NET_RAW);
    assert_eq!(copy.at("null").metadata().unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert!(copy.at("pipe").metadata().unwrap().file_type().is_fifo());
    assert_eq!(fs::read_link(copy.at("far")).unwrap().as_os_str().len(), 300);
    let sparse = copy.at("sparse").metadata().unwrap();
    assert_eq!((sparse.len(), sparse.uid(), sparse.gid()), (8 << 20, 3_000_000, 5));
}

pub fn sparse_copies_stay_sparse(name: &str) {
    let bench = Bench::new(name);
    bench.driver.create_writable("base", None, None).unwrap();
    let mounted = bench.mount("base", false);
    fs::File::create(mounted.at("sparse")).unwrap().set_len(64 << 20).unwrap();
    drop(mounted);
    drop(bench.writable("web", "base"));
    let blocks = bench.mount("web", true).at("sparse").metadata().unwrap().blocks();
    assert!(blocks < 64, "{blocks}");
}
