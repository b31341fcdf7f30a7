//! Which cgroup hierarchies are mounted, and which of them a container gets a directory in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gantry_linux::{Error, Result, ResultExt, fs};
use serde::{Deserialize, Serialize};

use super::files::invalid;

/// Where a lone v2 tree is mounted on every system that follows convention.
const USUAL: &str = "/sys/fs/cgroup";
/// The kernel's magic number of cgroup2 file systems.
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// Mount options of v1 hierarchies that are no controllers.
const OPTIONS: [&str; 9] =
    ["rw", "ro", "all", "none", "noprefix", "clone_children", "xattr", "cpuset_v2_mode", "favordynmods"];

/// How the machine mounts its controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// A hierarchy per controller (a cgroup2 beside them, as systemd's hybrid layout has, is left alone).
    V1,
    /// One tree for all.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which cgroup of the hierarchy is seen there: `/` outside of containers.
    pub root: String,
    /// The cgroup below `mount` that leaves' paths begin at: empty, or absolute (see [`Hierarchies::below_own`]).
    pub base: String,
    /// Its controllers; `name=systemd` for a named one, what the base offers for v2.
    pub controllers: Vec<String>,
}

impl Hierarchy {
    /// Whether `controller` is one of this hierarchy's.
    #[must_use]
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.iter().any(|c| c == controller)
    }

    /// The directory of the cgroup `path`, which is absolute and begins at the base.
    pub(super) fn directory(&self, path: &str) -> PathBuf {
        let mut directory = self.mount.clone().into_os_string();
        directory.push(&self.base);
        directory.push(path);
        directory.into()
    }

    /// The cgroup `path` as `/proc/<pid>/cgroup` names it.
    pub(super) fn name(&self, path: &str) -> String {
        format!("{}{}{path}", self.root.trim_end_matches('/'), self.base)
    }
}

/// The hierarchies a container lives in; read once, cheap to clone. Serialised it can be kept beside what was made in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Parts", from = "Parts")]
pub struct Hierarchies {
    version: Version,
    all: Arc<[Hierarchy]>,
    unified: Option<PathBuf>,
}

#[derive(Serialize, Deserialize)]
struct Parts {
    version: Version,
    hierarchies: Vec<Hierarchy>,
    unified: Option<PathBuf>,
}

impl From<Parts> for Hierarchies {
    fn from(parts: Parts) -> Self {
        Self { version: parts.version, all: parts.hierarchies.into(), unified: parts.unified }
    }
}

impl From<Hierarchies> for Parts {
    fn from(found: Hierarchies) -> Self {
        Self { version: found.version, hierarchies: found.all.to_vec(), unified: found.unified }
    }
}

impl Hierarchies {
    /// Decides between v1 and v2 by what is mounted. A cgroup2 at the usual place is recognised at once, and
    /// `/proc/self/mountinfo`, which grows with every mount of the host, is read only where there is none.
    pub fn discover() -> Result<Self> {
        if let Ok(found) = rustix::fs::statfs(USUAL)
            && found.f_type.cast_unsigned() == CGROUP2_MAGIC
        {
            return Self::lone(USUAL.into(), "/".into()).with_controllers();
        }
        let found = Self::parse(&fs::read_to_string("/proc/self/mountinfo")?)?;
        match found.version {
            Version::V1 => Ok(found),
            Version::V2 => found.with_controllers(),
        }
    }

    /// The cgroup2 tree mounted at `mount`, as if nothing else was there; with the controllers that it has.
    pub fn unified_at(mount: impl Into<PathBuf>) -> Result<Self> {
        Self::lone(mount.into(), "/".into()).with_controllers()
    }

    fn lone(mount: PathBuf, root: String) -> Self {
        let only = Hierarchy { mount: mount.clone(), root, base: String::new(), controllers: Vec::new() };
        Self { version: Version::V2, all: [only].into(), unified: Some(mount) }
    }

