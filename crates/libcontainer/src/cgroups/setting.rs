//! One value for one file: written, and undone when a later one is refused.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use gantry_linux::{Error, Result, ResultExt};

use super::files::{put, read, read_optional};

/// What to do when the kernel does not have the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// The limit cannot be had: an error.
    Refuse,
    /// It would change nothing.
    Ignore,
    /// The limit may be left out, but is missed.
    Warn(&'static str),
    /// Other kernels have it by this name, for this value.
    Instead(&'static str, String),
}

/// One file to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub controller: &'static str,
    pub file: Cow<'static, str>,
    /// Lines are written one by one.
    pub value: String,
    /// The kernel refuses it while another limit has its old value (`EINVAL`): then it is tried once more at the end.
    pub again: bool,
    pub missing: Missing,
    /// Of a file with a line for each device: what takes a line back that was not there.
    pub clear: Option<String>,
}

pub(super) fn setting(controller: &'static str, file: impl Into<Cow<'static, str>>, value: impl ToString) -> Setting {
    let (file, value) = (file.into(), value.to_string());
    Setting { controller, file, value, again: false, missing: Missing::Refuse, clear: None }
}

impl Setting {
    pub fn again(self) -> Self {
        Self { again: true, ..self }
    }

    pub fn missing(self, missing: Missing) -> Self {
        Self { missing, ..self }
    }

    pub fn clear(self, line: impl Into<String>) -> Self {
        Self { clear: Some(line.into()), ..self }
    }
}

/// What a written setting leaves to be done.
#[derive(Debug, Default)]
pub(super) struct Written {
    pub warning: Option<String>,
    /// Writing these takes it back, when it was asked to remember.
    pub undo: Option<(PathBuf, Vec<String>)>,
}

/// Writes it; `remember` reads first what is there.
pub(super) fn write(path: &Path, setting: &Setting, remember: bool) -> Result<Written> {
    let undo = if remember { read_optional(path)?.map(|old| undo(&old, setting)) } else { None };
    let written = setting.value.lines().try_for_each(|line| put(path, line));
    let error = match written {
        Ok(()) => return Ok(Written { warning: None, undo: undo.map(|lines| (path.to_owned(), lines)) }),
        Err(error) => error,
    };
    if error.kind() == std::io::ErrorKind::NotFound {
        let subject = || format!("{} of {}", setting.file, parent(path).display());
        match &setting.missing {
            Missing::Ignore => return Ok(Written::default()),
            Missing::Warn(why) => return Ok(Written { warning: Some(format!("{}: {why}", subject())), undo: None }),
            Missing::Instead(file, value) => {
                let other = Setting { value: value.clone(), ..self::setting(setting.controller, *file, "") };
                return write(&path.with_file_name(file), &other, remember);
            }
            Missing::Refuse => {}
        }
    }
    // The kernels since 5.16 have the file of a limit that they do not have.
    if let (Missing::Warn(why), Some(524 | libc::EOPNOTSUPP)) = (&setting.missing, error.raw_os_error()) {
        return Ok(Written {
            warning: Some(format!("{} of {}: {why}", setting.file, parent(path).display())),
            undo: None,
        });
    }
    Err(error).during("set", subject(path, setting)).map_err(|error| explain(error, setting))
}

/// Takes writes back, the last one first; what fails is added to the error that was the reason.
pub(super) fn take_back(done: Vec<(PathBuf, Vec<String>)>, error: &mut Error) {
    for (path, lines) in done.into_iter().rev() {
        if let Err(second) = lines.iter().try_for_each(|line| put(&path, line)) {
            error.subject = format!("{} (and restoring {}: {second})", error.subject, path.display());
        }
    }
}

/// The lines that bring back `old` as it was read.
fn undo(old: &str, setting: &Setting) -> Vec<String> {
    let old = old.trim();
    if let Some(clear) = &setting.clear {
        let key = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let same = old.lines().find(|line| key(line) == key(clear));
        return vec![same.unwrap_or(clear).to_owned()];
    }
    // memory.oom_control reads as several lines.
    if let Some(rest) = old.strip_prefix("oom_kill_disable ") {
        return vec![rest.lines().next().unwrap_or("0").to_owned()];
    }
    old.lines().map(str::to_owned).collect()
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn subject(path: &Path, setting: &Setting) -> String {
    format!("{} of {} to {}", setting.file, parent(path).display(), setting.value)
}

fn explain(mut error: Error, setting: &Setting) -> Error {
    let hint = match (error.errno(), setting.file.as_ref()) {
        (libc::EBUSY, file) if file.starts_with("memory.") => "the container uses more than that; give it more",
        (libc::EINVAL, "memory.limit_in_bytes") => "above its memory+swap limit; raise that at the same time",
        (libc::EINVAL, "memory.memsw.limit_in_bytes") => "below its memory limit; lower that at the same time",
        (libc::ENOENT, file) if file.starts_with("memory.memsw") || file == "memory.swap.max" => {
            "this kernel does not account swap; boot with swapaccount=1"
        }
        (libc::EINVAL, file) if file.starts_with("cpu.rt_") => {
            "the parent cgroup has no realtime time left to give; set its cpu.rt_runtime_us first"
        }
        (libc::ENODEV, file) if file.starts_with("io.") || file.starts_with("blkio.") => {
            "there is no such block device; name whole disks, not partitions"
        }
        (libc::ENOENT, _) => "this kernel does not have that limit, or a cgroup above does not pass it on",
        _ => return error,
    };
    error.subject = format!("{} ({hint})", error.subject);
    error
}

/// Refuses when more is in use than a limit allows.
pub(super) fn check_usage(usage: &Path, limit: u64) -> Result<()> {
    let used = super::files::number(&read(usage)?);
    if used <= limit {
        return Ok(());
    }
    let why = std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("{used} bytes are in use"));
    Err(Error::new("set memory limit", format!("{limit} of {}", parent(usage).display()), why))
}
