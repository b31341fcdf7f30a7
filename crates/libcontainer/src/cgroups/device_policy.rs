//! What a list of device rules means, and the same said in each version's terms.
//!
//! The meaning: of the letters of an access, each is decided by the last rule that names it for that device; what no
//! rule names is allowed. An access is allowed when all of its letters are.

use std::collections::BTreeSet;

use gantry_linux::bpf::Instruction;

use crate::config::{DeviceKind, DeviceRule};

/// Letters of an access, as the kernel numbers them in programs.
pub(super) const MAKE: u8 = 1;
pub(super) const READ: u8 = 2;
pub(super) const WRITE: u8 = 4;
const ALL: u8 = MAKE | READ | WRITE;

/// A v1 controller's state: everything or nothing, but for these.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    /// What is allowed but for the exceptions: everything, or nothing.
    pub allow: bool,
    /// In the order of the rules that made them, in which they can be written.
    pub exceptions: Vec<Exception>,
}

/// Devices that a [`Table`] treats differently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Exception {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: u8,
}

/// The letters of `rwm` in a rule.
pub(super) fn bits(access: &str) -> u8 {
    let letter = |c| match c {
        'r' => READ,
        'w' => WRITE,
        'm' => MAKE,
        _ => 0,
    };
    access.chars().map(letter).fold(0, |all, bit| all | bit)
}

/// What is allowed of the devices of a kind; a number that is `None` stands for all those that no rule names.
pub(super) fn allowed(rules: &[DeviceRule], kind: DeviceKind, major: Option<u32>, minor: Option<u32>) -> u8 {
    let matches = |rule: &&DeviceRule| {
        (rule.kind == DeviceKind::All || rule.kind == kind)
            && (rule.major.is_none() || rule.major == major)
            && (rule.minor.is_none() || rule.minor == minor)
    };
    rules
        .iter()
        .filter(matches)
        .fold(ALL, |now, rule| if rule.allow { now | bits(&rule.access) } else { now & !bits(&rule.access) })
}

/// The rules as a v1 table; `None` when no table says the same (a hole in a range that is itself an exception).
pub(super) fn table(rules: &[DeviceRule]) -> Option<Table> {
    let patterns = patterns(rules);
    let kinds = [DeviceKind::Char, DeviceKind::Block];
    let most = kinds.iter().all(|kind| allowed(rules, *kind, None, None) == ALL);
    let one = |allow: bool| {
        let mut exceptions = Vec::new();
        for kind in kinds {
            exceptions.extend(exceptions_of(rules, &patterns, kind, allow)?);
        }
        let made_by = |e: &Exception| rules.iter().position(|rule| rule.allow != allow && names(rule, e));
        exceptions.sort_by_key(|exception| made_by(exception).unwrap_or(rules.len()));
        Some(Table { allow, exceptions })
    };
    if most { one(true).or_else(|| one(false)) } else { one(false).or_else(|| one(true)) }
}

/// Whether the rule is about these devices exactly.
fn names(rule: &DeviceRule, of: &Exception) -> bool {
    [DeviceKind::All, of.kind].contains(&rule.kind) && (rule.major, rule.minor) == (of.major, of.minor)
}

type Pattern = (Option<u32>, Option<u32>);

/// Every range of devices that can be treated alike: what rules name, and where such ranges cross.
fn patterns(rules: &[DeviceRule]) -> BTreeSet<Pattern> {
    let named: BTreeSet<Pattern> = rules.iter().map(|rule| (rule.major, rule.minor)).collect();
    let mut all = named.clone();
    all.insert((None, None));
    for (major, _) in named.iter().filter(|(major, minor)| major.is_some() && minor.is_none()) {
        all.extend(named.iter().filter(|(m, n)| m.is_none() && n.is_some()).map(|(_, minor)| (*major, *minor)));
    }
    all
}

