//! Mounts and devices of a configuration, and what becomes of them.

use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use super::mount_options::Options;
use super::{IdMapping, nullable};
use crate::config::{self, DeviceKind, MountKind, MountMapping};
use crate::error::{Error, Result};

/// One entry of `mounts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mount {
    /// Where, inside the container.
    #[serde(deserialize_with = "nullable")]
    pub destination: String,
    /// Type of the file system; with a bind it is not looked at.
    #[serde(rename = "type", deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// A device's name, or a path: absolute, or relative to the bundle.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// As mount(8) has them.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// For an id-mapped mount.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub uid_mappings: Vec<IdMapping>,
    /// For an id-mapped mount.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub gid_mappings: Vec<IdMapping>,
}

/// One entry of `linux.devices`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Device {
    /// `c`, `b`, `u` or `p`.
    #[serde(rename = "type", deserialize_with = "nullable")]
    pub kind: String,
    /// Full path inside the container.
    #[serde(deserialize_with = "nullable")]
    pub path: String,
    /// Device number.
    #[serde(deserialize_with = "nullable")]
    pub major: i64,
    /// Device number.
    #[serde(deserialize_with = "nullable")]
    pub minor: i64,
    /// Permission bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_mode: Option<u32>,
    /// Owner inside the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Owner inside the container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// All mounts, in their order; relative sources of binds are of the bundle. What is left out goes to `warnings`.
///
/// # Errors
/// `Invalid` with the index and destination of the first that cannot be.
pub fn convert_mounts(given: &[Mount], bundle: &Path, warnings: &mut Vec<String>) -> Result<Vec<config::Mount>> {
    let one = |(index, mount): (usize, &Mount)| {
        let wrong = |why: String| Error::Invalid(format!("mounts[{index}] on {:?}: {why}", mount.destination));
        let mut left_out = Vec::new();
        let converted = mount.convert(bundle, &mut left_out).map_err(wrong)?;
        warnings.extend(left_out.iter().map(|why| format!("mounts[{index}] on {:?}: {why}", mount.destination)));
        Ok(converted)
    };
    given.iter().enumerate().map(one).collect()
}

impl Mount {
    fn convert(&self, bundle: &Path, warnings: &mut Vec<String>) -> std::result::Result<config::Mount, String> {
        for text in [&self.destination, &self.source, &self.kind].into_iter().chain(&self.options) {
            if text.contains('\0') {
                return Err("a text contains the character 0".into());
            }
        }
        if self.destination.is_empty() {
            return Err("the destination is missing".into());
        }
        let destination = Path::new("/").join(&self.destination);
        if !destination.components().any(|part| matches!(part, Component::Normal(_))) {
            return Err("a mount on / would hide the root; give that directory as root.path instead".into());
        }
        let options = Options::parse(&self.options);
        let kind = self.convert_kind(bundle, &options, warnings)?;
        let is_bind = matches!(kind, MountKind::Bind { .. });
        let is_tmpfs = matches!(&kind, MountKind::Filesystem { fstype, .. } if fstype == "tmpfs");
        if options.copy_up && !is_tmpfs {
            warnings.push("tmpcopyup is for tmpfs; ignored".into());
        }
        for name in &options.without_effect {
            warnings.push(format!("option {name:?} has no effect with this kernel's way to mount; ignored"));
        }
        Ok(config::Mount {
            destination,
            flags: options.flags,
            cleared: options.cleared,
            recursive: options.recursive,
            recursive_cleared: options.recursive_cleared,
            propagation: options.propagation.iter().copied().skip(usize::from(is_bind)).collect(),
            mapped: self.mapping(&options, &kind)?,
            copy_up: options.copy_up && is_tmpfs,
            kind,
            exact: false,
        })
    }

    fn convert_kind(
        &self,
        bundle: &Path,
        options: &Options,
        warnings: &mut Vec<String>,
    ) -> std::result::Result<MountKind, String> {
        let mut data = options.data.clone();
        if options.remount {
            return Ok(MountKind::Remount { options: if options.bind { Vec::new() } else { data } });
        }
        if options.bind || self.kind == "bind" {
            if self.source.is_empty() {
                return Err("a bind needs a source".into());
            }
            if !data.is_empty() {
                let names: Vec<&str> = data.iter().map(|(name, _)| name.as_str()).collect();
                warnings.push(format!("a bind has no options of a file system; ignored: {}", names.join(", ")));
            }
            let propagation = options.propagation.first().copied().unwrap_or_default();
            return Ok(MountKind::Bind {
                source: bundle.join(&self.source),
                recursive: options.recursive_bind,
                propagation,
            });
        }
        match self.kind.as_str() {
            "cgroup" | "cgroup2" => Ok(MountKind::Cgroup),
            "" | "none" => Err("neither a type of file system nor a bind".into()),
            fstype => {
                if !self.source.is_empty() {
                    data.insert(0, ("source".into(), Some(self.source.clone())));
                }
                if fstype == "overlay" {
                    data = data.into_iter().flat_map(split_layers).collect();
                }
                Ok(MountKind::Filesystem { fstype: fstype.to_owned(), options: data })
            }
        }
    }

