//! The library as other languages have it: its header, its symbols, and programs in C and Python that use it.
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]
#![allow(clippy::disallowed_methods, reason = "tests prepare directories plainly")]

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use libcontainer::oci::Status;
use libcontainer::runtime::Runtime;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// What an archive of Rust needs of the system.
const SYSTEM: [&str; 6] = ["-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];

/// The directory of libcontainer.a, libcontainer.so and libcontainer.h: `cargo xtask test` has built them and names it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        if let Some(directory) = std::env::var_os("GANTRY_C_LIBRARY") {
            return directory.into();
        }
        let built = Command::new(env!("CARGO"))
            .args(["xtask", "c-library", "fast-release"])
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .output()
            .expect("cargo runs");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        String::from_utf8(built.stdout).unwrap().trim().into()
    })
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// What a program said; it must have ended well.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let said = said(&output);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    said
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

fn compiler(name: &str) -> Command {
    let mut command = Command::new(name);
    command.args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(library());
    command
}

/// Whether a program can be run here; a test that cannot be done is seen.
fn is_here(program: &str) -> bool {
    let here = Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success());
    if !here {
        let line = format!("SKIPPED: libcontainer-c: {program} is not installed");
        eprintln!("{line}");
        if let Some(path) = std::env::var_os("GANTRY_SKIPS") {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            writeln!(file, "{line}").unwrap();
        }
    }
    here
}

/// The header's functions: each declaration names one at the end of a word that begins so.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(library().join("libcontainer.h")).unwrap();
    let mut code = String::new();
    let mut rest = header.as_str();
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    code.push_str(rest);
    let words = code.split('(').filter_map(|part| part.rsplit([' ', '*', '\n']).next());
    words.filter(|word| word.starts_with("libcontainer_")).map(str::to_owned).collect()
}

/// The defined symbols that a table of `nm` shows.
fn defined(arguments: &[&str], file: &str) -> BTreeSet<String> {
    let table = run(Command::new("nm").args(arguments).arg("--defined-only").arg(library().join(file)));
    table.lines().filter_map(|line| line.split(" T ").nth(1)).map(str::to_owned).collect()
}

#[test]
fn the_header_alone_is_c11_and_cpp_without_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let object = dir.path().join("object.o");
    let compile = |name: &str, standard: &str, language: &str| {
        let mut command = compiler(name);
        run(command
            .args(["-std".to_owned() + standard, "-x".into(), language.into(), "-c".into(), "-o".into()])
            .arg(&object)
            .arg(library().join("libcontainer.h")));
    };
    compile("cc", "=c11", "c");
    if is_here("c++") {
        compile("c++", "=c++11", "c++");
    }
}

#[test]
fn the_header_and_the_symbols_of_both_libraries_agree() {
    let declared = declared();
    assert!(declared.contains("libcontainer_open") && declared.len() > 10, "{declared:?}");
    assert_eq!(defined(&["-D"], "libcontainer.so"), declared, "and the shared one shows nothing else");
    let ours = defined(&["--quiet"], "libcontainer.a");
    let ours: BTreeSet<String> = ours.into_iter().filter(|name| name.starts_with("libcontainer_")).collect();
    assert_eq!(ours, declared);
}

/// Compiles the C program in the given way and runs it.
fn a_life(link: impl FnOnce(&mut Command)) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("life");
    let mut cc = compiler("cc");
    cc.args(["-std=c11", "-o"]).arg(&program).arg(example("life.c"));
    link(&mut cc);
    run(&mut cc);
    let work = dir.path().join("work");
    let said = run(Command::new(&program).arg(&work));
    assert!(said.contains("config.json: No such file") && said.ends_with("all is well\n"), "{said}");
    assert_eq!(std::fs::read_dir(work.join("state")).unwrap().count(), 0, "a container is left");
    no_keeper_is_left(&work.join("state"));
}

#[test]
fn a_c_program_with_the_archive_inside_makes_uses_and_removes_a_container() {
    a_life(|cc| {
        cc.arg(library().join("libcontainer.a")).args(SYSTEM);
    });
}

#[test]
fn a_static_c_program_does_so_too() {
    a_life(|cc| {
        let system = SYSTEM.map(|name| if name == "-lgcc_s" { "-lgcc_eh" } else { name });
        cc.arg("-static").arg(library().join("libcontainer.a")).args(system);
    });
}

