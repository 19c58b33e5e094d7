//! Models on the command line: the flags of whatever imports, reading a file of either kind, and its errors in our form.

use super::failure::Failure;
use super::quantity;
use crate::artifact::{Artifact, ArtifactError, Opening};
use crate::graph::{Graph, infer};
use crate::import::{self, ImportError, Model};
use crate::passes::{self, PassError, Pipeline, Report};
use crate::sandbox;
use schema::Batch;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Flags of every command that imports.
#[derive(Clone, Debug, clap::Args)]
pub struct ImportFlags {
    /// Fix a symbolic axis; repeatable
    #[arg(long, value_name = "NAME=N", value_parser = quantity::dim)]
    pub dim: Vec<(String, u64)>,
    /// Raise or lower a limit of the import; repeatable
    #[arg(long, value_name = "NAME=N", value_parser = limit)]
    pub limit: Vec<(String, u64)>,
    /// A folder within which links of external data may resolve
    #[arg(long, value_name = "DIR")]
    pub external_root: Option<PathBuf>,
    /// Import in a process of its own, with limits; the default for files of another user
    #[arg(long, overrides_with = "no_sandbox")]
    pub sandbox: bool,
    /// Import in this process, whoever owns the file
    #[arg(long, overrides_with = "sandbox")]
    pub no_sandbox: bool,
}

/// Flags of every command that opens an artifact.
#[derive(Clone, Debug, clap::Args)]
pub struct OpenFlags {
    /// When the weights are checked: at once, or when they are first used
    #[arg(long, value_name = "WHEN", value_enum, default_value = "lazy")]
    verify: Verify,
    /// Copy the weights into sealed memory: the file may change afterwards
    #[arg(long)]
    copy: bool,
}

/// When the bytes of an artifact are checked.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Verify {
    Eager,
    Lazy,
}

impl OpenFlags {
    /// How to open.
    pub fn opening(&self) -> Opening {
        Opening { eager: self.verify == Verify::Eager, copy: self.copy }
    }
}

fn limit(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("a limit is NAME=N; write --limit rank=64")?;
    let value = value.parse().map_err(|_| "a limit is NAME=N with a whole number; write --limit rank=64")?;
    import::Limits::default().set(name, value).map_err(|unknown| {
        let near = super::failure::nearest(name, import::LIMIT_NAMES.iter().copied());
        near.map_or_else(|| unknown.to_string(), |near| format!("there is no limit {name}; did you mean {near}?"))
    })?;
    Ok((name.to_owned(), value))
}

impl ImportFlags {
    /// The options of the importer for these files.
    pub fn options(&self, files: &[PathBuf]) -> import::Options {
        let mut limits = import::Limits::default();
        for (name, value) in &self.limit {
            limits.set(name, *value).expect("the flag's parser knows the limits' names");
        }
        let apart = !self.no_sandbox && (self.sandbox || files.iter().any(|file| is_foreign(file)));
        let elsewhere = apart.then_some(sandbox::load as import::Elsewhere);
        import::Options { limits, external_root: self.external_root.clone(), elsewhere }
    }

    /// The axes that are fixed by name.
    pub fn dims(&self) -> BTreeMap<String, u64> {
        self.dim.iter().cloned().collect()
    }

    /// Imports a model.
    ///
    /// # Errors
    /// What the importer refuses, in the form of the command line.
    pub fn load(&self, path: &Path) -> Result<Model, Failure> {
        import::load(path, &self.options(&[path.to_owned()])).map_err(|error| from_import(path, &error))
    }
}

/// Whether a file belongs to somebody else than us and the system's owner.
fn is_foreign(path: &Path) -> bool {
    let owner = std::fs::metadata(path).map(|data| data.uid());
    owner.is_ok_and(|owner| owner != 0 && owner != rustix::process::geteuid().as_raw())
}

