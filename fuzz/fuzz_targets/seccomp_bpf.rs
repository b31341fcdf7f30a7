//! A seccomp profile of anything, as JSON or described: it compiles to a program that the kernel's checks would take, or is
//! refused. The program decides as the profile's words do, and, where libseccomp is right, as libseccomp's program.
#![no_main]

use arbitrary::{Result, Unstructured};
use gantry_fuzz::libseccomp::program_of;
use libcontainer::seccomp::meaning::{Meaning, run, word};
use libcontainer::seccomp::{Action, Arch, Argument, Condition, Operator, Profile, Rule, Target, compile};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 27] = [
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
    "io_uring_setup",
    "personality",
    "umount2",
];
const VALUES: [u64; 16] = [
    0,
    1,
    2,
    40,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x7fff_ffff_0000_0000,
    0x8000_0000_0000_0000,
    0xffff_ffff_0000_0000,
    0xffff_ffff_7fff_ffff,
    0xffff_ffff_8000_0000,
    u64::MAX - 1,
    u64::MAX,
];
const KERNEL: (u32, u32) = (6, 1);

fuzz_target!(|data: &[u8]| {
    let capabilities = ["CAP_SYS_ADMIN".to_owned()];
    let mut u = Unstructured::new(data);
    let profile = match data.first() {
        Some(b'{' | b'[' | b' ' | b'"') => Profile::parse(data).ok(),
        _ => profile(&mut u).ok(),
    };
    let Some(mut profile) = profile else { return };
    for architectures in [profile.architectures.clone(), Arch::ALL.to_vec()] {
        profile.architectures = architectures;
        let Ok(program) = compile(&profile, &Target::new(&profile, &capabilities, KERNEL)) else { continue };
        check(&program);
        let meaning = Meaning::of(&profile, &capabilities, KERNEL);
        let theirs = program_of(&profile, &capabilities, KERNEL);
        for (arch, number, values) in calls(&profile, &mut u) {
            let show = || format!("{arch:?} {number:#x} {values:x?}\nof {profile:#?}");
            let ours = run(&program, arch.audit(), number, values).0;
            let meant = word(meaning.decision(arch.audit(), number, values));
            assert_eq!(ours, meant, "by the profile's words: {}", show());
            if let Some((theirs, trust)) = &theirs
                && trust.covers(arch, number, values)
            {
                let theirs = run(theirs, arch.audit(), number, values).0;
                assert_eq!(ours, theirs, "by libseccomp: {}", show());
            }
        }
    }
});

/// Calls by every architecture: those that the profile names, some that it does not; arguments around its values.
fn calls(profile: &Profile, u: &mut Unstructured<'_>) -> Vec<(Arch, u32, [u64; 6])> {
    let arguments = profile.rules.iter().flat_map(|rule| &rule.arguments);
    let mut values: Vec<u64> = arguments.flat_map(|a| [a.value, a.second, a.value ^ a.second]).take(24).collect();
    values.extend_from_within(..);
    for (value, step) in values.iter_mut().zip([1_u64, u64::MAX, 1 << 32, 0xffff_ffff].into_iter().cycle()) {
        *value = value.wrapping_add(step);
    }
    values.extend(profile.rules.iter().flat_map(|rule| &rule.arguments).map(|a| a.value).take(24));
    values.extend(VALUES);
    let mut names: Vec<&str> = profile.rules.iter().flat_map(|rule| &rule.names).map(String::as_str).take(40).collect();
    names.extend(["read", "io_uring_setup"]);
    names.sort_unstable();
    names.dedup();
    let mut calls = Vec::new();
    // One value in every place, then mixtures: a simple generator that the input starts.
    let mut state = u.arbitrary::<u64>().unwrap_or(1) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0)
    };
    for arch in Arch::ALL {
        let named = names.iter().filter_map(|name| arch.number(name));
        for number in named.chain([480, u32::MAX, 0x4000_0000, 0x4000_0200, 0xf_0005]) {
            calls.extend(values.iter().step_by(3).map(|value| (arch, number, [*value; 6])));
            for _ in 0..8 {
                calls.push((arch, number, std::array::from_fn(|_| values[next() % values.len()])));
            }
        }
    }
    // An i386 or ARM process has registers of 32 bits.
    for (arch, _, values) in &mut calls {
        if matches!(arch, Arch::I386 | Arch::Arm) {
            values.iter_mut().for_each(|value| *value &= 0xffff_ffff);
        }
    }
    calls
}

