//! Every hostile archive is refused or confined: it changes nothing outside of the layer.
#![allow(clippy::disallowed_methods, reason = "the tests look at the files as they are")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::{EntryType, Header};

use super::{finish, pax};
use crate::Error;
use crate::tree;

fn apply(draft: &Path, input: &mut dyn Read) -> Result<u64, Error> {
    super::apply(draft, input, &|_| {})
}

/// An archive, entry by entry.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn raw(mut self, kind: EntryType, name: &[u8], link: &[u8], data: &[u8], change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header.as_old_mut().linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &str) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", data.as_bytes(), |_| {})
    }

    fn dir(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name.as_bytes(), b"", b"", |header| header.set_mode(0o755))
    }

    fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name.as_bytes(), target.as_bytes(), b"", |_| {})
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            pax::write(&mut body, key.as_bytes(), value);
        }
        self.raw(EntryType::XHeader, b"pax", b"", &body, |_| {})
    }
}

/// A directory with a draft in it and something outside that must not change.
struct Place {
    dir: tempfile::TempDir,
    before: Vec<(PathBuf, u32, Vec<u8>)>,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in ["draft/diff", "draft/grave", "draft/displaced", "outside"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        fs::write(dir.path().join("outside/victim"), "untouched").unwrap();
        fs::write(dir.path().join("victim"), "untouched").unwrap();
        let mut place = Self { dir, before: Vec::new() };
        place.before = place.outside();
        place
    }

