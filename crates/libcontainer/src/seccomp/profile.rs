//! A checked profile, and what it is compiled for.

use std::collections::BTreeSet;

use super::Error;
use super::syscalls::Arch;
use crate::config::SeccompListener;
use crate::oci;

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are seccomp(2)'s")]
pub enum Action {
    Allow,
    /// Allow, and log.
    Log,
    /// Fail with this errno.
    Errno(u16),
    /// Tell the tracer this value.
    Trace(u16),
    Trap,
    KillThread,
    KillProcess,
    /// Ask the process that has the listener.
    Notify,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "plain words")]
pub enum Operator {
    NotEqual,
    Less,
    LessOrEqual,
    Equal,
    GreaterOrEqual,
    Greater,
    /// `argument & value == second`.
    MaskedEqual,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Argument {
    /// 0–5.
    pub index: u8,
    /// Compared as unsigned 64 bits.
    pub operator: Operator,
    /// What it is compared with; the mask of [`Operator::MaskedEqual`].
    pub value: u64,
    /// The value of [`Operator::MaskedEqual`].
    pub second: u64,
}

/// When a rule is part of the program.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Condition {
    /// Capability names.
    pub capabilities: Vec<String>,
    /// Docker's architecture names; the machine's own one counts.
    pub architectures: Vec<String>,
    /// At least this kernel.
    pub kernel: Option<(u32, u32)>,
}

/// An action for some calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Calls by name; those that an architecture lacks are skipped there.
    pub names: Vec<String>,
    /// What happens to them.
    pub action: Action,
    /// All must hold; but where one index occurs twice each condition alone is enough, as runc has it.
    pub arguments: Vec<Argument>,
    /// Needs all of its capabilities, one of its architectures, its kernel.
    pub includes: Condition,
    /// Dropped when any of it is there.
    pub excludes: Condition,
}

/// A checked profile.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Profile {
    /// For calls that no rule matches.
    pub default_action: Action,
    /// ABIs that may be used; any other kills the process.
    pub architectures: Vec<Arch>,
    /// `SECCOMP_FILTER_FLAG_*` for the installation.
    pub flags: u32,
    /// Who answers [`Action::Notify`]; there is one exactly when a rule has it.
    pub listener: Option<SeccompListener>,
    /// Per call, rules with arguments come first in this order, then the first one without.
    pub rules: Vec<Rule>,
}

/// What a program is compiled for; with the profile it is the key of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    capabilities: BTreeSet<String>,
    kernel: (u32, u32),
}

impl Target {
    /// Keeps of `capabilities` (the bounding set, `CAP_…`) only those that the profile asks about.
    #[must_use]
    pub fn new(profile: &Profile, capabilities: &[String], kernel: (u32, u32)) -> Self {
        let conditions = profile.rules.iter().flat_map(|r| [&r.includes, &r.excludes]);
        let asked: BTreeSet<&String> = conditions.flat_map(|c| &c.capabilities).collect();
        let capabilities = capabilities.iter().filter(|c| asked.contains(c)).cloned().collect();
        Self { capabilities, kernel }
    }

    /// For the running kernel.
    #[must_use]
    pub fn host(profile: &Profile, capabilities: &[String]) -> Self {
        let release = rustix::system::uname();
        let kernel = parse_kernel(&release.release().to_string_lossy()).unwrap_or((0, 0));
        Self::new(profile, capabilities, kernel)
    }

    pub(super) fn takes(&self, rule: &Rule) -> bool {
        let has = |c: &String| self.capabilities.contains(c);
        let native = |c: &Condition| c.architectures.iter().any(|a| a == Arch::NATIVE.docker_name());
        let new_enough = |c: &Condition| c.kernel.is_some_and(|k| self.kernel >= k);
        let (needs, not) = (&rule.includes, &rule.excludes);
        let excluded = not.capabilities.iter().any(has) || native(not) || new_enough(not);
        let included = needs.capabilities.iter().all(has)
            && (needs.architectures.is_empty() || native(needs))
            && (needs.kernel.is_none() || new_enough(needs));
        included && !excluded
    }
}

impl Profile {
    /// The longest text that is read.
    pub const MAX_SIZE: usize = 1 << 20;

    /// Reads either form of JSON.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        if text.len() > Self::MAX_SIZE {
            return Err(Error::TooLarge);
        }
        let json: oci::Seccomp = serde_json::from_slice(text).map_err(|e| Error::Json(e.to_string()))?;
        json.profile()
    }
}

/// Major and minor number at the beginning of a release.
pub(crate) fn parse_kernel(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}