    fn mapping(&self, options: &Options, kind: &MountKind) -> std::result::Result<Option<MountMapping>, String> {
        if self.uid_mappings.is_empty() != self.gid_mappings.is_empty() {
            return Err("uidMappings and gidMappings come together or not at all".into());
        }
        if options.id_map.is_none() && self.uid_mappings.is_empty() {
            return Ok(None);
        }
        if !matches!(kind, MountKind::Bind { .. } | MountKind::Filesystem { .. }) {
            return Err("only a bind or a file system can be idmapped".into());
        }
        let convert = |given: &[IdMapping]| -> std::result::Result<Vec<config::IdMapping>, String> {
            let one = |given: &IdMapping| match given.size {
                0 => Err("a mapping of 0 ids".to_owned()),
                count => Ok(config::IdMapping { inside: given.container_id, outside: given.host_id, count }),
            };
            given.iter().map(one).collect()
        };
        let (uids, gids) = (convert(&self.uid_mappings)?, convert(&self.gid_mappings)?);
        Ok(Some(MountMapping { uids, gids, recursive: options.id_map == Some(true), optional: false }))
    }
}

/// The kernel takes at most 255 bytes as one value; layers of an overlay may be given one by one.
fn split_layers((name, value): (String, Option<String>)) -> Vec<(String, Option<String>)> {
    const LONGEST: usize = 255;
    match value {
        Some(value)
            if name == "lowerdir" && value.len() > LONGEST && !value.contains("\\:") && !value.contains("::") =>
        {
            value.split(':').map(|layer| ("lowerdir+".to_owned(), Some(layer.to_owned()))).collect()
        }
        value => vec![(name, value)],
    }
}

