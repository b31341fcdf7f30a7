//! An initial file system in the kernel's "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// An archive in the making. Directories come by themselves; a path that is there already is left as it is.
pub struct Archive {
    out: BufWriter<File>,
    written: u64,
    inode: u32,
    known: HashSet<PathBuf>,
}

impl Archive {
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { out: BufWriter::new(file), written: 0, inode: 0, known: HashSet::new() })
    }

    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: &Path) -> Result<()> {
        self.parents(path)?;
        self.entry(path, DIRECTORY | 0o755, &[])
    }

    /// Adds a file.
    pub fn file(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.parents(path)?;
        self.entry(path, REGULAR | mode, content)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &Path, to: &Path) -> Result<()> {
        self.parents(path)?;
        self.entry(path, SYMLINK | 0o777, to.as_os_str().as_encoded_bytes())
    }

    /// Adds a file or a whole directory of this machine at `path`; links stay links.
    pub fn copy(&mut self, from: &Path, path: &Path) -> Result<()> {
        let metadata = from.symlink_metadata().with_context(|| format!("look at {}", from.display()))?;
        if metadata.is_symlink() {
            return self.symlink(path, &fs::read_link(from)?);
        }
        if metadata.is_dir() {
            self.directory(path)?;
            for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
                let name = entry?.file_name();
                self.copy(&from.join(&name), &path.join(&name))?;
            }
            return Ok(());
        }
        let content = fs::read(from).with_context(|| format!("read {}", from.display()))?;
        self.file(path, metadata.permissions().mode() & 0o7777, &content)
    }

    /// Ends the archive; its size.
    pub fn finish(mut self) -> Result<u64> {
        self.entry(Path::new("/TRAILER!!!"), 0, &[])?;
        self.out.flush().context("write the initial file system")?;
        Ok(self.written)
    }

    fn parents(&mut self, path: &Path) -> Result<()> {
        match path.parent() {
            Some(parent) if parent != Path::new("/") && !self.known.contains(parent) => self.directory(parent),
            _ => Ok(()),
        }
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        if !self.known.insert(path.to_owned()) {
            return Ok(());
        }
        let name = path.strip_prefix("/").unwrap_or(path).as_os_str().as_encoded_bytes();
        self.inode += 1;
        let size = u32::try_from(content.len()).with_context(|| format!("{} is too large", path.display()))?;
        let name_size = u32::try_from(name.len() + 1)?;
        // inode, mode, uid, gid, links, time, size, device (two numbers), of the node (two), length of the name, check
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.write(header.as_bytes())?;
        self.write(name)?;
        self.write(b"\0")?;
        self.pad()?;
        self.write(content)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context("write the initial file system")?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Names and contents end at multiples of four.
    fn pad(&mut self) -> Result<()> {
        let rest = usize::try_from(self.written % 4)?;
        if rest == 0 { Ok(()) } else { self.write(&b"\0\0\0"[..4 - rest]) }
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::path::Path;
    use std::process::{Command, Stdio};

    #[test]
    fn busybox_unpacks_what_was_packed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.cpio");
        let mut archive = Archive::create(&path).unwrap();
        archive.file(Path::new("/a/b/file"), 0o640, b"content").unwrap();
        archive.symlink(Path::new("/a/link"), Path::new("b/file")).unwrap();
        archive.file(Path::new("/a/b/file"), 0o640, b"again").unwrap();
        archive.finish().unwrap();
        let Some(busybox) = gantry_tests::paths::program("busybox") else { return };
        let mut unpack = Command::new(busybox);
        unpack.args(["cpio", "-idm"]).current_dir(dir.path()).stdin(std::fs::File::open(&path).unwrap());
        assert!(unpack.stderr(Stdio::null()).status().unwrap().success());
        assert_eq!(std::fs::read_to_string(dir.path().join("a/link")).unwrap(), "content");
    }
}
