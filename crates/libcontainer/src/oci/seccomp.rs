//! The seccomp profile of a configuration: OCI's `linux.seccomp` and Docker's profile files, which say the same and more.

use serde::{Deserialize, Serialize};

use super::nullable;
use crate::config::{self, SeccompListener};
use crate::error::Error;
use crate::seccomp::{self, Action, Arch, Condition, Operator, Profile, Rule, Target, flags};

/// The `linux.seccomp` object; with [`Seccomp::arch_map`] and conditions in its rules it is a profile file of Docker's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Seccomp {
    #[serde(deserialize_with = "nullable")]
    pub default_action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub architectures: Vec<String>,
    /// Docker's: the architectures to add, by the machine's own one.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub arch_map: Vec<ArchMap>,
    /// `None` is `SECCOMP_FILTER_FLAG_SPEC_ALLOW`, as other runtimes have it: kernels before 5.16 slow programs under seccomp
    /// down otherwise, against what later ones found not worth it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flags: Option<Vec<String>>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub listener_path: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub listener_metadata: String,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub syscalls: Vec<SyscallRule>,
}

/// The architectures that go with one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "as Docker names them")]
pub struct ArchMap {
    #[serde(deserialize_with = "nullable")]
    pub architecture: String,
    #[serde(deserialize_with = "nullable")]
    pub sub_architectures: Vec<String>,
}

/// What becomes of some system calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct SyscallRule {
    /// Docker's form before lists.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub names: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub action: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno_ret: Option<u32>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Argument>,
    /// Docker's: when the rule counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub includes: Option<RuleCondition>,
    /// Docker's: when it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excludes: Option<RuleCondition>,
}

/// A condition on one argument.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "the names and meanings are the specification's")]
pub struct Argument {
    #[serde(deserialize_with = "nullable")]
    pub index: u32,
    #[serde(deserialize_with = "nullable")]
    pub value: u64,
    #[serde(deserialize_with = "nullable")]
    pub value_two: u64,
    #[serde(deserialize_with = "nullable")]
    pub op: String,
}

/// A condition of Docker's on the machine and the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[allow(missing_docs, reason = "as Docker names them")]
pub struct RuleCondition {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub caps: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub arches: Vec<String>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub min_kernel: String,
}

/// Checks and compiles what a process is to run under, for this machine. `capabilities` is its bounding set.
///
/// # Errors
/// [`Error::Invalid`] with the word that is wrong.
pub fn convert_seccomp(given: &Seccomp, capabilities: &[String]) -> Result<config::Seccomp, Error> {
    let invalid = |error: seccomp::Error| Error::Invalid(format!("linux.{error}"));
    let profile = given.profile().map_err(invalid)?;
    let program = seccomp::compile(&profile, &Target::host(&profile, capabilities)).map_err(invalid)?;
    Ok(config::Seccomp { program: program.into(), flags: profile.flags, listener: profile.listener })
}

impl Seccomp {
    /// The same, checked.
    ///
    /// # Errors
    /// A word that nobody knows, a number out of range, a listener without need or need without a listener.
    pub fn profile(&self) -> Result<Profile, seccomp::Error> {
        if !self.architectures.is_empty() && !self.arch_map.is_empty() {
            return invalid("both architectures and archMap are given; keep one of them".into());
        }
        let default_action = action(&self.default_action, self.default_errno_ret)?;
        let mut architectures = vec![Arch::NATIVE];
        let mapped = self.arch_map.iter().filter(|map| Arch::from_name(&map.architecture) == Ok(Some(Arch::NATIVE)));
        for name in self.architectures.iter().chain(mapped.flat_map(|map| &map.sub_architectures)) {
            if let Some(arch) = Arch::from_name(name)?
                && !architectures.contains(&arch)
            {
                architectures.push(arch);
            }
        }
        let rules = self.syscalls.iter().map(SyscallRule::rule).collect::<Result<Vec<_>, _>>()?;
        let listener = self.listener(default_action, &rules)?;
        let flags = match &self.flags {
            None => flags::SPEC_ALLOW,
            Some(names) => names.iter().try_fold(0, |all, name| Ok(all | flag(name)?))?,
        };
        Ok(Profile { default_action, architectures, flags, listener, rules })
    }

