//! Imports in a process of its own: a model that makes the importer run out of memory, of time or of luck costs that process only.
//!
//! The child is this binary with [`FLAG`]. It gets its ask as JSON on its standard input, gives up what an import does not need,
//! imports, and writes the graph as an artifact into its standard output, which is a file in memory. The parent seals that file and
//! reads it as it reads every artifact: all sums and references are checked, and no byte of the model itself was parsed here.
//!
//! Not a wall against code that runs: the importer is safe Rust, and what is kept in here are crashes. The child may read files.

use crate::artifact::{self, Artifact, Bound, Contents, Opening, Provenance};
use crate::import::{self, Class, Facts, ImportError, LIMIT_NAMES, Limits, Model, Options};
use crate::worker;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};
use schema::Batch;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The hidden first argument that makes the program a sandboxed importer.
pub const FLAG: &str = "__import";

/// Memory of its own that the child may hold. The models we know need under a tenth besides their mapped weights.
const DATA_BYTES_MAX: u64 = 2 << 30;
/// Seconds granted beside `import-seconds`: starting, hashing and handing over 64 GiB take under a minute.
const SECONDS_BESIDE: u64 = 60;
/// How often the parent looks whether the child is done.
const TICK: Duration = Duration::from_millis(2);
/// The code of a child that refuses the model and says why.
const REFUSED: u8 = 3;
/// The most of a dead child's last words that is kept.
const LAST_WORDS_BYTES: u64 = 200;

#[derive(Serialize, Deserialize)]
struct Ask {
    path: PathBuf,
    external_root: Option<PathBuf>,
    limits: Vec<(String, u64)>,
}

/// A refusal on its way to the parent.
#[derive(Serialize, Deserialize)]
struct Refusal {
    class: String,
    place: String,
    found: String,
    remedy: String,
}

/// Imports the model at `path` in a child process; an [`import::Elsewhere`].
///
/// # Errors
/// What the importer refuses, and [`Class::LimitExceeded`] when the child died of what the model made it do.
pub fn load(path: &Path, options: &Options) -> Result<Model, ImportError> {
    let system = |error: io::Error| ImportError::new(Class::Unreadable, "", format!("no sandbox can be made: {error}"));
    let program = worker::program().map_err(|error| system(io::Error::other(error)))?;
    let memory = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map(File::from);
    let result = memory("import-result").map_err(|error| system(error.into()))?;
    let words = memory("import-words").map_err(|error| system(error.into()))?;
    let limits = &options.limits;
    let ask = Ask {
        path: std::path::absolute(path).map_err(system)?,
        external_root: options.external_root.clone(),
        limits: LIMIT_NAMES.iter().filter_map(|name| Some(((*name).to_owned(), limits.get(name)?))).collect(),
    };
    let mut command = Command::new(program);
    command.arg(FLAG).env_clear().stdin(Stdio::piped());
    command.stdout(result.try_clone().map_err(system)?).stderr(words.try_clone().map_err(system)?);
    let mut child = command.spawn().map_err(system)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that died already is told by its status.
        let _ = serde_json::to_writer(&mut stdin, &ask).map_err(io::Error::other).and_then(|()| stdin.flush());
    }
    let seconds = limits.import_seconds.saturating_add(SECONDS_BESIDE);
    let status = wait(&mut child, Duration::from_secs(seconds)).map_err(system)?;
    match status {
        Some(status) if status.success() => receive(result, path),
        Some(status) if status.code() == Some(REFUSED.into()) => Err(refusal(result)),
        ended => Err(died(ended, words)),
    }
}

/// The child's status; `None` when it was late and is killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(TICK);
    }
}

/// The model as the child handed it over.
fn receive(result: File, path: &Path) -> Result<Model, ImportError> {
    let broken = |what: String| ImportError::new(Class::Malformed, "", format!("the sandbox handed over something else: {what}"));
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    fcntl_add_seals(&result, seals).map_err(|error| broken(error.to_string()))?;
    let open = Artifact::from_file(result, path, Opening::default()).map_err(|error| broken(error.cause().to_string()))?;
    let graph = open.graph(0).map_err(|error| broken(error.cause().to_string()))?;
    let facts: Facts =
        open.notes().first().and_then(|note| serde_json::from_str(note).ok()).ok_or_else(|| broken("no facts".into()))?;
    Ok(Model::imported_elsewhere(graph, facts, open.provenance().model))
}

