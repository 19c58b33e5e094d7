//! The command line. Only this room prints and picks an exit code; below it are values, typed errors and events.
//!
//! Each subcommand is a file with its arguments and one function `run(arguments, screen) -> Result<Exit, Failure>`. [`screen`] knows
//! colours and where data, progress and errors go; [`failure`] is the one line an error becomes and the one place that picks a code.

mod failure;
mod quantity;
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
mod tune;

pub use failure::{Exit, Failure};
pub use screen::Screen;

use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Tunes ONNX models for the share of the device they will run on, and runs what was tuned
#[derive(Debug, Parser)]
#[command(
    name = "tunewright",
    version = VERSION,
    disable_help_subcommand = false,
    arg_required_else_help = true,
    after_help = "Examples:\n  tunewright tune resnet50.onnx --share 50,100 --batch 1,4\n  tunewright run resnet50.tune --input x.npz"
)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Version, commit and compiled-in devices.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (devices: cpu)");

/// Flags that mean the same for every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// The tuning database; made on the first write, never by a read [default: $XDG_DATA_HOME/tunewright/db]
    #[arg(long, global = true, value_name = "PATH")]
    pub db: Option<PathBuf>,
    /// One JSON object on stdout at the end, or with `lines` an event a line
    #[arg(long, global = true, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "object")]
    pub json: Option<screen::JsonForm>,
    /// Errors and the result only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Why each choice fell; twice for a trace
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Write a full log to this file, whatever the screen shows
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
    /// Requests against an artifact: latencies, throughput, assertions
    Bench(bench::Arguments),
    /// Which placement a request would get, and why each rival loses
    Explain(explain::Arguments),
    /// Ask, compare, check and move the tuning database
    Db(db::Arguments),
    /// Print a script that completes commands in your shell
    Completions(completions::Arguments),
}

/// Parses `arguments` (the first is the program's name), does what they say and returns the exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = match Arguments::try_parse_from(&arguments) {
        Ok(parsed) => parsed,
        Err(error) => return failure::report_usage(error, &arguments),
    };
    let mut screen = match Screen::new(&parsed.global) {
        Ok(screen) => screen,
        Err(failure) => return Screen::plain().report(&failure),
    };
    match dispatch(&parsed, &mut screen) {
        Ok(exit) => exit.code(),
        Err(failure) => screen.report(&failure),
    }
}

fn dispatch(parsed: &Arguments, screen: &mut Screen) -> Result<Exit, Failure> {
    match &parsed.command {
        Command::Devices(arguments) => devices::run(arguments, screen),
        Command::Doctor(arguments) => doctor::run(arguments, &parsed.global, screen),
        Command::Inspect(arguments) => inspect::run(arguments, screen),
        Command::Tune(arguments) => tune::run(arguments, &parsed.global, screen),
        Command::Run(arguments) => run::run(arguments, screen),
        Command::Bench(arguments) => bench::run(arguments, screen),
        Command::Explain(arguments) => explain::run(arguments, screen),
        Command::Db(arguments) => db::run(arguments, &parsed.global, screen),
        Command::Completions(arguments) => completions::run(arguments, screen),
    }
}

/// The whole grammar, for completions and help.
pub fn command() -> clap::Command {
    Arguments::command()
}
