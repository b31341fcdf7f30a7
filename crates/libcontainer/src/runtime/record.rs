//! What is remembered of a container in its directory, and what the kernel says of its process now.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use gantry_linux::Error as SystemError;
use gantry_linux::fs::{self, Durability};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::directory::no_such_container;
use crate::cgroups::Leaf;
use crate::error::{Error, Result};
use crate::oci::Hooks;

/// The form that is written; another one is refused.
const VERSION: u32 = 1;
/// The record's file.
pub const FILE: &str = "state.json";
/// A copy of the configuration, as it was converted.
pub const CONFIG: &str = "config.json";
/// Where a created container waits to be started; gone when it was.
pub const SOCKET: &str = "start";

/// A directory for the socket by which its program tells that it is ready.
pub const NOTIFY: &str = "notify";

/// A container, as its directory has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// Name.
    pub id: String,
    /// Of the specification.
    pub oci_version: String,
    /// Absolute.
    pub bundle: PathBuf,
    /// Absolute.
    pub rootfs: PathBuf,
    /// RFC 3339, UTC.
    pub created: String,
    /// Who created it.
    pub owner: u32,
    /// The first process; 0 before there is one.
    pub pid: i32,
    /// When it began, in the kernel's ticks: a later process of the same number is not it.
    pub start_time: u64,
    /// Creating it came to its end.
    pub complete: bool,
    /// Its cgroup; `None` before it is known.
    pub cgroup: Option<Leaf>,
    /// Name of its session keyring, for further processes too; `None` keeps the caller's.
    pub keyring: Option<String>,
    /// The first process is pid 1 of its own namespace: all others end with it.
    pub own_pids: bool,
    /// The number of its root's mount, where that is in the caller's mount namespace and has to be taken away.
    #[serde(default)]
    pub shared_root: Option<u64>,
    /// Of the configuration.
    pub annotations: BTreeMap<String, String>,
    /// Of the configuration, to be at hand without reading that; `None` in a record of long ago.
    #[serde(default)]
    pub hooks: Option<Hooks>,
}

impl Record {
    /// Of a container without a process yet.
    pub fn new(id: &str, oci_version: &str, bundle: &Path, rootfs: &Path) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            oci_version: oci_version.to_owned(),
            bundle: bundle.to_owned(),
            rootfs: rootfs.to_owned(),
            created: jiff::Timestamp::now().to_string(),
            owner: rustix::process::getuid().as_raw(),
            pid: 0,
            start_time: 0,
            complete: false,
            cgroup: None,
            keyring: None,
            own_pids: false,
            shared_root: None,
            annotations: BTreeMap::new(),
            hooks: None,
        }
    }

    /// Writes it in one step.
    pub fn write(&self, directory: &Path) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::Invalid(format!("state of {} cannot be encoded: {error}", self.id)))?;
        Ok(fs::write_atomic(directory.join(FILE), &text, 0o600, Durability::Process)?)
    }

    /// Reads it; `None` when the container was given up before it was written.
    pub fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.is_not_found() && directory.is_dir() => return Ok(None),
            Err(error) if error.is_not_found() => return Err(no_such_container()),
            Err(error) => return Err(error.into()),
        };
        let damaged =
            |why: String| Error::Invalid(format!("{} is damaged: {why}; delete the container", path.display()));
        let record: Self = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if record.version != VERSION {
            return Err(damaged(format!("version {} is not {VERSION}", record.version)));
        }
        Ok(Some(record))
    }

    /// Notes the process.
    pub fn set_process(&mut self, pid: Pid) -> Result<()> {
        self.pid = pid.as_raw_nonzero().get();
        let process = process_of(self.pid);
        let gone = || SystemError::new("find", format!("process {} of the container", self.pid), Errno::SRCH);
        self.start_time = process.ok_or_else(gone)?.start_time;
        Ok(())
    }

    /// A handle on the first process while it runs; `None` when it has ended.
    pub fn process(&self) -> Option<OwnedFd> {
        let handle = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // Looked at after it was opened: the number cannot be given to another any more.
        self.is_alive().then_some(handle)
    }

    /// Whether the first process runs.
    pub fn is_alive(&self) -> bool {
        self.pid > 0 && process_of(self.pid).is_some_and(|now| !now.ended && now.start_time == self.start_time)
    }
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy)]
struct ProcessNow {
    ended: bool,
    start_time: u64,
}

fn process_of(pid: i32) -> Option<ProcessNow> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name in the second field may have any character: what follows its last bracket counts.
fn parse_stat(text: &str) -> Option<ProcessNow> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    // Field 22; the state was field 3.
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(ProcessNow { ended, start_time })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_beginning() {
        let mut record = Record::new("c", "1.3.0", Path::new("/b"), Path::new("/b/rootfs"));
        assert!(!record.is_alive());
        record.set_process(rustix::process::getpid()).unwrap();
        assert!(record.is_alive() && record.process().is_some());
        record.start_time += 1;
        assert!(!record.is_alive() && record.process().is_none(), "another process of the same number");
    }

    #[test]
    fn names_with_brackets_do_not_confuse() {
        let text = "7 (a) Z (b) R 1 7 7 0 -1 4 0 0 0 0 1 2 3 4 20 0 1 0 4711 0 0";
        let process = parse_stat(text).unwrap();
        assert_eq!((process.ended, process.start_time), (false, 4711));
        assert!(parse_stat("").is_none());
    }

    #[test]
    fn a_damaged_record_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Record::read(dir.path()).unwrap().is_none());
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(Record::read(dir.path()).unwrap_err().to_string().contains("delete the container"));
    }
}