    fn outside(&self) -> Vec<(PathBuf, u32, Vec<u8>)> {
        let mut all = Vec::new();
        for dir in [self.dir.path().to_path_buf(), self.dir.path().join("outside")] {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let data = if path.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
                all.push((path.clone(), path.metadata().unwrap().nlink() as u32, data));
            }
        }
        all.retain(|(path, ..)| !path.ends_with("draft"));
        all.sort();
        all
    }

    fn apply(&self, archive: Archive) -> Result<u64, Error> {
        let mut bytes = archive.0;
        bytes.extend_from_slice(&[0; 1024]);
        let result = apply(&self.dir.path().join("draft"), &mut bytes.as_slice());
        assert_eq!(self.outside(), self.before, "something outside changed");
        result
    }

    fn diff(&self, path: &str) -> PathBuf {
        self.dir.path().join("draft/diff").join(path)
    }

    #[track_caller]
    fn refuses(archive: Archive, why: &str) {
        match Self::new().apply(archive) {
            Err(Error::Archive(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("not refused: {other:?}"),
        }
    }

    fn whiteout(&self, path: &str) -> bool {
        self.diff(path).symlink_metadata().is_ok_and(|m| m.file_type().is_char_device() && m.rdev() == 0)
    }
}

#[test]
fn dot_dot_is_refused_wherever_it_leads() {
    for name in ["../victim", "a/../../victim", "a/..", "..", "/../victim"] {
        Place::refuses(Archive::default().file(name, "x"), "\"..\"");
        Place::refuses(Archive::default().dir(name), "\"..\"");
        Place::refuses(Archive::default().symlink(name, "x"), "\"..\"");
    }
}

#[test]
fn absolute_names_are_confined() {
    let place = Place::new();
    let victim = place.dir.path().join("victim");
    place.apply(Archive::default().file(victim.to_str().unwrap(), "x")).unwrap();
    assert_eq!(fs::read(place.diff(victim.to_str().unwrap().trim_start_matches('/'))).unwrap(), b"x");
}

#[test]
fn writes_through_symbolic_links_stay_inside() {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    let archive = Archive::default()
        .symlink("absolute", outside.to_str().unwrap())
        .symlink("up", "../../outside")
        .dir("real")
        .symlink("inside", "/real")
        .file("inside/file", "x")
        .file("up/victim", "x");
    // `up` is a link to /outside of the layer, which is not there.
    assert!(matches!(place.apply(archive), Err(Error::Archive(_))));
    assert_eq!(fs::read(place.diff("real/file")).unwrap(), b"x");
    Place::refuses(Archive::default().symlink("a", outside.to_str().unwrap()).file("a/victim", "x"), "dangling");
    Place::refuses(Archive::default().symlink("a", "/").file("a/../victim", "x"), "..");
    Place::refuses(Archive::default().symlink("a", "b").symlink("b", "a").file("a/x", "x"), "loop");
}

#[test]
fn an_entry_replaces_a_link_and_never_follows_it() {
    let place = Place::new();
    let victim = place.dir.path().join("outside/victim");
    let victim = victim.to_str().unwrap();
    place
        .apply(
            Archive::default()
                .symlink("f", victim)
                .file("f", "mine")
                .symlink("d", place.dir.path().join("outside").to_str().unwrap())
                .dir("d")
                .file("d/victim", "mine"),
        )
        .unwrap();
    assert_eq!(fs::read(place.diff("f")).unwrap(), b"mine");
    assert_eq!(fs::read(place.diff("d/victim")).unwrap(), b"mine");
}

#[test]
fn a_link_that_replaces_the_remembered_directory_is_seen() {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    let archive = Archive::default().file("d/one", "x").symlink("d", outside.to_str().unwrap()).file("d/victim", "x");
    assert!(place.apply(archive).is_err());
}

#[test]
fn hard_links_to_outside_are_refused() {
    let place = Place::new();
    let victim = place.dir.path().join("outside/victim");
    Place::refuses(Archive::default().link("l", "../outside/victim"), "..");
    // An absolute target is one inside; it is not there, in this layer or below.
    place.apply(Archive::default().link("l", victim.to_str().unwrap())).unwrap();
    assert!(matches!(finish(&place.dir.path().join("draft"), &[]), Err(Error::Archive(_))));
    assert_eq!(place.outside(), place.before);
    // Through a link that points outside.
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    place.apply(Archive::default().symlink("s", outside.to_str().unwrap()).link("l", "s/victim")).unwrap();
    assert!(finish(&place.dir.path().join("draft"), &[]).is_err());
    assert_eq!(place.outside(), place.before);
    // To the link itself: that is what is linked, not its target.
    let place = Place::new();
    place.apply(Archive::default().symlink("s", victim.to_str().unwrap()).link("l", "s").file("l", "x")).unwrap();
    Place::refuses(Archive::default().dir("d").link("l", "d"), "cannot have one");
    Place::refuses(Archive::default().link("l", "/"), "root");
}

#[test]
fn a_hard_link_to_itself_keeps_the_file() {
    let place = Place::new();
    place.apply(Archive::default().file("a", "x").link("a", "a").link("b", "a").link("b", "a")).unwrap();
    assert_eq!(fs::read(place.diff("a")).unwrap(), b"x");
    assert_eq!(place.diff("b").metadata().unwrap().nlink(), 2);
}

#[test]
fn whiteouts_of_dot_and_dot_dot_are_refused() {
    for name in [".wh..", ".wh...", ".wh.", "a/.wh...", "a/.wh.."] {
        Place::refuses(Archive::default().dir("a").file(name, ""), "whiteout of nothing");
    }
    Place::refuses(Archive::default().file(".wh.a/b", ""), "inside a whiteout");
}

#[test]
fn whiteouts_hide_what_is_below_and_not_what_is_beside() {
    let place = Place::new();
    let archive = Archive::default()
        .file("own", "x")
        .file(".wh.own", "")
        .file(".wh.below", "")
        .dir("dir")
        .file("dir/.wh..wh..opq", "")
        .file(".wh.again", "")
        .file("again/new", "x")
        .file(".wh.file", "")
        .file("file", "x")
        .file(".wh..wh.plnk/1.2", "aufs");
    place.apply(archive).unwrap();
    assert_eq!(fs::read(place.diff("own")).unwrap(), b"x");
    assert!(place.whiteout("below"));
    assert!(tree::is_opaque(fs::File::open(place.diff("dir")).unwrap()));
    assert!(tree::is_opaque(fs::File::open(place.diff("again")).unwrap()), "what was below `again` stays hidden");
    assert_eq!(fs::read(place.diff("file")).unwrap(), b"x");
    assert!(!place.diff(".wh..wh.plnk").exists());
}

#[test]
fn device_nodes_are_made_and_device_zero_is_a_whiteout() {
    let place = Place::new();
    let device = |archive: Archive, name: &str, kind, major, minor| {
        archive.raw(kind, name.as_bytes(), b"", b"", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    };
    let archive = device(Archive::default(), "null", EntryType::Char, 1, 3);
    let archive = device(archive, "disk", EntryType::Block, 8, 1);
    let archive = device(archive, "zero", EntryType::Char, 0, 0).file("own", "x");
    // It hides what is below, as `.wh.own` would: what the archive itself has stays.
    let archive = device(archive, "own", EntryType::Char, 0, 0).raw(EntryType::Fifo, b"pipe", b"", b"", |_| {});
    place.apply(archive).unwrap();
    assert_eq!(place.diff("null").metadata().unwrap().rdev(), rustix::fs::makedev(1, 3));
    assert!(place.diff("disk").metadata().unwrap().file_type().is_block_device());
    assert!(place.diff("pipe").metadata().unwrap().file_type().is_fifo());
    assert!(place.whiteout("zero"));
    assert_eq!(fs::read(place.diff("own")).unwrap(), b"x");
}

#[test]
fn extended_headers_override_and_are_judged_like_headers() {
    let place = Place::new();
    let archive = Archive::default()
        .pax(&[("path", b"renamed"), ("size", b"3"), ("uid", b"3000000"), ("mtime", b"7.5")])
        .raw(EntryType::Regular, b"header", b"", b"abc", |header| header.set_size(9999))
        .pax(&[("linkpath", b"renamed")])
        .link("hard", "/nowhere");
    assert_eq!(place.apply(archive).unwrap(), 3);
    let meta = place.diff("renamed").metadata().unwrap();
    assert_eq!((meta.uid(), meta.mtime(), meta.mtime_nsec(), meta.nlink()), (3_000_000, 7, 500_000_000, 2));
    for records in [[("path", &b"../victim"[..])], [("linkpath", b"../victim")]] {
        Place::refuses(Archive::default().pax(&records).link("l", "x"), "..");
    }
    Place::refuses(Archive::default().pax(&[("path", b"a\0b")]).file("x", ""), "zero byte");
    Place::refuses(Archive::default().pax(&[("uid", b"4294967295")]).file("x", ""), "owner");
    Place::refuses(Archive::default().pax(&[("uid", b"18446744073709551616")]).file("x", ""), "uid");
    Place::refuses(Archive::default().pax(&[("size", b"18446744073709551615")]).file("x", ""), "bytes");
    Place::refuses(Archive::default().pax(&[("GNU.sparse.major", b"1")]).file("x", ""), "sparse");
    Place::refuses(Archive::default().pax(&[("path", b"a")]), "ends after");
}

#[test]
fn long_names_are_read_and_too_long_ones_refused() {
    let place = Place::new();
    let long = ["n"; 200].concat() + "/" + &["m"; 255].concat();
    let gnu = [long.as_bytes(), b"\0"].concat();
    place
        .apply(Archive::default().raw(EntryType::GNULongName, b"././@LongLink", b"", &gnu, |_| {}).file("x", "x"))
        .unwrap();
    assert!(place.diff(&long).exists());
    let huge = vec![b'n'; 64 << 10];
    Place::refuses(
        Archive::default().raw(EntryType::GNULongName, b"././@LongLink", b"", &huge, |_| {}).file("x", "x"),
        "a name of 65536 bytes",
    );
    Place::refuses(Archive::default().pax(&[("path", &huge)]).file("x", "x"), "65536 bytes long");
    Place::refuses(Archive::default().pax(&[("path", &[b'n'; 256])]).file("x", "x"), "256 bytes long");
    Place::refuses(
        Archive::default().raw(EntryType::XHeader, b"pax", b"", b"", |header| header.set_size(1 << 40)).file("x", ""),
        "an extended header of",
    );
}

fn sparse(archive: Archive, name: &str, pieces: &[(u64, u64)], size: u64, data: &[u8]) -> Archive {
    archive.raw(EntryType::GNUSparse, name.as_bytes(), b"", data, |header| {
        let gnu = header.as_gnu_mut().unwrap();
        for (slot, (offset, length)) in gnu.sparse.iter_mut().zip(pieces) {
            slot.set_offset(*offset);
            slot.set_length(*length);
        }
        gnu.set_real_size(size);
    })
}

#[test]
fn sparse_files_keep_their_holes_and_bombs_are_refused() {
    let place = Place::new();
    let data = [b'x'; 512];
    place.apply(sparse(Archive::default(), "s", &[(1 << 20, 512)], 4 << 20, &data)).unwrap();
    let meta = place.diff("s").metadata().unwrap();
    assert_eq!(meta.len(), 4 << 20);
    assert!(meta.blocks() < 64, "{} blocks", meta.blocks());
    let mut byte = [0];
    let file = fs::File::open(place.diff("s")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 1 << 20).unwrap();
    assert_eq!(byte, *b"x");
    Place::refuses(sparse(Archive::default(), "s", &[(0, 512)], 1 << 50, &data), "holes");
    let mut many = Archive::default();
    for index in 0..9 {
        many = sparse(many, &format!("s{index}"), &[], 8 << 30, b"");
    }
    Place::refuses(many, "holes");
    Place::refuses(sparse(Archive::default(), "s", &[(0, 512), (100, 10)], 4096, &data), "overlap");
    Place::refuses(sparse(Archive::default(), "s", &[(4000, 512)], 4096, &data), "beyond");
    Place::refuses(sparse(Archive::default(), "s", &[(u64::MAX >> 1, 512)], 4096, &data), "");
    Place::refuses(sparse(Archive::default(), "s", &[(0, 100)], 4096, &data), "fit");
}

#[test]
fn overlay_and_label_attributes_are_dropped_and_capabilities_kept() {
    let place = Place::new();
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Archive::default()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.gantry.implied", b"1"),
            ("SCHILY.xattr.security.selinux", b"label"),
            ("SCHILY.xattr.user.kept", b"a=b"),
        ])
        .dir("d")
        .pax(&[("SCHILY.xattr.security.capability", &capability)])
        .raw(EntryType::Regular, b"ping", b"", b"x", |header| {
            header.set_mode(0o4755);
            header.set_uid(1234);
        });
    place.apply(archive).unwrap();
    let dir = fs::File::open(place.diff("d")).unwrap();
    assert!(!tree::is_opaque(&dir));
    let parent = fs::File::open(place.diff("")).unwrap();
    let of = |name: &str| tree::xattrs(std::os::fd::AsFd::as_fd(&parent), name.as_bytes()).unwrap();
    assert_eq!(of("d"), [(b"user.kept".to_vec(), b"a=b".to_vec())]);
    assert_eq!(of("ping"), [(b"security.capability".to_vec(), capability.to_vec())]);
    let meta = place.diff("ping").metadata().unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid()), (0o4755, 1234));
}

