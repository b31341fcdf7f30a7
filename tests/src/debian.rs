//! Debian systems made on this machine by debootstrap, and an image of one for where Docker Hub cannot be reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use crate::image::Image;
use crate::{command, paths};

/// What a container does not need of a fresh system; archives and lists are most of its size.
const UNNEEDED: [&str; 8] = [
    "var/cache/apt/archives",
    "var/lib/apt/lists",
    "var/log",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "debootstrap",
];

/// Debian 12; the tree is kept below `store`.
pub fn image(store: &Path) -> Result<Image> {
    let root = store.join("debian");
    if !root.join(".complete").exists() {
        remove(&root)?;
        bootstrap("bookworm", &root)?;
        slim(&root)?;
        fs::write(root.join(".complete"), "").context("mark the Debian tree as complete")?;
    }
    let config = json!({
        "Cmd": ["bash"],
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    });
    Ok(Image::new(config, vec![pack(&root)?]))
}

/// Makes a minimal system of a release by debootstrap, from the mirror that this machine's apt uses.
pub fn bootstrap(release: &str, root: &Path) -> Result<()> {
    let mut debootstrap = Command::new(paths::need("debootstrap")?);
    debootstrap.args(["--variant=minbase", release]).arg(root).arg(mirror()?);
    command::succeed(&mut debootstrap, Duration::from_secs(900))?;
    Ok(())
}

/// Removes what is most of a fresh system's size and not needed to run programs.
pub fn slim(root: &Path) -> Result<()> {
    for path in UNNEEDED {
        remove(&root.join(path))?;
    }
    for path in ["var/cache/apt/archives/partial", "var/lib/apt/lists/partial", "var/log"] {
        fs::create_dir_all(root.join(path)).with_context(|| format!("make {path}"))?;
    }
    Ok(())
}

/// Removes a tree, if it is there.
pub fn remove(path: &Path) -> Result<()> {
    fs::remove_dir_all(path).or_else(absent).with_context(|| format!("remove {}", path.display()))
}

fn pack(root: &Path) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.follow_symlinks(false);
    let mut entries: Vec<PathBuf> = fs::read_dir(root)
        .with_context(|| format!("list {}", root.display()))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    entries.sort();
    for path in entries {
        let name = path.file_name().context("an entry without a name")?;
        match name.to_str() {
            // The engine mounts its own.
            Some("dev" | "proc" | "sys") => archive.append_dir(name, &path),
            Some(".complete") => Ok(()),
            _ if path.is_symlink() || path.is_file() => archive.append_path_with_name(&path, name),
            _ => archive.append_dir_all(name, &path),
        }
        .with_context(|| format!("pack {}", path.display()))?;
    }
    archive.into_inner().context("finish the Debian layer")
}

/// The Debian mirror that this machine's apt uses.
pub fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    files.extend(fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten().map(|entry| entry.path()));
    let text: Vec<String> = files.iter().filter_map(|file| fs::read_to_string(file).ok()).collect();
    let urls = text.iter().flat_map(|text| text.lines()).filter(|line| !line.trim_start().starts_with('#'));
    let mut urls = urls.flat_map(str::split_whitespace).filter(|word| word.starts_with("http"));
    let found = urls.find(|url| url.trim_end_matches('/').ends_with("/debian"));
    found.map(str::to_owned).context("apt's sources name no Debian mirror: the Debian image cannot be made")
}

/// A 32-bit x86 busybox, static, from Debian; kept below `store`.
pub fn i386_busybox(store: &Path) -> Result<PathBuf> {
    let kept = store.join("i386/busybox");
    if kept.exists() {
        return Ok(kept);
    }
    let work = tempfile::tempdir_in(store).context("make a directory")?;
    let path = |name: &str| work.path().join(name);
    fs::create_dir_all(path("lists/partial")).context("make apt's lists")?;
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        // Lists of its own: this machine's do not know the architecture, and stay as they are.
        for (option, value) in [
            ("APT::Architecture", "i386".to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            ("Dir::State::lists", path("lists").display().to_string()),
            ("Dir::State::status", "/dev/null".to_owned()),
            ("Dir::Cache", path("cache").display().to_string()),
            ("Debug::NoLocking", "1".to_owned()),
        ] {
            apt.arg("-o").arg(format!("{option}={value}"));
        }
        command::run(apt.args(arguments).current_dir(work.path()), None, Duration::from_secs(120))
    };
    // One of several sources may fail; whether the package is found decides.
    apt(&["-q", "update"])?;
    let download = apt(&["-q", "download", "busybox-static:i386"])?;
    let package = fs::read_dir(work.path()).context("list what was downloaded")?.flatten();
    let package = package.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "deb"));
    let package = package.with_context(|| format!("apt-get has no busybox-static:i386: {download}"))?;
    let mut unpack = Command::new("dpkg-deb");
    command::succeed(unpack.arg("-x").arg(package).arg(path("root")), Duration::from_secs(60))?;
    fs::create_dir_all(store.join("i386")).context("make the place of 32-bit programs")?;
    fs::rename(path("root/bin/busybox"), &kept).with_context(|| format!("put busybox at {}", kept.display()))?;
    Ok(kept)
}

fn absent(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}
