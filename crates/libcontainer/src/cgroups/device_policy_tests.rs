//! The three forms of a policy decide alike: the rules themselves, the v1 table as the kernel reads it, the program.

use proptest::prelude::*;

use super::*;
use crate::cgroups::{all_devices, default_device_rules};

/// Reads a table as the kernel's `devcgroup_legacy_check_permission` does.
fn table_decides(table: &Table, kind: DeviceKind, major: u32, minor: u32, access: u8) -> bool {
    let matching =
        |e: &&Exception| e.kind == kind && e.major.is_none_or(|m| m == major) && e.minor.is_none_or(|m| m == minor);
    let mut exceptions = table.exceptions.iter().filter(matching);
    if table.allow { !exceptions.any(|e| access & e.access != 0) } else { exceptions.any(|e| access & !e.access == 0) }
}

/// Runs a program as the kernel would; panics where its verifier would refuse.
fn program_decides(code: &[Instruction], kind: DeviceKind, major: u32, minor: u32, access: u8) -> bool {
    let kind = if kind == DeviceKind::Block { 1 } else { 2 };
    let context = [u32::from(access) << 16 | kind, major, minor];
    let mut registers = [0_u32; 11];
    let mut next = 0_usize;
    loop {
        let Instruction { code, registers: used, offset, immediate } = code[next];
        let (to, from) = (usize::from(used & 15), usize::from(used >> 4));
        let immediate = immediate.cast_unsigned();
        next += 1;
        let jump = match code {
            LOAD_WORD => {
                assert_eq!(from, usize::from(CONTEXT));
                registers[to] = context[usize::try_from(offset).unwrap() / 4];
                false
            }
            MOVE => {
                registers[to] = immediate;
                false
            }
            COPY => {
                registers[to] = registers[from];
                false
            }
            AND => {
                registers[to] &= immediate;
                false
            }
            SHIFT_RIGHT => {
                registers[to] >>= immediate;
                false
            }
            JUMP_UNLESS_EQUAL => registers[to] != immediate,
            JUMP_IF_ANY => registers[to] & immediate != 0,
            JUMP => true,
            EXIT => return registers[0] == 1,
            other => panic!("unknown instruction {other:x}"),
        };
        if jump {
            next += usize::try_from(offset).expect("no loops");
        }
    }
}

fn rule() -> impl Strategy<Value = DeviceRule> {
    let kind = prop_oneof![Just(DeviceKind::All), Just(DeviceKind::Char), Just(DeviceKind::Block)];
    let number = || proptest::option::of(0_u32..3);
    let access = prop_oneof![Just("rwm"), Just("m"), Just("r"), Just("rw"), Just("w")];
    (any::<bool>(), kind, number(), number(), access).prop_map(|(allow, kind, major, minor, access)| DeviceRule {
        allow,
        kind,
        major,
        minor,
        access: access.into(),
    })
}

fn agree(rules: &[DeviceRule]) -> Result<(), TestCaseError> {
    let (table, code) = (table(rules), program(rules));
    for kind in [DeviceKind::Char, DeviceKind::Block] {
        for (major, minor) in (0..4).flat_map(|major| (0..4).map(move |minor| (major, minor))) {
            for access in 1..=ALL {
                let meant = allowed(rules, kind, Some(major), Some(minor)) & access == access;
                let of = format!("{kind:?} {major}:{minor} {access} by {rules:?}");
                prop_assert_eq!(program_decides(&code, kind, major, minor, access), meant, "program: {}", of);
                // The kernel asks for making a node alone.
                if let Some(table) = table.as_ref().filter(|_| access == MAKE || access & MAKE == 0) {
                    let decided = table_decides(table, kind, major, minor, access);
                    prop_assert_eq!(decided, meant, "{:?}: {}", table, of);
                }
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn program_and_table_decide_as_the_rules_mean(rules in proptest::collection::vec(rule(), 0..8)) {
        agree(&rules)?;
    }

    /// What runtimes are given in practice: nothing, then what is allowed.
    #[test]
    fn a_list_of_allowances_always_has_a_table(mut rules in proptest::collection::vec(rule(), 0..8)) {
        rules.iter_mut().for_each(|rule| rule.allow = true);
        rules.insert(0, DeviceRule { allow: false, ..all_devices().remove(0) });
        prop_assert!(table(&rules).is_some());
        agree(&rules)?;
    }
}

#[test]
fn the_default_policy_is_a_short_table_and_everything_is_an_empty_one() {
    let table = table(&default_device_rules()).unwrap();
    assert_eq!((table.allow, table.exceptions.len()), (false, 11));
    assert_eq!(super::table(&all_devices()), Some(Table { allow: true, exceptions: vec![] }));
    assert_eq!(program(&all_devices()).len(), 8);
}

#[test]
fn a_table_says_what_the_rules_say_in_their_order() {
    let rule = |kind, major, minor, access: &str| DeviceRule {
        allow: true,
        kind,
        major: Some(major),
        minor: Some(minor),
        access: access.into(),
    };
    let given = [
        rule(DeviceKind::Char, 10, 229, "rwm"),
        rule(DeviceKind::Block, 8, 20, "rw"),
        rule(DeviceKind::Block, 10, 200, "r"),
        rule(DeviceKind::Char, 1, 3, "r"),
    ];
    let mut rules = default_device_rules();
    rules.splice(1..1, given.clone());
    let exceptions = table(&rules).unwrap().exceptions;
    let said = |rule: &DeviceRule| (rule.kind, rule.major, rule.minor, bits(&rule.access));
    let written: Vec<_> = exceptions.iter().map(|e| (e.kind, e.major, e.minor, e.access)).collect();
    assert_eq!(written[..3], given[..3].iter().map(said).collect::<Vec<_>>());
    assert_eq!(written[3], (DeviceKind::Char, Some(1), Some(3), ALL), "a later rule adds to it");
}

#[test]
fn a_hole_in_an_allowed_range_has_a_program_and_no_table() {
    let rules = [
        DeviceRule { allow: false, ..all_devices().remove(0) },
        DeviceRule { allow: true, kind: DeviceKind::Char, major: Some(1), minor: None, access: "rwm".into() },
        DeviceRule { allow: false, kind: DeviceKind::Char, major: Some(1), minor: Some(1), access: "rwm".into() },
    ];
    assert_eq!(table(&rules), None);
    let code = program(&rules);
    assert!(program_decides(&code, DeviceKind::Char, 1, 3, READ));
    assert!(!program_decides(&code, DeviceKind::Char, 1, 1, READ));
}
