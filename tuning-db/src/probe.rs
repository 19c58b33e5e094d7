//! Looking at an index in a child process first: opening a damaged one may panic, hang or ask for all memory, and the child takes
//! that on itself.

use crate::envelope;
use crate::index::{Flow, Index, IndexError};
use crate::index_sled::SledIndex;
use crate::tables::Tables;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Address space of the child.
const MEMORY_BYTES: u64 = 2 << 30;

/// The command that runs [`probe_main`]: its arguments, then the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub variables: Vec<(OsString, OsString)>,
}

impl Probe {
    /// `tunewright db __probe` of the running program.
    ///
    /// # Errors
    /// When the program's own path cannot be found out.
    pub fn this_program() -> std::io::Result<Self> {
        let program = std::env::current_exe()?;
        Ok(Probe { program, arguments: vec!["db".into(), "__probe".into()], variables: Vec::new() })
    }

    /// Probes an index.
    ///
    /// # Errors
    /// [`IndexError::Corrupt`] with what the child said, or that it died or gave no answer within `limit`. A child that could not
    /// be started is no error: then the index is opened without.
    pub fn run(&self, dir: &Path, limit: Duration) -> Result<(), IndexError> {
        let spawned = Command::new(&self.program)
            .args(&self.arguments)
            .arg(dir)
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(%error, "the index is opened without a probe");
                return Ok(());
            }
        };
        let started = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if started.elapsed() < limit => std::thread::sleep(Duration::from_millis(2)),
                _ => {
                    // Gone or not, it is waited for: no zombie stays.
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(IndexError::Corrupt(format!("a probe gave no answer within {limit:?}")));
                }
            }
        };
        let mut text = String::new();
        if let Some(output) = child.stdout.take() {
            // What it said so far is enough.
            let _ = output.take(4096).read_to_string(&mut text);
        }
        let said = text.lines().find_map(|line| line.strip_prefix("tunewright-probe: ")).unwrap_or("");
        match said.split_once(' ').unwrap_or((said, "")) {
            ("ok", _) if status.success() => Ok(()),
            ("damaged", what) => Err(IndexError::Corrupt(what.to_owned())),
            _ => Err(IndexError::Corrupt(format!("a probe died: {status}"))),
        }
    }
}

/// What the child does: opens the index in `dir`, reads every key, checks every sum and prints one line. Returns the exit code.
pub fn probe_main(dir: &Path) -> i32 {
    let memory = rustix::process::Rlimit { current: Some(MEMORY_BYTES), maximum: Some(MEMORY_BYTES) };
    let core = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
    // Without the limits it is a probe all the same.
    let _ = rustix::process::setrlimit(rustix::process::Resource::As, memory);
    let _ = rustix::process::setrlimit(rustix::process::Resource::Core, core);
    let dir = dir.to_owned();
    let looked = crate::caught::guarded(Duration::from_secs(3600), move || look(&SledIndex::open(&dir)?));
    match looked {
        Ok((keys, watermark)) => {
            println!("\ntunewright-probe: ok {keys} {watermark}");
            0
        }
        Err(error) => {
            println!("\ntunewright-probe: damaged {}", error.to_string().replace(['\n', '\r'], " "));
            1
        }
    }
}

/// Reads everything; how many keys there are, and the watermark.
fn look(index: &dyn Index) -> Result<(u64, u64), IndexError> {
    let (mut keys, mut fault) = (0, None);
    index.scan(&[], &[], &mut |key, value| {
        keys += 1;
        match envelope::open(key, value) {
            Ok(_) => Flow::Continue(()),
            Err(error) => {
                fault = Some(IndexError::from(error));
                Flow::Break(())
            }
        }
    })?;
    match fault {
        Some(fault) => Err(fault),
        None => Ok((keys, Tables(index).watermark()?.unwrap_or_default().seq)),
    }
}
