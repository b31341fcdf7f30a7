//! Layers whose files are not as their archives say, and good ones in their place.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, XattrFlags};
use tar::EntryType;

use super::bench::{Archive, Bench, base};

impl Archive {
    /// A file with an extended attribute.
    fn with_attribute(mut self, name: &str, key: &str, value: &str) -> Self {
        let record = format!("SCHILY.xattr.{key}={value}\n");
        let length = (record.len() + 4).to_string().len() + 1 + record.len();
        let record = format!("{length} {record}");
        self = self.entry(EntryType::XHeader, "extended", "", record.as_bytes(), 0o644);
        self.file(name, "has an attribute")
    }
}

/// On top of [`base`].
fn upper() -> Archive {
    Archive::default()
        .dir("dir", 0o755)
        .file("dir/file", "file")
        .with_attribute("dir/marked", "user.mark", "1")
        .entry(EntryType::Char, "dir/null", "", b"", 0o666)
        .entry(EntryType::Fifo, "dir/pipe", "", b"", 0o600)
        .entry(EntryType::Symlink, "dir/link", "file", b"", 0o777)
        .link("dir/hard", "dir/file")
        .link("of-below", "etc/two")
        .file("etc/.wh.one", "")
        .file("etc/three", "3")
        .dir("deep", 0o755)
        .file("deep/.wh..wh..opq", "")
        .file("deep/new", "n")
}

fn with_devices() -> Vec<u8> {
    let mut archive = upper().0;
    // The null device.
    let at = archive.windows(8).position(|name| name == b"dir/null").unwrap();
    let header = tar::Header::from_byte_slice(&archive[at..at + 512]);
    let mut header = header.clone();
    header.set_device_major(1).unwrap();
    header.set_device_minor(3).unwrap();
    header.set_cksum();
    archive[at..at + 512].copy_from_slice(header.as_bytes());
    archive
}

/// With the drivers whose files lie where a test can damage them.
#[test]
fn what_is_not_as_the_archive_says_is_told_in_a_line_each() {
    ["overlay", "vfs", "btrfs"].into_iter().filter(|name| super::can_test(name)).for_each(damage_each);
}

/// What is done to a layer's files, and the lines that tell it.
type Case = (&'static [&'static str], Box<dyn Fn(&Path)>);

fn damage(work: fn(&Path)) -> Box<dyn Fn(&Path)> {
    Box::new(work)
}

/// What a file or directory has beside its content.
fn damaged_attributes() -> Vec<Case> {
    vec![
        (
            &["/dir/file has mode 0777, not 0644"],
            damage(|at| fs::set_permissions(at.join("dir/file"), fs::Permissions::from_mode(0o777)).unwrap()),
        ),
        (
            &["/dir belongs to 5:6, not to 0:0"],
            damage(|at| std::os::unix::fs::chown(at.join("dir"), Some(5), Some(6)).unwrap()),
        ),
        (
            &["/dir/file has 5 bytes, not 4"],
            damage(|at| {
                let file = fs::File::options().append(true).open(at.join("dir/file")).unwrap();
                std::io::Write::write_all(&mut &file, b"x").unwrap();
            }),
        ),
        (
            &["/dir/marked has another value of the attribute user.mark"],
            damage(|at| rustix::fs::setxattr(at.join("dir/marked"), "user.mark", b"2", XattrFlags::empty()).unwrap()),
        ),
        (
            &["/dir/marked lacks the attribute user.mark"],
            damage(|at| rustix::fs::removexattr(at.join("dir/marked"), "user.mark").unwrap()),
        ),
        (
            &["/dir/file has the attribute trusted.more, which is not its own"],
            damage(|at| rustix::fs::setxattr(at.join("dir/file"), "trusted.more", b"2", XattrFlags::empty()).unwrap()),
        ),
    ]
}

