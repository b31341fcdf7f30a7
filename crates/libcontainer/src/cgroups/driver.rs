//! Who makes a container's cgroup, and where it is: this process by the file system; systemd later.

use gantry_linux::Result;

use super::files::{invalid, unsupported};
use super::hierarchies::Hierarchies;
use super::leaf::{Leaf, Made};

/// What a container's cgroup is made from.
#[derive(Debug, Clone, Copy)]
pub struct CgroupRequest<'a> {
    /// The configuration's `cgroupsPath`: absolute is below the root of each hierarchy, relative is below the caller's own
    /// cgroup (on v2 beside it), missing or empty is as the relative path `id`.
    pub path: Option<&'a str>,
    /// The container's id.
    pub id: &'a str,
    /// Do without where the caller may not make cgroups, with a warning.
    pub lenient: bool,
}

/// Makes the cgroups of containers. What was made is a [`Leaf`], whichever driver made it.
pub trait CgroupDriver: std::fmt::Debug {
    /// As `info` and `features` name it.
    fn name(&self) -> &'static str;

    /// Where the cgroup of a container will be; nothing is touched.
    ///
    /// # Errors
    /// A path that cannot be meant.
    fn locate(&self, request: &CgroupRequest<'_>) -> Result<Leaf>;

    /// Makes the cgroup that was located. One that is there already is taken when nobody is in it.
    ///
    /// # Errors
    /// A cgroup in use, the kernel's refusal; then nothing of it is left.
    fn create(&self, leaf: &Leaf) -> Result<Made>;
}

/// Makes cgroups as directories.
#[derive(Debug, Clone)]
pub struct Cgroupfs {
    hierarchies: Hierarchies,
}

impl Cgroupfs {
    /// On these hierarchies.
    #[must_use]
    pub fn new(hierarchies: Hierarchies) -> Self {
        Self { hierarchies }
    }
}

/// The driver: by the file system, on the hierarchies that are mounted.
///
/// # Errors
/// `systemd` is asked for, or no hierarchy is mounted.
pub fn cgroup_driver(systemd: bool) -> Result<Box<dyn CgroupDriver>> {
    if systemd {
        let why = "cgroups made by systemd are not supported yet; leave --systemd-cgroup out, or set the engine's cgroup \
                   manager to cgroupfs";
        return Err(unsupported("use cgroup driver", "systemd", why));
    }
    Ok(Box::new(Cgroupfs::new(Hierarchies::discover()?)))
}

impl CgroupDriver for Cgroupfs {
    fn name(&self) -> &'static str {
        "cgroupfs"
    }

    fn locate(&self, request: &CgroupRequest<'_>) -> Result<Leaf> {
        let (path, absolute) = place(request.path, request.id)?;
        let leaf = match absolute {
            true => Leaf::open(&self.hierarchies, &path)?,
            false => Leaf::open(&self.hierarchies.below_own()?, &path)?,
        };
        Ok(leaf.where_permitted(request.lenient))
    }

    fn create(&self, leaf: &Leaf) -> Result<Made> {
        let made = leaf.clone().make()?;
        if !made.new && made.leaf.is_populated()? {
            let why = "other processes are in it; choose another cgroupsPath, or remove the container that has it";
            return Err(unsupported("take cgroup", leaf.path(), why));
        }
        Ok(made)
    }
}

/// The leaf's path, and whether it begins at the root.
fn place(path: Option<&str>, id: &str) -> Result<(String, bool)> {
    let given = path.filter(|path| !path.is_empty()).unwrap_or(id);
    if given.split('/').any(|name| name == "..") {
        return Err(invalid("place cgroup at", given, "`..` has no meaning in a cgroupsPath"));
    }
    if given.matches(':').count() == 2 && !given.contains('/') {
        let why = "that is the form for systemd (slice:prefix:name), which does not make cgroups here yet; give a path";
        return Err(invalid("place cgroup at", given, why));
    }
    let names: Vec<&str> = given.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.is_empty() {
        return Err(invalid("place cgroup at", given, "that is the root; name a cgroup below it"));
    }
    Ok((format!("/{}", names.join("/")), given.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_absolute_relative_or_the_id() {
        let of = |path| place(path, "id").unwrap();
        assert_eq!(of(None), ("/id".to_owned(), false));
        assert_eq!(of(Some("")), ("/id".to_owned(), false));
        assert_eq!(of(Some("a//b/.")), ("/a/b".to_owned(), false));
        assert_eq!(of(Some("//a/b/")), ("/a/b".to_owned(), true));
        for bad in ["/", ".", "/a/../b", "..", "system.slice:prefix:name"] {
            assert!(place(Some(bad), "id").is_err(), "{bad}");
        }
    }

    #[test]
    fn systemd_is_refused_clearly() {
        let error = cgroup_driver(true).unwrap_err().to_string();
        assert!(error.contains("not supported yet"), "{error}");
    }
}
