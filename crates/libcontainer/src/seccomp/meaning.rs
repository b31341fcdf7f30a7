//! What a profile means, without any of the compiler, and what a program does: for tests and the fuzz target.

use std::collections::HashMap;

use super::{Action, Arch, Argument, Condition, Operator, Profile, Rule};

/// Marks a call of x32.
const X32_BIT: u32 = 0x4000_0000;

/// Runs a program as the kernel does; returns its verdict and how many instructions it took.
pub fn run(program: &[u8], arch: u32, number: u32, arguments: [u64; 6]) -> (u32, usize) {
    let mut data = [0; 64];
    data[..4].copy_from_slice(&number.to_ne_bytes());
    data[4..8].copy_from_slice(&arch.to_ne_bytes());
    for (field, argument) in data[16..].chunks_exact_mut(8).zip(arguments) {
        field.copy_from_slice(&argument.to_ne_bytes());
    }
    let word_at = |at: usize| u32::from_ne_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]]);
    let (mut at, mut word, mut steps) = (0, 0, 0);
    loop {
        let i = &program[at * 8..at * 8 + 8];
        let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
        (at, steps) = (at + 1, steps + 1);
        let branch = |taken: bool| usize::from(if taken { i[2] } else { i[3] });
        match u16::from_ne_bytes([i[0], i[1]]) {
            0x20 => word = word_at(k as usize),
            0x54 => word &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(word == k),
            0x25 => at += branch(word > k),
            0x35 => at += branch(word >= k),
            0x06 => return (k, steps),
            code => panic!("unexpected instruction {code:#x}"),
        }
    }
}

/// `SECCOMP_RET_*` with its data.
pub fn word(action: Action) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Log => 0x7ffc_0000,
        Action::Trace(value) => 0x7ff0_0000 | u32::from(value),
        Action::Notify => 0x7fc0_0000,
        Action::Errno(value) => 0x0005_0000 | u32::from(value),
        Action::Trap => 0x0003_0000,
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
    }
}

/// A profile by its words, for a container with some capabilities and a kernel.
pub struct Meaning<'a> {
    profile: &'a Profile,
    rules: HashMap<(Arch, u32), Vec<&'a Rule>>,
}

impl<'a> Meaning<'a> {
    /// Finds out which rules are about which call.
    pub fn of(profile: &'a Profile, capabilities: &[String], kernel: (u32, u32)) -> Self {
        let mut rules: HashMap<_, Vec<&Rule>> = HashMap::new();
        let in_force: Vec<&Rule> =
            profile.rules.iter().filter(|rule| is_in_force(rule, capabilities, kernel)).collect();
        for &arch in &profile.architectures {
            for (rule, name) in in_force.iter().flat_map(|rule| rule.names.iter().map(move |name| (rule, name))) {
                if let Some(number) = arch.number(name) {
                    rules.entry((arch, number)).or_default().push(rule);
                }
            }
        }
        Self { profile, rules }
    }

    /// What happens to a call.
    pub fn decision(&self, audit: u32, number: u32, values: [u64; 6]) -> Action {
        let mut arches = self.profile.architectures.iter().copied();
        let Some(arch) = arches.find(|arch| is_call_of(*arch, audit, number)) else { return Action::KillProcess };
        let default = self.profile.default_action;
        let rules = self.rules.get(&(arch, number)).map(Vec::as_slice).unwrap_or_default();
        let conditional = rules.iter().filter(|rule| !rule.arguments.is_empty() && matches(rule, arch, values));
        let plain = rules.iter().filter(|rule| rule.arguments.is_empty() && rule.action != default);
        conditional.chain(plain).next().map_or(default, |rule| rule.action)
    }
}

/// x32 has the arch of x86-64 and a bit in the number; a tracer's -1, "no call at all", is none of its.
fn is_call_of(arch: Arch, audit: u32, number: u32) -> bool {
    let is_x32 = number & !(X32_BIT - 1) != 0 && number != u32::MAX;
    arch.audit() == audit
        && match arch {
            Arch::X86_64 => !is_x32,
            Arch::X32 => is_x32,
            _ => true,
        }
}

/// Whether the rule is part of the program.
pub fn is_in_force(rule: &Rule, capabilities: &[String], kernel: (u32, u32)) -> bool {
    let has = |name: &String| capabilities.contains(name);
    let native = |names: &[String]| names.iter().any(|name| name == Arch::NATIVE.docker_name());
    let Condition { capabilities: needed, architectures, kernel: oldest } = &rule.includes;
    let not = &rule.excludes;
    needed.iter().all(has)
        && (architectures.is_empty() || native(architectures))
        && oldest.is_none_or(|oldest| kernel >= oldest)
        && !not.capabilities.iter().any(has)
        && !native(&not.architectures)
        && not.kernel.is_none_or(|first| kernel < first)
}

fn matches(rule: &Rule, arch: Arch, values: [u64; 6]) -> bool {
    let twice = |index: u8| rule.arguments.iter().filter(|argument| argument.index == index).count() > 1;
    let mut each = rule.arguments.iter().map(|argument| holds(argument, arch, values[usize::from(argument.index)]));
    if rule.arguments.iter().any(|argument| twice(argument.index)) { each.any(|it| it) } else { each.all(|it| it) }
}

fn holds(argument: &Argument, arch: Arch, value: u64) -> bool {
    // A negative number written in 64 bits means the same number in 32.
    let narrow = matches!(arch, Arch::I386 | Arch::Arm);
    let [wanted, second] = [argument.value, argument.second]
        .map(|wanted| if narrow && wanted >> 32 == 0xffff_ffff { wanted & 0xffff_ffff } else { wanted });
    match argument.operator {
        Operator::NotEqual => value != wanted,
        Operator::Less => value < wanted,
        Operator::LessOrEqual => value <= wanted,
        Operator::Equal => value == wanted,
        Operator::GreaterOrEqual => value >= wanted,
        Operator::Greater => value > wanted,
        Operator::MaskedEqual => value & wanted == second,
    }
}
