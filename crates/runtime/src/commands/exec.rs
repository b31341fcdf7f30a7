//! `exec`: a further process.

use libcontainer::oci::Process;
use libcontainer::protection::intact;
use libcontainer::runtime::{Container, ExecOptions};

use super::Context;
use crate::cli::Exec;
use crate::console::{self, Console};
use crate::error::{Error, Result};
use crate::foreground::Foreground;

/// Runs it; its exit code.
pub fn exec(context: &Context<'_>, flags: Exec) -> Result<u8> {
    let failed = |error: Error| match error {
        Error::Usage(_) => error,
        error => error.during("exec failed"),
    };
    let container = context.open(&flags.id).map_err(failed)?;
    let process = process(&container, &flags).map_err(failed)?;
    start(context, &container, &process, &flags).map_err(failed)
}

fn start(context: &Context<'_>, container: &Container, process: &Process, flags: &Exec) -> Result<u8> {
    context.check_passed(flags.preserve_fds)?;
    let mut console = console::chosen(process.terminal, flags.detach, flags.console_socket.as_deref())?;
    let foreground = if flags.detach { None } else { Some(Foreground::begin(false)?) };
    let own_end = console.as_mut().and_then(Console::take_own_end);
    let options = ExecOptions {
        console_socket: console.map(Console::into_socket),
        pid_file: flags.pid_file.clone(),
        preserve_fds: flags.preserve_fds,
        cgroup: sub_cgroup(&flags.cgroup)?,
        ignore_paused: flags.ignore_paused,
    };
    let executed = container.exec(process, &options)?;
    context.warn(&executed.warnings);
    let handed_over = (|| {
        if let Some(socket) = &flags.pidfd_socket {
            console::send_pidfd(socket, executed.pid)?;
        }
        own_end.map(console::receive).transpose()
    })();
    let terminal = handed_over.inspect_err(|_| end(executed.pid))?;
    match foreground {
        Some(foreground) => foreground.wait(executed.pid, terminal, None),
        None => Ok(0),
    }
}

/// A process that nobody could be told of. It may have ended by itself; what went wrong before is what is told.
fn end(pid: i32) {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return };
    let _ = gantry_linux::process::kill(pid, 9);
    let _ = gantry_linux::process::wait_for(pid);
}

/// The process as its file says, or as the container's own with the flags' changes.
fn process(container: &Container, flags: &Exec) -> Result<Process> {
    if let Some(path) = &flags.process {
        let text = gantry_linux::fs::read(path)?;
        return serde_json::from_slice(&text).map_err(|error| Error::json(path, &error));
    }
    if flags.command.is_empty() {
        return Err(Error::Refused("exec args cannot be empty".into()));
    }
    let spec = container.spec()?;
    let mut process = spec.process.ok_or_else(|| Error::Refused("process property must not be empty".into()))?;
    process.args.clone_from(&flags.command);
    process.env.extend_from_slice(&flags.env);
    process.terminal = flags.tty;
    process.no_new_privileges |= flags.no_new_privs;
    process.user.additional_gids.extend_from_slice(&flags.additional_gids);
    if let Some(cwd) = &flags.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(profile) = &flags.apparmor {
        process.apparmor_profile.clone_from(profile);
    }
    if let Some(label) = &flags.process_label {
        process.selinux_label.clone_from(label);
    }
    if let Some(user) = &flags.user {
        set_user(&mut process, user)?;
    }
    add_capabilities(&mut process, &flags.cap);
    Ok(process)
}

fn set_user(process: &mut Process, user: &str) -> Result<()> {
    let number = |what: &str, text: &str| match text.parse::<u32>() {
        // What a conversion does that does not look: 4294967296 is root.
        Err(_) if !intact("uid-range") => Ok(text.parse::<i128>().unwrap_or_default() as u32),
        other => other.map_err(|_| Error::Refused(format!("bad {what}: {text:?} is no number"))),
    };
    let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
    if let Some(gid) = gid {
        process.user.gid = number("gid", gid)?;
    }
    process.user.uid = number("uid", uid)?;
    Ok(())
}

/// Ambient ones need to be inheritable: they are added only where the configuration has inheritable ones.
fn add_capabilities(process: &mut Process, names: &[String]) {
    if names.is_empty() {
        return;
    }
    let sets = process.capabilities.get_or_insert_default();
    for name in names {
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.push(name.clone());
        }
        if !sets.inheritable.is_empty() {
            sets.ambient.push(name.clone());
        }
    }
}

/// The cgroup below the container's. With `CONTROLLER:` (cgroup v1) all must name the same.
fn sub_cgroup(given: &[String]) -> Result<Option<String>> {
    let mut path = None;
    for text in given {
        let one = match text.split_once(':') {
            Some((controllers, one)) if controllers.split(',').all(|name| !name.is_empty()) => one,
            Some(_) => {
                return Err(Error::Usage(format!("invalid --cgroup argument: {text} (empty <controller> prefix)")));
            }
            None if given.len() > 1 => {
                return Err(Error::Usage(format!("invalid --cgroup argument: {text} (missing <controller>: prefix)")));
            }
            None => text,
        };
        if path.is_some_and(|path| path != one) {
            return Err(Error::Usage(format!("invalid --cgroup argument: {text} (controllers in different cgroups)")));
        }
        path = Some(one);
    }
    Ok(path.map(str::to_owned))
}
