//! The `tunewright` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    spare_complaints();
    if let Some(code) = tunewright::worker::serve_if_asked().or_else(tunewright::sandbox::serve_if_asked) {
        return code;
    }
    ExitCode::from(tunewright::cli::main(std::env::args_os()))
}

/// Mesa's drivers complain on stderr when the folder that window systems use isn't named, though nobody wants a window.
fn spare_complaints() {
    const FOLDER: &str = "XDG_RUNTIME_DIR";
    if std::env::var_os(FOLDER).is_none() {
        // SAFETY: no other thread has begun, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(FOLDER, std::env::temp_dir()) };
    }
}
