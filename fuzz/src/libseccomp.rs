//! libseccomp's program for a profile, and for which calls it may judge ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};

use libcontainer::seccomp::{Action, Arch, Operator, Profile, Rule, meaning};
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

/// The calls that libseccomp decides as the profile says, by its rules.
pub struct Trust {
    wrong: BTreeSet<(Arch, u32)>,
    /// Architectures of which nothing is sure.
    lost: BTreeSet<Arch>,
}

/// Marks a call of x32.
const X32_BIT: u32 = 0x4000_0000;

const ARCHES: [(Arch, ScmpArch); 5] = [
    (Arch::X86_64, ScmpArch::X8664),
    (Arch::I386, ScmpArch::X86),
    (Arch::X32, ScmpArch::X32),
    (Arch::Aarch64, ScmpArch::Aarch64),
    (Arch::Arm, ScmpArch::Arm),
];

impl Trust {
    /// Whether it is right about this call.
    pub fn covers(&self, arch: Arch, number: u32, values: [u64; 6]) -> bool {
        let is_x32 = arch == Arch::X86_64 && (X32_BIT..u32::MAX).contains(&number);
        let arch = if is_x32 { Arch::X32 } else { arch };
        !self.lost.contains(&arch)
            && !self.wrong.contains(&(arch, number))
            && (is_64_bit(arch) || values.iter().all(|value| value >> 32 == 0))
    }
}

/// So many rules of one call are given to it: with four of them it was seen not to come back. What it says of a call with several
/// is not believed anyway.
const RULES_OF_A_CALL: usize = 1;

/// `None` where it does not take the profile.
pub fn program_of(profile: &Profile, capabilities: &[String], kernel: (u32, u32)) -> Option<(Vec<u8>, Trust)> {
    let rules: Vec<&Rule> =
        profile.rules.iter().filter(|rule| meaning::is_in_force(rule, capabilities, kernel)).collect();
    let mut filter = ScmpFilterContext::new(action(profile.default_action)).ok()?;
    filter.set_act_badarch(ScmpAction::KillProcess).ok()?;
    for (arch, theirs) in ARCHES {
        if profile.architectures.contains(&arch) {
            filter.add_arch(theirs).ok()?;
        } else if arch == Arch::NATIVE {
            filter.remove_arch(theirs).ok()?;
        }
    }
    let mut given = BTreeMap::new();
    for rule in &rules {
        add(&mut filter, profile, rule, &mut given)?;
    }
    let memory = rustix::fs::memfd_create("bpf", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    filter.export_bpf(&memory).ok()?;
    let mut file = File::from(memory);
    file.rewind().ok()?;
    let mut program = Vec::new();
    file.read_to_end(&mut program).ok()?;
    Some((program, Trust { wrong: wrong(profile, &rules), lost: lost(profile, &rules) }))
}

/// Adds the rule as runc does; `None` where libseccomp refuses it altogether.
fn add<'a>(
    filter: &mut ScmpFilterContext,
    profile: &Profile,
    rule: &'a Rule,
    given: &mut BTreeMap<&'a str, usize>,
) -> Option<()> {
    if rule.action == profile.default_action {
        return Some(());
    }
    let compare = |a: &libcontainer::seccomp::Argument| {
        let (operator, value) = match a.operator {
            Operator::NotEqual => (ScmpCompareOp::NotEqual, a.value),
            Operator::Less => (ScmpCompareOp::Less, a.value),
            Operator::LessOrEqual => (ScmpCompareOp::LessOrEqual, a.value),
            Operator::Equal => (ScmpCompareOp::Equal, a.value),
            Operator::GreaterOrEqual => (ScmpCompareOp::GreaterEqual, a.value),
            Operator::Greater => (ScmpCompareOp::Greater, a.value),
            Operator::MaskedEqual => (ScmpCompareOp::MaskedEqual(a.value), a.second),
        };
        ScmpArgCompare::new(a.index.into(), operator, value)
    };
    let arguments: Vec<_> = rule.arguments.iter().map(compare).collect();
    for name in &rule.names {
        // One that it does not know is not covered.
        let Ok(call) = ScmpSyscall::from_name(name) else { continue };
        let before = given.entry(name).or_default();
        *before += 1;
        if *before > RULES_OF_A_CALL {
            continue;
        }
        if filter.add_rule_conditional(action(rule.action), call, &arguments).is_err() && !is_doubtful(rule) {
            return None;
        }
    }
    Some(())
}

