//! `create` and `run`.

use std::path::{Path, PathBuf};

use libcontainer::oci;
use libcontainer::runtime::{Container, CreateOptions, Created};

use super::Context;
use crate::cli::{BundleFlags, Create, Run};
use crate::console::{self, Console};
use crate::error::{Error, Result};
use crate::foreground::Foreground;
use crate::notify::{self, Notify};
use crate::root::absolute;

/// A container that waits for `start`.
pub fn create(context: &Context<'_>, flags: Create) -> Result<u8> {
    let failed = |error: Error| error.during("gantry-runtime create failed");
    let bundle = Bundle::read(&flags.bundle).map_err(failed)?;
    let console = console::chosen(bundle.terminal(), true, flags.bundle.console_socket.as_deref()).map_err(failed)?;
    bundle.create(context, &flags.id, &flags.bundle, console).map_err(failed)?;
    Ok(0)
}

/// A container from its start to its end, or with `--detach` to its start.
pub fn run(context: &Context<'_>, flags: Run) -> Result<u8> {
    let failed = |error: Error| error.during("gantry-runtime run failed");
    let bundle = Bundle::read(&flags.bundle).map_err(failed)?;
    let mut console =
        console::chosen(bundle.terminal(), flags.detach, flags.bundle.console_socket.as_deref()).map_err(failed)?;
    // Before there is a process whose end could be missed.
    let foreground = if flags.detach { None } else { Some(Foreground::begin(!flags.no_subreaper).map_err(failed)?) };
    let own_end = console.as_mut().and_then(Console::take_own_end);
    let container = bundle.create(context, &flags.id, &flags.bundle, console).map_err(failed)?;
    let ended = (|| {
        let terminal = own_end.map(console::receive).transpose()?;
        let pid = container.pid();
        // In the foreground this process stays, and ends as the container does.
        let main = if flags.detach { pid } else { std::process::id().cast_signed() };
        let notify = Notify::begin(&container, main)?;
        context.warn(&container.start()?);
        match foreground {
            Some(foreground) => foreground.wait(pid, terminal, notify).map(Some),
            None => notify.map_or(Ok(()), |notify| notify.wait(pid)).map(|()| None),
        }
    })();
    if ended.is_err() || (!flags.detach && !flags.keep) {
        match container.delete(true) {
            Ok(warnings) => context.warn(&warnings),
            Err(error) => context.log.warning(&error.to_string()),
        }
    }
    Ok(ended.map_err(failed)?.unwrap_or(0))
}

/// A bundle that was read.
struct Bundle {
    path: PathBuf,
    spec: oci::Spec,
}

impl Bundle {
    fn read(flags: &BundleFlags) -> Result<Self> {
        let path = absolute(flags.bundle.as_deref().unwrap_or(Path::new(".")))?;
        let file = path.join("config.json");
        let spec = oci::Spec::read(&file).map_err(|error| match error {
            libcontainer::Error::System(error) if error.is_not_found() => {
                Error::Refused(format!("JSON specification file {} not found", file.display()))
            }
            other => other.into(),
        })?;
        Ok(Self { spec, path })
    }

    fn terminal(&self) -> bool {
        self.spec.process.as_ref().is_some_and(|process| process.terminal)
    }

    fn create(
        self,
        context: &Context<'_>,
        id: &str,
        flags: &BundleFlags,
        console: Option<Console>,
    ) -> Result<Container> {
        let listen_fds = listen_fds();
        context.check_passed(listen_fds.saturating_add(flags.preserve_fds))?;
        let options = CreateOptions {
            spec: Some(self.spec),
            console_socket: console.map(Console::into_socket),
            pid_file: flags.pid_file.clone(),
            preserve_fds: flags.preserve_fds,
            listen_fds,
            no_pivot: flags.no_pivot,
            no_new_keyring: flags.no_new_keyring,
            notify_socket: notify::is_wanted(),
            systemd_cgroup: context.systemd_cgroup,
        };
        let Created { container, warnings } = context.runtime.create(id, &self.path, &options)?;
        context.warn(&warnings);
        if let Some(socket) = &flags.pidfd_socket
            && let Err(error) = console::send_pidfd(socket, container.pid())
        {
            container.delete(true)?;
            return Err(error);
        }
        Ok(container)
    }
}

/// How many descriptors a service manager passed to this process.
fn listen_fds() -> u32 {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}
