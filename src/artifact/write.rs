//! Writing: sections, then the file, under another name until it is whole.

use super::layout::{CHUNK_BYTES, Kind, METADATA_ALIGN, METADATA_MAX, Section, Table, WEIGHTS_ALIGN};
use super::wire::{Encoder, Texts, Weights, WireBound, WireEntry};
use super::{ArtifactError, ContentId, Contents, Entry};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// What came of writing.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub id: ContentId,
    pub bytes: u64,
    /// False when the file was there with these contents already, and was left alone.
    pub changed: bool,
}

/// Temporary files of dead processes older than this are removed.
const STALE: Duration = Duration::from_secs(3600);

/// Writes an artifact: to a temporary file in the target's folder, synced, then renamed. A file that holds these contents already is
/// left alone.
///
/// # Errors
/// [`ArtifactError::Write`] from the system (the temporary file is removed), [`ArtifactError::Contents`] for contents whose parts do
/// not fit together.
pub fn write(path: &Path, contents: &Contents) -> Result<Written, ArtifactError> {
    let image = Image::new(contents).map_err(|error| error.at(path))?;
    let written = Written { id: ContentId(image.table.content_id), bytes: image.table.file_len, changed: true };
    if super::read::identity(path).is_some_and(|(id, bytes)| id == written.id && bytes == written.bytes) {
        return Ok(Written { changed: false, ..written });
    }
    save(path, &image).map_err(|error| ArtifactError::Write(error).at(path))?;
    Ok(written)
}

/// Writes an artifact's bytes into something that is open, from where it stands: for handing one to another process.
///
/// # Errors
/// As [`write()`].
pub fn write_to(out: &mut impl Write, contents: &Contents) -> Result<(), ArtifactError> {
    Image::new(contents)?.write_to(out).map_err(ArtifactError::Write)
}

/// Bytes that are written at once. The page cache holds what is written at once in one piece and a lookup in the mapped file
/// makes all of that piece resident: 200 lookups in tables of 128 MB written whole left 108 MiB resident, in these pieces 32.
const PIECE: usize = 64 << 10;

/// Everything that will be in the file.
struct Image {
    table: Table,
    /// The bytes of each section but the weights, by its place in the table.
    metadata: BTreeMap<usize, Vec<u8>>,
    weights: Weights,
}

impl Image {
    fn new(contents: &Contents) -> Result<Self, ArtifactError> {
        let (mut texts, mut weights) = (Texts::default(), Weights::default());
        let mut sections: Vec<(Kind, Vec<u8>)> = vec![(Kind::Provenance, encode(&contents.provenance)?)];
        for bound in &contents.graphs {
            let graphs = Encoder { texts: &mut texts, weights: &mut weights }.graphs(&bound.graph);
            let dims = bound.dims.iter().map(|(name, extent)| (texts.id(name), *extent)).collect();
            sections.push((Kind::Graph, encode(&WireBound { batch: bound.batch.rows(), dims, graphs })?));
        }
        let mut configs = Configs::default();
        for entry in &contents.entries {
            check(contents, entry)?;
            sections.push((Kind::Entry, encode(&wire_entry(entry, &mut texts, &mut configs))?));
        }
        sections.push((Kind::Configs, encode(&configs.list)?));
        sections.push((Kind::Records, encode(&contents.records)?));
        sections.push((Kind::Strings, encode(&texts.list)?));
        let sums = Sums::of(&weights);
        sections.push((Kind::Weights, Vec::new()));
        sections.push((Kind::ChunkSums, sums.chunks.iter().flat_map(|sum| sum.to_le_bytes()).collect()));
        sections.push((Kind::Notes, encode(&contents.notes)?));
        if sections.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>() > METADATA_MAX {
            return Err(ArtifactError::Contents("the graphs without their weights take over 64 MiB".to_owned()));
        }
        Ok(Self::lay_out(sections, weights, &sums))
    }

    fn lay_out(sections: Vec<(Kind, Vec<u8>)>, weights: Weights, sums: &Sums) -> Self {
        let mut table = Table { content_id: [0; 16], sections: Vec::new(), file_len: Table::bytes_of(sections.len()) };
        let mut id = blake3::Hasher::new();
        let mut metadata = BTreeMap::new();
        for (i, (kind, bytes)) in sections.into_iter().enumerate() {
            let (align, len, xxh3, hash) = match kind {
                Kind::Weights => (WEIGHTS_ALIGN, weights.end, sums.whole, sums.hash),
                _ => (METADATA_ALIGN, bytes.len() as u64, xxh3_64(&bytes), blake3::hash(&bytes)),
            };
            let offset = table.file_len.next_multiple_of(u64::from(align));
            table.file_len = offset + len;
            table.sections.push(Section { kind: Some(kind), offset, len, align, xxh3 });
            id.update(&(kind as u32).to_le_bytes());
            id.update(hash.as_bytes());
            if kind != Kind::Weights {
                metadata.insert(i, bytes);
            }
        }
        table.content_id.copy_from_slice(&id.finalize().as_bytes()[..16]);
        Image { table, metadata, weights }
    }

    fn write_to(&self, file: &mut impl Write) -> io::Result<()> {
        let head = self.table.encode();
        file.write_all(&head)?;
        let mut at = head.len() as u64;
        for (i, section) in self.table.sections.iter().enumerate() {
            pad(file, section.offset - at)?;
            match self.metadata.get(&i) {
                Some(bytes) => file.write_all(bytes)?,
                None => self.weights.write_to(|bytes| bytes.chunks(PIECE).try_for_each(|piece| file.write_all(piece)))?,
            }
            at = section.offset + section.len;
        }
        Ok(())
    }
}