    fn listener(&self, default_action: Action, rules: &[Rule]) -> Result<Option<SeccompListener>, seccomp::Error> {
        let notifies = rules.iter().any(|rule| rule.action == Action::Notify);
        if default_action == Action::Notify {
            return invalid("SCMP_ACT_NOTIFY cannot be the default: nobody could hand over the listener".into());
        }
        let handing_over = |rule: &Rule| rule.action == Action::Notify && rule.names.iter().any(|n| n == "sendmsg");
        if rules.iter().any(handing_over) {
            return invalid("SCMP_ACT_NOTIFY cannot be for sendmsg: the listener is handed over by it".into());
        }
        match (notifies, self.listener_path.is_empty()) {
            (true, true) => invalid("SCMP_ACT_NOTIFY needs a listenerPath".into()),
            (_, true) if !self.listener_metadata.is_empty() => {
                invalid("listenerMetadata is for nobody without a listenerPath".into())
            }
            (true, false) if !self.listener_path.starts_with('/') => {
                invalid(format!("listenerPath {:?} must be absolute", self.listener_path))
            }
            (true, false) => Ok(Some(SeccompListener {
                path: self.listener_path.clone().into(),
                metadata: self.listener_metadata.clone(),
            })),
            // Nothing would ever be told to it.
            (false, _) => Ok(None),
        }
    }
}

fn invalid<T>(text: String) -> Result<T, seccomp::Error> {
    Err(seccomp::Error::Invalid(text))
}

pub(super) const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_LOG", flags::LOG),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", flags::SPEC_ALLOW),
    ("SECCOMP_FILTER_FLAG_TSYNC", flags::TSYNC),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", flags::WAIT_KILLABLE_RECV),
];

/// Makes an action with its number; of those without one it is not looked at.
type MakeAction = fn(u16) -> Action;

pub(super) const ACTIONS: [(&str, MakeAction); 9] = [
    ("SCMP_ACT_ALLOW", |_| Action::Allow),
    ("SCMP_ACT_ERRNO", Action::Errno),
    ("SCMP_ACT_KILL", |_| Action::KillThread),
    ("SCMP_ACT_KILL_PROCESS", |_| Action::KillProcess),
    ("SCMP_ACT_KILL_THREAD", |_| Action::KillThread),
    ("SCMP_ACT_LOG", |_| Action::Log),
    ("SCMP_ACT_NOTIFY", |_| Action::Notify),
    ("SCMP_ACT_TRACE", Action::Trace),
    ("SCMP_ACT_TRAP", |_| Action::Trap),
];

pub(super) const OPERATORS: [(&str, Operator); 7] = [
    ("SCMP_CMP_EQ", Operator::Equal),
    ("SCMP_CMP_GE", Operator::GreaterOrEqual),
    ("SCMP_CMP_GT", Operator::Greater),
    ("SCMP_CMP_LE", Operator::LessOrEqual),
    ("SCMP_CMP_LT", Operator::Less),
    ("SCMP_CMP_MASKED_EQ", Operator::MaskedEqual),
    ("SCMP_CMP_NE", Operator::NotEqual),
];

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

fn flag(name: &str) -> Result<u32, seccomp::Error> {
    find(&FLAGS, name).map_or_else(|| invalid(format!("unknown or unsupported flag {name:?}")), Ok)
}

fn action(name: &str, value: Option<u32>) -> Result<Action, seccomp::Error> {
    let errno = match value.unwrap_or(1) {
        errno @ 0..=4095 => u16::try_from(errno).unwrap_or(1),
        errno => return invalid(format!("errnoRet {errno} is out of range (0-4095)")),
    };
    match find(&ACTIONS, name) {
        Some(action) => Ok(action(errno)),
        None => invalid(format!("unknown action {name:?}")),
    }
}

impl SyscallRule {
    fn rule(&self) -> Result<Rule, seccomp::Error> {
        let mut names = self.names.clone();
        match (self.name.is_empty(), names.is_empty()) {
            (false, false) => return invalid(format!("rule for {:?} has name and names", self.name)),
            (false, true) => names.push(self.name.clone()),
            (true, true) => return invalid("a rule names no system call".to_owned()),
            (true, false) => {}
        }
        let condition = |given: &Option<RuleCondition>| given.as_ref().map_or(Ok(Condition::default()), |c| c.check());
        Ok(Rule {
            action: action(&self.action, self.errno_ret)?,
            arguments: self.args.iter().map(Argument::check).collect::<Result<_, _>>()?,
            includes: condition(&self.includes)?,
            excludes: condition(&self.excludes)?,
            names,
        })
    }
}

impl Argument {
    fn check(&self) -> Result<seccomp::Argument, seccomp::Error> {
        let Some(operator) = find(&OPERATORS, &self.op) else {
            return invalid(format!("unknown operator {:?}", self.op));
        };
        match u8::try_from(self.index) {
            Ok(index @ 0..=5) => Ok(seccomp::Argument { index, operator, value: self.value, second: self.value_two }),
            _ => invalid(format!("argument index {} is out of range (0-5)", self.index)),
        }
    }
}

impl RuleCondition {
    fn check(&self) -> Result<Condition, seccomp::Error> {
        let kernel = match self.min_kernel.as_str() {
            "" => None,
            text => match seccomp::parse_kernel(text) {
                None => return invalid(format!("minKernel {text:?} is not MAJOR.MINOR")),
                some => some,
            },
        };
        Ok(Condition { capabilities: self.caps.clone(), architectures: self.arches.clone(), kernel })
    }
}
