//! The runtime without the rest of the engine: quick to build, for tests and measurements.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    gantry_runtime::main(&args, 1)
}
