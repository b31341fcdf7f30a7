//! From a profile to a program: per architecture a binary search over ranges of call numbers, few steps for any call.

use std::collections::BTreeMap;

use super::Error;
use super::assembler::{ARCHITECTURE, Assembler, IF_EQUAL, IF_GREATER_OR_EQUAL, Label, NUMBER};
use super::profile::{Action, Argument, Profile, Rule, Target};
use super::syscalls::{Arch, X32_BIT};

const MAX_INSTRUCTIONS: usize = 4096;

type Cases = Vec<(Vec<Argument>, Action)>;

/// What happens to one call: the first case whose conditions all hold, else the last action.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    cases: Cases,
    otherwise: Action,
}

/// Compiles `profile` to an array of `struct sock_filter`. Names that no architecture knows are ignored.
///
/// ```
/// use libcontainer::seccomp::{Profile, Target, compile};
///
/// # fn main() -> Result<(), libcontainer::seccomp::Error> {
/// let profile = Profile::parse(br#"{
///     "defaultAction": "SCMP_ACT_ALLOW",
///     "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
///     "syscalls": [{"names": ["ptrace", "bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]
/// }"#)?;
/// let target = Target::host(&profile, &["CAP_CHOWN".to_owned()]);
/// let program = compile(&profile, &target)?;
/// assert_eq!(program.len() % 8, 0, "instructions of eight bytes, for a process's `seccomp`");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::TooManyInstructions`].
pub fn compile(profile: &Profile, target: &Target) -> Result<Vec<u8>, Error> {
    let rules: Vec<&Rule> = profile.rules.iter().filter(|r| target.takes(r)).collect();
    let mut assembler = Assembler::default();
    let trees: Vec<(Arch, Label)> = [Arch::X32, Arch::Arm, Arch::I386, Arch::Aarch64, Arch::X86_64]
        .into_iter()
        .filter(|arch| profile.architectures.contains(arch))
        .map(|arch| (arch, tree_of(&mut assembler, arch, profile.default_action, &rules)))
        .collect();
    let tree = |arch| trees.iter().find(|e| e.0 == arch).map(|e| e.1);
    let mut next = assembler.finish(Action::KillProcess);
    for arch in [Arch::Arm, Arch::I386, Arch::Aarch64] {
        if let Some(label) = tree(arch) {
            let load = assembler.load_before(label);
            next = assembler.branch(IF_EQUAL, arch.audit(), load, next);
        }
    }
    if let Some(native) = tree(Arch::X86_64) {
        let x32 = match tree(Arch::X32) {
            Some(x32) => x32,
            // A tracer's -1, "no call at all", is none of x32's.
            None => {
                let kill = assembler.finish(Action::KillProcess);
                assembler.branch(IF_EQUAL, u32::MAX, native, kill)
            }
        };
        let split = assembler.branch(IF_GREATER_OR_EQUAL, X32_BIT, x32, native);
        let load = assembler.load_before(split);
        assembler.branch(IF_EQUAL, Arch::X86_64.audit(), load, next);
    }
    assembler.load(ARCHITECTURE);
    match assembler.len() {
        1..=MAX_INSTRUCTIONS => Ok(assembler.bytes()),
        length => Err(Error::TooManyInstructions(length)),
    }
}

impl Assembler {
    /// Loads the call's number, then goes to `target`.
    fn load_before(&mut self, target: Label) -> Label {
        self.go(target);
        self.load(NUMBER)
    }
}

fn tree_of(assembler: &mut Assembler, arch: Arch, default: Action, rules: &[&Rule]) -> Label {
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    let nothing = Verdict { cases: Vec::new(), otherwise: default };
    let mut next = 0;
    ranges.push((0, nothing.clone()));
    for (number, verdict) in verdicts(arch, default, rules) {
        if number != next {
            start_range(&mut ranges, next, nothing.clone());
        }
        start_range(&mut ranges, number, verdict);
        next = number + 1;
    }
    start_range(&mut ranges, next, nothing);
    let mut written: Vec<(Verdict, Label)> = Vec::new();
    search(assembler, &ranges, &mut written)
}

/// A neighbour with the same verdict goes on.
fn start_range(ranges: &mut Vec<(u32, Verdict)>, from: u32, verdict: Verdict) {
    match ranges.last_mut() {
        Some(last) if last.1 == verdict => {}
        Some(last) if last.0 == from => last.1 = verdict,
        _ => ranges.push((from, verdict)),
    }
}

fn verdicts(arch: Arch, default: Action, rules: &[&Rule]) -> BTreeMap<u32, Verdict> {
    let mut found: BTreeMap<u32, (Cases, Option<Action>)> = BTreeMap::new();
    // Without arguments, a rule that says what happens anyway says nothing; with them it is an exception from others.
    for rule in rules.iter().filter(|r| r.action != default || !r.arguments.is_empty()) {
        let arguments: Vec<Argument> = rule.arguments.iter().map(|a| narrow(arch, a)).collect();
        for number in rule.names.iter().filter_map(|n| arch.number(n)) {
            let (cases, unconditional) = found.entry(number).or_default();
            if arguments.is_empty() {
                unconditional.get_or_insert(rule.action);
            } else if repeats_an_index(&arguments) {
                cases.extend(arguments.iter().map(|a| (vec![*a], rule.action)));
            } else {
                cases.push((arguments.clone(), rule.action));
            }
        }
    }
    let verdict = |(cases, last): (Vec<_>, Option<Action>)| Verdict { cases, otherwise: last.unwrap_or(default) };
    found.into_iter().map(|(number, parts)| (number, verdict(parts))).collect()
}

fn repeats_an_index(arguments: &[Argument]) -> bool {
    let same = |(i, a): (usize, &Argument)| arguments[..i].iter().any(|b| b.index == a.index);
    arguments.iter().enumerate().any(same)
}

/// A negative number written in 64 bits means the same number in 32.
fn narrow(arch: Arch, argument: &Argument) -> Argument {
    let half = |value: u64| if value >> 32 == 0xffff_ffff { value & 0xffff_ffff } else { value };
    if arch.is_32_bit() {
        Argument { value: half(argument.value), second: half(argument.second), ..*argument }
    } else {
        *argument
    }
}

fn search(assembler: &mut Assembler, ranges: &[(u32, Verdict)], written: &mut Vec<(Verdict, Label)>) -> Label {
    if let [(_, verdict)] = ranges {
        return write_verdict(assembler, verdict, written);
    }
    let (lower, upper) = ranges.split_at(ranges.len() / 2);
    let above = search(assembler, upper, written);
    let below = search(assembler, lower, written);
    assembler.branch(IF_GREATER_OR_EQUAL, upper[0].0, above, below)
}

fn write_verdict(assembler: &mut Assembler, verdict: &Verdict, written: &mut Vec<(Verdict, Label)>) -> Label {
    if verdict.cases.is_empty() {
        return assembler.finish(verdict.otherwise);
    }
    if let Some((_, label)) = written.iter().find(|(v, _)| v == verdict) {
        return *label;
    }
    let mut next = assembler.finish(verdict.otherwise);
    for (arguments, action) in verdict.cases.iter().rev() {
        let mut matched = assembler.finish(*action);
        for argument in arguments.iter().rev() {
            matched = assembler.compare(argument, matched, next);
        }
        next = matched;
    }
    written.push((verdict.clone(), next));
    next
}
