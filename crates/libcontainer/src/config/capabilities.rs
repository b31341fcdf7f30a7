//! Capabilities by their names, as the sets that a process holds.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Every capability that this library knows, in the kernel's order.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The names of all capabilities, `CAP_CHOWN` and so on, in the kernel's order.
pub fn capability_names() -> impl Iterator<Item = String> {
    NAMES.iter().map(|name| format!("CAP_{name}"))
}

/// A set of capabilities; bit n is the capability of number n.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapSet(u64);

impl CapSet {
    /// No capability.
    pub const NONE: Self = Self(0);
    /// Every capability that this library knows.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// From names such as `CAP_CHOWN` or `chown`; an unknown one is an error.
    pub fn parse<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self> {
        match Self::parse_known(names) {
            (set, unknown) if unknown.is_empty() => Ok(set),
            (_, unknown) => Err(Error::Invalid(format!("{}: no such capability", unknown.join(", ")))),
        }
    }

    /// As [`CapSet::parse`], but unknown names are left out and returned: OCI's rule.
    pub fn parse_known<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> (Self, Vec<String>) {
        let (mut set, mut unknown) = (0, Vec::new());
        for name in names {
            let name = name.as_ref();
            let upper = name.to_ascii_uppercase();
            let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
            match NAMES.iter().position(|known| *known == plain) {
                Some(number) => set |= 1 << number,
                None => unknown.push(name.to_owned()),
            }
        }
        (Self(set), unknown)
    }

    /// The kernel's bits.
    #[must_use]
    pub fn bits(self) -> u64 {
        self.0
    }

    /// Those that are in both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those of this one that the other lacks.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those of either.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Their names.
    pub fn names(self) -> impl Iterator<Item = String> {
        capability_names().enumerate().filter(move |(number, _)| self.0 >> number & 1 == 1).map(|(_, name)| name)
    }
}

/// The five sets of a process (`capabilities(7)`). What the caller itself lacks is left out of all of them: a process
/// gets at most what its maker has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// What can ever be gained by executing a file.
    pub bounding: CapSet,
    /// What it may do now; at most `permitted`.
    pub effective: CapSet,
    /// What it may make effective.
    pub permitted: CapSet,
    /// What files with an inheritable set may give.
    pub inheritable: CapSet,
    /// What programs keep that are executed by a user who is not root; at most `permitted` and `inheritable`.
    pub ambient: CapSet,
}

impl Capabilities {
    /// Docker's rule for a list of capabilities: bounding, permitted and effective; never inheritable (CVE-2022-24769)
    /// and never ambient, so that a user who is not root has none.
    pub fn plain<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> Result<Self> {
        Ok(Self::of(CapSet::parse(names)?))
    }

    /// As [`Capabilities::plain`] of a set.
    #[must_use]
    pub fn of(set: CapSet) -> Self {
        Self { bounding: set, effective: set, permitted: set, ..Self::default() }
    }

    /// Refuses what the kernel would.
    pub fn check(&self) -> Result<()> {
        let names = |set: CapSet| set.names().collect::<Vec<_>>().join(", ");
        let beyond = self.effective.without(self.permitted);
        if !beyond.is_empty() {
            let names = names(beyond);
            return Err(Error::Invalid(format!("effective capabilities {names}: not among the permitted ones")));
        }
        Ok(())
    }

    /// At most what `held` has.
    #[must_use]
    pub fn limited_to(&self, held: CapSet) -> Self {
        let Self { bounding, effective, permitted, inheritable, ambient } = *self;
        Self {
            bounding: bounding.and(held),
            effective: effective.and(held),
            permitted: permitted.and(held),
            inheritable: inheritable.and(held),
            ambient: ambient.and(held),
        }
    }
}

impl From<u64> for CapSet {
    fn from(bits: u64) -> Self {
        Self(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_names_are_the_kernels_numbers() {
        let set = CapSet::parse(["CAP_CHOWN", "sys_admin", "CAP_CHECKPOINT_RESTORE"]).unwrap();
        assert_eq!(set.bits(), 1 | 1 << 21 | 1 << 40);
        assert_eq!(set.names().collect::<Vec<_>>(), ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE"]);
        assert_eq!(CapSet::parse(capability_names()).unwrap(), CapSet::ALL);
    }

    #[test]
    fn unknown_capabilities_are_errors_or_left_out_and_told() {
        assert!(matches!(CapSet::parse(["CAP_FLY"]), Err(Error::Invalid(_))));
        let (set, unknown) = CapSet::parse_known(["CAP_FLY", "CAP_KILL"]);
        assert_eq!((set.bits(), unknown), (1 << 5, vec!["CAP_FLY".to_owned()]));
    }

    #[test]
    fn effective_beyond_permitted_is_refused() {
        let sets = Capabilities { effective: CapSet::from(3), permitted: CapSet::from(1), ..Capabilities::default() };
        assert!(sets.check().unwrap_err().to_string().contains("CAP_DAC_OVERRIDE"));
        assert!(Capabilities::of(CapSet::ALL).check().is_ok());
    }
}
