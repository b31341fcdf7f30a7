//! Paths as Docker reads them: always from the container's root, a last `/` or `/.` kept because it means something.

use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, OFlags};

use crate::tree::open_inside;

/// How many symbolic links are followed.
const LINK_LIMIT: usize = 255;

/// The absolute path without `.`, `..` and doubled slashes; a last `/` or `/.` stays.
#[must_use]
pub fn normal(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    let mut normal = [b"/", names.join(&b'/').as_slice()].concat();
    if base(path) == b"." && !path.is_empty() {
        if !normal.ends_with(b"/") {
            normal.push(b'/');
        }
        normal.push(b'.');
    } else if path.ends_with(b"/") && !normal.ends_with(b"/") {
        normal.push(b'/');
    }
    normal
}

/// The last name of a path, slashes at its end left out; `/` for the root and `.` for nothing.
#[must_use]
pub fn base(path: &[u8]) -> &[u8] {
    let Some(end) = path.iter().rposition(|byte| *byte != b'/') else {
        return if path.is_empty() { b"." } else { b"/" };
    };
    let start = path[..=end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    &path[start..=end]
}

/// Where a path ends when every link is followed inside the root, as far as there is something to follow. A statement
/// about the moment, for showing: it is resolved anew when it is used.
pub(super) fn end_of(root: BorrowedFd<'_>, path: &[u8]) -> Vec<u8> {
    let split = |path: &[u8]| path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut ahead = split(path);
    let mut reached: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        match name.as_slice() {
            b"" | b"." => continue,
            b".." => {
                reached.pop();
                continue;
            }
            _ => reached.push(name),
        }
        let here = reached.join(&b'/');
        let Ok(found) = open_inside(root, &here, OFlags::PATH | OFlags::NOFOLLOW) else { continue };
        let is_link =
            rustix::fs::fstat(&found).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink);
        if !is_link || links == LINK_LIMIT {
            continue;
        }
        let Ok(target) = rustix::fs::readlinkat(&found, c"", Vec::new()) else { continue };
        links += 1;
        reached.pop();
        if target.as_bytes().starts_with(b"/") {
            reached.clear();
        }
        ahead.extend(split(target.as_bytes()));
    }
    [b"/", reached.join(&b'/').as_slice()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_from_the_root_and_its_end_is_kept() {
        for (path, expected) in [
            ("a", "/a"),
            ("/a/b/../c", "/a/c"),
            ("../../a", "/a"),
            ("/a/", "/a/"),
            ("/a/.", "/a/."),
            ("/a//./", "/a/."),
            ("/", "/"),
            ("/.", "/."),
            ("", "/"),
        ] {
            assert_eq!(normal(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }

    #[test]
    fn the_last_name_is_gos() {
        for (path, expected) in [("/a/b", "b"), ("/a/b/", "b"), ("/", "/"), ("/a/.", "."), ("", "."), ("x", "x")] {
            assert_eq!(base(path.as_bytes()), expected.as_bytes(), "{path}");
        }
    }
}
