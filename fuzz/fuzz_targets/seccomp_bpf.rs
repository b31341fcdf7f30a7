//! A seccomp profile of anything: it compiles to a program that the kernel's checks would take, or is refused.
#![no_main]

use libcontainer::seccomp::{Arch, Profile, Target, compile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(mut profile) = Profile::parse(text) else { return };
    for architectures in [profile.architectures.clone(), Arch::ALL.to_vec()] {
        profile.architectures = architectures;
        let target = Target::new(&profile, &["CAP_SYS_ADMIN".to_owned()], (6, 1));
        let Ok(program) = compile(&profile, &target) else { continue };
        check(&program);
        for arch in Arch::ALL {
            for number in (0..480).chain([u32::MAX, 0x4000_0000, 0x4000_0200, 0xf_0005]) {
                for argument in [0, 1, u64::MAX, 1 << 32, 40] {
                    decide(&program, arch.audit(), number, argument);
                }
            }
        }
    }
});

fn instruction(program: &[u8], at: usize) -> (u16, usize, usize, u32) {
    let i = &program[at * 8..at * 8 + 8];
    let word = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
    (u16::from_ne_bytes([i[0], i[1]]), i[2].into(), i[3].into(), word)
}

/// What the kernel asks of a program: known instructions, aligned loads inside the data, jumps inside the program, a
/// return at its end.
fn check(program: &[u8]) {
    let length = program.len() / 8;
    assert!(program.len() % 8 == 0 && (1..=4096).contains(&length));
    for at in 0..length {
        let (code, yes, no, k) = instruction(program, at);
        let left = length - at - 1;
        match code {
            0x20 => assert!(k % 4 == 0 && k < 64, "load of {k}"),
            0x54 | 0x06 => {}
            0x05 => assert!((k as usize) < left, "jump out"),
            0x15 | 0x25 | 0x35 => assert!(yes < left && no < left, "branch out"),
            _ => panic!("instruction {code:#x}"),
        }
    }
    assert_eq!(instruction(program, length - 1).0, 0x06, "ends without a return");
}

/// Runs it to its end, which comes: every jump goes forward.
fn decide(program: &[u8], arch: u32, number: u32, argument: u64) -> u32 {
    let mut data = Vec::with_capacity(64);
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend([0; 8]);
    (0..6).for_each(|_| data.extend(argument.to_ne_bytes()));
    let (mut at, mut word) = (0, 0);
    loop {
        let (code, yes, no, k) = instruction(program, at);
        at += 1;
        let branch = |taken: bool| if taken { yes } else { no };
        match code {
            0x20 => word = u32::from_ne_bytes(data[k as usize..k as usize + 4].try_into().expect("four bytes")),
            0x54 => word &= k,
            0x05 => at += k as usize,
            0x15 => at += branch(word == k),
            0x25 => at += branch(word > k),
            0x35 => at += branch(word >= k),
            _ => return k,
        }
    }
}
