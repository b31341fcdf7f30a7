//! Who may use which device: the default policy and its way into the v1 controller.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use gantry_linux::{Result, ResultExt, fs};

use super::hierarchies::Version;
use super::leaf::{Leaf, unsupported};
use crate::config::{DeviceKind, DeviceRule};

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
    /// Applies the rules in order on top of what is in force; none leaves everything as it is.
    ///
    /// [`super::Resources`]' rules go this way too; a leaf made in advance gets its policy here beforehand.
    pub fn apply_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        if rules.is_empty() {
            return Ok(());
        }
        if self.hierarchies.version() == Version::V2 {
            let why = "needs a BPF program, which is not built yet";
            return Err(unsupported("restrict devices on cgroup v2 of", self.path(), why));
        }
        let open = |name| {
            let path = self.file("devices", name)?;
            let file = fs::open_with(&path, OpenOptions::new().write(true))?;
            Ok((path, file))
        };
        let (mut allow, mut deny) = (open("devices.allow")?, open("devices.deny")?);
        let mut line = String::with_capacity(32);
        for rule in rules {
            let (path, file) = if rule.allow { &mut allow } else { &mut deny };
            let kinds: &[char] = match (rule.kind, rule.major, rule.minor) {
                (DeviceKind::Fifo, ..) => &[],
                (DeviceKind::Char, ..) => &['c'],
                (DeviceKind::Block, ..) => &['b'],
                (DeviceKind::All, None, None) if rule.access.len() == 3 => &['a'],
                // The kernel ignores everything behind an `a`.
                (DeviceKind::All, ..) => &['c', 'b'],
            };
            for kind in kinds {
                format_rule(&mut line, *kind, rule);
                write_line(file, path, &line)?;
            }
        }
        Ok(())
    }
}

fn format_rule(line: &mut String, kind: char, rule: &DeviceRule) {
    line.clear();
    line.push(kind);
    for (separator, number) in [(' ', rule.major), (':', rule.minor)] {
        line.push(separator);
        match number {
            // Writing to a String cannot fail.
            Some(number) => drop(write!(line, "{number}")),
            None => line.push('*'),
        }
    }
    line.push(' ');
    line.push_str(&rule.access);
}

fn write_line(file: &mut std::fs::File, path: &Path, line: &str) -> Result<()> {
    file.write_all(line.as_bytes()).during("write", format_args!("{line:?} to {}", path.display()))
}