/// What is there, and of which kind.
fn damaged_entries() -> Vec<Case> {
    let device = |at: PathBuf, major| {
        rustix::fs::mknodat(CWD, at, FileType::CharacterDevice, Mode::RUSR, rustix::fs::makedev(major, 3)).unwrap();
    };
    vec![
        (&["/dir/null is missing"], damage(|at| fs::remove_file(at.join("dir/null")).unwrap())),
        (
            &["/dir/null is the device 5:3, not 1:3"],
            Box::new(move |at| {
                fs::remove_file(at.join("dir/null")).unwrap();
                device(at.join("dir/null"), 5);
            }),
        ),
        (
            &["/dir/pipe is a file, not a pipe"],
            damage(|at| {
                fs::remove_file(at.join("dir/pipe")).unwrap();
                fs::write(at.join("dir/pipe"), "").unwrap();
            }),
        ),
        (
            &["/dir/link leads to pipe, not to file"],
            damage(|at| {
                fs::remove_file(at.join("dir/link")).unwrap();
                std::os::unix::fs::symlink("pipe", at.join("dir/link")).unwrap();
            }),
        ),
        (
            &["/dir/hard is no hard link to dir/file any more"],
            damage(|at| {
                fs::remove_file(at.join("dir/hard")).unwrap();
                fs::write(at.join("dir/hard"), "file").unwrap();
            }),
        ),
        (
            &["/dir/stranger is not of this layer"],
            damage(|at| {
                fs::create_dir(at.join("dir/stranger")).unwrap();
                fs::write(at.join("dir/stranger/inside"), "").unwrap();
            }),
        ),
        // It comes with what is in it, and is as it is below.
        (
            &["/etc has mode 0700, not 0750"],
            damage(|at| fs::set_permissions(at.join("etc"), fs::Permissions::from_mode(0o700)).unwrap()),
        ),
        (
            &["/dir is missing", "/etc is missing", "/of-below is no hard link to etc/two any more"],
            damage(|at| {
                fs::remove_dir_all(at.join("dir")).unwrap();
                fs::remove_dir_all(at.join("etc")).unwrap();
            }),
        ),
    ]
}