fn action(action: Action) -> ScmpAction {
    match action {
        Action::Allow => ScmpAction::Allow,
        Action::Log => ScmpAction::Log,
        Action::Errno(value) => ScmpAction::Errno(value.into()),
        Action::Trace(value) => ScmpAction::Trace(value),
        Action::Trap => ScmpAction::Trap,
        Action::KillThread => ScmpAction::KillThread,
        Action::KillProcess => ScmpAction::KillProcess,
        Action::Notify => ScmpAction::Notify,
    }
}

/// An argument twice in one rule, which it refuses; and a masked value outside of its mask, which it cuts: `read` EPERM where
/// arg0 & 0 == 2 refuses every `read`, and can hold for none.
fn is_doubtful(rule: &Rule) -> bool {
    let twice = |index: u8| rule.arguments.iter().filter(|argument| argument.index == index).count() > 1;
    let outside = |argument: &libcontainer::seccomp::Argument| {
        argument.operator == Operator::MaskedEqual && argument.second & !argument.value != 0
    };
    rule.arguments.iter().any(|argument| twice(argument.index) || outside(argument))
}

/// The calls that 2.5.4 decides otherwise than the profile says. Each case has the least profile that shows it; the default
/// is to allow, `Meaning` is the judge.
fn wrong(profile: &Profile, rules: &[&Rule]) -> BTreeSet<(Arch, u32)> {
    // It makes rules for `socketcall` and `ipc` of rules for `socket`, `semop` and their like, whose arguments are in memory.
    let multiplexed = ["socketcall", "ipc"].iter().filter_map(|name| Some((Arch::I386, Arch::I386.number(name)?)));
    let mut wrong: BTreeSet<_> = multiplexed.collect();
    for &arch in &profile.architectures {
        for rule in rules {
            for name in &rule.names {
                let Some(number) = arch.number(name) else { continue };
                let of_call = rules.iter().filter(|other| other.names.iter().any(|n| arch.number(n) == Some(number)));
                if ScmpSyscall::from_name(name).is_err()
                    || has_several(of_call.count())
                    || is_doubtful(rule)
                    || is_too_wide(arch, rule)
                {
                    wrong.insert((arch, number));
                }
            }
        }
    }
    wrong
}

/// Architectures that lack a call of the profile. `open` LOG, and `io_uring_setup` TRAP where arg0 != 0x7fff_ffff, with any
/// default but those: aarch64 has no `open`, and `io_uring_setup` gets the default whatever its argument. The same on x86-64
/// with `waitpid` in place of `open`.
fn lost(profile: &Profile, rules: &[&Rule]) -> BTreeSet<Arch> {
    let names: Vec<&String> = rules.iter().flat_map(|rule| &rule.names).collect();
    let lacks = |arch: &Arch| names.iter().any(|name| arch.number(name).is_none());
    profile.architectures.iter().copied().filter(lacks).collect()
}

/// Several rules for one call. Alternatives on one argument of 64 bits lose values: `read` EPERM where arg0 <
/// 0x8000_0000_0000_0000, and `read` EPERM where arg0 >= 0x1_0000_0000, allows `read(0x8000_0000_0000_0000)`. With several
/// arguments they also gain some: `read` EPERM where arg0 > 0x28, and where arg0 <= 0x7fff_ffff_0000_0000 and arg1 < 2,
/// refuses `read(0, 0x8000_0000)`. And a rule without arguments swallows those with them, whatever their actions: that is
/// another meaning, which `Profile::rules` has not.
fn has_several(rules: usize) -> bool {
    rules > 1
}

/// Values of more than 32 bits on an architecture with 32-bit registers, and on x32. It compares lower halves: `read` EPERM
/// where arg0 > 0x7fff_ffff_0000_0000 refuses i386's `read(1)`.
fn is_too_wide(arch: Arch, rule: &Rule) -> bool {
    !is_64_bit(arch) && rule.arguments.iter().any(|argument| argument.value >> 32 != 0 || argument.second >> 32 != 0)
}

/// It takes x32 for an architecture with 32-bit registers, too: `read` EPERM where arg0 < 2 refuses x32's
/// `read(0x1_0000_0000)`. The kernel hands over the whole register.
fn is_64_bit(arch: Arch) -> bool {
    matches!(arch, Arch::X86_64 | Arch::Aarch64)
}