/// What a file is, by its first bytes.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Artifact,
    /// The text form of a graph.
    GraphText,
    /// Whatever else: the importer says what it is not.
    Model,
}

/// Looks at the first bytes of a file.
///
/// # Errors
/// When it cannot be opened or read.
pub fn kind(path: &Path) -> Result<Kind, Failure> {
    let mut start = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| Failure::io("open", path, &error))?;
    file.take(8).read_to_end(&mut start).map_err(|error| Failure::io("read", path, &error))?;
    Ok(match &start[..] {
        [0x89, b'T', b'W', b'A', ..] => Kind::Artifact,
        start if start.starts_with(b"graph ") => Kind::GraphText,
        _ => Kind::Model,
    })
}

/// Opens an artifact.
///
/// # Errors
/// Something else than an artifact, unreadable, damaged or newer, in the form of the command line.
pub fn open_artifact(path: &Path, opening: Opening) -> Result<Artifact, Failure> {
    if kind(path)? != Kind::Artifact {
        let remedy = format!("make one with tunewright tune {}", path.display());
        return Err(Failure::new("input.not_artifact", path.display(), "it does not begin as an artifact does").remedy(remedy));
    }
    Artifact::open_as(path, opening).map_err(|error| from_artifact(path, &error))
}

/// Chooses batch and axes and runs the passes.
///
/// # Errors
/// An axis left open, or what a pass found wrong with the model.
pub fn prepare(
    path: &Path,
    graph: &mut Graph,
    batch: Option<Batch>,
    dims: &BTreeMap<String, u64>,
    stop_after: Option<&'static str>,
    options: &passes::Options,
) -> Result<Report, Failure> {
    infer::bind(graph, batch, dims).map_err(|error| from_bind(path, &error))?;
    let pipeline = Pipeline { stop_after, clock };
    pipeline.run(graph, options).map_err(|error| from_pass(path, &error))
}

/// Time since the first call.
fn clock() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// An importer's refusal.
pub fn from_import(path: &Path, error: &ImportError) -> Failure {
    let class = format!("input.{}", error.class().code());
    Failure::new(&class, path.display(), error.found()).at(error.place()).remedy(error.remedy())
}

/// An axis that cannot be bound.
pub fn from_bind(path: &Path, error: &infer::BindError) -> Failure {
    let text = error.to_string();
    let (why, remedy) = text.split_once("; ").unwrap_or((&text, ""));
    let class = match error {
        infer::BindError::Open { .. } => "input.open_axis",
        infer::BindError::Infer(source) => return from_import(path, &ImportError::from(source.clone())),
        _ => "input.shape_mismatch",
    };
    Failure::new(class, path.display(), why).remedy(remedy)
}

/// What a pass found.
pub fn from_pass(path: &Path, error: &PassError) -> Failure {
    match error {
        PassError::Broken { pass, source } => Failure::new("bug.pass", path.display(), source)
            .at(format!("pass {pass}"))
            .remedy("please send us the model and this line"),
        other => Failure::new("input.malformed", path.display(), other),
    }
}

/// What to do when an artifact cannot be written.
pub const WRITE_REMEDY: &str = "all trials are safe in the database; make room or name another place with -o, and call again";

/// What is wrong with an artifact.
pub fn from_artifact(path: &Path, error: &ArtifactError) -> Failure {
    let path = error.path().unwrap_or(path);
    match error.cause() {
        ArtifactError::Read(io) => return Failure::io("read", path, io),
        ArtifactError::Write(io) => {
            return Failure::io("write", path, io).remedy(WRITE_REMEDY);
        }
        ArtifactError::Contents(what) => return Failure::new("bug.artifact", path.display(), what),
        _ => {}
    }
    let text = error.cause().to_string();
    let (why, remedy) = text.split_once("; ").unwrap_or((&text, "tune again, it takes seconds from the database"));
    Failure::new(&format!("artifact.{}", error.class()), path.display(), why).remedy(remedy).because(error)
}