/// What says that something below is hidden, in the form that the driver has.
fn damaged_whiteouts(name: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    if name == "overlay" {
        cases.push((&["/etc/one is not hidden"], damage(|at| fs::remove_file(at.join("etc/one")).unwrap())));
        cases.push((
            &["/deep does not hide what is below it"],
            damage(|at| rustix::fs::removexattr(at.join("deep"), "trusted.overlay.opaque").unwrap()),
        ));
        cases.push((
            &["/dir hides what is below it"],
            damage(|at| {
                rustix::fs::setxattr(at.join("dir"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
            }),
        ));
        let whiteout =
            |at: &Path| rustix::fs::mknodat(CWD, at.join("gone"), FileType::CharacterDevice, Mode::empty(), 0);
        cases.push((&["/gone is not of this layer"], Box::new(move |at| whiteout(at).unwrap())));
    } else {
        cases.push((&["/etc/one is not hidden"], damage(|at| fs::write(at.join("etc/one"), "one").unwrap())));
        cases.push((&["/link is missing"], damage(|at| fs::remove_file(at.join("link")).unwrap())));
    }
    if name == "vfs" {
        cases.push((
            &["/deep/er/file has not the content that it has in the layer below"],
            damage(|at| {
                let file = at.join("deep/er/file");
                let before = file.metadata().unwrap();
                fs::write(&file, "DEEP").unwrap();
                let times = fs::FileTimes::new().set_modified(before.modified().unwrap());
                fs::File::options().write(true).open(&file).unwrap().set_times(times).unwrap();
            }),
        ));
    }
    cases
}

fn damage_each(name: &str) {
    let cases = [damaged_attributes(), damaged_entries(), damaged_whiteouts(name)];
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    for (number, (wanted, damage)) in cases.iter().flatten().enumerate() {
        let id = format!("upper{number}");
        // The last one keeps what the others hide.
        let archive =
            if wanted[0].starts_with("/deep/er") { Archive::default().file("x", "x").0 } else { with_devices() };
        bench.layer(&id, Some("base"), &archive).unwrap();
        damage(&bench.root.path().join(name).join("layers").join(&id).join(if name == "overlay" {
            "diff"
        } else {
            "root"
        }));
        let mut told = Vec::new();
        // Content that is gone is told by the archive.
        let mut archive = archive.as_slice();
        bench.driver.verify(&id, &mut archive, true, &mut |line| told.push(line)).unwrap();
        assert_eq!(&told, wanted, "{name}");
    }
}

pub fn what_leads_through_links_and_what_is_replaced_is_told_of_no_whole_layer(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    let archive = Archive::default()
        .entry(EntryType::Symlink, "by", "dir", b"", 0o777)
        .dir("dir", 0o755)
        .file("by/through", "lies in dir")
        .dir("by", 0o755)
        .file("by/own", "lies in by")
        .file("a/b/c", "1")
        .file("a/b/.wh.d", "")
        .file("a/.wh.b", "")
        .link("hard", "a/b/c")
        .link("again", "hard")
        .file("hard", "another")
        .file("a/b", "a file where a directory was")
        .link("two", "deep/er/file")
        .file("link/x", "a directory where a link is below")
        .file(".wh.etc", "")
        .file("etc/one", "another one");
    bench.layer("upper", Some("base"), &archive.0).unwrap();
    // And what stands on it.
    bench.layer("top", Some("upper"), &Archive::default().file("etc/two", "2").file("by/more", "m").0).unwrap();
    for id in ["base", "upper", "top"] {
        assert_eq!(bench.told(id, true), [""; 0], "{id}");
    }
}

pub fn a_good_layer_takes_the_place_of_a_damaged_one_and_who_has_that_keeps_it(name: &str) {
    let bench = Bench::new(name);
    bench.layer("base", None, &base().0).unwrap();
    bench.layer("upper", Some("base"), &Archive::default().file("what", "damaged").0).unwrap();
    bench.layer("top", Some("upper"), &Archive::default().file("top", "t").0).unwrap();
    let held = bench.mount("upper", true);
    let writable = bench.writable("web", "top");
    fs::write(writable.at("written"), "w").unwrap();
    let good = Archive::default().file("what", "good").file("more", "m");
    bench.driver.create("repair-upper", Some("base")).unwrap();
    bench.driver.apply("repair-upper", &mut good.0.as_slice()).unwrap();
    bench.driver.place("repair-upper", "repair-upper", Some("base")).unwrap();
    bench.driver.replace("repair-upper", "upper").unwrap();
    let check = |bench: &Bench| {
        assert_eq!(bench.driver.list().unwrap(), ["base", "top", "upper", "web"]);
        assert_eq!(bench.diff("upper"), good.0);
        assert_eq!(bench.told("upper", true), [""; 0]);
        let mounted = bench.mount("upper", true);
        assert_eq!((mounted.read("what"), mounted.read("more")), ("good".to_owned(), "m".to_owned()));
        assert_eq!(mounted.at("etc").metadata().unwrap().uid(), 77);
        assert_eq!(bench.driver.size("upper").unwrap(), 5);
    };
    check(&bench);
    assert_eq!(held.read("what"), "damaged");
    drop(held);
    bench.driver.replaced().unwrap().iter().for_each(|replaced| bench.driver.release(replaced).unwrap());
    bench.driver.sweep(false).unwrap();
    check(&bench);
    assert_eq!(writable.read("written"), "w");
    drop(writable);
    let bench = bench.again(name, &[]);
    bench.driver.sweep(true).unwrap();
    check(&bench);
    assert_eq!(bench.mount("web", false).read("written"), "w");
    for id in ["web", "top", "upper", "base"] {
        bench.driver.remove(id).unwrap();
    }
    bench.driver.sweep(false).unwrap();
}
