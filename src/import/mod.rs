//! ONNX bytes → [`Graph`]: the one place that knows ONNX's format.
//!
//! A model passes, in this order: **parse** (`wire`, `proto`: bytes to borrowed messages), **check** (`lower` and what it calls: names,
//! tensors, functions, bodies, operators; each operator in the newest version's form), **shape** ([`crate::graph::infer`]), and a
//! first look at what a plan would need. The file is hostile until it has passed: nothing is allocated by a declared size, no walk recurses
//! deeper than a limit, and every refusal names its class, the thing, what was found and what is allowed (`error`).
//!
//! Weights are not copied: constants are slices of the mapped file.

mod bodies;
mod error;
mod external;
mod functions;
mod limits;
mod lower;
mod ops;
mod order;
mod plan;
mod proto;
mod scope;
mod settle;
mod source;
mod tensor;
mod types;
mod wire;

pub use error::{Class, Excess, ImportError, escape, quote};
pub use limits::{LIMIT_NAMES, Limits, UnknownLimit};

use crate::graph::{Graph, infer};
use bytes::Bytes;
use external::External;
use functions::Functions;
use limits::Clock;
use lower::Lowering;
use proto::{Decoder, ModelProto, OpsetProto};
use schema::ModelKey;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tensor::Tensors;

/// The IR versions that are known: 3 is the first that imports operator sets.
const IR_VERSIONS: std::ops::RangeInclusive<i64> = 3..=14;

/// How to import.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub limits: Limits,
    /// A folder within which links of external data may resolve; without it they are refused.
    pub external_root: Option<PathBuf>,
    /// Who imports files in our place, such as a process of its own; ourselves when there is nobody.
    pub elsewhere: Option<Elsewhere>,
}

/// An importer of files that works somewhere else.
pub type Elsewhere = fn(&Path, &Options) -> Result<Model, ImportError>;

/// What a model says of itself besides its graph.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The version of the default operator set that the file was written for; the graph is in the newest form.
    pub opset: i64,
    pub ir_version: i64,
    /// Who wrote the file, with the version.
    pub producer: String,
    /// What was ignored, a line each.
    pub warnings: Vec<String>,
    /// Of the file and of its external data.
    pub bytes: u64,
}

/// An imported model.
#[derive(Debug)]
pub struct Model {
    pub graph: Graph,
    /// The version of the default operator set that the file was written for; the graph is in the newest form.
    pub opset: i64,
    pub ir_version: i64,
    /// Who wrote the file, with the version.
    pub producer: String,
    /// What was ignored, a line each.
    pub warnings: Vec<String>,
    /// The file and, by name, its external data.
    sources: Vec<(String, Bytes)>,
    bytes: u64,
    key: OnceLock<ModelKey>,
}

impl Model {
    /// A model that another process has imported, with its key.
    pub fn imported_elsewhere(graph: Graph, facts: Facts, key: ModelKey) -> Self {
        let Facts { opset, ir_version, producer, warnings, bytes } = facts;
        Model { graph, opset, ir_version, producer, warnings, sources: Vec::new(), bytes, key: OnceLock::from(key) }
    }

    /// All but the graph and the key.
    pub fn facts(&self) -> Facts {
        let Model { opset, ir_version, bytes, .. } = *self;
        Facts { opset, ir_version, producer: self.producer.clone(), warnings: self.warnings.clone(), bytes }
    }

    /// What the model's records are stored under: BLAKE3 of the file and of its external data. The first call hashes all bytes
    /// (about a second per GiB and core), later ones know.
    pub fn key(&self) -> ModelKey {
        *self.key.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            for (name, bytes) in &self.sources {
                hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
                hasher.update(&(bytes.len() as u64).to_le_bytes()).update_rayon(bytes);
            }
            let mut cut = [0; 16];
            cut.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
            ModelKey(cut)
        })
    }

    /// Bytes of the file and of its external data.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Imports the model at `path`, with the external data beside it; [`Options::elsewhere`] does when it is set.
///
/// # Errors
/// Any [`Class`]; the error names the file.
pub fn load(path: &Path, options: &Options) -> Result<Model, ImportError> {
    let load = || {
        if let Some(elsewhere) = options.elsewhere {
            return elsewhere(path, options);
        }
        let file = source::read_model(path, options.limits.model_bytes)?;
        let external = External::beside(path, options.external_root.as_deref(), options.limits.external_bytes)?;
        import(file, external, options)
    };
    load().map_err(|error| error.within(path))
}

/// Imports a model in memory. It has no folder, so external data are refused as missing.
///
/// # Errors
/// Any [`Class`] but those of files.
pub fn load_bytes(bytes: Bytes, options: &Options) -> Result<Model, ImportError> {
    let allowed = options.limits.model_bytes;
    if bytes.len() as u64 > allowed {
        let excess = Excess { limit: "model-bytes", allowed, need: Some(bytes.len() as u64) };
        return Err(ImportError::limit("", "bytes of the model", excess));
    }
    import(bytes, External::none(), options)
}

