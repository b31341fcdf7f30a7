//! Which cgroup hierarchies are mounted, and which of them a container gets a directory in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_linux::{Error, Result, fs};

/// How the machine mounts its controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy per controller (an empty cgroup2 beside them, as systemd's hybrid layout has, is left alone).
    V1,
    /// One tree for all.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its controllers; `name=systemd` for a named one, what the root offers for v2.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether `controller` is one of this hierarchy's.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }
}

/// The hierarchies a container lives in; read once by the daemon, cheap to clone.
#[derive(Debug, Clone)]
pub struct Hierarchies {
    version: Version,
    all: Arc<[Hierarchy]>,
    unified: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads `/proc/self/mountinfo` and decides between v1 and v2 by what is mounted.
    pub fn discover() -> Result<Self> {
        let kernel = fs::read_to_string("/proc/cgroups").unwrap_or_default();
        let found = Self::parse(&fs::read_to_string("/proc/self/mountinfo")?, &enabled(&kernel))?;
        match found.version {
            Version::V1 => Ok(found),
            Version::V2 => found.with_root_controllers(),
        }
    }

    /// [`Self::discover`] on given text: mountinfo, and the v1 controllers that the kernel has enabled.
    pub fn parse(mountinfo: &str, enabled: &[String]) -> Result<Self> {
        let mut v1: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(mount) = left.split(' ').nth(4).map(unescape) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") => {
                    unified.get_or_insert(mount);
                }
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default().split(',');
                    let known = |o: &&str| o.starts_with("name=") || enabled.iter().any(|e| e == o);
                    let controllers: Vec<String> = options.filter(known).map(str::to_owned).collect();
                    if !controllers.is_empty() && !v1.iter().any(|h| h.controllers == controllers) {
                        v1.push(Hierarchy { mount, controllers });
                    }
                }
                _ => {}
            }
        }
        let has_controller = v1.iter().flat_map(|h| &h.controllers).any(|c| !c.starts_with("name="));
        match (has_controller, unified) {
            (true, unified) => Ok(Self { version: Version::V1, all: v1.into(), unified }),
            (false, Some(mount)) => {
                let all = [Hierarchy { mount: mount.clone(), controllers: Vec::new() }];
                Ok(Self { version: Version::V2, all: all.into(), unified: Some(mount) })
            }
            (false, None) => {
                let why = std::io::Error::new(std::io::ErrorKind::NotFound, "none is mounted; mount cgroup2 on it");
                Err(Error::new("find cgroup hierarchies under", "/sys/fs/cgroup", why))
            }
        }
    }

    fn with_root_controllers(self) -> Result<Self> {
        let mount = self.all[0].mount.clone();
        let text = fs::read_to_string(mount.join("cgroup.controllers"))?;
        let controllers = text.split_whitespace().map(str::to_owned).collect();
        Ok(Self { all: [Hierarchy { mount, controllers }].into(), ..self })
    }

    /// v1 or v2.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Those in which a leaf has a directory.
    #[must_use]
    pub fn all(&self) -> &[Hierarchy] {
        &self.all
    }

    /// Where cgroup2 is mounted, if it is, in any layout.
    #[must_use]
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// The hierarchy of one controller.
    #[must_use]
    pub fn controller(&self, name: &str) -> Option<&Hierarchy> {
        self.all.iter().find(|h| h.has(name))
    }
}

fn enabled(proc_cgroups: &str) -> Vec<String> {
    let lines = proc_cgroups.lines().filter(|l| !l.starts_with('#'));
    let fields = lines.map(|l| l.split_whitespace().collect::<Vec<_>>());
    fields.filter(|f| f.len() == 4 && f[3] == "1").map(|f| f[0].to_owned()).collect()
}

/// Undoes mountinfo's octal escapes of blank, tab, newline and backslash.
fn unescape(field: &str) -> PathBuf {
    PathBuf::from(field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn hybrid_layout_is_v1_with_comounts_once_and_named_hierarchies() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:29 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n\
            34 31 0:30 / /sys/fs/cgroup/a\\040b rw - cgroup cgroup rw,xattr,name=systemd\n\
            35 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Hierarchies::parse(text, &words(&["cpu", "cpuacct"])).unwrap();
        assert_eq!(found.version(), Version::V1);
        assert_eq!(found.all().len(), 2);
        assert_eq!(found.controller("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.controller("name=systemd").unwrap().mount, Path::new("/sys/fs/cgroup/a b"));
        assert_eq!(found.unified(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_lone_cgroup2_is_v2_and_nothing_mounted_is_an_error() {
        let text = "35 31 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Hierarchies::parse(text, &[]).unwrap().version(), Version::V2);
        assert!(Hierarchies::parse("", &[]).is_err());
    }
}