impl Weights {
    /// The bytes of the section, from first to last, padding included.
    fn write_to(&self, mut out: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut at = 0;
        for (offset, tensor) in &self.tensors {
            let zeros = usize::try_from(offset - at).expect("padding is shorter than the alignment");
            out(&[0; super::layout::TENSOR_ALIGN as usize][..zeros])?;
            out(tensor.bytes())?;
            at = offset + tensor.bytes().len() as u64;
        }
        Ok(())
    }
}

/// The sums of the weights.
struct Sums {
    chunks: Vec<u64>,
    whole: u64,
    hash: blake3::Hash,
}

impl Sums {
    fn of(weights: &Weights) -> Self {
        let (mut whole, mut chunk, mut hash) = (Xxh3::new(), Xxh3::new(), blake3::Hasher::new());
        let (mut chunks, mut room) = (Vec::new(), CHUNK_BYTES);
        let summed = weights.write_to(|mut bytes| {
            whole.update(bytes);
            hash.update(bytes);
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(bytes.len().min(room as usize));
                chunk.update(now);
                room -= now.len() as u64;
                if room == 0 {
                    chunks.push(chunk.digest());
                    chunk.reset();
                    room = CHUNK_BYTES;
                }
                bytes = later;
            }
            Ok(())
        });
        summed.expect("summing does not fail");
        if room < CHUNK_BYTES {
            chunks.push(chunk.digest());
        }
        Sums { chunks, whole: whole.digest(), hash: hash.finalize() }
    }
}

/// Configs without doubles.
#[derive(Default)]
struct Configs {
    list: Vec<schema::Config>,
    known: BTreeMap<schema::Config, u32>,
}

fn wire_entry(entry: &Entry, texts: &mut Texts, configs: &mut Configs) -> WireEntry {
    let mut config = |config: &schema::Config| match configs.known.get(config) {
        Some(&place) => place,
        None => {
            let place = configs.list.len() as u32;
            configs.list.push(config.clone());
            configs.known.insert(config.clone(), place);
            place
        }
    };
    let mut chosen: Vec<(String, u32)> = entry.configs.iter().map(|(task, chosen)| (task.to_string(), config(chosen))).collect();
    chosen.sort();
    WireEntry {
        device_name: texts.id(&entry.device.name.0),
        device: texts.id(&entry.device.text),
        environment: texts.id(&entry.environment.text),
        share: entry.share.as_per_mille(),
        mechanism: texts.id(&entry.grant.mechanism),
        units: entry.grant.units,
        batch: entry.batch.rows(),
        dims: entry.dims.iter().map(|(name, extent)| (texts.id(name), *extent)).collect(),
        graph: entry.graph as u32,
        parts: entry.split.parts(),
        lanes: entry.split.lanes(),
        configs: chosen.into_iter().map(|(task, config)| (texts.id(&task), config)).collect(),
        record: entry.record.map(|record| record as u32),
    }
}

/// Whether an entry's references exist and its graph has its batch.
fn check(contents: &Contents, entry: &Entry) -> Result<(), ArtifactError> {
    let wrong = |what: &str| ArtifactError::Contents(format!("entry {} at {} %: {what}", entry.device.name, entry.share));
    let graph = contents.graphs.get(entry.graph).ok_or_else(|| wrong("its graph is missing"))?;
    if (graph.batch, &graph.dims) != (entry.batch, &entry.dims) {
        return Err(wrong("its graph has another batch or other axes"));
    }
    match entry.record {
        Some(record) if record >= contents.records.len() => Err(wrong("its record is missing")),
        _ => Ok(()),
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, ArtifactError> {
    postcard::to_stdvec(value).map_err(|error| ArtifactError::Contents(error.to_string()))
}

fn pad(file: &mut impl Write, zeros: u64) -> io::Result<()> {
    file.write_all(&[0; WEIGHTS_ALIGN as usize][..zeros as usize])
}

/// Writes the file beside its place, then puts it there.
fn save(path: &Path, image: &Image) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "names no file"))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    remove_stale(folder, &name.to_string_lossy());
    let (temporary, file) = create(folder, &name.to_string_lossy())?;
    let whole = (|| {
        let mut out = BufWriter::with_capacity(PIECE, &file);
        image.write_to(&mut out)?;
        out.flush()?;
        drop(out);
        fs::set_permissions(&temporary, std::os::unix::fs::PermissionsExt::from_mode(0o666 & !umask()))?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    whole.inspect_err(|_| {
        // After a failure nothing of ours stays; that it may be gone already is no second failure.
        let _ = fs::remove_file(&temporary);
    })
}

/// A new file of ours, that nobody else can have made or linked.
fn create(folder: &Path, name: &str) -> io::Result<(PathBuf, File)> {
    let mut last = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..16 {
        let random = {
            use std::hash::{BuildHasher, Hasher};
            std::collections::hash_map::RandomState::new().build_hasher().finish()
        };
        let path = folder.join(format!(".{name}.tmp-{}-{random:016x}", std::process::id()));
        let options = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path);
        match options {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

/// The mask of new files' permissions, read without setting it (other threads may be making files).
fn umask() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

/// Removes temporary files of this artifact whose writer is dead and that are old. Failures are left to the next time.
fn remove_stale(folder: &Path, name: &str) {
    let prefix = format!(".{name}.tmp-");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let Some(rest) = file.to_str().and_then(|file| file.strip_prefix(&prefix)) else { continue };
        let dead = rest.split('-').next().is_some_and(|pid| !Path::new("/proc").join(pid).exists());
        let age = entry.metadata().and_then(|data| data.modified()).ok();
        let old = age.and_then(|at| SystemTime::now().duration_since(at).ok()).is_some_and(|age| age > STALE);
        if dead && old {
            let _ = fs::remove_file(entry.path());
        }
    }
}