fn import(file: Bytes, external: External, options: &Options) -> Result<Model, ImportError> {
    let limits = &options.limits;
    refuse_other_formats(&file)?;
    let clock = Clock::start(limits);
    let decoder = Decoder::new(limits, clock);
    let proto = ModelProto::decode(&decoder, wire::Reader::file(&file))?;
    let ir_version = ir_version(proto.ir_version)?;
    let imports = opsets(&proto.opsets)?;
    if imports.is_empty() {
        return Err(unsupported("no operator set imported".to_owned()));
    }
    // A model of another domain alone may leave the default one out.
    let opset = imports.get("").copied().unwrap_or(*ops::OPSETS.end());
    let Some(main) = &proto.graph else {
        return Err(ImportError::new(Class::Malformed, "", "a model without a graph"));
    };
    let functions = Functions::new(&proto.functions)?;
    functions.check(main, limits)?;

    let tensors = Tensors { file: &file, limits, external, string_bytes: Cell::new(0), dense_bytes: 0 };
    let mut lowering = Lowering::new(tensors, functions, clock);
    let mut graph = lowering.main(main, imports)?;
    let bounds = infer::Bounds { dim: limits.dim, elements: limits.elements, rounds: limits.loop_rounds };
    infer::infer_within(&mut graph, &bounds)?;
    if settle::settle(&mut graph)? {
        infer::infer_within(&mut graph, &bounds)?;
    }
    lower::check_outputs(&graph, &main.outputs, limits)?;
    plan::check(&graph, limits)?;

    let Lowering { tensors, warnings, .. } = lowering;
    let external: Vec<(String, Bytes)> = tensors.external.into_files().into_iter().collect();
    let producer = [proto.producer, proto.producer_version].join(" ").trim().to_owned();
    let mut sources = vec![(String::new(), file.clone())];
    sources.extend(external);
    let bytes = sources.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    Ok(Model { graph, opset, ir_version, producer, warnings, sources, bytes, key: OnceLock::new() })
}

fn ir_version(found: Option<i64>) -> Result<i64, ImportError> {
    let (oldest, newest) = (IR_VERSIONS.start(), IR_VERSIONS.end());
    match found {
        Some(version) if IR_VERSIONS.contains(&version) => Ok(version),
        Some(version) => Err(unsupported(format!("IR version {version}, known are {oldest} to {newest}"))),
        None => Err(ImportError::new(Class::Malformed, "", "a model without an IR version")),
    }
}

/// Imported operator sets by domain; the default one within what is known.
fn opsets<'p>(imports: &[OpsetProto<'p>]) -> Result<BTreeMap<&'p str, i64>, ImportError> {
    let mut found = BTreeMap::new();
    for import in imports {
        let domain = if import.domain == "ai.onnx" { "" } else { import.domain };
        if let Some(other) = found.insert(domain, import.version)
            && other != import.version
        {
            let twice = format!("operator set {} imported as version {other} and {}", quote(import.domain), import.version);
            return Err(ImportError::new(Class::Malformed, "", twice));
        }
        if domain.is_empty() && !ops::OPSETS.contains(&import.version) {
            let (oldest, newest) = (ops::OPSETS.start(), ops::OPSETS.end());
            return Err(unsupported(format!("operator set {}, known are {oldest} to {newest}", import.version)));
        }
    }
    Ok(found)
}

fn unsupported(found: String) -> ImportError {
    ImportError::new(Class::UnsupportedVersion, "", found)
}

/// Tells the files that people mistake for models from damaged models. ONNX has no signature; these have.
fn refuse_other_formats(bytes: &[u8]) -> Result<(), ImportError> {
    const FORMATS: &[(&[u8], &str)] = &[
        (b"\x1f\x8b", "a gzip file; unpack it first"),
        (b"PK\x03\x04", "a zip file, as PyTorch's .pt are; unpack it, or export to ONNX"),
        (b"BZh", "a bzip2 file; unpack it first"),
        (b"\xfd7zXZ\0", "an xz file; unpack it first"),
        (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it first"),
        (b"\x89HDF", "an HDF5 file; convert it to ONNX"),
        (b"GGUF", "a GGUF file; convert it to ONNX"),
        (b"\x89PNG", "a picture; give a model"),
        (b"\x80\x02}", "a Python pickle; export to ONNX"),
        (b"version https://git-lfs", "a Git LFS pointer; run git lfs pull"),
    ];
    let not_onnx = |found: &str, advice: &str| Err(ImportError::new(Class::NotOnnx, "", found).advise(advice));
    if bytes.is_empty() {
        return not_onnx("not an ONNX model: it is empty", "copy the file again");
    }
    for (signature, what) in FORMATS {
        if bytes.starts_with(signature) {
            let (what, advice) = what.split_once("; ").unwrap_or((what, "give an ONNX file"));
            return not_onnx(&format!("not an ONNX model: it begins like {what}"), advice);
        }
    }
    // A model begins with the tag of its IR version or another field: a control character.
    let start = &bytes[..bytes.len().min(64)];
    if start.iter().all(|&byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) && start.iter().any(u8::is_ascii_graphic) {
        return not_onnx("not an ONNX model: it is a text", "give an ONNX file");
    }
    Ok(())
}
