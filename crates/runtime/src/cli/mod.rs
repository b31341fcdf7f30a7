//! The command line: runc's commands and flags, as structs.

mod flags;
mod normalise;
mod values;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

pub use flags::{
    BundleFlags, Checkpoint, Create, Delete, Events, Exec, Globals, Kill, List, Nothing, OneContainer, OutputFormat,
    Ps, Restore, Run, Spec, Update,
};
use normalise::{Positionals, normalise};
pub use values::signal;

/// What is asked for.
pub enum Request {
    /// Text for standard output, and nothing else.
    Print(String),
    /// A command, its arguments still unread: only the flags of the command that runs are ever built.
    Command {
        /// Those before the command.
        globals: Globals,
        /// Its name.
        name: String,
        /// Those after it.
        args: Vec<OsString>,
    },
}

/// A command line that is wrong, or help.
pub enum Stop {
    /// Text for standard output, and success.
    Print(String),
    /// One line that says what is wrong.
    Usage(String),
}

/// Reads everything up to the command's name.
pub fn request(args: &[OsString]) -> Result<Request, Stop> {
    let globals: Globals = parse(args, Positionals::EndFlags)?;
    if globals.version {
        return Ok(Request::Print(crate::commands::version_text()));
    }
    let mut command = globals.command.iter().cloned();
    let Some(name) = command.next() else {
        return Ok(Request::Print(Globals::command().render_help().to_string()));
    };
    let args: Vec<OsString> = command.collect();
    let name = name.into_string().map_err(|name| Stop::Usage(format!("no help topic for {name:?}")))?;
    if name == "help" {
        return match args.first() {
            None => Ok(Request::Print(Globals::command().render_help().to_string())),
            Some(topic) => Ok(Request::Command {
                globals,
                name: topic.to_string_lossy().into_owned(),
                args: vec!["--help".into()],
            }),
        };
    }
    Ok(Request::Command { globals, name, args })
}

/// Reads a command's arguments; flags may stand anywhere.
pub fn mixed<T: CommandFactory + FromArgMatches>(args: &[OsString]) -> Result<T, Stop> {
    parse(args, Positionals::Mixed)
}

/// Reads a command's arguments; what follows the first positional is left alone.
pub fn trailing<T: CommandFactory + FromArgMatches>(args: &[OsString]) -> Result<T, Stop> {
    parse(args, Positionals::EndFlags)
}

fn parse<T: CommandFactory + FromArgMatches>(args: &[OsString], positionals: Positionals) -> Result<T, Stop> {
    let command = T::command().args_override_self(true).disable_help_subcommand(true);
    let args = normalise(&command, args, positionals).map_err(Stop::Usage)?;
    let matches = command.try_get_matches_from(args).map_err(|error| stop(&error))?;
    T::from_arg_matches(&matches).map_err(|error| stop(&error))
}

fn stop(error: &clap::Error) -> Stop {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion};
    let text = error.render().to_string();
    if matches!(error.kind(), DisplayHelp | DisplayVersion) {
        return Stop::Print(text);
    }
    // The log wants one line: clap's first paragraph, without its lead and its hints.
    let first = text.split("\n\n").next().unwrap_or(&text);
    let words: Vec<&str> = first.split_whitespace().collect();
    let line = words.join(" ");
    Stop::Usage(line.strip_prefix("error: ").unwrap_or(&line).to_owned())
}