#[test]
fn damaged_and_unknown_archives_are_refused() {
    let mut torn = Archive::default().file("a", "data");
    torn.0.truncate(700);
    let place = Place::new();
    let draft = place.dir.path().join("draft");
    assert!(matches!(apply(&draft, &mut torn.0.as_slice()), Err(Error::Archive(_))));
    assert!(matches!(apply(&draft, &mut &[b'x'; 2048][..]), Err(Error::Archive(_))));
    Place::refuses(Archive::default().raw(EntryType::new(b'Z'), b"x", b"", b"", |_| {}), "unknown");
    Place::refuses(Archive::default().symlink("", "x"), "root");
    Place::refuses(Archive::default().file("a", "x").file("a/b", "x"), "is none");
    // No end marker is an end, as for everybody else; and the stream is read to its end after one.
    apply(&draft, &mut Archive::default().file("fine", "x").0.as_slice()).unwrap();
    let mut long = vec![0; 1 << 20];
    long[1024..].fill(7);
    let mut input = std::io::Cursor::new(long);
    apply(&draft, &mut input).unwrap();
    assert_eq!(input.position(), 1 << 20);
}

/// Entries that are made while they are read.
struct Endless {
    made: u64,
    total: u64,
    block: Vec<u8>,
    at: usize,
}

