//! The `tunewright` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = tunewright::worker::serve_if_asked().or_else(tunewright::sandbox::serve_if_asked) {
        return code;
    }
    ExitCode::from(tunewright::cli::main(std::env::args_os()))
}
