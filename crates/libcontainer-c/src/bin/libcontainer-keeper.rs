//! The keeper as a program of its own; the library carries it inside.

use std::process::ExitCode;

fn main() -> ExitCode {
    container::keeper::main()
}