impl Read for Endless {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.block.len() {
            if self.made == self.total {
                return Ok(0);
            }
            let name = format!("d{}/{}", self.made / 1000, self.made % 1000);
            self.block = Archive::default().link(&name, "target").0;
            if self.made == 0 {
                self.block = Archive::default().file("target", "").0;
            }
            if self.made.is_multiple_of(50_000) {
                self.block = Archive::default().file("target", "").0;
            }
            self.made += 1;
            self.at = 0;
        }
        let length = buffer.len().min(self.block.len() - self.at);
        buffer[..length].copy_from_slice(&self.block[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn many_entries_take_no_memory() {
    let place = Place::new();
    let before = resident();
    let mut input = Endless { made: 0, total: 100_000, block: Vec::new(), at: 0 };
    apply(&place.dir.path().join("draft"), &mut input).unwrap();
    assert!(Path::new(&place.diff("d99/999")).exists());
    // Other tests run in this process too.
    assert!(resident().saturating_sub(before) < 64 << 20);
}

#[test]
fn blank_numbers_are_zero_and_others_that_cannot_be_read_are_refused() {
    let place = Place::new();
    let archive = Archive::default().raw(EntryType::Regular, b"x", b"", b"", |header| {
        let old = header.as_old_mut();
        (old.uid, old.gid, old.mode, old.mtime) = ([0; 8], [b' '; 8], [0; 8], [0; 12]);
    });
    place.apply(archive).unwrap();
    let meta = place.diff("x").metadata().unwrap();
    assert_eq!((meta.uid(), meta.permissions().mode() & 0o7777, meta.mtime()), (0, 0, 0));
    let bad = |change: fn(&mut Header)| Archive::default().raw(EntryType::Regular, b"x", b"", b"", change);
    Place::refuses(bad(|header| header.as_old_mut().uid = *b"-1\0\0\0\0\0\0"), "owner");
    Place::refuses(bad(|header| header.as_old_mut().size = *b"9x\0\0\0\0\0\0\0\0\0\0"), "size");
}

#[test]
fn times_of_directories_survive_their_entries() {
    let place = Place::new();
    place.apply(Archive::default().dir("./").dir("d").file("d/f", "x").symlink("d/s", "f")).unwrap();
    for path in ["", "d", "d/f"] {
        assert_eq!(place.diff(path).metadata().unwrap().mtime(), 1_000_000_000, "{path}");
    }
}

#[test]
fn two_names_of_one_file_can_be_replaced_one_after_the_other() {
    for in_directory in [false, true] {
        let place = Place::new();
        let archive = Archive::default().dir("d").file("d/a", "first").link("d/b", "d/a");
        let archive = match in_directory {
            true => archive.file("d", "a file now"),
            false => archive.file("d/a", "second").file("d/b", "third"),
        };
        place.apply(archive).unwrap();
        match in_directory {
            true => assert_eq!(fs::read(place.diff("d")).unwrap(), b"a file now"),
            false => {
                assert_eq!(fs::read(place.diff("d/a")).unwrap(), b"second");
                assert_eq!(fs::read(place.diff("d/b")).unwrap(), b"third");
            }
        }
        let kept: Vec<_> = fs::read_dir(place.dir.path().join("draft/displaced")).unwrap().collect();
        assert_eq!(kept.len(), 1, "its content is a part of the archive, once");
    }
}

/// What is in a directory: path, mode, kind and device, names that it has, and content or target.
fn tree_of(root: &Path) -> Vec<(PathBuf, u32, u64, u64, Vec<u8>)> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = path.symlink_metadata().unwrap();
        let content = match meta.file_type() {
            kind if kind.is_dir() => {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                let opened = fs::File::open(&path).unwrap();
                vec![u8::from(tree::is_opaque(&opened))]
            }
            kind if kind.is_file() => fs::read(&path).unwrap(),
            kind if kind.is_symlink() => fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes(),
            _ => Vec::new(),
        };
        let names = if meta.is_dir() { 0 } else { meta.nlink() };
        found.push((path.strip_prefix(root).unwrap().to_owned(), meta.mode(), meta.rdev(), names, content));
    }
    found.sort();
    found
}

/// Files are made beside each other where a directory is new. One that an archive has twice is not: there everything is made in order.
#[test]
fn what_is_made_beside_each_other_is_as_if_it_were_made_in_order() {
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    let mut taken = 0;
    for round in 0..300 {
        let mut archives = [Archive::default(), Archive::default()];
        for number in 0..4 + random(60) {
            let (kind, size) = (random(20), [0, 5, 700, 70_000][random(4)]);
            // Now and then a directory where a file is, and the other way round.
            let last = if kind >= 4 && random(15) > 0 { ["f", "g", "h"][random(3)] } else { ["a", "b"][random(2)] };
            let above: String = (0..random(3)).map(|_| ["a/", "b/"][random(2)]).collect();
            let (path, other) = (format!("{above}{last}"), ["a", "b/f", "a/g", "a/b/h", "b/a"][random(5)]);
            archives = archives.map(|archive| {
                let content = format!("{number} ").repeat(size / 3);
                match kind {
                    0..4 => archive.dir(&path),
                    4 => archive.symlink(&path, other),
                    5 => archive.link(&path, other),
                    6 => archive.file(&format!("{path}/.wh.{}", ["a", "b"][number % 2]), ""),
                    7 => archive.file(&format!("{path}/.wh..wh..opq"), ""),
                    _ => archive.file(&path, &content),
                }
            });
            if (0..4).contains(&kind) {
                let [once, twice] = archives;
                archives = [once, twice.dir(&path)];
            }
        }
        let outcomes = archives.map(|mut archive| {
            archive.0.extend_from_slice(&[0; 1024]);
            let place = Place::new();
            let draft = place.dir.path().join("draft");
            apply(&draft, &mut archive.0.as_slice()).ok().map(|content| {
                let mut again = Vec::new();
                assert!(super::recipe::replay(&draft, &draft.join("diff"), &mut again).unwrap());
                assert!(again == archive.0, "round {round}: the recipe gives another archive");
                (content, tree_of(&draft.join("diff")))
            })
        });
        taken += usize::from(outcomes[0].is_some());
        assert_eq!(outcomes[0], outcomes[1], "round {round}");
    }
    assert!(taken > 50, "most of them must not be refused: {taken}");
}
