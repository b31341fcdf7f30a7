//! The command-line client: commands, flags, output, terminal. A drop-in for the `docker` CLI; it speaks to the daemon
//! over [`gantry_transport`] and knows nothing of kernels beyond the terminal.
#![allow(
    clippy::disallowed_methods,
    reason = "the client reads and writes a person's own files; it uses no gantry-linux"
)]
#![allow(missing_docs, reason = "nothing but `main` is public")]

mod archive;
mod autostart;
mod body;
mod cli;
mod commands;
mod config;
mod context;
mod contexts;
mod credentials;
mod daemon;
mod dispatch;
mod failure;
mod flags;
mod format;
mod pace;
mod printer;
mod progress;
mod stream;
mod template;
mod terminal;

use std::ffi::OsString;
use std::process::ExitCode;

/// Runs the command that `args` (with the program's name first) names, and returns its exit status. `gantry daemon`,
/// `gantry runtime` and the hidden roles never get here.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<String> = args.into_iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let code = match dispatch::dispatch(&args) {
        Ok(code) => code,
        Err(failure) => {
            if !failure.message.is_empty() {
                printer::error_line(&failure.message);
            }
            failure.code
        }
    };
    ExitCode::from(code)
}
