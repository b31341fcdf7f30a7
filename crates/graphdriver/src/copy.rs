//! Copying entries and trees: shared blocks where the file system can, holes, hard links and all metadata kept.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use gantry_linux::{Result, ResultExt};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, openat};
use rustix::io::Errno;

use crate::tree::{self, Step, Walk, copy_metadata, show};

/// Copies one entry that is not a directory; the new name must be free.
pub(crate) fn copy_entry(from: (BorrowedFd<'_>, &[u8]), stat: &Stat, to: (BorrowedFd<'_>, &[u8])) -> Result<()> {
    match tree::file_type(stat) {
        FileType::RegularFile => {
            let source = openat(from.0, from.1, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
                .during("open", show(from.1))?;
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let target = openat(to.0, to.1, flags, Mode::RUSR | Mode::WUSR).during("create", show(to.1))?;
            copy_content(&source, &target, stat).during("copy", show(from.1))?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from.0, from.1, Vec::new()).during("read link", show(from.1))?;
            rustix::fs::symlinkat(target, to.0, to.1).during("symlink", show(to.1))?;
        }
        kind => rustix::fs::mknodat(to.0, to.1, kind, Mode::RUSR, stat.st_rdev).during("make node", show(to.1))?,
    }
    copy_metadata(from, stat, to)
}

/// Shares the blocks where the file system can; else copies in the kernel what is no hole.
fn copy_content(from: &OwnedFd, to: &OwnedFd, stat: &Stat) -> std::io::Result<()> {
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
        at = copy_range(from, to, start, end)?;
    }
    rustix::fs::ftruncate(to, size)?;
    Ok(())
}

fn copy_range(from: &OwnedFd, to: &OwnedFd, start: u64, end: u64) -> std::io::Result<u64> {
    let (mut input, mut output) = (start, start);
    while input < end {
        let want = usize::try_from(end - input).unwrap_or(usize::MAX);
        match rustix::fs::copy_file_range(from, Some(&mut input), to, Some(&mut output), want) {
            Ok(0) => break,
            Ok(_) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => {
                return copy_by_reading(from, to, input, end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(end)
}

fn copy_by_reading(from: &OwnedFd, to: &OwnedFd, mut at: u64, end: u64) -> std::io::Result<u64> {
    use std::os::unix::fs::FileExt;
    let (from, to) = (File::from(from.try_clone()?), File::from(to.try_clone()?));
    let mut buffer = vec![0; 128 << 10];
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
        let got = from.read_at(&mut buffer[..want], at)?;
        if got == 0 {
            break;
        }
        to.write_all_at(&buffer[..got], at)?;
        at += got as u64;
    }
    Ok(end)
}

/// Copies a whole tree, the root's own metadata included, into an empty directory.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    copy_tree_at(&tree::open_root(from)?, &tree::open_root(to)?)
}

/// As [`copy_tree`], of directories that are open.
pub(crate) fn copy_tree_at(source: &OwnedFd, target: &OwnedFd) -> Result<()> {
    let mut links: HashMap<(u64, u64), Vec<u8>> = HashMap::new();
    let mut walk = Walk::new(source.try_clone().during("duplicate", "descriptor")?)?;
    // Where the walk is, in the copy.
    let mut stack = vec![target.try_clone().during("duplicate", "descriptor")?];
    while let Some(step) = walk.next()? {
        match step {
            Step::Leave { path } => {
                // Its time is right only when everything is inside.
                stack.pop();
                let (above, name) = crate::archive::split(&path);
                let from =
                    tree::open_inside(source, above, OFlags::PATH | OFlags::DIRECTORY).during("open", show(above))?;
                let stat = tree::stat(&from, name).during("stat", show(&path))?;
                if let Some(to) = stack.last() {
                    copy_metadata((from.as_fd(), name), &stat, (to.as_fd(), name))?;
                }
            }
            Step::Entry { dir, name, path, stat } => {
                let Some(to) = stack.last() else { break };
                if tree::is_dir(&stat) {
                    rustix::fs::mkdirat(to, name.as_slice(), Mode::RWXU).during("make directory", show(&path))?;
                    let made = tree::open_dir(to, &name).during("open", show(&path))?;
                    stack.push(made);
                    continue;
                }
                let key = (stat.st_dev, stat.st_ino);
                if let Some(first) = links.get(&key) {
                    rustix::fs::linkat(target, first.as_slice(), to, name.as_slice(), AtFlags::empty())
                        .during("link", show(&path))?;
                    continue;
                }
                copy_entry((dir.as_fd(), &name), &stat, (to.as_fd(), &name))?;
                if stat.st_nlink > 1 {
                    links.insert(key, path);
                }
            }
        }
    }
    let stat = rustix::fs::fstat(source).during("stat", "the root of a copy")?;
    copy_metadata((source.as_fd(), b""), &stat, (target.as_fd(), b""))
}