    /// [`Self::discover`] on the given text of a mountinfo file; without the controllers of a v2 tree.
    pub fn parse(mountinfo: &str) -> Result<Self> {
        let mut v1: Vec<Hierarchy> = Vec::new();
        let mut unified = None;
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut left = left.split(' ').skip(3);
            let (Some(root), Some(mount)) = (left.next().map(unescape), left.next().map(unescape)) else { continue };
            let (root, mount) = (root.to_string_lossy().into_owned(), mount);
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") => {
                    unified.get_or_insert((mount, root));
                }
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default().split(',');
                    let controllers: Vec<String> = options.filter(|o| is_controller(o)).map(str::to_owned).collect();
                    if !controllers.is_empty() && !v1.iter().any(|h| h.controllers == controllers) {
                        v1.push(Hierarchy { mount, root, base: String::new(), controllers });
                    }
                }
                _ => {}
            }
        }
        let has_controller = v1.iter().flat_map(|h| &h.controllers).any(|c| !c.starts_with("name="));
        match (has_controller, unified) {
            (true, unified) => {
                Ok(Self { version: Version::V1, all: v1.into(), unified: unified.map(|(mount, _)| mount) })
            }
            (false, Some((mount, root))) => Ok(Self::lone(mount, root)),
            (false, None) => {
                let why = std::io::Error::new(std::io::ErrorKind::NotFound, "none is mounted; mount cgroup2 on it");
                Err(Error::new("find cgroup hierarchies under", USUAL, why))
            }
        }
    }

    fn with_controllers(self) -> Result<Self> {
        let mut only = self.all[0].clone();
        let text = fs::read_to_string(only.directory("/cgroup.controllers"))?;
        only.controllers = text.split_whitespace().map(str::to_owned).collect();
        Ok(Self { all: [only].into(), ..self })
    }

    /// The same with leaves' paths beginning at the caller's own cgroups: on v1 inside of them, on v2, where a cgroup
    /// with processes cannot have limited children, beside the caller's own.
    pub fn below_own(&self) -> Result<Self> {
        self.below(&fs::read_to_string("/proc/self/cgroup")?)
    }

    /// [`Self::below_own`] on the given text of `/proc/self/cgroup`.
    fn below(&self, own: &str) -> Result<Self> {
        let base = |h: &Hierarchy| -> Result<Hierarchy> {
            let path = own_path(self.version, h, own)?;
            let path = path.strip_prefix(h.root.trim_end_matches('/')).unwrap_or(path);
            let path = match self.version {
                Version::V1 => path.trim_end_matches('/'),
                Version::V2 => path.rsplit_once('/').map_or("", |(parent, _)| parent),
            };
            if path.split('/').any(|name| name == "..") {
                let why = "it is outside of the cgroup namespace; give an absolute cgroups path";
                return Err(invalid("find own cgroup", path, why));
            }
            Ok(Hierarchy { base: path.to_owned(), ..h.clone() })
        };
        let all = self.all.iter().map(base).collect::<Result<Vec<_>>>()?;
        let moved = Self { version: self.version, all: all.into(), unified: self.unified.clone() };
        match self.version {
            Version::V2 if !moved.all[0].base.is_empty() => moved.with_controllers(),
            _ => Ok(moved),
        }
    }

    /// Only those of the hierarchies that pass.
    pub(super) fn only(&self, keep: impl Fn(&Hierarchy) -> bool) -> Self {
        let all: Vec<Hierarchy> = self.all.iter().filter(|h| keep(h)).cloned().collect();
        Self { version: self.version, all: all.into(), unified: self.unified.clone() }
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

/// What `/proc/self/cgroup` says of one hierarchy.
fn own_path<'a>(version: Version, hierarchy: &Hierarchy, text: &'a str) -> Result<&'a str> {
    let found = text.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        let matches = match version {
            Version::V1 => controllers.split(',').any(|c| hierarchy.has(c)),
            Version::V2 => controllers.is_empty(),
        };
        matches.then_some(path)
    });
    found.ok_or(rustix::io::Errno::NOENT).during("find own cgroup in", hierarchy.mount.display())
}

fn is_controller(option: &str) -> bool {
    option.starts_with("name=") || !(option.contains('=') || OPTIONS.contains(&option))
}

/// Undoes mountinfo's octal escapes of blank, tab, newline and backslash.
fn unescape(field: &str) -> PathBuf {
    PathBuf::from(field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        33 31 0:29 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:30 /docker/x /sys/fs/cgroup/a\\040b rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
        35 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn hybrid_layout_is_v1_with_comounts_once_and_named_hierarchies() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        assert_eq!(found.version(), Version::V1);
        assert_eq!(found.all().len(), 2);
        assert_eq!(found.controller("cpuacct").unwrap().mount, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.controller("name=systemd").unwrap().mount, Path::new("/sys/fs/cgroup/a b"));
        assert_eq!(found.unified(), Some(Path::new("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_lone_cgroup2_is_v2_and_nothing_mounted_is_an_error() {
        let text = "35 31 0:31 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Hierarchies::parse(text).unwrap().version(), Version::V2);
        assert!(Hierarchies::parse("").is_err());
    }

    #[test]
    fn paths_below_the_own_cgroup_are_relative_to_what_the_mount_shows() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        let own = "4:cpu,cpuacct:/a/b\n3:name=systemd:/docker/x/y\n0::/\n";
        let below = found.below(own).unwrap();
        let cpu = below.controller("cpu").unwrap();
        assert_eq!(cpu.directory("/leaf"), Path::new("/sys/fs/cgroup/cpu,cpuacct/a/b/leaf"));
        assert_eq!(cpu.name("/leaf"), "/a/b/leaf");
        let named = below.controller("name=systemd").unwrap();
        assert_eq!(named.directory("/leaf"), Path::new("/sys/fs/cgroup/a b/y/leaf"));
        assert_eq!(named.name("/leaf"), "/docker/x/y/leaf");
        let outside = found.below("4:cpu,cpuacct:/../b\n3:name=systemd:/\n").unwrap_err().to_string();
        assert!(outside.contains("outside of the cgroup namespace"), "{outside}");
        assert!(found.below("0::/\n").is_err());
    }

    #[test]
    fn what_was_written_down_is_read_back() {
        let found = Hierarchies::parse(HYBRID).unwrap();
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<Hierarchies>(&text).unwrap(), found);
    }
}
