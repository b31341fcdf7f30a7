//! Points: the calls that change what is on a disk. Work runs under a seccomp program that reports each of them before it
//! happens; whoever watches lets it through, fails it, or kills the process there.

use std::path::Path;
use std::sync::mpsc;

use gantry_linux::seccomp::{self, Call};
use rustix::io::Errno;

/// What is done at which point; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: the points are counted.
    Count,
    /// The process dies before the point's call.
    KillAt(usize),
    /// The call fails as on a failing disk, once.
    BrokenAt(usize),
    /// The call fails as on a full disk, once; only calls that need space are points.
    FullAt(usize),
    /// Every call that needs space fails from that one on.
    FullFrom(usize),
    /// Nothing can be moved, as on a full btrfs.
    FullForMoves,
    /// Waiting for a whole file system fails, once; nothing else is a point.
    WaitBrokenAt(usize),
}

/// What was seen.
#[derive(Debug)]
pub struct Seen<T> {
    pub result: T,
    pub points: usize,
    /// The call that the plan was carried out at.
    pub hit: Option<String>,
}

macro_rules! calls {
    ($($kind:ident $name:ident,)*) => {
        &[$((Kind::$kind, stringify!($name), libc::$name),)*]
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Needs space, and its first argument is a descriptor that may be a pipe.
    Write,
    /// Needs space.
    Make,
    /// Does not.
    Change,
}

/// `open`, `openat` and `ioctl` are points where their arguments say so.
const CALLS: &[(Kind, &str, i64)] = calls! {
    Write SYS_write, Write SYS_pwrite64, Write SYS_writev, Write SYS_pwritev, Write SYS_pwritev2,
    Write SYS_sendfile, Write SYS_splice,
    Make SYS_copy_file_range, Make SYS_fallocate, Make SYS_mkdirat, Make SYS_mknodat, Make SYS_symlinkat, Make SYS_linkat,
    Make SYS_setxattr, Make SYS_lsetxattr, Make SYS_fsetxattr, Make SYS_openat, Make SYS_ioctl,
    Change SYS_ftruncate, Change SYS_truncate, Change SYS_renameat, Change SYS_renameat2, Change SYS_unlinkat,
    Change SYS_removexattr, Change SYS_lremovexattr, Change SYS_fremovexattr, Change SYS_utimensat,
    Change SYS_fchmod, Change SYS_fchmodat, Change SYS_fchmodat2, Change SYS_fchown, Change SYS_fchownat,
    Change SYS_fsync, Change SYS_fdatasync, Change SYS_syncfs, Change SYS_sync, Change SYS_sync_file_range,
};

/// Those that only old architectures have.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(Kind, &str, i64)] = calls! {
    Make SYS_open, Make SYS_creat, Make SYS_mkdir, Make SYS_mknod, Make SYS_symlink, Make SYS_link,
    Change SYS_rename, Change SYS_unlink, Change SYS_rmdir, Change SYS_chmod, Change SYS_chown, Change SYS_lchown,
    Change SYS_utime, Change SYS_utimes, Change SYS_futimesat,
};
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(Kind, &str, i64)] = &[];

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Runs `work`, with the threads that it starts, under the plan. Writes count where they go to a file below `root`.
pub fn run<T: Send>(root: &Path, plan: Plan, work: impl FnOnce() -> T + Send) -> Seen<T> {
    watch(|call, points| judge(root, plan, call, points), work)
}

/// Runs `work`, and `meanwhile` while its first sync waits.
pub fn run_meanwhile<T: Send>(meanwhile: impl FnOnce(), work: impl FnOnce() -> T + Send) -> T {
    let mut meanwhile = Some(meanwhile);
    let hold = |call: &Call, points: &mut usize| {
        if matches!(find(call).1, "SYS_fsync" | "SYS_fdatasync") {
            *points += 1;
            meanwhile.take().into_iter().for_each(|work| work());
        }
        None
    };
    let seen = watch(hold, work);
    assert!(seen.points > 0, "nothing was synced");
    seen.result
}

fn watch<T: Send>(
    mut judge: impl FnMut(&Call, &mut usize) -> Option<Errno>,
    work: impl FnOnce() -> T + Send,
) -> Seen<T> {
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        let worker = scope.spawn(move || {
            // One that cannot be watched must not run unwatched.
            let listener = seccomp::install_filter_with_listener(&program(), 0).unwrap();
            sender.send(listener).unwrap();
            drop(sender);
            work()
        });
        let listener = receiver.recv().expect("the worker has its program");
        let (mut points, mut hit) = (0, None);
        loop {
            let call = match seccomp::receive(&listener) {
                Ok(Some(call)) => call,
                Ok(None) => break,
                Err(Errno::NOENT | Errno::INTR) => continue,
                Err(error) => panic!("receive a call: {error}"),
            };
            let failure = judge(&call, &mut points);
            if failure.is_some() && hit.is_none() {
                hit = Some(describe(&call));
            }
            let answered = match failure {
                Some(error) => seccomp::fail(&listener, &call, error),
                None => seccomp::let_through(&listener, &call),
            };
            assert!(matches!(answered, Ok(()) | Err(Errno::NOENT)), "answer a call: {answered:?}");
        }
        let result = worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Seen { result, points, hit }
    })
}

