//! The commands, one file each.

mod create;
mod delete;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod ps;
mod spec;
mod state;
mod update;

use std::ffi::OsString;
use std::path::Path;

use libcontainer::runtime::{Container, Runtime};

use crate::cli::{self, Checkpoint, Globals, Nothing, OneContainer, Restore};
use crate::error::{Error, Result};
use crate::log::Log;
use crate::notify::Notify;
use crate::root;

/// What every command is given.
pub struct Context<'a> {
    pub log: &'a Log,
    pub runtime: Runtime,
    pub systemd_cgroup: bool,
    /// So many descriptors from 3 on were open when this process began.
    inherited: u32,
}

impl<'a> Context<'a> {
    /// From the flags before the command.
    pub fn new(globals: &Globals, log: &'a Log, inherited: u32) -> Result<Self> {
        if !matches!(globals.rootless.as_str(), "" | "auto" | "true" | "false" | "1" | "0") {
            return Err(Error::Usage(format!(
                "invalid value {:?} for --rootless: true, false or auto",
                globals.rootless
            )));
        }
        let root = root::directory(globals.root.as_deref())?;
        Ok(Self { log, runtime: Runtime::new(root), systemd_cgroup: globals.systemd_cgroup, inherited })
    }

    fn open(&self, id: &str) -> Result<Container> {
        if id.is_empty() {
            return Err(Error::Usage("container id cannot be empty".into()));
        }
        Ok(self.runtime.open(id)?)
    }

    /// Refuses to pass on more descriptors than the caller has left open: the next ones are ours.
    fn check_passed(&self, count: u32) -> Result<()> {
        if count > self.inherited {
            let first = 3 + self.inherited;
            return Err(Error::Refused(format!("descriptor {first} of {count} to pass on (3 …) is not open")));
        }
        Ok(())
    }

    fn warn(&self, warnings: &[String]) {
        for warning in warnings {
            self.log.warning(warning);
        }
    }
}

/// Whether the command clones this process into a container.
pub fn becomes_a_container(name: &str) -> bool {
    matches!(name, "create" | "run" | "exec")
}

/// Runs the command of this name; its exit code.
pub fn run(context: &Context<'_>, name: &str, args: &[OsString]) -> Result<u8> {
    match name {
        "create" => create::create(context, cli::mixed(args)?),
        "run" => create::run(context, cli::mixed(args)?),
        "exec" => exec::exec(context, cli::trailing(args)?),
        "start" => start(context, &cli::mixed(args)?),
        "state" => state::state(context, &cli::mixed(args)?),
        "kill" => kill::kill(context, &cli::mixed(args)?),
        "delete" => delete::delete(context, &cli::mixed(args)?),
        "list" => list::list(context, &cli::mixed(args)?),
        "ps" => ps::ps(context, &cli::trailing(args)?),
        "pause" => done(context.open(&cli::mixed::<OneContainer>(args)?.id)?.pause()),
        "resume" => done(context.open(&cli::mixed::<OneContainer>(args)?.id)?.resume()),
        "update" => update::update(context, &cli::mixed(args)?),
        "events" => events::events(context, &cli::mixed(args)?),
        "spec" => spec::spec(&cli::mixed(args)?),
        "features" => features::features(&cli::mixed::<Nothing>(args)?),
        "checkpoint" => {
            cli::trailing::<Checkpoint>(args)?;
            Err(Error::Refused("checkpoint is not supported yet: the container is left as it is".into()))
        }
        "restore" => {
            cli::trailing::<Restore>(args)?;
            Err(Error::Refused("restore is not supported yet: create a new container instead".into()))
        }
        other => Err(Error::Usage(format!("unknown command {other:?}; see --help"))),
    }
}

fn done(result: libcontainer::Result<()>) -> Result<u8> {
    Ok(result.map(|()| 0)?)
}

fn start(context: &Context<'_>, flags: &OneContainer) -> Result<u8> {
    let container = context.open(&flags.id)?;
    let pid = container.pid();
    let notify = Notify::begin(&container, pid)?;
    context.warn(&container.start()?);
    notify.map_or(Ok(()), |notify| notify.wait(pid))?;
    Ok(0)
}

/// The lines of `--version`, which engines read.
pub fn version_text() -> String {
    let commit = option_env!("GANTRY_COMMIT").map_or_else(String::new, |commit| format!("commit: {commit}\n"));
    format!("gantry-runtime version {}\n{commit}spec: {}\n", env!("CARGO_PKG_VERSION"), libcontainer::oci::VERSION)
}

/// The name of a user of this machine, or `#uid`.
fn user_name(uid: u32) -> String {
    let passwd = gantry_linux::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| format!("#{uid}"))
}
