//! The `tunewright` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(tunewright::cli::main(std::env::args_os()))
}
