//! Programs for random profiles decide as libseccomp's do, on every call of three architectures.
//!
//! Left out, because libseccomp means something else: several rules for one call with arguments (it has its own order of
//! actions, and 2.5.4 loses an alternative that compares 64 bits beside another one),
//! the calls that 32-bit x86 has as socketcall or ipc (it makes rules for those too), values of more than 32 bits on
//! 32-bit x86 and x32 (it looks at the lower half alone; with x32 the kernel has the whole register, and so have we), and values outside of their mask.
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]
#![allow(clippy::disallowed_methods, reason = "tests write files plainly")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

use libcontainer::seccomp::{
    Action, Arch, Argument, Condition, Operator, Profile, Rule, Target, compile, default_profile,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

#[path = "../src/seccomp/meaning.rs"]
mod meaning;

use meaning::{Meaning, run, word};

const NAMES: [&str; 24] = [
    "read",
    "write",
    "open",
    "close",
    "stat",
    "mmap",
    "ioctl",
    "getpid",
    "clone",
    "fork",
    "execve",
    "kill",
    "fcntl",
    "mkdir",
    "chmod",
    "ptrace",
    "prctl",
    "mount",
    "futex",
    "openat",
    "unshare",
    "prlimit64",
    "bpf",
    "clone3",
];

struct Oracle {
    child: Child,
    _directory: tempfile::TempDir,
}

impl Oracle {
    /// `None` where there is no C compiler or no libseccomp to compile against.
    fn new() -> Option<Self> {
        let directory = tempfile::tempdir().ok()?;
        let program = directory.path().join("oracle");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libseccomp.c");
        let made = Command::new("cc")
            .args(["-o".as_ref(), program.as_os_str(), source.as_ref(), "-lseccomp".as_ref()])
            .output();
        if !made.is_ok_and(|output| output.status.success()) {
            let why = "SKIPPED: seccomp_oracle: cannot compile against libseccomp (cc, libseccomp-dev)";
            eprintln!("{why}");
            if let Some(path) = std::env::var_os("GANTRY_SKIPS")
                && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
            {
                let _ = writeln!(file, "{why}");
            }
            return None;
        }
        let child = Command::new(&program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().ok()?;
        Some(Self { child, _directory: directory })
    }

    fn program(&mut self, profile: &Profile) -> Vec<u8> {
        let mut text = format!("new {}\n", word(profile.default_action));
        for rule in &profile.rules {
            for name in &rule.names {
                write!(text, "rule {} {name} ", word(rule.action)).unwrap();
                for a in &rule.arguments {
                    write!(text, ";{} {} {} {}", a.index, operator_number(a.operator), a.value, a.second).unwrap();
                }
                text.push('\n');
            }
        }
        text.push_str("end\n");
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        let mut line = String::new();
        // One answer for one profile: nothing is lost with the reader.
        BufReader::new(self.child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let line = line.trim();
        assert!(!line.contains("error"), "libseccomp: {line} for {text}");
        (0..line.len() / 2).map(|i| u8::from_str_radix(&line[2 * i..2 * i + 2], 16).unwrap()).collect()
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// As in libseccomp's `enum scmp_compare`.
fn operator_number(operator: Operator) -> u32 {
    match operator {
        Operator::NotEqual => 1,
        Operator::Less => 2,
        Operator::LessOrEqual => 3,
        Operator::Equal => 4,
        Operator::GreaterOrEqual => 5,
        Operator::Greater => 6,
        Operator::MaskedEqual => 7,
    }
}

fn actions() -> Vec<Action> {
    let plain = [Action::Allow, Action::Log, Action::Trap, Action::KillThread, Action::KillProcess, Action::Notify];
    plain.into_iter().chain([Action::Errno(1), Action::Errno(38), Action::Trace(7)]).collect()
}

fn operators() -> Vec<Operator> {
    use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, MaskedEqual, NotEqual};
    vec![NotEqual, Less, LessOrEqual, Equal, GreaterOrEqual, Greater, MaskedEqual]
}

fn value(wide: bool) -> BoxedStrategy<u64> {
    let narrow = prop_oneof![0..4u64, Just(0xffff_ffff), Just(0x8000_0000), (0..=0xffff_ffffu64)];
    match wide {
        true => prop_oneof![narrow, Just(u64::MAX), Just(1 << 32), Just(1 << 63), any::<u64>()].boxed(),
        false => narrow.boxed(),
    }
}

fn argument(wide: bool) -> impl Strategy<Value = Argument> {
    (0..6u8, prop::sample::select(operators()), value(wide), value(wide)).prop_map(
        |(index, operator, value, second)| {
            let second = if operator == Operator::MaskedEqual { second & value } else { 0 };
            Argument { index, operator, value, second }
        },
    )
}

/// At most one rule for each call.
fn profile(wide: bool) -> impl Strategy<Value = Profile> {
    let arguments = prop::collection::vec(argument(wide), 0..3).prop_map(|given| {
        let by_index: BTreeMap<u8, Argument> = given.into_iter().map(|a| (a.index, a)).collect();
        by_index.into_values().collect::<Vec<_>>()
    });
    let call = (prop::sample::select(actions()), prop::collection::vec(arguments, 0..2));
    let default = prop::sample::select(vec![Action::Allow, Action::Errno(1), Action::KillProcess, Action::Log]);
    (default, prop::collection::vec(call, NAMES.len())).prop_map(|(default_action, calls)| {
        let rules = NAMES.iter().zip(calls).filter(|(_, (action, _))| *action != default_action);
        let rules = rules.flat_map(|(name, (action, alternatives))| {
            alternatives.into_iter().map(move |arguments| Rule {
                names: vec![(*name).to_owned()],
                action,
                arguments,
                includes: Condition::default(),
                excludes: Condition::default(),
            })
        });
        let architectures = vec![Arch::X86_64, Arch::I386, Arch::X32];
        Profile { default_action, architectures, flags: 0, listener: None, rules: rules.collect() }
    })
}

#[test]
fn random_programs_decide_as_libseccomps_do() {
    let Some(oracle) = Oracle::new() else { return };
    let oracle = std::cell::RefCell::new(oracle);
    for wide in [true, false] {
        let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
        let calls = prop::collection::vec(prop::array::uniform6(value(wide)), 12);
        let checked = TestRunner::new(config).run(&(profile(wide), calls), |(profile, calls)| {
            let ours = compile(&profile, &Target::new(&profile, &[], (6, 1))).unwrap();
            let theirs = oracle.borrow_mut().program(&profile);
            let meaning = Meaning::of(&profile, &[], (6, 1));
            let arches: &[Arch] = if wide { &[Arch::X86_64] } else { &[Arch::X86_64, Arch::X32, Arch::I386] };
            for arch in arches {
                let names = NAMES.iter().filter_map(|name| arch.number(name)).chain([480, u32::MAX, 0x3fff_ffff]);
                for (number, arguments) in names.flat_map(|number| calls.iter().map(move |a| (number, *a))) {
                    let decisions = [&ours, &theirs].map(|program| run(program, arch.audit(), number, arguments).0);
                    prop_assert_eq!(decisions[0], decisions[1], "{:?} {:#x} {:x?}", arch, number, arguments);
                    let meant = word(meaning.decision(arch.audit(), number, arguments));
                    prop_assert_eq!(decisions[0], meant, "{:?} {:#x} {:x?}", arch, number, arguments);
                }
            }
            prop_assert_eq!(run(&ours, 1, 0, [0; 6]).0, run(&theirs, 1, 0, [0; 6]).0);
            Ok(())
        });
        checked.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn common_calls_take_few_steps_of_the_default_profile_and_get_libseccomps_answer() {
    let Some(mut oracle) = Oracle::new() else { return };
    let mut profile = default_profile();
    profile.rules.retain(|rule| rule.includes == Condition::default());
    // Those that this libseccomp may not know yet.
    let known = |name: &String| Arch::X86_64.number(name).is_none_or(|number| number < 450 && number != 335);
    profile
        .rules
        .iter_mut()
        .for_each(|rule| rule.names.retain(|name| known(name) && Arch::X86_64.number(name).is_some()));
    let ours = compile(&profile, &Target::new(&profile, &[], (6, 1))).unwrap();
    profile.rules.retain(|rule| rule.action == Action::Allow);
    let theirs = oracle.program(&profile);
    eprintln!("instructions: {} of ours, {} of libseccomp's", ours.len() / 8, theirs.len() / 8);
    for name in ["getpid", "read", "write", "openat", "futex", "mmap"] {
        let number = Arch::X86_64.number(name).unwrap();
        let steps = [&ours, &theirs].map(|program| run(program, Arch::X86_64.audit(), number, [0; 6]));
        eprintln!("{name}: {} steps of ours, {} of libseccomp's", steps[0].1, steps[1].1);
        assert_eq!(steps[0].0, steps[1].0, "{name}");
        assert!(steps[0].1 <= 16, "{name}");
    }
}
