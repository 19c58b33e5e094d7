//! The command line. Only this room prints and picks an exit code; below it are values, typed errors and events.
//!
//! Each subcommand is a file with its arguments and one function `run(arguments, screen) -> Result<Exit, Failure>`. [`screen`] knows
//! colours and where data, progress and errors go; [`failure`] is the one line an error becomes and the one place that picks a code.

mod failure;
mod log;
mod quantity;
mod reasons;
mod save;
mod screen;
mod settings;
mod table;

mod bench;
mod completions;
mod db;
mod devices;
mod doctor;
mod explain;
mod inspect;
mod model;
mod run;
mod simulate;
mod tune;

pub use failure::{Exit, Failure};
pub use screen::Screen;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Tunes ONNX models for the share of the device they will run on, and runs what was tuned
#[derive(Debug, Parser)]
#[command(
    name = "tunewright",
    version = VERSION,
    disable_help_subcommand = false,
    after_help = "Examples:\n  tunewright tune resnet50.onnx --share 50,100 --batch 1,4\n  tunewright run resnet50.tune --input x.npz --expect y.npz"
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Version, commit and compiled-in devices.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("TUNEWRIGHT_COMMIT"), ", devices: cpu, wgpu, cuda)");

/// What is printed when nothing is asked: ten lines.
const BRIEF: &str = "\
tunewright tunes ONNX models for the share of the device they will run on, and runs what was tuned

  tunewright tune resnet50.onnx --share 50,100 --batch 1,4
  tunewright run resnet50.tune --input x.npz --expect y.npz

  tune  run  bench  explain     make an artifact, use it, measure it, ask why
  inspect  devices  doctor      look into a file, at the devices, at the machine
  simulate  db  completions     try policies on a trace, ask the tuning database, complete commands

tunewright help COMMAND says more of one, tunewright --help lists every flag";

/// Flags that mean the same for every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The tuning database; made on the first write, never by a read [default: $XDG_DATA_HOME/tunewright/db]
    #[arg(long, global = true, value_name = "PATH")]
    pub db: Option<PathBuf>,
    /// One JSON object on stdout at the end, or with `lines` an event a line
    #[arg(long, global = true, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "object")]
    pub json: Option<screen::JsonForm>,
    /// Which version of the JSON; this build knows 1
    #[arg(long, global = true, value_name = "N", value_parser = json_version)]
    pub json_version: Option<u32>,
    /// Errors and the result only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Why each choice fell; twice for a trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Append a full log to this file, whatever the screen shows; TUNEWRIGHT_LOG filters it
    #[arg(long, global = true, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Colours on the terminal
    #[arg(long, global = true, value_name = "WHEN")]
    pub color: Option<screen::When>,
    /// Read settings from this file only
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "no_config")]
    pub config: Option<PathBuf>,
    /// Read no settings file
    #[arg(long, global = true)]
    pub no_config: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What is here and what shares of it can be given
    Devices(devices::Arguments),
    /// Can this machine measure, does everything work
    Doctor(doctor::Arguments),
    /// What a model or an artifact holds, and what would be refused
    Inspect(inspect::Arguments),
    /// Search, store, write the artifact
    Tune(tune::Arguments),
    /// One inference from an artifact, or untuned from a model
    Run(run::Arguments),
    /// Load on artifacts in the scenarios of LoadGen: latencies, throughput, a verdict, assertions
    Bench(bench::Arguments),
    /// Which placement a request would get, and why each rival loses
    Explain(explain::Arguments),
    /// What policies would make of a trace, by the records
    Simulate(simulate::Arguments),
    /// Ask, compare, check and move the tuning database
    Db(db::Arguments),
    /// Print a script that completes commands in your shell
    Completions(completions::Arguments),
}

fn json_version(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(1) => Ok(1),
        _ => Err("this build gives version 1; leave it out, or write --json-version 1".to_owned()),
    }
}

