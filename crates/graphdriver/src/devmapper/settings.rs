//! The driver's options, by Docker's names.

use std::path::PathBuf;

use crate::options::{bytes, unknown};
use crate::{Error, Options};

/// The names that are known.
const NAMES: [&str; 15] = [
    "dm.basesize",
    "dm.loopdatasize",
    "dm.loopmetadatasize",
    "dm.datadev",
    "dm.metadatadev",
    "dm.thinpooldev",
    "dm.fs",
    "dm.blocksize",
    "dm.min_free_space",
    "dm.mkfsarg",
    "dm.mountopt",
    "dm.blkdiscard",
    "dm.use_deferred_removal",
    "dm.use_deferred_deletion",
    "dm.override_udev_sync_check",
];

/// What a file system on a thin device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ext4,
    Xfs,
}

/// What the pool lies on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source {
    /// Sparse files in the driver's home; `None` is a size that fits the disk.
    Files { data: Option<u64>, metadata: Option<u64> },
    /// Block devices.
    Devices { data: PathBuf, metadata: PathBuf },
    /// A pool that is there.
    Pool(String),
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub source: Source,
    /// Bytes of the base device, where somebody said it.
    pub base_size: Option<u64>,
    /// The file system, where somebody said it.
    pub kind: Option<Kind>,
    /// Bytes of a block of the pool.
    pub block: u64,
    /// Percent of the pool that must be free for a layer to be made.
    pub least_free: u64,
    pub mkfs: Vec<String>,
    pub mount: Vec<(String, Option<String>)>,
    /// Whether what a layer had is discarded before it is deleted, so that files below shrink; `None` is for files only.
    pub discard: Option<bool>,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
        }
    }

    pub(super) fn of(name: &str) -> Option<Self> {
        [Self::Ext4, Self::Xfs].into_iter().find(|kind| kind.name() == name)
    }
}

#[derive(Default)]
struct Found {
    data_size: Option<u64>,
    metadata_size: Option<u64>,
    data: Option<PathBuf>,
    metadata: Option<PathBuf>,
    pool: Option<String>,
}

impl Settings {
    pub(super) fn parse(options: &Options) -> Result<Self, Error> {
        let mut settings = Self {
            source: Source::Files { data: None, metadata: None },
            base_size: None,
            kind: None,
            block: 64 << 10,
            least_free: 10,
            mkfs: Vec::new(),
            mount: Vec::new(),
            discard: None,
        };
        let mut found = Found::default();
        for (name, value) in options.iter() {
            settings.take(&mut found, name, value)?;
        }
        settings.source = found.source()?;
        Ok(settings)
    }

    fn take(&mut self, found: &mut Found, name: &str, value: &str) -> Result<(), Error> {
        match name {
            "dm.basesize" => self.base_size = Some(bytes(name, value)?),
            "dm.loopdatasize" => found.data_size = Some(bytes(name, value)?),
            "dm.loopmetadatasize" => found.metadata_size = Some(bytes(name, value)?),
            "dm.datadev" => found.data = Some(value.into()),
            "dm.metadatadev" => found.metadata = Some(value.into()),
            "dm.thinpooldev" => found.pool = Some(value.trim_start_matches("/dev/mapper/").to_owned()),
            "dm.fs" => {
                self.kind = Some(Kind::of(value).ok_or_else(|| wrong(name, value, "there are ext4 and xfs"))?);
            }
            "dm.blocksize" => {
                self.block = bytes(name, value)?;
                if !self.block.is_multiple_of(64 << 10) || !(64 << 10..=1 << 30).contains(&self.block) {
                    return Err(wrong(name, value, "want a multiple of 64k up to 1g"));
                }
            }
            "dm.min_free_space" => {
                let percent = value.strip_suffix('%').and_then(|number| number.parse().ok());
                let percent = percent.filter(|percent| *percent < 100);
                self.least_free = percent.ok_or_else(|| wrong(name, value, "want a percentage below 100, as 10%"))?;
            }
            "dm.mkfsarg" => self.mkfs.extend(value.split_whitespace().map(str::to_owned)),
            "dm.mountopt" => {
                let option = |text: &str| match text.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (text.to_owned(), None),
                };
                self.mount.extend(value.split(',').filter(|text| !text.is_empty()).map(option));
            }
            "dm.blkdiscard" => self.discard = Some(truth(name, value)?),
            // Removal is always the kernel's, when the last user is gone, and udev is not waited for.
            "dm.use_deferred_removal" | "dm.use_deferred_deletion" | "dm.override_udev_sync_check" => {
                truth(name, value)?;
            }
            _ => return Err(unknown("devmapper", name, value, &NAMES)),
        }
        Ok(())
    }
}

impl Found {
    fn source(self) -> Result<Source, Error> {
        let sizes = self.data_size.is_some() || self.metadata_size.is_some();
        match (self.pool, self.data, self.metadata) {
            (Some(pool), None, None) if !sizes => Ok(Source::Pool(pool)),
            (Some(pool), ..) => {
                Err(wrong("dm.thinpooldev", &pool, "leave out options of files and devices: the pool has its own"))
            }
            (None, Some(data), Some(metadata)) if !sizes => Ok(Source::Devices { data, metadata }),
            (None, Some(data), Some(_)) => {
                Err(wrong("dm.datadev", &data.to_string_lossy(), "leave out dm.loopdatasize and dm.loopmetadatasize"))
            }
            (None, Some(device), None) | (None, None, Some(device)) => {
                Err(wrong("dm.datadev, dm.metadatadev", &device.to_string_lossy(), "give both"))
            }
            (None, None, None) => Ok(Source::Files { data: self.data_size, metadata: self.metadata_size }),
        }
    }
}

fn truth(name: &str, value: &str) -> Result<bool, Error> {
    value.parse().map_err(|_| wrong(name, value, "want true or false"))
}

pub(super) fn wrong(name: &str, value: &str, reason: &str) -> Error {
    Error::Option { option: format!("{name}={value}"), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Settings, Error> {
        let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
        Settings::parse(&Options::parse(&lines)?)
    }

    #[test]
    fn dockers_options_are_read() {
        let settings = parse(&[
            "dm.basesize=20G",
            "dm.fs=xfs",
            "dm.mkfsarg=-I 512",
            "dm.mountopt=nodiscard,commit=5",
            "dm.min_free_space=5%",
            "dm.thinpooldev=/dev/mapper/thin",
            "dm.use_deferred_removal=true",
        ])
        .unwrap();
        assert_eq!((settings.base_size, settings.kind, settings.least_free), (Some(20 << 30), Some(Kind::Xfs), 5));
        assert_eq!(settings.source, Source::Pool("thin".to_owned()));
        assert_eq!(settings.mkfs, ["-I", "512"]);
        assert_eq!(settings.mount[1], ("commit".to_owned(), Some("5".to_owned())));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_its_name() {
        for lines in [
            &["dm.fs=btrfs"][..],
            &["dm.blocksize=100k"],
            &["dm.min_free_space=10"],
            &["dm.min_free_space=100%"],
            &["dm.datadev=/dev/a"],
            &["dm.thinpooldev=a", "dm.loopdatasize=1g"],
            &["dm.use_deferred_removal=maybe"],
            &["dm.nonsense=1"],
            &["size=1g"],
        ] {
            let error = parse(lines).unwrap_err().to_string();
            let name = lines[0].split('=').next().unwrap();
            assert!(error.contains(name), "{error}");
        }
    }
}
