//! File systems of loop files, each mounted in a mount namespace of the calling thread.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use gantry_linux::process::{CloneFlags, unshare};

/// A file system and its file: both go with it.
pub struct Image(tempfile::TempDir);

impl Image {
    /// Makes a file system of so many bytes with `mkfs` and its options, and mounts it with the others.
    pub fn mount(bytes: u64, mkfs: &[&str], options: &str) -> Result<Self, String> {
        unshare(CloneFlags::NEWNS).unwrap();
        run(&["mount", "--make-rprivate", "/"].map(OsStr::new)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("image");
        fs::File::create(&file).unwrap().set_len(bytes).unwrap();
        // The same words each time, so that they are told once.
        let told = |error: String| error.replace(&directory.path().display().to_string(), "");
        run(&mkfs.iter().map(OsStr::new).chain([file.as_os_str()]).collect::<Vec<_>>()).map_err(told)?;
        let mounted = directory.path().join("mounted");
        fs::create_dir(&mounted).unwrap();
        run(&["mount".as_ref(), "-o".as_ref(), options.as_ref(), file.as_os_str(), mounted.as_os_str()])
            .map_err(told)?;
        Ok(Self(directory))
    }

    pub fn mounted(&self) -> PathBuf {
        self.0.path().join("mounted")
    }
}

impl Drop for Image {
    /// Before its directory, which could not be removed as long as something is mounted in it. Lazily: somebody may still
    /// have a file open.
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(self.mounted(), rustix::mount::UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", self.mounted().display());
        }
    }
}

pub fn run(words: &[&OsStr]) -> Result<String, String> {
    let output = Command::new(words[0]).args(&words[1..]).output().map_err(|error| format!("{words:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{words:?}: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    Ok(String::from_utf8(output.stdout).unwrap())
}