/// The devices that every container has, and the configured ones, which win.
///
/// # Errors
/// `Invalid` for a type that does not exist, a number that no device has, a path that is not absolute.
pub fn convert_devices(given: &[Device]) -> Result<Vec<config::Device>> {
    let standard = [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let node = |(name, major, minor): (&str, u32, u32)| config::Device {
        path: format!("/dev/{name}").into(),
        kind: DeviceKind::Char,
        major,
        minor,
        mode: 0o666,
        uid: 0,
        gid: 0,
    };
    let mut all: Vec<config::Device> = standard.map(node).into();
    for device in given {
        let device = device.convert().map_err(|why| Error::Invalid(format!("device {:?}: {why}", device.path)))?;
        all.retain(|other| other.path != device.path);
        all.push(device);
    }
    Ok(all)
}

impl Device {
    fn convert(&self) -> std::result::Result<config::Device, String> {
        const MAJORS: i64 = 1 << 12;
        const MINORS: i64 = 1 << 20;
        let kind = match self.kind.as_str() {
            "c" | "u" => DeviceKind::Char,
            "b" => DeviceKind::Block,
            "p" => DeviceKind::Fifo,
            other => return Err(format!("type {other:?} is none of c, u, b and p")),
        };
        let path = Path::new(&self.path);
        if !path.is_absolute() || path.file_name().is_none() || self.path.contains('\0') {
            return Err("the path is not an absolute one of a file".into());
        }
        let number = |number: i64, what: &str, end: i64| match u32::try_from(number) {
            _ if kind == DeviceKind::Fifo => Ok(0),
            Ok(valid) if number < end => Ok(valid),
            _ => Err(format!("{what} {number}: must be from 0 to {}", end - 1)),
        };
        Ok(config::Device {
            path: path.into(),
            kind,
            major: number(self.major, "major", MAJORS)?,
            minor: number(self.minor, "minor", MINORS)?,
            mode: self.file_mode.unwrap_or(0o666) & 0o7777,
            uid: self.uid.unwrap_or(0),
            gid: self.gid.unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Propagation;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            destination: "a/b".into(),
            kind: kind.into(),
            source: source.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        }
    }

    fn one(given: &Mount) -> (config::Mount, Vec<String>) {
        let mut warnings = Vec::new();
        let all = convert_mounts(std::slice::from_ref(given), Path::new("/bundle"), &mut warnings).unwrap();
        (all.into_iter().next().unwrap(), warnings)
    }

    #[test]
    fn relative_paths_are_of_the_root_and_of_the_bundle() {
        let (bind, warnings) = one(&mount("none", "data", &["rbind", "ro", "rslave", "shared", "mode=1"]));
        assert_eq!(bind.destination, Path::new("/a/b"));
        let MountKind::Bind { source, recursive, propagation } = bind.kind else { panic!() };
        assert_eq!((source.as_path(), recursive, propagation), (Path::new("/bundle/data"), true, Propagation::RSlave));
        assert_eq!(bind.propagation, [Propagation::Shared]);
        assert!(bind.flags.read_only && warnings[0].contains("ignored: mode"), "{warnings:?}");
    }

    #[test]
    fn what_cannot_be_mounted_is_said_with_its_place() {
        let maps = vec![IdMapping { container_id: 0, host_id: 1, size: 1 }];
        let bad = [
            (Mount { destination: String::new(), ..mount("proc", "", &[]) }, "destination is missing"),
            (Mount { destination: "/..".into(), ..mount("proc", "", &[]) }, "would hide the root"),
            (mount("", "", &[]), "neither a type"),
            (mount("bind", "", &[]), "needs a source"),
            (mount("tmpfs", "", &["a\0"]), "character 0"),
            (Mount { uid_mappings: maps.clone(), ..mount("bind", "/", &[]) }, "come together"),
            (mount("cgroup", "", &["idmap"]), "can be idmapped"),
        ];
        for (mount, why) in bad {
            let error = convert_mounts(&[mount], Path::new("/b"), &mut Vec::new()).unwrap_err().to_string();
            assert!(error.starts_with("mounts[0]") && error.contains(why), "{error}");
        }
    }

    #[test]
    fn mappings_are_taken_with_and_without_the_option() {
        let maps = vec![IdMapping { container_id: 0, host_id: 7, size: 9 }];
        let with = |options: &[&str]| Mount {
            uid_mappings: maps.clone(),
            gid_mappings: maps.clone(),
            ..mount("bind", "/x", options)
        };
        assert!(!one(&with(&[])).0.mapped.unwrap().recursive);
        assert!(one(&with(&["ridmap"])).0.mapped.unwrap().recursive);
        assert_eq!(one(&mount("bind", "/x", &["idmap"])).0.mapped, Some(MountMapping::default()));
    }

    #[test]
    fn layers_of_a_long_overlay_are_given_one_by_one() {
        let layers: Vec<String> = (0..20).map(|n| format!("/var/lib/layers/{n:020}")).collect();
        let (overlay, _) = one(&mount("overlay", "overlay", &[&format!("lowerdir={}", layers.join(":")), "userxattr"]));
        let MountKind::Filesystem { options, .. } = overlay.kind else { panic!() };
        assert_eq!(options.iter().filter(|(name, _)| name == "lowerdir+").count(), 20);
    }

    #[test]
    fn devices_are_the_standard_ones_and_those_that_win_over_them() {
        let device = |kind: &str, path: &str, major, minor| Device {
            kind: kind.into(),
            path: path.into(),
            major,
            minor,
            ..Device::default()
        };
        let all = convert_devices(&[device("u", "/dev/null", 1, 5), device("p", "/run/pipe", -1, -1)]).unwrap();
        assert_eq!(all.len(), 7);
        assert!(all.iter().any(|device| device.path == Path::new("/dev/null") && device.minor == 5));
        assert_eq!(all.last().unwrap().kind, DeviceKind::Fifo);
        for bad in
            [device("x", "/a", 1, 1), device("c", "a", 1, 1), device("c", "/a", -1, 1), device("b", "/a", 4096, 1)]
        {
            assert!(convert_devices(&[bad]).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_mount_makes_the_conversion_crash(
            destination: String, kind: String, source: String, options: Vec<String>,
            size: u32,
        ) {
            let maps = vec![IdMapping { container_id: 0, host_id: 1, size }];
            let mount = Mount { destination, kind, source, options, uid_mappings: maps.clone(), gid_mappings: maps };
            let _ = convert_mounts(&[mount], Path::new("/bundle"), &mut Vec::new());
        }
    }
}
