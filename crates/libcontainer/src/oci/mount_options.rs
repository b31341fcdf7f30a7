//! The options of a mount, as mount(8) and other runtimes have them: the last of those that contradict each other wins.

use crate::config::{MountFlags, Propagation};

/// What a list of options asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Attributes to set on the mount.
    pub flags: MountFlags,
    /// Attributes to clear on the mount.
    pub cleared: MountFlags,
    /// Attributes to set on it and all below.
    pub recursive: MountFlags,
    /// Attributes to clear on it and all below.
    pub recursive_cleared: MountFlags,
    /// In their order.
    pub propagation: Vec<Propagation>,
    /// `bind` or `rbind`.
    pub bind: bool,
    /// `rbind`.
    pub recursive_bind: bool,
    /// `remount`.
    pub remount: bool,
    /// `tmpcopyup`.
    pub copy_up: bool,
    /// `idmap` is false, `ridmap` true.
    pub id_map: Option<bool>,
    /// The file system's own, and flags of its superblock, as `fsconfig` takes them.
    pub data: Vec<(String, Option<String>)>,
    /// Known, and nothing that the kernel could be told.
    pub without_effect: Vec<String>,
}

type Field = fn(&mut MountFlags) -> &mut bool;

/// Name, attribute, whether it sets or clears. With `r` before it, it is for the mounts below too.
const ATTRIBUTES: [(&str, Field, bool); 18] = [
    ("ro", |flags| &mut flags.read_only, true),
    ("rw", |flags| &mut flags.read_only, false),
    ("nosuid", |flags| &mut flags.nosuid, true),
    ("suid", |flags| &mut flags.nosuid, false),
    ("nodev", |flags| &mut flags.nodev, true),
    ("dev", |flags| &mut flags.nodev, false),
    ("noexec", |flags| &mut flags.noexec, true),
    ("exec", |flags| &mut flags.noexec, false),
    ("nodiratime", |flags| &mut flags.nodiratime, true),
    ("diratime", |flags| &mut flags.nodiratime, false),
    ("nosymfollow", |flags| &mut flags.nosymfollow, true),
    ("symfollow", |flags| &mut flags.nosymfollow, false),
    ("noatime", |flags| &mut flags.noatime, true),
    ("atime", |flags| &mut flags.noatime, false),
    ("relatime", |flags| &mut flags.relatime, true),
    ("norelatime", |flags| &mut flags.relatime, false),
    ("strictatime", |flags| &mut flags.strictatime, true),
    ("nostrictatime", |flags| &mut flags.strictatime, false),
];

const PROPAGATIONS: [(&str, Propagation); 8] = [
    ("private", Propagation::Private),
    ("rprivate", Propagation::RPrivate),
    ("slave", Propagation::Slave),
    ("rslave", Propagation::RSlave),
    ("shared", Propagation::Shared),
    ("rshared", Propagation::RShared),
    ("unbindable", Propagation::Unbindable),
    ("runbindable", Propagation::RUnbindable),
];

/// Flags of the superblock, and what each takes back.
const SUPERBLOCK: [(&str, &str); 7] = [
    ("sync", "async"),
    ("async", "sync"),
    ("dirsync", ""),
    ("mand", "nomand"),
    ("nomand", "mand"),
    ("lazytime", "nolazytime"),
    ("nolazytime", "lazytime"),
];

/// Words with a meaning of their own.
const OTHERS: [&str; 9] =
    ["bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap", "iversion", "noiversion", "silent"];

/// Words of mount(8) that are for itself, or the default.
const FOR_MOUNT: [&str; 8] = ["defaults", "loud", "auto", "noauto", "user", "nouser", "_netdev", "nofail"];

/// Every option that is not left to the file system, sorted.
pub fn known() -> Vec<String> {
    let attributes = ATTRIBUTES.iter().map(|(name, ..)| *name);
    let others = PROPAGATIONS.iter().map(|(name, _)| *name).chain(SUPERBLOCK.iter().map(|(name, _)| *name));
    let all = attributes.clone().chain(others).chain(OTHERS).chain(FOR_MOUNT).map(str::to_owned);
    let mut names: Vec<String> = all.chain(attributes.map(|name| format!("r{name}"))).collect();
    names.sort_unstable();
    names
}

impl Options {
    /// Reads them; what is not known is the file system's.
    pub fn parse(given: &[String]) -> Self {
        let mut options = Self::default();
        for option in given {
            options.take(option);
        }
        options
    }

