//! Classic BPF written from its end: every jump goes forward, so each target is already there when it is needed.

use super::profile::{Action, Argument, Operator};

const LOAD_WORD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
pub(super) const IF_EQUAL: u16 = 0x15;
pub(super) const IF_GREATER: u16 = 0x25;
pub(super) const IF_GREATER_OR_EQUAL: u16 = 0x35;

/// Offsets in `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// A conditional jump reaches this far, less what may come between.
const REACH: usize = 250;

/// An instruction, counted from the program's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Label(usize);

#[derive(Clone, Copy)]
struct Instruction {
    code: u16,
    if_true: u8,
    if_false: u8,
    value: u32,
}

#[derive(Default)]
pub(super) struct Assembler {
    reversed: Vec<Instruction>,
    returns: Vec<(Action, Label)>,
}

impl Assembler {
    fn push(&mut self, code: u16, if_true: u8, if_false: u8, value: u32) -> Label {
        self.reversed.push(Instruction { code, if_true, if_false, value });
        Label(self.reversed.len())
    }

    /// Instructions between the next one to be written and `target`.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0
    }

    /// A return within reach; a far one is written again, which costs no more than a jump to it.
    pub(super) fn finish(&mut self, action: Action) -> Label {
        let near = self.returns.iter().find(|(a, _)| *a == action).filter(|(_, l)| self.distance(*l) < REACH);
        if let Some((_, label)) = near {
            return *label;
        }
        let label = self.push(RETURN, 0, 0, return_value(action));
        self.returns.retain(|(a, _)| *a != action);
        self.returns.push((action, label));
        label
    }

    pub(super) fn load(&mut self, offset: u32) -> Label {
        self.push(LOAD_WORD, 0, 0, offset)
    }

    pub(super) fn branch(&mut self, code: u16, value: u32, if_true: Label, if_false: Label) -> Label {
        let if_true = self.within_reach(if_true);
        let if_false = self.within_reach(if_false);
        let short = |d: usize| u8::try_from(d).unwrap_or(u8::MAX);
        let (true_by, false_by) = (short(self.distance(if_true)), short(self.distance(if_false)));
        self.push(code, true_by, false_by, value)
    }

    /// Goes to `target` unless it is the very next instruction anyway.
    pub(super) fn go(&mut self, target: Label) {
        let distance = self.distance(target);
        if distance > 0 {
            self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX));
        }
    }

    fn within_reach(&mut self, target: Label) -> Label {
        let distance = self.distance(target);
        if distance < REACH {
            return target;
        }
        self.push(JUMP, 0, 0, u32::try_from(distance).unwrap_or(u32::MAX))
    }

    /// Where to go for a comparison of one argument, in two halves.
    pub(super) fn compare(&mut self, argument: &Argument, if_true: Label, if_false: Label) -> Label {
        let (value, index) = (argument.value, argument.index);
        match argument.operator {
            Operator::Equal => self.equal(index, u64::MAX, value, if_true, if_false),
            Operator::NotEqual => self.equal(index, u64::MAX, value, if_false, if_true),
            Operator::MaskedEqual => self.equal(index, value, argument.second, if_true, if_false),
            Operator::GreaterOrEqual => self.order(IF_GREATER_OR_EQUAL, index, value, if_true, if_false),
            Operator::Less => self.order(IF_GREATER_OR_EQUAL, index, value, if_false, if_true),
            Operator::Greater => self.order(IF_GREATER, index, value, if_true, if_false),
            Operator::LessOrEqual => self.order(IF_GREATER, index, value, if_false, if_true),
        }
    }

    fn equal(&mut self, index: u8, mask: u64, value: u64, if_true: Label, if_false: Label) -> Label {
        let mut target = if_true;
        for (offset, mask, value) in
            [(low_word(index), low(mask), low(value)), (high_word(index), high(mask), high(value))]
        {
            if mask == 0 && value == 0 {
                continue;
            }
            self.branch(IF_EQUAL, value, target, if_false);
            if mask != u32::MAX {
                self.push(AND, 0, 0, mask);
            }
            target = self.load(offset);
        }
        target
    }

    fn order(&mut self, code: u16, index: u8, value: u64, if_true: Label, if_false: Label) -> Label {
        self.branch(code, low(value), if_true, if_false);
        let lower = self.load(low_word(index));
        let same = self.branch(IF_EQUAL, high(value), lower, if_false);
        self.branch(IF_GREATER, high(value), if_true, same);
        self.load(high_word(index))
    }

    pub(super) fn len(&self) -> usize {
        self.reversed.len()
    }

    /// The program as the kernel wants it. The last instruction written is the first to run.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.reversed.len() * 8);
        for instruction in self.reversed.iter().rev() {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.if_true, instruction.if_false]);
            bytes.extend(instruction.value.to_ne_bytes());
        }
        bytes
    }
}

fn return_value(action: Action) -> u32 {
    match action {
        Action::Allow => 0x7fff_0000,
        Action::Notify => 0x7fc0_0000,
        Action::Log => 0x7ffc_0000,
        Action::Trace(value) => 0x7ff0_0000 | u32::from(value),
        Action::Errno(value) => 0x0005_0000 | u32::from(value),
        Action::Trap => 0x0003_0000,
        Action::KillThread => 0,
        Action::KillProcess => 0x8000_0000,
    }
}

fn low_word(index: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(index) + if cfg!(target_endian = "big") { 4 } else { 0 }
}

fn high_word(index: u8) -> u32 {
    ARGUMENTS + 8 * u32::from(index) + if cfg!(target_endian = "big") { 0 } else { 4 }
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn low(value: u64) -> u32 {
    value as u32
}

fn high(value: u64) -> u32 {
    low(value >> 32)
}
