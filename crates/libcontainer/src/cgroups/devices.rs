//! Who may use which device: the default policy, and policies put to work.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::path::Path;

use gantry_linux::{Error, Result, ResultExt, bpf, fs};

use super::device_policy::{self, Exception, MAKE, READ, Table, WRITE};
use super::files::{invalid, unsupported};
use super::hierarchies::Version;
use super::leaf::Leaf;
use super::tree::is_refusal;
use crate::config::{DeviceKind, DeviceRule};
use crate::protection::intact;

/// By this name our program is told from others' on the same cgroup.
const PROGRAM: &str = "gantry_devices";
/// A longer policy is refused.
const MOST_RULES: usize = 4096;

/// The policy of an ordinary container: no device but the harmless ones; nodes of any device may be made.
#[must_use]
pub fn default_device_rules() -> Vec<DeviceRule> {
    use DeviceKind::{All, Block, Char};
    let rule =
        |allow, kind, major, minor, access: &str| DeviceRule { allow, kind, major, minor, access: access.to_owned() };
    let mut rules = vec![
        rule(false, All, None, None, "rwm"),
        rule(true, Char, None, None, "m"),
        rule(true, Block, None, None, "m"),
    ];
    // null, zero, full, random, urandom; tty, console, ptmx; fuse is not among them.
    for (major, minor) in [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)] {
        rules.push(rule(true, Char, Some(major), Some(minor), "rwm"));
    }
    // The terminals of any devpts instance.
    rules.push(rule(true, Char, Some(136), None, "rwm"));
    rules
}

/// The policy of a privileged container.
#[must_use]
pub fn all_devices() -> Vec<DeviceRule> {
    vec![DeviceRule { allow: true, kind: DeviceKind::All, major: None, minor: None, access: "rwm".to_owned() }]
}

impl Leaf {
    /// Puts this policy in the place of the one that is in force; an empty list leaves everything as it is. The meaning
    /// is the same on v1 and v2: of each letter of an access the last rule that names it for the device decides, and
    /// what no rule names is allowed.
    ///
    /// [`super::Resources`]' rules go this way too; a leaf made in advance gets its policy here beforehand. The warnings
    /// say what was left undone for want of permission, in a leaf that was made where permitted only.
    pub fn apply_devices(&self, rules: &[DeviceRule]) -> Result<Vec<String>> {
        if rules.is_empty() || !intact("device-rules") {
            return Ok(Vec::new());
        }
        if rules.len() > MOST_RULES {
            return Err(invalid("restrict devices of", self.path(), format!("more than {MOST_RULES} rules")));
        }
        if self.lenient && self.missing_devices() {
            return Ok(vec![left_open(self.path(), "there is no cgroup for it")]);
        }
        let applied = match self.hierarchies.version() {
            Version::V1 => self.write_table(rules),
            Version::V2 => self.attach_program(rules).map(|()| Vec::new()),
        };
        match applied {
            Err(error) if self.lenient && is_refusal(error.errno()) => {
                Ok(vec![left_open(self.path(), &error.source.to_string())])
            }
            other => other,
        }
    }

    fn missing_devices(&self) -> bool {
        match self.hierarchies.version() {
            Version::V1 => !self.has("devices"),
            Version::V2 => self.hierarchies.all().is_empty(),
        }
    }

    /// Programs of others on this cgroup stay. At no moment is the cgroup without a program that it had.
    fn attach_program(&self, rules: &[DeviceRule]) -> Result<()> {
        let directory = fs::open(self.file("cgroup", "")?)?;
        let name = |mut error: Error| {
            error.subject = format!("{} {}", error.subject, self.path());
            error
        };
        let program = bpf::load_device_program(&device_policy::program(rules), PROGRAM).map_err(name)?;
        let attached = bpf::device_programs(&directory).map_err(name)?;
        let ours = attached.into_iter().filter_map(|id| bpf::program_named(id, PROGRAM).transpose());
        let ours = ours.collect::<Result<Vec<_>>>()?;
        let mut old = ours.iter();
        bpf::attach_device_program(&directory, &program, old.next().map(AsFd::as_fd)).map_err(name)?;
        for further in old {
            bpf::detach_device_program(&directory, further).map_err(name)?;
        }
        Ok(())
    }

    fn write_table(&self, rules: &[DeviceRule]) -> Result<Vec<String>> {
        let Some(Table { allow, exceptions }) = device_policy::table(rules) else {
            let why = "the v1 controller has no denials within allowed ranges (or the reverse); name single devices";
            return Err(unsupported("restrict devices of", self.path(), why));
        };
        let open = |name| {
            let path = self.file("devices", name)?;
            let file = fs::open_with(&path, OpenOptions::new().write(true))?;
            Ok((path, file))
        };
        let (base, other) = if allow { ("devices.allow", "devices.deny") } else { ("devices.deny", "devices.allow") };
        let (path, mut file) = open(base)?;
        match write_line(&mut file, &path, "a") {
            Ok(()) => {}
            Err(error) if allow && exceptions.is_empty() && error.errno() == libc::EPERM => {
                return Ok(vec![format!("{}: all devices that its parent may use, which is not all", self.path())]);
            }
            Err(error) => return Err(explain(error)),
        }
        if exceptions.is_empty() {
            return Ok(Vec::new());
        }
        let (path, mut file) = open(other)?;
        let mut line = String::with_capacity(32);
        for exception in &exceptions {
            format_exception(&mut line, exception);
            write_line(&mut file, &path, &line).map_err(explain)?;
        }
        Ok(Vec::new())
    }
}

fn left_open(path: &str, why: &str) -> String {
    format!("devices of {path} are restricted by the permissions of their nodes only: {why}")
}

fn format_exception(line: &mut String, exception: &Exception) {
    line.clear();
    line.push(if exception.kind == DeviceKind::Block { 'b' } else { 'c' });
    for (separator, number) in [(' ', exception.major), (':', exception.minor)] {
        line.push(separator);
        match number {
            // Writing to a String cannot fail.
            Some(number) => drop(write!(line, "{number}")),
            None => line.push('*'),
        }
    }
    line.push(' ');
    for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MAKE, 'm')] {
        if exception.access & bit != 0 {
            line.push(letter);
        }
    }
}

fn write_line(file: &mut std::fs::File, path: &Path, line: &str) -> Result<()> {
    file.write_all(line.as_bytes()).during("write", format_args!("{line:?} to {}", path.display()))
}

fn explain(mut error: Error) -> Error {
    match error.errno() {
        libc::EPERM => error.subject.push_str(" (the parent cgroup may not use that device itself)"),
        libc::EINVAL => {
            error.subject.push_str(" (the container has made cgroups below its own; their policies hold on)")
        }
        _ => {}
    }
    error
}