fn profile(u: &mut Unstructured<'_>) -> Result<Profile> {
    let mut architectures = vec![Arch::X86_64];
    architectures.extend([Arch::I386, Arch::X32, Arch::Arm].iter().filter(|_| u.ratio(1, 2).unwrap_or(false)));
    let default_action = action(u)?;
    let mut rules = Vec::new();
    for _ in 0..u.int_in_range(0..=12)? {
        rules.push(rule(u)?);
    }
    Ok(Profile { default_action, architectures, flags: 0, listener: None, rules })
}

fn rule(u: &mut Unstructured<'_>) -> Result<Rule> {
    let mut names = Vec::new();
    for _ in 0..u.int_in_range(1..=3)? {
        names.push((*u.choose(&NAMES)?).to_owned());
    }
    let mut arguments = Vec::new();
    for _ in 0..*u.choose(&[0, 0, 1, 1, 1, 2, 2, 3, 6])? {
        arguments.push(argument(u)?);
    }
    let (mut includes, mut excludes) = (Condition::default(), Condition::default());
    if u.ratio(1, 8)? {
        let which = if u.arbitrary()? { &mut includes } else { &mut excludes };
        which.capabilities.extend(u.ratio(1, 2)?.then(|| "CAP_SYS_ADMIN".to_owned()));
        which.capabilities.extend(u.ratio(1, 4)?.then(|| "CAP_BPF".to_owned()));
        which.architectures.extend(u.ratio(1, 4)?.then(|| "amd64".to_owned()));
        which.architectures.extend(u.ratio(1, 4)?.then(|| "arm64".to_owned()));
        which.kernel = *u.choose(&[None, Some((4, 8)), Some((6, 1)), Some((6, 2))])?;
    }
    Ok(Rule { names, action: action(u)?, arguments, includes, excludes })
}

fn argument(u: &mut Unstructured<'_>) -> Result<Argument> {
    use Operator::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, MaskedEqual, NotEqual};
    let operators = [NotEqual, Less, LessOrEqual, Equal, GreaterOrEqual, Greater, MaskedEqual];
    let operator = *u.choose(&operators)?;
    let value = value(u)?;
    let second = match operator {
        MaskedEqual if u.ratio(1, 10)? => self::value(u)?,
        MaskedEqual => self::value(u)? & value,
        _ => 0,
    };
    Ok(Argument { index: u.int_in_range(0..=5)?, operator, value, second })
}

fn value(u: &mut Unstructured<'_>) -> Result<u64> {
    match u.int_in_range(0..=5)? {
        0 => u.arbitrary(),
        1 => Ok(u.arbitrary::<u32>()?.into()),
        _ => Ok(*u.choose(&VALUES)?),
    }
}

fn action(u: &mut Unstructured<'_>) -> Result<Action> {
    let plain = [Action::Allow, Action::Log, Action::Trap, Action::KillThread, Action::KillProcess, Action::Notify];
    Ok(match u.int_in_range(0..=8)? {
        6 => Action::Errno(u.int_in_range(0..=4095)?),
        7 => Action::Errno(1),
        8 => Action::Trace(u.arbitrary()?),
        index => plain[index],
    })
}

/// What the kernel asks of a program: known instructions, aligned loads inside the data, jumps inside the program, a
/// return at its end.
fn check(program: &[u8]) {
    let length = program.len() / 8;
    assert!(program.len() % 8 == 0 && (1..=4096).contains(&length));
    for (at, i) in program.chunks_exact(8).enumerate() {
        let k = u32::from_ne_bytes([i[4], i[5], i[6], i[7]]);
        let left = length - at - 1;
        match u16::from_ne_bytes([i[0], i[1]]) {
            0x20 => assert!(k % 4 == 0 && k < 64, "load of {k}"),
            0x54 | 0x06 => {}
            0x05 => assert!((k as usize) < left, "jump out"),
            0x15 | 0x25 | 0x35 => assert!(usize::from(i[2]) < left && usize::from(i[3]) < left, "branch out"),
            code => panic!("instruction {code:#x}"),
        }
    }
    assert_eq!(program[(length - 1) * 8], 0x06, "ends without a return");
}
