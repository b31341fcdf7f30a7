//! Runs hooks: each is given the container's state on its standard input, and a bounded time when it asks for that.

use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use gantry_linux::{Error as SystemError, ResultExt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, Result};
use crate::oci::{Hook, State};

/// So much of what a hook says is kept, for the error.
const LONGEST_OUTPUT: usize = 4096;

/// Runs them in their order, in `directory` or where this process is; the first failure ends it. With the handle
/// `while_it_lives` they are killed when that process ends: without it they are of no use.
pub fn run(
    hooks: &[Hook],
    point: &str,
    state: &State,
    directory: Option<&Path>,
    while_it_lives: Option<BorrowedFd<'_>>,
) -> Result<()> {
    for (number, hook) in hooks.iter().enumerate() {
        run_one(hook, state, directory, while_it_lives)
            .map_err(|why| Error::Invalid(format!("error running {point} hook #{number}: {why}")))?;
    }
    Ok(())
}

/// As [`run`], but goes on after a failure; all failures are returned.
pub fn run_all(hooks: &[Hook], point: &str, state: &State, directory: Option<&Path>) -> Vec<String> {
    let failure = |(number, hook): (usize, &Hook)| {
        let why = run_one(hook, state, directory, None).err()?;
        Some(format!("error running {point} hook #{number}: {why}"))
    };
    hooks.iter().enumerate().filter_map(failure).collect()
}

fn run_one(
    hook: &Hook,
    state: &State,
    directory: Option<&Path>,
    while_it_lives: Option<BorrowedFd<'_>>,
) -> std::result::Result<(), String> {
    let (mut child, output) = spawn(hook, state, directory).map_err(|error| error.to_string())?;
    let deadline = hook.timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds.unsigned_abs()));
    let ended = watch(&mut child, output, deadline, while_it_lives);
    let (status, said) = match ended {
        Ok(Watched::Ended(status, said)) => (status, said),
        Ok(Watched::TooLong) => {
            end(&mut child);
            let seconds = hook.timeout.unwrap_or_default();
            return Err(format!("{} ran past its timeout of {seconds} s, and was killed", hook.path));
        }
        Ok(Watched::Alone) => {
            end(&mut child);
            return Err(format!("{} was killed: the container's process has ended before it", hook.path));
        }
        Err(error) => {
            end(&mut child);
            return Err(error.to_string());
        }
    };
    if status.success() {
        return Ok(());
    }
    Err(format!("{}: {status}, output: {}", hook.path, said.trim()))
}

/// What it started may live on; the hook itself is gone and reaped.
fn end(child: &mut Child) {
    // It may have ended this moment.
    let _ = child.kill();
    let _ = child.wait();
}

fn spawn(hook: &Hook, state: &State, directory: Option<&Path>) -> std::result::Result<(Child, OwnedFd), SystemError> {
    let text = serde_json::to_vec(state).unwrap_or_default();
    // A hook that does not read its input disturbs nobody.
    let mut input: std::fs::File = gantry_linux::socket::sealed_memfd("state", &text)?.into();
    input.rewind().during("rewind", "state of the container")?;
    let (output, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during("make", "pipe")?;
    fcntl_setfl(&output, OFlags::NONBLOCK).during("configure", "pipe")?;
    let errors = theirs.try_clone().during("duplicate", "pipe")?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|variable| variable.split_once('=')));
    if let Some(directory) = directory {
        command.current_dir(directory);
    }
    command.stdin(Stdio::from(input)).stdout(Stdio::from(theirs)).stderr(Stdio::from(errors));
    let child = command.spawn().during("run", &hook.path)?;
    Ok((child, output))
}

/// How it went with a hook.
enum Watched {
    /// How it ended, and what it said.
    Ended(ExitStatus, String),
    /// It runs, and its time is over.
    TooLong,
    /// It runs, and what it runs for does not.
    Alone,
}

fn watch(
    child: &mut Child,
    output: OwnedFd,
    deadline: Option<Instant>,
    while_it_lives: Option<BorrowedFd<'_>>,
) -> std::result::Result<Watched, SystemError> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| SystemError::new("watch", "hook", rustix::io::Errno::SRCH))?;
    let ended = pidfd_open(pid, PidfdFlags::empty()).during("watch", "hook")?;
    let mut output: std::fs::File = output.into();
    let mut said = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(Watched::TooLong);
        }
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let mut watched = vec![PollFd::new(&ended, PollFlags::IN)];
        watched.extend(while_it_lives.map(|process| PollFd::from_borrowed_fd(process, PollFlags::IN)));
        if open {
            watched.push(PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN));
        }
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(SystemError::new("watch", "hook", error)),
        }
        let gone = !watched[0].revents().is_empty();
        let alone = while_it_lives.is_some() && !watched[1].revents().is_empty();
        open = open && drain(&mut output, &mut said);
        if gone {
            let status = child.wait().during("wait for", "hook")?;
            return Ok(Watched::Ended(status, String::from_utf8_lossy(&said).into_owned()));
        }
        if alone {
            return Ok(Watched::Alone);
        }
    }
}

/// Takes what is there; false at the end of the stream.
fn drain(output: &mut std::fs::File, said: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => {
                let room = LONGEST_OUTPUT.saturating_sub(said.len());
                said.extend_from_slice(&buffer[..length.min(room)]);
            }
            Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Status;

    fn state() -> State {
        State {
            oci_version: "1.3.0".into(),
            id: "c".into(),
            status: Status::Creating,
            pid: 7,
            bundle: "/b".into(),
            annotations: Default::default(),
        }
    }

    fn shell(script: &str, timeout: Option<i64>) -> Hook {
        let args = ["sh", "-c", script].map(Into::into).into();
        Hook { path: "/bin/sh".into(), args, env: vec!["A=b=c".into()], timeout }
    }

    #[test]
    fn a_hook_has_the_state_its_arguments_and_its_environment_alone() {
        let script = r#"grep -q '"id":"c"' && test "$A" = b=c && test -z "$HOME""#;
        run(&[shell(script, None)], "createRuntime", &state(), None, None).unwrap();
    }

    #[test]
    fn a_failing_hook_is_named_with_what_it_said() {
        let hooks = [shell("exit 0", None), shell("echo no luck >&2; exit 3", None)];
        let error = run(&hooks, "prestart", &state(), None, None).unwrap_err().to_string();
        assert!(error.contains("prestart hook #1") && error.contains("no luck") && error.contains('3'), "{error}");
        assert_eq!(run_all(&hooks, "poststop", &state(), None).len(), 1);
    }

    #[test]
    fn a_hook_that_takes_too_long_is_killed() {
        let begun = Instant::now();
        let error = run(&[shell("sleep 60", Some(1))], "poststart", &state(), None, None).unwrap_err().to_string();
        assert!(error.contains("timeout"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_hook_that_says_much_or_leaves_children_behind_is_not_waited_for_longer() {
        let begun = Instant::now();
        run(&[shell("yes | head -c 1000000; sleep 30 &", None)], "prestart", &state(), None, None).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_hook_whose_container_has_ended_is_killed() {
        let mut process = Command::new("/bin/true").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
        let handle = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        process.wait().unwrap();
        let hooks = [shell("sleep 60", None)];
        let begun = Instant::now();
        let error = run(&hooks, "prestart", &state(), None, Some(handle.as_fd())).unwrap_err().to_string();
        assert!(error.contains("process has ended"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
