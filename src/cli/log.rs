//! Where the library's events go: all of them into the file of `--log`, choices and more to stderr with `-v` and `-vv`.

use super::failure::Failure;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

/// What filters the file, in the syntax of `tracing`: `tunewright::search=debug`.
const FILTER: &str = "TUNEWRIGHT_LOG";

/// Starts listening, once per process.
///
/// # Errors
/// A file that cannot be written, or a filter that does not parse.
pub fn start(file: Option<&Path>, verbose: u8) -> Result<(), Failure> {
    let file = match file {
        None => None,
        Some(path) => {
            let open = OpenOptions::new().create(true).append(true).open(path);
            let open = open.map_err(|error| Failure::io("write", path, &error))?;
            Some(fmt::layer().with_writer(Arc::new(open)).with_ansi(false).with_filter(filter()?))
        }
    };
    let level = match verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    if file.is_none() && verbose == 0 {
        return Ok(());
    }
    let screen = fmt::layer().with_writer(std::io::stderr).with_ansi(false).without_time().with_filter(level);
    // A second start in one process keeps the first.
    let _ = tracing_subscriber::registry().with(file).with(screen).try_init();
    Ok(())
}

fn filter() -> Result<EnvFilter, Failure> {
    match std::env::var(FILTER).ok().filter(|text| !text.is_empty()) {
        None => Ok(EnvFilter::default().add_directive(LevelFilter::TRACE.into())),
        Some(text) => EnvFilter::try_new(&text).map_err(|error| {
            Failure::new("usage.value", format!("{FILTER}={text}"), error).remedy("write it as tunewright::search=debug")
        }),
    }
}