/// Parses `arguments` (the first is the program's name), does what they say and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Twice: the first time says which settings apply, the second has them as defaults.
    let first = match parse(command(), &arguments) {
        Ok(parsed) => parsed,
        Err(error) => return failure::report_usage(error, &arguments),
    };
    let mut screen = match Screen::new(&first.global) {
        Ok(screen) => screen,
        Err(failure) => return Screen::from_raw(&arguments).report(&failure),
    };
    let parsed = match parse(screen.settings.filled_into(command()), &arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            let failure = screen.settings.blame(failure::usage(&error));
            return screen.report(&failure);
        }
    };
    let Some(command) = &parsed.command else {
        eprintln!("{BRIEF}");
        return 2;
    };
    tracing::info!(version = VERSION, ?arguments, "tunewright");
    let log = parsed.global.log.clone().or_else(|| screen.settings.text("log").map(PathBuf::from));
    let code = match guarded(log.as_deref(), || dispatch(command, &parsed.global, &mut screen)) {
        Ok(exit) => exit.code(),
        Err(failure) => {
            tracing::error!(class = failure.class, "{failure}");
            screen.report(&failure)
        }
    };
    tracing::info!(code, "tunewright ends");
    code
}

fn parse(command: clap::Command, arguments: &[OsString]) -> Result<Arguments, clap::Error> {
    let mut matches = command.try_get_matches_from(arguments)?;
    Arguments::from_arg_matches_mut(&mut matches)
}

/// Does the work; a panic in it becomes a failure that names the file to send.
fn guarded(log: Option<&Path>, work: impl FnOnce() -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    // What the last panic said. Panics that others catch (those of sled) leave nothing on the screen.
    static SAID: Mutex<String> = Mutex::new(String::new());
    let said = || SAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::panic::set_hook(Box::new(move |panic| {
        let trace = std::backtrace::Backtrace::force_capture();
        tracing::error!("{panic}\n{trace}");
        *said() = format!("{panic}\n{trace}");
    }));
    let done = std::panic::catch_unwind(AssertUnwindSafe(work));
    let _ = std::panic::take_hook();
    done.unwrap_or_else(|_| {
        let said = said().clone();
        let first = said.lines().take(2).collect::<Vec<_>>().join(" ");
        let text = format!("tunewright {VERSION}\n{:?}\n{said}\n", std::env::args_os().collect::<Vec<_>>());
        let file = log.map(Path::to_owned).or_else(|| bug_report(&text).ok());
        let remedy = file.map_or_else(String::new, |file| format!("please send us {}", file.display()));
        Err(Failure::new("bug.panic", "tunewright", first).remedy(remedy))
    })
}

/// Writes what happened where it can be found.
fn bug_report(text: &str) -> std::io::Result<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = state.unwrap_or_else(|| settings::home_folder().join(".local/state")).join("tunewright");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join(format!("bug-{}.log", std::process::id()));
    std::fs::write(&file, text)?;
    Ok(file)
}

fn dispatch(command: &Command, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    match command {
        Command::Devices(arguments) => devices::run(arguments, screen),
        Command::Doctor(arguments) => doctor::run(arguments, global, screen),
        Command::Inspect(arguments) => inspect::run(arguments, screen),
        Command::Tune(arguments) => tune::run(arguments, global, screen),
        Command::Run(arguments) => run::run(arguments, screen),
        Command::Bench(arguments) => bench::run(arguments, global, screen),
        Command::Explain(arguments) => explain::run(arguments, global, screen),
        Command::Simulate(arguments) => simulate::run(arguments, global, screen),
        Command::Db(arguments) => db::run(arguments, global, screen),
        Command::Completions(arguments) => completions::run(arguments, screen),
    }
}

/// The whole grammar. In the full help the examples come first.
pub fn command() -> clap::Command {
    examples_first(Arguments::command())
}

fn examples_first(command: clap::Command) -> clap::Command {
    let command = match command.get_after_help().map(ToString::to_string) {
        Some(examples) => command.before_long_help(examples).after_long_help(""),
        None => command,
    };
    let names: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, examples_first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_line_that_names_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let failure = guarded(Some(&log), || panic!("the cat is on the keyboard")).unwrap_err();
        assert_eq!((failure.class.as_str(), failure.code()), ("bug.panic", 70));
        assert!(failure.why.contains("the cat is on the keyboard"), "{failure}");
        assert!(failure.remedy.contains(&log.display().to_string()), "{failure}");
    }

    #[test]
    fn nothing_asked_gets_ten_lines() {
        assert_eq!(BRIEF.lines().count(), 10);
    }
}