/// What the child refused the model for.
fn refusal(mut result: File) -> ImportError {
    let mut text = String::new();
    let read = result.rewind().and_then(|()| result.take(1 << 20).read_to_string(&mut text));
    let refusal: Option<Refusal> = read.ok().and_then(|_| serde_json::from_str(&text).ok());
    match refusal.and_then(|refusal| Some((Class::parse(&refusal.class)?, refusal))) {
        Some((class, refusal)) => ImportError::new(class, refusal.place, refusal.found).advise(&refusal.remedy),
        None => ImportError::new(Class::Malformed, "", "it is refused, and the sandbox did not say why"),
    }
}

/// The model killed its importer.
fn died(status: Option<ExitStatus>, mut words: File) -> ImportError {
    let mut text = Vec::new();
    let _ = words.rewind().and_then(|()| words.take(LAST_WORDS_BYTES).read_to_end(&mut text));
    let text = String::from_utf8_lossy(&text);
    let words =
        text.lines().find(|line| !line.trim().is_empty()).map(|line| format!(" ({})", import::escape(line))).unwrap_or_default();
    let how = match status {
        None => "took too long".to_owned(),
        Some(status) => match status.signal() {
            Some(signal) => format!("died of signal {signal}"),
            None => format!("ended with code {}", status.code().unwrap_or(-1)),
        },
    };
    let found = format!("its import {how} in the sandbox, which allows {} MiB{words}", DATA_BYTES_MAX >> 20);
    ImportError::new(Class::LimitExceeded, "", found)
        .advise("do not use the file, unless you know who made it; --no-sandbox imports it here")
}

/// Runs as a sandboxed importer when the first argument says so, and returns the exit code then.
pub fn serve_if_asked() -> Option<ExitCode> {
    let asked = std::env::args_os().nth(1).is_some_and(|argument| argument == FLAG);
    asked.then(|| match serve() {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(())) => ExitCode::from(REFUSED),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    })
}

/// The inner result tells whether the model was accepted.
fn serve() -> io::Result<Result<(), ()>> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != parent {
        return Ok(Err(()));
    }
    let ask: Ask = serde_json::from_reader(io::stdin().lock().take(1 << 20))?;
    let mut limits = Limits::default();
    for (name, value) in &ask.limits {
        limits.set(name, *value).map_err(io::Error::other)?;
    }
    give_up_rights(&limits);
    let out = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let options = Options { limits, external_root: ask.external_root, elsewhere: None };
    match import::load(&ask.path, &options) {
        Ok(model) => {
            let mut out = BufWriter::with_capacity(1 << 20, out);
            artifact::write_to(&mut out, &contents(model)?).map_err(io::Error::other)?;
            out.flush()?;
            Ok(Ok(()))
        }
        Err(error) => {
            let refusal = Refusal {
                class: error.class().code().to_owned(),
                place: error.place().to_owned(),
                found: error.found().to_owned(),
                remedy: error.remedy().to_owned(),
            };
            serde_json::to_writer(out, &refusal)?;
            Ok(Err(()))
        }
    }
}

/// What an import never needs. Best effort: a limit that is already lower stays.
fn give_up_rights(limits: &Limits) {
    let lower = |resource, most| {
        let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    };
    lower(Resource::Core, 0);
    lower(Resource::Nofile, 64);
    lower(Resource::Data, DATA_BYTES_MAX);
    lower(Resource::Cpu, limits.import_seconds.saturating_add(SECONDS_BESIDE));
    let _ = rustix::thread::set_no_new_privs(true);
}

/// The model as an artifact without entries: its graph, and its facts as a note.
fn contents(model: Model) -> io::Result<Contents> {
    let (facts, key) = (serde_json::to_string(&model.facts())?, model.key());
    let graphs = vec![Bound { batch: Batch::ONE, dims: Vec::new(), graph: model.graph }];
    let untuned = Contents::untuned("", graphs);
    Ok(Contents { provenance: Provenance { model: key, ..untuned.provenance }, notes: vec![facts], ..untuned })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_kills_its_importer_is_refused_with_the_last_words() {
        let words = || {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"\nmemory allocation of 99 bytes failed\n").unwrap();
            file
        };
        let killed = died(Some(ExitStatus::from_raw(6)), words());
        assert_eq!(killed.class(), Class::LimitExceeded);
        let text = killed.to_string();
        assert!(text.contains("died of signal 6") && text.contains("(memory allocation of 99 bytes failed)"), "{text}");
        assert!(died(None, words()).to_string().contains("took too long"));
    }

    #[test]
    fn a_child_that_says_nothing_is_no_model() {
        let empty = tempfile::tempfile().unwrap();
        assert_eq!(refusal(empty.try_clone().unwrap()).class(), Class::Malformed);
        assert_eq!(receive(empty, Path::new("x.onnx")).unwrap_err().class(), Class::Malformed);
    }
}
