//! Archives and roots whose names lead out.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use tar::EntryType::{Directory, Link, Regular, Symlink};

use super::super::Error;
use super::{CANARY, Place, archive};

#[test]
fn a_link_to_the_outside_is_resolved_inside() {
    let place = Place::new();
    let outside = place.outside();
    symlink(&outside, place.at("absolute")).unwrap();
    symlink("../outside", place.at("relative")).unwrap();
    symlink("../../../../../../../..", place.at("up")).unwrap();
    symlink(outside.join("f"), place.at("file")).unwrap();
    let up = format!("/up{}/f", outside.display());
    for path in ["/absolute/f", "/relative/f", "/absolute/", "/file/.", up.as_str(), "/../outside/f"] {
        assert!(matches!(place.pack(path, "x"), Err(Error::NotFound(_))), "{path}");
        assert!(super::super::stat(std::os::fd::AsFd::as_fd(&place.root), path.as_bytes()).is_err(), "{path}");
    }
    // The link itself is what it is.
    let link = place.pack("/file", "file").unwrap();
    assert!(!link.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()));
    let file = archive(&[(Regular, "f", "", "bad")]);
    for directory in ["/absolute", "/relative", "/file"] {
        assert!(matches!(place.unpack(directory, &file), Err(Error::NotFound(_))), "{directory}");
    }
    place.unpack("/up", &file).unwrap();
    assert_eq!(fs::read_to_string(place.at("f")).unwrap(), "bad");
    place.check_canary();
}

#[test]
fn an_entry_through_a_link_to_the_outside_stays_inside() {
    let place = Place::new();
    let outside = place.outside().display().to_string();
    let target = outside.trim_start_matches('/');
    // As long as the root has no such directory there is nowhere to go.
    symlink(&outside, place.at("link")).unwrap();
    let through = archive(&[(Regular, "link/f", "", "bad")]);
    assert!(place.unpack("/", &through).is_err());
    // And then it is the root's own.
    fs::create_dir_all(place.at(target)).unwrap();
    place.unpack("/", &through).unwrap();
    assert_eq!(fs::read_to_string(place.at(target).join("f")).unwrap(), "bad");
    let brought = archive(&[(Symlink, "own", "../../../../outside", ""), (Regular, "own/f", "", "bad")]);
    assert!(place.unpack("/", &brought).is_err());
    place.check_canary();
}

#[test]
fn the_last_name_is_never_followed() {
    let place = Place::new();
    let canary = place.outside().join("f");
    for kind in [Regular, Directory] {
        symlink(&canary, place.at("x")).unwrap();
        symlink(place.outside(), place.at("d")).unwrap();
        place.unpack("/", &archive(&[(kind, "x", "", "")])).unwrap();
        place.unpack("/", &archive(&[(kind, "d", "", "")])).unwrap();
        for name in ["x", "d"] {
            assert!(!fs::symlink_metadata(place.at(name)).unwrap().is_symlink());
            fs::remove_dir(place.at(name)).or_else(|_| fs::remove_file(place.at(name))).unwrap();
        }
    }
    place.check_canary();
}

#[test]
fn names_that_lead_up_are_refused_and_absolute_ones_are_inside() {
    let place = Place::new();
    fs::create_dir(place.at("to")).unwrap();
    for name in ["../f", "a/../../f", "..", "/../f"] {
        let refused = place.unpack("/to", &archive(&[(Regular, name, "", "bad")]));
        assert!(matches!(refused, Err(Error::Archive(_))), "{name}");
    }
    place.unpack("/to", &archive(&[(Regular, "/abs/f", "", "in")])).unwrap();
    assert_eq!(fs::read_to_string(place.at("to/abs/f")).unwrap(), "in");
    assert!(fs::read_dir(place.at("")).unwrap().count() == 1);
    place.check_canary();
}

#[test]
fn hard_links_reach_only_the_root() {
    let place = Place::new();
    fs::write(place.at("own"), "own").unwrap();
    symlink(place.outside(), place.at("link")).unwrap();
    let outside = place.outside().join("f").display().to_string();
    for target in ["../outside/f", outside.as_str(), "link/f", "", "none"] {
        assert!(place.unpack("/", &archive(&[(Link, "h", target, "")])).is_err(), "{target}");
    }
    place.unpack("/", &archive(&[(Link, "h", "/own", ""), (Link, "own", "own", "")])).unwrap();
    assert_eq!(fs::metadata(place.at("h")).unwrap().ino(), fs::metadata(place.at("own")).unwrap().ino());
    place.check_canary();
}

#[test]
fn whiteouts_are_names_like_any_other() {
    let place = Place::new();
    fs::write(place.at("f"), "kept").unwrap();
    place.unpack("/", &archive(&[(Regular, ".wh.f", "", ""), (Regular, ".wh..wh..opq", "", "")])).unwrap();
    for name in ["f", ".wh.f", ".wh..wh..opq"] {
        assert!(place.at(name).is_file(), "{name}");
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    let place = Place::new();
    assert!(matches!(place.unpack("/", &[b'x'; 2048]), Err(Error::Archive(_))));
    let cut = &archive(&[(Regular, "f", "", "0123456789")])[..515];
    assert!(matches!(place.unpack("/", cut), Err(Error::Archive(_))));
    place.unpack("/", &[]).unwrap();
}
