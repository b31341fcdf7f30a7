//! Where a target works, and what must not change around it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A directory of this process below the temporary directory: `home` for the target's own things, beside it files
/// that nothing may touch. `cargo xtask fuzz` removes it with the temporary directory that it gives each target.
pub struct Place {
    root: PathBuf,
    before: Vec<String>,
}

impl Place {
    /// Makes it.
    pub fn new() -> Self {
        let root = std::env::temp_dir().join(format!("gantry-fuzz-{}", std::process::id()));
        // An earlier process of this number.
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(root.join("outside/below")).expect("make a directory");
        fs::create_dir_all(root.join("home")).expect("make a directory");
        for name in ["outside/victim", "outside/below/victim", "victim"] {
            fs::write(root.join(name), "untouched").expect("write");
        }
        let mut place = Self { root, before: Vec::new() };
        place.before = place.now();
        place
    }

    /// The target's own directory.
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// A directory that an archive wants to write to.
    pub fn outside(&self) -> PathBuf {
        self.root.join("outside")
    }

    /// Panics when something outside is not as it was.
    pub fn check(&self) {
        assert_eq!(self.now(), self.before, "something outside changed");
    }

    fn now(&self) -> Vec<String> {
        let mut all = Vec::new();
        for dir in ["", "outside", "outside/below"] {
            let here = self.root.join(dir);
            let names = fs::read_dir(&here).expect("list");
            let mut names: Vec<_> = names.map(|entry| entry.expect("list").file_name()).collect();
            names.sort();
            all.extend(names.iter().filter(|name| *name != "home").map(|name| describe(&here.join(name))));
        }
        all
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything of a file but when it was read.
fn describe(path: &Path) -> String {
    let meta = fs::symlink_metadata(path).expect("stat");
    let data = if meta.is_file() { fs::read(path).expect("read") } else { Vec::new() };
    let numbers = (meta.mode(), meta.uid(), meta.gid(), meta.nlink(), meta.size(), meta.mtime(), meta.mtime_nsec());
    format!("{} {numbers:?} {data:?}", path.display())
}
