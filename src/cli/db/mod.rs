//! `tunewright db …`: asking, comparing, checking and moving the tuning database.
//!
//! Reading never makes a database and never waits for a tuner; what writes takes the lock.

mod check;
mod diff;
mod query;
mod show;
mod stat;
mod tend;
mod transfer;

use super::failure::Failure;
use super::{Exit, Global, Screen, settings};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};
use tuning_db::{OpenOptions, Probe, Reader, Source, Store, StoreError};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tunewright db query 'model=resnet50 and share<=50 and p99<5ms'\n  tunewright db stat")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    flags: Flags,
}

/// Flags of every subcommand.
#[derive(Clone, Debug, clap::Args)]
pub struct Flags {
    /// Read by this way only: A the index, B its holder, C snapshot and journal
    #[arg(long, global = true, value_name = "A|B|C", value_parser = source)]
    source: Option<Source>,
    /// Accept a database on a network file system
    #[arg(long, global = true)]
    allow_network_fs: bool,
}

fn source(text: &str) -> Result<Source, String> {
    Source::parse(text).ok_or_else(|| "it is A, B or C".to_owned())
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask for rows: the newest valid ones of each model, device, share and batch
    Query(query::Arguments),
    /// Show records in full
    Show(show::Arguments),
    /// Rows by kind and device, size, age, what is stale and why
    Stat(stat::Arguments),
    /// Compare two databases, generations or drivers
    Diff(diff::Arguments),
    /// Verify checksums and manifest; changes nothing
    Check(check::CheckArguments),
    /// Quarantine damage and rebuild from the journal
    Repair(check::RepairArguments),
    /// Write records as JSONL
    Export(transfer::ExportArguments),
    /// Take in records of an export
    Import(transfer::ImportArguments),
    /// Take in all observations of other databases
    Merge(tend::MergeArguments),
    /// Drop superseded trials
    Gc(tend::GcArguments),
    /// Opens the index in a process of its own: how a damaged one is found out without harm.
    #[command(name = "__probe", hide = true)]
    Probe { folder: PathBuf },
}

/// A database and how to open it.
pub struct Database {
    pub path: PathBuf,
    flags: Flags,
}

pub fn run(arguments: &Arguments, global: &Global, screen: &mut Screen) -> Result<Exit, Failure> {
    let database = Database { path: settings::database_path(global, &screen.settings), flags: arguments.flags.clone() };
    match &arguments.command {
        Command::Query(arguments) => query::run(arguments, &database, screen),
        Command::Show(arguments) => show::run(arguments, &database, screen),
        Command::Stat(arguments) => stat::run(arguments, &database, screen),
        Command::Diff(arguments) => diff::run(arguments, &database, screen),
        Command::Check(arguments) => check::check(arguments, &database, screen),
        Command::Repair(arguments) => check::repair(arguments, &database, screen),
        Command::Export(arguments) => transfer::export(arguments, &database, screen),
        Command::Import(arguments) => transfer::import(arguments, &database, screen),
        Command::Merge(arguments) => tend::merge(arguments, &database, screen),
        Command::Gc(arguments) => tend::gc(arguments, &database, screen),
        Command::Probe { folder } => match tuning_db::probe_main(folder) {
            0 => Ok(Exit::Done),
            _ => Ok(Exit::No),
        },
    }
}

impl Database {
    /// For reading; `None` when there is no database yet, after a hint.
    ///
    /// # Errors
    /// What reading it gives.
    pub fn reader(&self, screen: &mut Screen) -> Result<Option<Reader>, Failure> {
        match Reader::open(&self.path, self.flags.source.unwrap_or_default()) {
            Ok(reader) => Ok(Some(reader)),
            Err(StoreError::Missing { path }) => {
                self.none(&path, screen);
                Ok(None)
            }
            Err(error) => Err(from_store(&self.path, &error)),
        }
    }

    /// Says that there is no database yet, which is an answer.
    pub fn none(&self, path: &Path, screen: &mut Screen) -> Exit {
        let why = format!("no database at {}: it is made by the first tunewright tune", path.display());
        screen.note(&why);
        let object = || json!({"schema": "db.none", "version": 1, "path": path.display().to_string(), "why": why});
        screen.result(object, |_| Vec::new());
        Exit::No
    }

    /// How to open it for writing.
    pub fn options(&self) -> OpenOptions {
        open_options(self.flags.allow_network_fs)
    }

    /// For writing; makes it.
    ///
    /// # Errors
    /// What opening it gives.
    pub fn store(&self, screen: &mut Screen) -> Result<Store, Failure> {
        open_store(&self.path, self.options(), screen)
    }

    /// A failure of this database.
    pub fn failure(&self, error: &StoreError) -> Failure {
        from_store(&self.path, error)
    }
}

/// How this program opens databases: with itself as the probe.
pub fn open_options(allow_network_fs: bool) -> OpenOptions {
    OpenOptions { probe: Probe::this_program().ok(), allow_network_fs, ..OpenOptions::default() }
}

/// Opens for writing, and says what had to be mended.
///
/// # Errors
/// What opening gives.
pub fn open_store(path: &Path, options: OpenOptions, screen: &mut Screen) -> Result<Store, Failure> {
    let store = Store::open(path, options).map_err(|error| from_store(path, &error))?;
    if let Some(line) = store.open_report().line() {
        screen.warn("db", &line);
    }
    if let Some(line) = store.open_report().exposed_line() {
        screen.warn("db", &format!("{}: {line}", path.display()));
    }
    Ok(store)
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// How long ago something was, for people: `3 d ago`.
pub fn show_age(then_s: u64) -> String {
    match now_s().saturating_sub(then_s) {
        age @ 0..120 => format!("{age} s ago"),
        age @ 120..7_200 => format!("{} min ago", age / 60),
        age @ 7_200..172_800 => format!("{} h ago", age / 3_600),
        age => format!("{} d ago", age / 86_400),
    }
}

/// A failure of a database in the form of the command line.
pub fn from_store(path: &Path, error: &StoreError) -> Failure {
    let text = error.to_string();
    let place = path.display().to_string();
    let text = text.strip_prefix(&format!("{place}: ")).unwrap_or(&text);
    let (why, remedy) = text.split_once("; ").unwrap_or((text, ""));
    let failure = match error {
        StoreError::Input { .. } => Failure::new(error.class(), why, ""),
        _ => Failure::new(error.class(), format!("database {place}"), why),
    };
    failure.remedy(remedy).because(error)
}