/// The patterns that differ from what contains them. An exception can only add to those of wider ranges.
fn exceptions_of(
    rules: &[DeviceRule],
    patterns: &BTreeSet<Pattern>,
    kind: DeviceKind,
    allow: bool,
) -> Option<Vec<Exception>> {
    let different = |(major, minor): Pattern| {
        let allowed = allowed(rules, kind, major, minor);
        if allow { ALL & !allowed } else { allowed }
    };
    let mut exceptions = Vec::new();
    for &(major, minor) in patterns {
        let own = different((major, minor));
        let wider = [(None, None), (major, None), (None, minor)];
        let wider = wider.into_iter().filter(|w| *w != (major, minor) && patterns.contains(w)).map(different);
        let (mut together, mut covered) = (0, own == 0);
        for access in wider {
            together |= access;
            // Allowed is what a single exception allows; denied what any one denies.
            covered |= own & !access == 0;
        }
        if together & !own != 0 {
            return None;
        }
        if covered || allow && own == together {
            continue;
        }
        let mut exception = Exception { kind, major, minor, access: own };
        // The kernel asks for `m` alone, never with the others: what a wider range has of it is said only where a rule says it.
        let said = rules.iter().any(|rule| rule.allow && bits(&rule.access) & MAKE != 0 && names(rule, &exception));
        if !allow && together & MAKE != 0 && !said {
            exception.access &= !MAKE;
        }
        exceptions.push(exception);
    }
    Some(exceptions)
}

/// Registers: the answer; the context, then scratch; kind; the letters still undecided; device numbers.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const LETTERS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Operations with an immediate operand, on 32 bits.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const COPY: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_UNLESS_EQUAL: u8 = 0x56;
const JUMP_IF_ANY: u8 = 0x46;
const JUMP: u8 = 0x05;
const EXIT: u8 = 0x95;

/// The rules as a program (`BPF_PROG_TYPE_CGROUP_DEVICE`): the last rule first, each deciding the letters that are left.
pub(super) fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut code = vec![
        load(KIND, 0),
        copy(LETTERS, KIND),
        op(AND, KIND, 0xffff),
        op(SHIFT_RIGHT, LETTERS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev().filter(|rule| rule.kind != DeviceKind::Fifo) {
        let conditions = conditions(rule);
        let (verdict, ends) = verdict(rule);
        let mut left = conditions.len() + verdict.len();
        for (register, value) in &conditions {
            left -= 1;
            code.push(Instruction { offset: distance(left), ..op(JUMP_UNLESS_EQUAL, *register, *value) });
        }
        code.extend(verdict);
        if conditions.is_empty() && ends {
            // Nothing earlier can matter; the kernel refuses code that is never reached.
            return code;
        }
    }
    code.extend(answer(true));
    code
}

fn conditions(rule: &DeviceRule) -> Vec<(u8, i32)> {
    let kind = match rule.kind {
        // A pipe is no device, and no rule about it decides anything.
        DeviceKind::All | DeviceKind::Fifo => None,
        DeviceKind::Block => Some((KIND, 1)),
        DeviceKind::Char => Some((KIND, 2)),
    };
    let major = rule.major.map(|number| (MAJOR, number.cast_signed()));
    let minor = rule.minor.map(|number| (MINOR, number.cast_signed()));
    [kind, major, minor].into_iter().flatten().collect()
}

/// What happens where a rule matches, and whether nothing comes after it.
fn verdict(rule: &DeviceRule) -> (Vec<Instruction>, bool) {
    let letters = bits(&rule.access);
    let [yes, exit] = answer(true);
    let [no, _] = answer(false);
    match (rule.allow, letters) {
        (true, ALL) => (vec![yes, exit], true),
        (false, ALL) => (vec![no, exit], true),
        (true, _) => {
            let rest = op(AND, LETTERS, i32::from(ALL & !letters));
            (vec![rest, Instruction { offset: 2, ..op(JUMP_UNLESS_EQUAL, LETTERS, 0) }, yes, exit], false)
        }
        (false, _) => {
            let any = Instruction { offset: 1, ..op(JUMP_IF_ANY, LETTERS, i32::from(letters)) };
            (vec![any, Instruction { offset: 2, ..op(JUMP, 0, 0) }, no, exit], false)
        }
    }
}

fn answer(allow: bool) -> [Instruction; 2] {
    [op(MOVE, ANSWER, i32::from(allow)), op(EXIT, 0, 0)]
}

fn op(code: u8, register: u8, immediate: i32) -> Instruction {
    Instruction { code, registers: register, offset: 0, immediate }
}

fn load(register: u8, offset: i16) -> Instruction {
    Instruction { code: LOAD_WORD, registers: register | CONTEXT << 4, offset, immediate: 0 }
}

fn copy(to: u8, from: u8) -> Instruction {
    Instruction { code: COPY, registers: to | from << 4, offset: 0, immediate: 0 }
}

/// Rules have few instructions each.
fn distance(instructions: usize) -> i16 {
    i16::try_from(instructions).unwrap_or(i16::MAX)
}

#[cfg(test)]
#[path = "device_policy_tests.rs"]
mod tests;