    fn take(&mut self, option: &str) {
        if let Some((field, set)) = attribute(option) {
            return change(&mut self.flags, &mut self.cleared, field, set);
        }
        if let Some((field, set)) = option.strip_prefix('r').and_then(attribute) {
            return change(&mut self.recursive, &mut self.recursive_cleared, field, set);
        }
        if let Some((_, propagation)) = PROPAGATIONS.iter().find(|(name, _)| *name == option) {
            return self.propagation.push(*propagation);
        }
        if let Some((name, opposite)) = SUPERBLOCK.iter().find(|(name, _)| *name == option) {
            self.data.retain(|(given, _)| given != name && given != opposite);
            // The default, which not every file system knows by name.
            if !matches!(*name, "async" | "nomand" | "nolazytime") || self.remount {
                self.data.push(((*name).to_owned(), None));
            }
            return;
        }
        match option {
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive_bind) = (true, true),
            "remount" => self.remount = true,
            "tmpcopyup" => self.copy_up = true,
            "idmap" => self.id_map = Some(false),
            "ridmap" => self.id_map = Some(true),
            "" => {}
            "iversion" | "noiversion" | "silent" => self.without_effect.push(option.to_owned()),
            _ if FOR_MOUNT.contains(&option) => {}
            _ => self.data.push(match option.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
    }
}

fn attribute(option: &str) -> Option<(Field, bool)> {
    ATTRIBUTES.iter().find(|(name, ..)| *name == option).map(|(_, field, set)| (*field, *set))
}

fn change(set: &mut MountFlags, cleared: &mut MountFlags, field: Field, on: bool) {
    // One of the three policies of access times replaces the others.
    let mut probe = MountFlags::NONE;
    *field(&mut probe) = true;
    if on && (probe.noatime || probe.relatime || probe.strictatime) {
        (set.noatime, set.relatime, set.strictatime) = (false, false, false);
    }
    *field(set) = on;
    *field(cleared) = !on;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Options {
        Options::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn every_attribute_is_set_and_cleared_alone_and_recursively() {
        for (name, field, on) in ATTRIBUTES {
            let (mut alone, mut below) = (parse(name), parse(&format!("r{name}")));
            assert_eq!((*field(&mut alone.flags), *field(&mut alone.cleared)), (on, !on), "{name}");
            assert_eq!((*field(&mut below.recursive), *field(&mut below.recursive_cleared)), (on, !on), "r{name}");
            assert_eq!((alone.recursive, below.flags), (MountFlags::NONE, MountFlags::NONE), "{name}");
            assert!(alone.data.is_empty() && below.data.is_empty(), "{name}");
        }
    }

    #[test]
    fn every_other_word_has_its_meaning() {
        for (name, propagation) in PROPAGATIONS {
            assert_eq!(parse(name).propagation, [propagation], "{name}");
        }
        for name in ["sync", "dirsync", "mand", "lazytime"] {
            assert_eq!(parse(name).data, [(name.to_owned(), None)], "{name}");
        }
        for name in FOR_MOUNT.into_iter().chain(["async", "nomand", "nolazytime", ""]) {
            assert_eq!(parse(name), Options::default(), "{name}");
        }
        for name in ["iversion", "noiversion", "silent"] {
            assert_eq!(parse(name).without_effect, [name], "{name}");
        }
        assert!(parse("bind").bind && !parse("bind").recursive_bind && parse("rbind").recursive_bind);
        assert!(parse("remount").remount && parse("tmpcopyup").copy_up);
        assert_eq!((parse("idmap").id_map, parse("ridmap").id_map), (Some(false), Some(true)));
        let own = [("size".to_owned(), Some("1m".to_owned())), ("newinstance".to_owned(), None)];
        assert_eq!(parse("size=1m,newinstance").data, own);
    }

    #[test]
    fn an_option_that_is_said_to_be_known_is_not_given_to_the_file_system_as_a_word_of_its_own() {
        let own: Vec<&str> = SUPERBLOCK.iter().map(|(name, _)| *name).collect();
        for name in known().iter().filter(|name| !own.contains(&name.as_str())) {
            assert!(parse(name).data.is_empty(), "{name}");
        }
    }

    #[test]
    fn the_last_of_contradicting_options_wins() {
        assert!(!parse("ro,rw").flags.read_only && parse("ro,rw").cleared.read_only);
        assert!(parse("rw,ro").flags.read_only && !parse("rw,ro").cleared.read_only);
        let times = parse("noatime,strictatime").flags;
        assert!(times.strictatime && !times.noatime);
        assert!(parse("sync,async").data.is_empty());
    }

    proptest! {
        #[test]
        fn no_text_makes_it_crash(options: Vec<String>, known in "(r?(no)?(suid|dev|exec|atime)|r?bind|[a-z]*=.*)") {
            let mut options = options;
            options.push(known);
            let parsed = Options::parse(&options);
            prop_assert!(parsed.data.len() <= options.len());
        }
    }
}
