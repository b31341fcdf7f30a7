//! A profile: from Docker's JSON or OCI's `linux.seccomp`, checked once, into one form.

use std::collections::BTreeSet;

use serde::Deserialize;

use super::Error;
use super::syscalls::Arch;

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
        let json: JsonProfile = serde_json::from_slice(text).map_err(|e| Error::Json(e.to_string()))?;
        if json.listener_path.is_some_and(|p| !p.is_empty()) {
            return Err(Error::Invalid("listenerPath is not supported; remove it".to_owned()));
        }
        let default_action = action(&json.default_action, json.default_errno_ret)?;
        let mut flags = 0;
        for flag in json.flags {
            flags |= match flag.as_str() {
                "SECCOMP_FILTER_FLAG_TSYNC" => 1,
                "SECCOMP_FILTER_FLAG_LOG" => 2,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 4,
                _ => return Err(Error::Invalid(format!("unknown or unsupported flag {flag:?}"))),
            };
        }
        let mut architectures = vec![Arch::NATIVE];
        let mapped = json.arch_map.into_iter().filter(|m| m.architecture == "SCMP_ARCH_X86_64");
        for name in json.architectures.into_iter().chain(mapped.flat_map(|m| m.sub_architectures)) {
            if let Some(arch) = Arch::from_name(&name)?
                && !architectures.contains(&arch)
            {
                architectures.push(arch);
            }
        }
        let rules = json.syscalls.into_iter().map(JsonRule::check).collect::<Result<_, _>>()?;
        Ok(Self { default_action, architectures, flags, rules })
    }
}

fn parse_kernel(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn action(name: &str, value: Option<u64>) -> Result<Action, Error> {
    let value = || match value.unwrap_or(1) {
        errno @ 0..=4095 => Ok(u16::try_from(errno).unwrap_or(1)),
        errno => Err(Error::Invalid(format!("errnoRet {errno} is out of range (0-4095)"))),
    };
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_ERRNO" => Action::Errno(value()?),
        "SCMP_ACT_TRACE" => Action::Trace(value()?),
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_NOTIFY" => return Err(Error::Invalid("SCMP_ACT_NOTIFY is not supported; use another action".into())),
        _ => return Err(Error::Invalid(format!("unknown action {name:?}"))),
    })
}

/// Go writes absent lists as null.
fn nullable<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonProfile {
    default_action: String,
    default_errno_ret: Option<u64>,
    #[serde(default, deserialize_with = "nullable")]
    architectures: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    arch_map: Vec<JsonArchMap>,
    #[serde(default, deserialize_with = "nullable")]
    flags: Vec<String>,
    listener_path: Option<String>,
    #[serde(default, deserialize_with = "nullable")]
    syscalls: Vec<JsonRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArchMap {
    architecture: String,
    #[serde(default, deserialize_with = "nullable")]
    sub_architectures: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonRule {
    /// The form before lists.
    #[serde(default)]
    name: String,
    #[serde(default, deserialize_with = "nullable")]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u64>,
    #[serde(default, deserialize_with = "nullable")]
    args: Vec<JsonArgument>,
    #[serde(default, deserialize_with = "nullable")]
    includes: JsonCondition,
    #[serde(default, deserialize_with = "nullable")]
    excludes: JsonCondition,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonArgument {
    index: u64,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct JsonCondition {
    #[serde(default, deserialize_with = "nullable")]
    caps: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    arches: Vec<String>,
    min_kernel: Option<String>,
}

impl JsonRule {
    fn check(self) -> Result<Rule, Error> {
        let mut names = self.names;
        match (self.name.is_empty(), names.is_empty()) {
            (false, false) => return Err(Error::Invalid(format!("rule for {:?} has name and names", self.name))),
            (false, true) => names.push(self.name),
            (true, true) => return Err(Error::Invalid("a rule names no system call".to_owned())),
            (true, false) => {}
        }
        Ok(Rule {
            action: action(&self.action, self.errno_ret)?,
            arguments: self.args.into_iter().map(JsonArgument::check).collect::<Result<_, _>>()?,
            includes: self.includes.check()?,
            excludes: self.excludes.check()?,
            names,
        })
    }
}

impl JsonArgument {
    fn check(self) -> Result<Argument, Error> {
        let operator = match self.op.as_str() {
            "SCMP_CMP_NE" => Operator::NotEqual,
            "SCMP_CMP_LT" => Operator::Less,
            "SCMP_CMP_LE" => Operator::LessOrEqual,
            "SCMP_CMP_EQ" => Operator::Equal,
            "SCMP_CMP_GE" => Operator::GreaterOrEqual,
            "SCMP_CMP_GT" => Operator::Greater,
            "SCMP_CMP_MASKED_EQ" => Operator::MaskedEqual,
            _ => return Err(Error::Invalid(format!("unknown operator {:?}", self.op))),
        };
        match u8::try_from(self.index) {
            Ok(index @ 0..=5) => Ok(Argument { index, operator, value: self.value, second: self.value_two }),
            _ => Err(Error::Invalid(format!("argument index {} is out of range (0-5)", self.index))),
        }
    }
}

impl JsonCondition {
    fn check(self) -> Result<Condition, Error> {
        let parse = |text: &String| {
            parse_kernel(text).ok_or_else(|| Error::Invalid(format!("minKernel {text:?} is not MAJOR.MINOR")))
        };
        let kernel = self.min_kernel.as_ref().filter(|k| !k.is_empty()).map(parse).transpose()?;
        Ok(Condition { capabilities: self.caps, architectures: self.arches, kernel })
    }
}
