//! The OCI runtime: runc's command line on [`libcontainer::runtime`].
//!
//! Everything that this layer prints, reads from the environment or decides by an exit code is here; the library does
//! neither.

mod cli;
mod commands;
mod console;
mod error;
mod foreground;
mod log;
mod notify;
mod out;
mod root;

use std::ffi::OsString;
use std::process::ExitCode;

use cli::Request;
use commands::Context;
use error::{Error, Result};
use libcontainer::steps;
use log::Log;

/// Runs one command. `args` are the whole process's, of which the first `skip` are the names that lead here
/// (`gantry-runtime`, or `gantry runtime`). The process must have a single thread, and serve nothing else.
#[must_use]
pub fn main(args: &[OsString], skip: usize) -> ExitCode {
    let mut log = Log::default();
    let mut failure = 1;
    match run(args, args.get(skip..).unwrap_or_default(), &mut log, &mut failure) {
        Ok(code) => ExitCode::from(code),
        Err(Error::Help(text)) => match out::print(&format!("{}\n", text.trim_end())) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(error) => {
            log.error(&error.to_string());
            ExitCode::from(if matches!(error, Error::Usage(_)) { 1 } else { failure })
        }
    }
}

/// `failure` is the exit code of an error, which is the command's choice.
fn run(all: &[OsString], args: &[OsString], log: &mut Log, failure: &mut u8) -> Result<u8> {
    // Before the first descriptor of our own: only what the caller left open can be passed on.
    let inherited = (3..).take_while(|number| gantry_linux::process::is_open(*number)).zip(1..).last();
    let (globals, name, args) = match cli::request(args)? {
        Request::Print(text) => return Err(Error::Help(text)),
        Request::Command { globals, name, args } => (globals, name, args),
    };
    if commands::becomes_a_container(&name) {
        libcontainer::runtime::protect(all)?;
    }
    *log = Log::open(globals.log.as_deref(), globals.log_format.parse()?, globals.debug)?;
    log.debug(|| format!("{name} {args:?}"));
    if name == "exec" {
        *failure = 255;
    }
    inject()?;
    let context = Context::new(&globals, log, inherited.map_or(0, |(_, count)| count))?;
    commands::run(&context, &name, &args)
}

/// Has a start fail where a test wants it to.
fn inject() -> Result<()> {
    let Some(step) = std::env::var_os(steps::VARIABLE) else { return Ok(()) };
    match step.to_str().filter(|step| steps::is_known(step)) {
        Some(step) => steps::fail_at(step),
        None => return Err(Error::Usage(format!("{}: there is no step {}", steps::VARIABLE, step.display()))),
    }
    Ok(())
}
