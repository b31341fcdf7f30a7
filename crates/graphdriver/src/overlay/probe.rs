//! Whether overlayfs works on a directory's file system: tried, not guessed, in a mount that is attached nowhere.

use std::os::fd::OwnedFd;
use std::path::Path;

use gantry_linux::fs;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};

use crate::{Error, tree};

/// Tries it; returns the name of the file system below.
pub(super) fn probe(root: &Path) -> Result<String, Error> {
    let name = file_system(root);
    let place = root.join("drafts").join(format!("probe-{}", fs::unique()));
    let tried = (|| {
        for part in ["lower", "upper", "work"] {
            fs::create_dir_all(place.join(part))?;
        }
        fs::write(place.join("lower/below"), "")?;
        Ok::<_, Error>(attempt(&place))
    })();
    fs::remove_dir_all(&place)?;
    tried?.map_err(|(what, errno)| Error::Unsupported {
        driver: "overlay",
        path: root.to_path_buf(),
        reason: explain(&name, what, errno),
    })?;
    Ok(name)
}

fn attempt(place: &Path) -> Result<(), (&'static str, Errno)> {
    let step = |what: &'static str| move |errno: Errno| (what, errno);
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(step("open"))?;
    // Before 6.5 the paths are followed when the file system is created, so the descriptors stay open until then.
    let mut held = Vec::new();
    for (key, part) in [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")] {
        let opened = tree::open_root(&place.join(part)).map_err(|_| ("prepare", Errno::IO))?;
        let path = tree::proc_path(std::os::fd::AsFd::as_fd(&opened), b"");
        fsconfig_set_string(&context, key, path.as_slice()).map_err(step("configure"))?;
        held.push(opened);
    }
    fsconfig_create(&context).map_err(step("mount"))?;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(step("mount"))?;
    try_out(&mount, place).map_err(step("use"))
}

/// A new file and a whiteout: both need what some file systems lack.
fn try_out(mount: &OwnedFd, place: &Path) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    rustix::fs::openat(mount, "new", flags, Mode::RWXU)?;
    rustix::fs::unlinkat(mount, "below", AtFlags::empty())?;
    let upper = tree::open_root(&place.join("upper")).map_err(|_| Errno::IO)?;
    tree::set_opaque(&upper).map_err(|_| Errno::OPNOTSUPP)?;
    if tree::is_whiteout(&tree::stat(&upper, b"below")?) { Ok(()) } else { Err(Errno::OPNOTSUPP) }
}

fn explain(file_system: &str, what: &str, errno: Errno) -> String {
    match (what, errno) {
        ("open", Errno::NODEV) => {
            "the kernel has no overlay file system (try: modprobe overlay), or use --storage-driver vfs".to_owned()
        }
        ("open" | "configure" | "mount", Errno::PERM) => {
            "mounting is not permitted: the daemon needs CAP_SYS_ADMIN".to_owned()
        }
        _ => format!(
            "overlayfs cannot {what} its directories on {file_system} ({errno}): choose a data root on ext4, xfs or \
             btrfs, or use --storage-driver vfs"
        ),
    }
}

/// The name of the file system that a directory is on.
pub(crate) fn file_system(root: &Path) -> String {
    let kind = rustix::fs::statfs(root).map(|found| found.f_type).unwrap_or_default();
    match kind {
        0xef53 => "extfs".to_owned(),
        0x5846_5342 => "xfs".to_owned(),
        0x9123_683e => "btrfs".to_owned(),
        0x0102_1994 => "tmpfs".to_owned(),
        0x794c_7630 => "overlayfs".to_owned(),
        0xf2f5_2010 => "f2fs".to_owned(),
        other => format!("0x{other:x}"),
    }
}