#[test]
fn a_c_program_with_the_shared_library_does_so_too() {
    a_life(|cc| {
        let search = format!("-Wl,-rpath,{}", library().display());
        cc.arg("-L").arg(library()).args(["-lcontainer", "-lpthread", &search]);
    });
}

/// The keepers of a state directory, by what `ps` shows of them.
fn keepers(state: &Path) -> Vec<Pid> {
    let wanted = format!("libcontainer-keeper\0{}\0", state.display());
    let entries = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
    let pids = entries.filter_map(|name| Pid::from_raw(name.parse().ok()?));
    let is_one = |pid: &Pid| {
        std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).is_ok_and(|line| line == wanted)
    };
    pids.filter(is_one).collect()
}

/// It ends by itself once its handle is closed.
fn no_keeper_is_left(state: &Path) {
    for pid in keepers(state) {
        let Ok(handle) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        let timeout = Timespec { tv_sec: 20, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ended, 1, "the keeper {pid:?} does not end");
    }
    assert!(keepers(state).is_empty());
}

/// A bundle of busybox whose program is this shell line.
fn bundle(dir: &Path, line: &str) -> PathBuf {
    let bundle = dir.join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs/bin")).unwrap();
    std::fs::create_dir_all(bundle.join("rootfs/proc")).unwrap();
    std::fs::copy("/bin/busybox", bundle.join("rootfs/bin/busybox")).expect("busybox-static is installed");
    let config = serde_json::json!({
        "ociVersion": "1.3.0",
        "process": { "cwd": "/", "args": ["/bin/busybox", "sh", "-c", line], "env": ["PATH=/bin"] },
        "root": { "path": "rootfs" },
        "linux": { "namespaces": [{ "type": "pid" }, { "type": "mount" }] },
    });
    std::fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    bundle
}

fn python(dir: &Path, script: &Path, id: &str, bundle: &Path) -> Command {
    let mut command = Command::new("python3");
    command.arg(script).arg(library().join("libcontainer.so")).arg(dir.join("state")).arg(id).arg(bundle);
    command
}

#[test]
fn a_python_program_runs_a_container_and_learns_its_exit_code() {
    if !is_here("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bundle = bundle(dir.path(), "echo hello from the container; exit 23");
    let id = format!("from-python-{}", std::process::id());
    let said = run(&mut python(dir.path(), &example("run.py"), &id, &bundle));
    assert_eq!(said, format!("hello from the container\n{id} ended with 23\n"));
    let refused = python(dir.path(), &example("run.py"), &id, Path::new("/nowhere")).output().unwrap();
    assert!(!refused.status.success() && self::said(&refused).contains("/nowhere"), "{refused:?}");
    no_keeper_is_left(&dir.path().join("state"));
}

#[test]
fn a_container_outlives_the_program_that_made_it_and_others_can_use_it() {
    if !is_here("python3") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let bundle = bundle(dir.path(), "exec busybox sleep 600");
    let id = format!("orphan-{}", std::process::id());
    let script = dir.path().join("leave.py");
    let text = "import ctypes, os, signal, sys\n\
                library, directory, name, bundle = sys.argv[1:]\n\
                lib, containers = ctypes.CDLL(library), ctypes.c_void_p()\n\
                assert lib.libcontainer_open(directory.encode(), ctypes.byref(containers)) == 0\n\
                null, own = os.open('/dev/null', os.O_RDWR), ctypes.c_int\n\
                class Options(ctypes.Structure):\n    \
                    _fields_ = [('size', ctypes.c_size_t), ('fds', own * 3), ('flags', ctypes.c_uint),\n        \
                                ('console', ctypes.c_char_p), ('pid_file', ctypes.c_char_p)]\n\
                options = Options(ctypes.sizeof(Options), (own * 3)(null, null, null), 0, None, None)\n\
                assert lib.libcontainer_create(containers, name.encode(), bundle.encode(), ctypes.byref(options)) == 0\n\
                assert lib.libcontainer_start(containers, name.encode()) == 0\n\
                os.kill(os.getpid(), signal.SIGKILL)\n";
    std::fs::write(&script, text).unwrap();
    let ended = python(dir.path(), &script, &id, &bundle).output().unwrap();
    let state = dir.path().join("state");
    no_keeper_is_left(&state);
    let container = Runtime::new(&state).open(&id).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    let status = container.state().unwrap().status;
    container.delete(true).unwrap();
    assert_eq!(status, Status::Running, "{ended:?}");
}
