//! The runtime in which `GANTRY_BREAK` switches protections off by name: what `cargo xtask museum` tries its tests on.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    gantry_runtime::main(&args, 1)
}
