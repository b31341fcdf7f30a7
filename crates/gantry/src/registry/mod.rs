//! `gantry registry`: serves images, and looks after what is served.

mod look;
mod serve;
mod settings;
mod storage;

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use gantry_linux::memory;

/// A private registry: the OCI distribution protocol over a directory or a bucket.
#[derive(Debug, Parser)]
#[command(name = "gantry registry", version, disable_help_subcommand = true)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve images until a signal ends it
    Serve(serve::Flags),
    /// List repositories, or the tags of one
    Ls(look::Ls),
    /// Remove what nobody needs
    Gc(look::Gc),
    /// Read everything and say what is damaged or missing
    Verify(look::Verify),
    /// Copy images into an OCI layout
    Copy(look::Copy),
}

/// Runs the command.
#[allow(clippy::print_stderr, reason = "the error of a command goes to standard error")]
pub fn main(args: &[std::ffi::OsString]) -> ExitCode {
    let flags = match Flags::try_parse_from(args.iter().skip(1)) {
        Ok(flags) => flags,
        Err(error) => {
            // Help goes to standard output, mistakes to standard error.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    memory::be_frugal();
    match run(flags.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("gantry registry: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(std::time::Duration::from_secs(5))
        .enable_all()
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        match command {
            Command::Serve(flags) => serve::run(flags).await,
            Command::Ls(flags) => look::ls(flags).await,
            Command::Gc(flags) => look::gc(flags).await,
            Command::Verify(flags) => look::verify(flags).await,
            Command::Copy(flags) => look::copy(flags).await,
        }
    });
    // What still blocks on a kernel call must not hold the exit up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