/// Counts the call if it is a point, and says how it is to fail.
fn judge(root: &Path, plan: Plan, call: &Call, points: &mut usize) -> Option<Errno> {
    let (kind, name) = find(call);
    let needs_space = kind != Kind::Change;
    if kind == Kind::Write && !target(call).is_some_and(|path| path.starts_with(root)) {
        return None;
    }
    if matches!(plan, Plan::FullAt(_) | Plan::FullFrom(_)) && !needs_space {
        return None;
    }
    if matches!(plan, Plan::WaitBrokenAt(_)) && name != "SYS_syncfs" {
        return None;
    }
    if plan == Plan::FullForMoves && !name.starts_with("SYS_rename") {
        return None;
    }
    *points += 1;
    match plan {
        Plan::FullForMoves => Some(Errno::NOSPC),
        Plan::KillAt(point) if *points == point => {
            println!("\nkilled at {}", describe(call));
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).ok();
            unreachable!("killed");
        }
        Plan::BrokenAt(point) | Plan::WaitBrokenAt(point) if *points == point => Some(Errno::IO),
        Plan::FullAt(point) if *points == point => Some(Errno::NOSPC),
        Plan::FullFrom(point) if *points >= point => Some(Errno::NOSPC),
        _ => None,
    }
}

fn find(call: &Call) -> (Kind, &'static str) {
    let all = CALLS.iter().chain(OLD_CALLS);
    let found = all.copied().find(|(_, _, number)| *number == call.number);
    found.map(|(kind, name, _)| (kind, name)).expect("only these are reported")
}

/// What the first argument is a descriptor of.
fn target(call: &Call) -> Option<std::path::PathBuf> {
    let number = u32::try_from(call.arguments[0]).ok()?;
    std::fs::read_link(format!("/proc/self/fd/{number}")).ok()
}

fn describe(call: &Call) -> String {
    let (_, name) = find(call);
    let on = target(call).map(|path| format!(" on {}", path.display())).unwrap_or_default();
    format!("{}{on}", name.trim_start_matches("SYS_"))
}

/// The instructions of classic BPF that are needed.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const EQUAL: u16 = 0x15;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;
const REPORT: u32 = 0x7fc0_0000;
const ALLOW: u32 = 0x7fff_0000;

fn program() -> Vec<u8> {
    let mut program = vec![(LOAD, 0, 0, 4), (EQUAL, 1, 0, ARCHITECTURE), (RETURN, 0, 0, ALLOW), (LOAD, 0, 0, 0)];
    // The low half of an argument.
    let argument = |index: u32| (LOAD, 0, 0, 16 + 8 * index);
    let creating = (libc::O_CREAT | libc::O_TRUNC).cast_unsigned();
    for (_, name, number) in CALLS.iter().chain(OLD_CALLS) {
        let number = u32::try_from(*number).unwrap_or(u32::MAX);
        match *name {
            "SYS_open" | "SYS_openat" => program.extend([
                (EQUAL, 0, 4, number),
                argument(u32::from(*name == "SYS_openat") + 1),
                (ANY_BIT, 0, 1, creating),
                (RETURN, 0, 0, REPORT),
                (RETURN, 0, 0, ALLOW),
            ]),
            // Those of btrfs, and of cloning files.
            "SYS_ioctl" => program.extend([
                (EQUAL, 0, 5, number),
                argument(1),
                (AND, 0, 0, 0xff00),
                (EQUAL, 0, 1, 0x9400),
                (RETURN, 0, 0, REPORT),
                (RETURN, 0, 0, ALLOW),
            ]),
            _ => program.extend([(EQUAL, 0, 1, number), (RETURN, 0, 0, REPORT)]),
        }
    }
    program.push((RETURN, 0, 0, ALLOW));
    let bytes = program.into_iter().flat_map(|(code, yes, no, value): (u16, u8, u8, u32)| {
        let mut instruction = [0; 8];
        instruction[..2].copy_from_slice(&code.to_ne_bytes());
        (instruction[2], instruction[3]) = (yes, no);
        instruction[4..].copy_from_slice(&value.to_ne_bytes());
        instruction
    });
    bytes.collect()
}
