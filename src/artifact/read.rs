//! Reading: header, table and metadata at once, weights when they are asked for.

use super::layout::{self, CHUNK_BYTES, HEADER_BYTES, Kind, Section, Table};
use super::wire::{Decoder, WireBound, WireEntry};
use super::{ArtifactError, Bound, ContentId, Contents, Entry, Opening, Provenance, map};
use crate::graph::{self, Graph};
use kernels::Task;
use rayon::prelude::*;
use schema::{Batch, Config, Device, DeviceName, Environment, Grant, Observation, Share, Split};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// An open artifact. Its metadata is in memory and checked; its weights are mapped and checked when a graph is asked for.
#[derive(Debug)]
pub struct Artifact {
    path: PathBuf,
    file: File,
    stamp: Stamp,
    /// Where the weights are read from: the file, or a sealed copy that begins with them.
    weights: Weights,
    table: Table,
    provenance: Provenance,
    entries: Vec<Entry>,
    records: Vec<Observation>,
    notes: Vec<String>,
    graphs: Vec<Mapped>,
    chunk_sums: Vec<u64>,
    /// Which chunks were found whole.
    sound: Mutex<Vec<bool>>,
}

/// Where the bytes of the weights come from.
#[derive(Debug)]
enum Weights {
    /// The artifact itself, which somebody may change.
    InFile,
    /// Sealed memory.
    Copied(File),
}

/// A graph whose constants lie in the map, and the chunks they lie in.
#[derive(Debug)]
struct Mapped {
    bound: Bound,
    chunks: Vec<u64>,
}

/// What tells a file that was changed in place.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: (i64, i64),
    inode: u64,
}

impl Stamp {
    fn of(file: &File) -> std::io::Result<Self> {
        let data = file.metadata()?;
        Ok(Stamp { len: data.len(), modified: (data.mtime(), data.mtime_nsec()), inode: data.ino() })
    }
}

/// The content id and length a file's header claims, if it has one.
pub(super) fn identity(path: &Path) -> Option<(ContentId, u64)> {
    let file = File::open(path).ok()?;
    let table = table(&file).ok()?;
    Some((ContentId(table.content_id), table.file_len))
}

/// Header and table of a file.
fn table(file: &File) -> Result<Table, ArtifactError> {
    let data = file.metadata().map_err(ArtifactError::Read)?;
    if !data.is_file() {
        return Err(ArtifactError::damaged(0, "it is no regular file"));
    }
    let mut header = [0; HEADER_BYTES];
    let have = HEADER_BYTES.min(usize::try_from(data.len()).unwrap_or(HEADER_BYTES));
    file.read_exact_at(&mut header[..have], 0).map_err(ArtifactError::Read)?;
    let promise = layout::header(&header[..have], data.len())?;
    let mut bytes = vec![0; promise.table_bytes];
    file.read_exact_at(&mut bytes, HEADER_BYTES as u64).map_err(ArtifactError::Read)?;
    layout::table(&promise, &header, &bytes)
}

impl Artifact {
    /// Opens an artifact: reads and checks all but the weights.
    ///
    /// # Errors
    /// [`ArtifactError`] with the path: unreadable, damaged (with the offset), or of a newer format.
    pub fn open(path: &Path) -> Result<Self, ArtifactError> {
        Self::open_as(path, Opening::default())
    }

    /// Opens an artifact, with more checked or copied than is usual.
    ///
    /// # Errors
    /// As [`open`](Self::open), and whatever is wrong with the weights when they are asked for.
    pub fn open_as(path: &Path, opening: Opening) -> Result<Self, ArtifactError> {
        let file = File::open(path).map_err(|error| ArtifactError::Read(error).at(path))?;
        Self::from_file(file, path, opening)
    }

    /// Opens an artifact that is a file already; `path` is what errors call it.
    ///
    /// # Errors
    /// As [`open_as`](Self::open_as).
    pub fn from_file(file: File, path: &Path, opening: Opening) -> Result<Self, ArtifactError> {
        let open = Self::read(file, path, opening).map_err(|error| error.at(path))?;
        if opening.eager {
            open.verify()?;
        }
        Ok(open)
    }

    fn read(file: File, path: &Path, opening: Opening) -> Result<Self, ArtifactError> {
        let stamp = Stamp::of(&file).map_err(ArtifactError::Read)?;
        let table = table(&file)?;
        check_padding(&file, &table)?;
        let reader = Sections { file: &file, table: &table };
        let strings: Vec<String> = reader.decode_one(Kind::Strings)?;
        let configs: Vec<Config> = reader.decode_one(Kind::Configs)?;
        let records: Vec<Observation> = reader.decode_one(Kind::Records)?;
        let (section, chunk_sums) = reader.weights()?;
        let weights = match opening.copy {
            true => Weights::Copied(map::copy(&file, section.offset, section.len).map_err(ArtifactError::Read)?),
            false => Weights::InFile,
        };
        let mapped_weights = match &weights {
            Weights::Copied(copy) => map::map(copy, 0, section.len, path),
            Weights::InFile => map::map(&file, section.offset, section.len, path),
        };
        let mapped_weights = mapped_weights.map_err(ArtifactError::Read)?;
        let mut decoder = Decoder { texts: &strings, weights: &mapped_weights, used: Vec::new() };
        let mut graphs = Vec::new();
        for section in reader.all(Kind::Graph) {
            let wire = reader.decode(section)?;
            graphs.push(mapped(&mut decoder, wire).map_err(|what| ArtifactError::damaged(section.offset, what))?);
        }
        let entry = |section: &Section| {
            let wire = reader.decode::<WireEntry>(section)?;
            let made = entry(&decoder, wire, &configs, &graphs, records.len());
            made.map_err(|what| ArtifactError::damaged(section.offset, what))
        };
        let entries = reader.all(Kind::Entry).map(entry).collect::<Result<_, _>>()?;
        let (provenance, notes) = (reader.decode_one(Kind::Provenance)?, reader.decode_one(Kind::Notes)?);
        let sound = Mutex::new(vec![false; chunk_sums.len()]);
        let path = path.to_owned();
        let open = Artifact { path, stamp, weights, provenance, entries, records, notes, graphs, chunk_sums, sound, file, table };
        if opening.copy {
            // The copy may have been taken while somebody wrote: it counts when its sums do.
            open.check_chunks(&(0..open.chunk_sums.len() as u64).collect::<Vec<_>>())?;
        }
        Ok(open)
    }

    /// The file it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its identity.
    pub fn id(&self) -> ContentId {
        ContentId(self.table.content_id)
    }

    /// The bytes of the file.
    pub fn bytes(&self) -> u64 {
        self.table.file_len
    }

    /// Where it comes from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// What was chosen for each (device, share, batch).
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The model records.
    pub fn records(&self) -> &[Observation] {
        &self.records
    }

    /// Lines for people.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The batch and the other chosen axes of each graph.
    pub fn shapes(&self) -> impl ExactSizeIterator<Item = (Batch, &[(String, u64)])> {
        self.graphs.iter().map(|graph| (graph.bound.batch, graph.bound.dims.as_slice()))
    }

    /// A graph, its constants in the map and checked. Panics when there is no such graph.
    ///
    /// # Errors
    /// [`ArtifactError`] when weights it uses are damaged or the file was changed.
    pub fn graph(&self, index: usize) -> Result<Graph, ArtifactError> {
        let graph = &self.graphs[index];
        self.check_chunks(&graph.chunks).map_err(|error| error.at(&self.path))?;
        Ok(graph.bound.graph.clone())
    }

    /// A graph whose constants may not be touched: for looking at its nodes. Panics when there is no such graph.
    pub fn outline(&self, index: usize) -> &Graph {
        &self.graphs[index].bound.graph
    }

    /// Everything: what [`write`](super::write()) was given.
    ///
    /// # Errors
    /// As [`graph`](Self::graph).
    pub fn contents(&self) -> Result<Contents, ArtifactError> {
        let bound = |(i, mapped): (usize, &Mapped)| Ok(Bound { graph: self.graph(i)?, ..mapped.bound.clone() });
        let graphs = self.graphs.iter().enumerate().map(bound).collect::<Result<_, ArtifactError>>()?;
        let (provenance, entries) = (self.provenance.clone(), self.entries.clone());
        Ok(Contents { provenance, graphs, entries, records: self.records.clone(), notes: self.notes.clone() })
    }

    /// Reads every byte: all sums, and the content id.
    ///
    /// # Errors
    /// [`ArtifactError`] of the first thing that is wrong.
    pub fn verify(&self) -> Result<(), ArtifactError> {
        self.verify_all().map_err(|error| error.at(&self.path))
    }

    fn verify_all(&self) -> Result<(), ArtifactError> {
        let all: Vec<u64> = (0..self.chunk_sums.len() as u64).collect();
        self.check_chunks(&all)?;
        let mut id = blake3::Hasher::new();
        for section in &self.table.sections {
            let (mut sum, mut hash) = (Xxh3::new(), blake3::Hasher::new());
            read_pieces(&self.file, section.offset, section.len, |bytes| {
                sum.update(bytes);
                hash.update(bytes);
            })?;
            if sum.digest() != section.xxh3 {
                return Err(wrong_sum(section));
            }
            if let Some(kind) = section.kind {
                id.update(&(kind as u32).to_le_bytes());
                id.update(hash.finalize().as_bytes());
            }
        }
        if id.finalize().as_bytes()[..16] != self.table.content_id {
            return Err(ArtifactError::damaged(40, "its content id is not that of its contents"));
        }
        Ok(())
    }

    /// Checks chunks of the weights that were not checked before, on all cores: it is what opening a large model waits for.
    fn check_chunks(&self, chunks: &[u64]) -> Result<(), ArtifactError> {
        let mut sound = self.sound.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let weights = self.table.sections.iter().find(|section| section.kind == Some(Kind::Weights));
        let Some(section) = weights else { return Ok(()) };
        let open: Vec<u64> = chunks.iter().copied().filter(|&chunk| !sound[chunk as usize]).collect();
        open.par_iter().try_for_each(|&chunk| self.check_chunk(section, chunk))?;
        open.iter().for_each(|&chunk| sound[chunk as usize] = true);
        Ok(())
    }

    fn check_chunk(&self, section: &Section, chunk: u64) -> Result<(), ArtifactError> {
        let (inside, mut sum) = (chunk * CHUNK_BYTES, Xxh3::new());
        let len = CHUNK_BYTES.min(section.len - inside);
        // By reading and not through the map: checking leaves no pages resident, and cannot fault.
        match &self.weights {
            Weights::Copied(copy) => read_pieces(copy, inside, len, |bytes| sum.update(bytes))?,
            Weights::InFile => {
                if Stamp::of(&self.file).map_err(ArtifactError::Read)? != self.stamp {
                    return Err(ArtifactError::ChangedUnderneath);
                }
                read_pieces(&self.file, section.offset + inside, len, |bytes| sum.update(bytes))?;
            }
        }
        if sum.digest() == self.chunk_sums[chunk as usize] {
            return Ok(());
        }
        Err(ArtifactError::damaged(section.offset + inside, "the checksum of \"weights\" is wrong"))
    }
}

/// The sections of one file.
struct Sections<'a> {
    file: &'a File,
    table: &'a Table,
}

impl Sections<'_> {
    fn all(&self, kind: Kind) -> impl Iterator<Item = &Section> {
        self.table.sections.iter().filter(move |section| section.kind == Some(kind))
    }

    /// The one section of a kind.
    fn one(&self, kind: Kind) -> Result<&Section, ArtifactError> {
        let mut all = self.all(kind);
        match (all.next(), all.next()) {
            (Some(section), None) => Ok(section),
            (None, _) => Err(ArtifactError::damaged(HEADER_BYTES as u64, format!("section \"{kind}\" is missing"))),
            (Some(_), Some(second)) => Err(ArtifactError::damaged(second.offset, format!("there are two sections \"{kind}\""))),
        }
    }

    /// The bytes of a section, checked. The table's limit on metadata bounds what is allocated.
    fn bytes(&self, section: &Section) -> Result<Vec<u8>, ArtifactError> {
        let mut bytes = vec![0; section.len as usize];
        self.file.read_exact_at(&mut bytes, section.offset).map_err(ArtifactError::Read)?;
        if xxh3_64(&bytes) == section.xxh3 { Ok(bytes) } else { Err(wrong_sum(section)) }
    }

    fn decode<T: DeserializeOwned>(&self, section: &Section) -> Result<T, ArtifactError> {
        let bytes = self.bytes(section)?;
        match postcard::take_from_bytes(&bytes) {
            Ok((value, [])) => Ok(value),
            _ => Err(ArtifactError::damaged(section.offset, format!("section \"{}\" cannot be decoded", name(section)))),
        }
    }

    fn decode_one<T: DeserializeOwned>(&self, kind: Kind) -> Result<T, ArtifactError> {
        self.decode(self.one(kind)?)
    }

    /// Where the weights are, and the sums of their chunks.
    fn weights(&self) -> Result<(Section, Vec<u64>), ArtifactError> {
        let (section, sums) = (*self.one(Kind::Weights)?, self.one(Kind::ChunkSums)?);
        let sum = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks of eight bytes"));
        let bytes = self.bytes(sums)?;
        let chunk_sums: Vec<u64> = bytes.chunks_exact(8).map(sum).collect();
        if chunk_sums.len() as u64 != section.len.div_ceil(CHUNK_BYTES) || bytes.len() % 8 != 0 {
            return Err(ArtifactError::damaged(sums.offset, "the weights have another number of sums"));
        }
        if section.align != layout::WEIGHTS_ALIGN {
            return Err(ArtifactError::damaged(section.offset, "the weights are not aligned"));
        }
        Ok((section, chunk_sums))
    }
}

fn name(section: &Section) -> String {
    section.kind.map_or_else(|| "of a newer format".to_owned(), |kind| kind.to_string())
}

fn wrong_sum(section: &Section) -> ArtifactError {
    ArtifactError::damaged(section.offset, format!("the checksum of \"{}\" is wrong", name(section)))
}

/// What lies between sections must be zeros.
fn check_padding(file: &File, table: &Table) -> Result<(), ArtifactError> {
    let mut end = Table::bytes_of(table.sections.len());
    for section in &table.sections {
        let mut padding = vec![0; usize::try_from(section.offset - end).unwrap_or(0)];
        file.read_exact_at(&mut padding, end).map_err(ArtifactError::Read)?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(ArtifactError::damaged(end, "its padding is not zero"));
        }
        end = section.offset + section.len;
    }
    Ok(())
}

/// Reads a range piece by piece.
fn read_pieces(file: &File, mut at: u64, mut len: u64, mut each: impl FnMut(&[u8])) -> Result<(), ArtifactError> {
    /// Bytes read at once: small beside a core's second-level cache, large beside the cost of a call.
    const PIECE: usize = 256 << 10;
    let mut piece = vec![0; PIECE.min(usize::try_from(len).unwrap_or(PIECE))];
    while len > 0 {
        let now = piece.len().min(usize::try_from(len).unwrap_or(PIECE));
        file.read_exact_at(&mut piece[..now], at).map_err(ArtifactError::Read)?;
        each(&piece[..now]);
        at += now as u64;
        len -= now as u64;
    }
    Ok(())
}

fn dims(decoder: &Decoder<'_>, dims: &[(u32, u64)]) -> Result<Vec<(String, u64)>, String> {
    dims.iter().map(|&(name, extent)| Ok((decoder.text(name)?.to_owned(), extent))).collect()
}

fn mapped(decoder: &mut Decoder<'_>, wire: WireBound) -> Result<Mapped, String> {
    let batch = Batch::new(wire.batch).ok_or("a graph has batch 0")?;
    let dims = dims(decoder, &wire.dims)?;
    decoder.used.clear();
    let graph = decoder.graph(wire.graphs)?;
    graph::verify(&graph).map_err(|error| error.to_string())?;
    let used = decoder.used.iter().filter(|(from, to)| from < to);
    let mut chunks: Vec<u64> = used.flat_map(|(from, to)| from / CHUNK_BYTES..(to - 1) / CHUNK_BYTES + 1).collect();
    chunks.sort_unstable();
    chunks.dedup();
    Ok(Mapped { bound: Bound { batch, dims, graph }, chunks })
}

fn entry(decoder: &Decoder<'_>, wire: WireEntry, configs: &[Config], graphs: &[Mapped], records: usize) -> Result<Entry, String> {
    let text = |id| decoder.text(id).map(str::to_owned);
    let chosen = |(task, config): (u32, u32)| {
        let task = Task::parse(decoder.text(task)?).ok_or("a task cannot be read")?;
        let config = configs.get(config as usize).cloned().ok_or_else(|| format!("there is no config {config}"))?;
        Ok::<_, String>((task, config))
    };
    let dims = dims(decoder, &wire.dims)?;
    let batch = Batch::new(wire.batch).ok_or("an entry has batch 0")?;
    if graphs.get(wire.graph as usize).is_none_or(|graph| (graph.bound.batch, &graph.bound.dims) != (batch, &dims)) {
        return Err("an entry's graph is missing or of another batch".to_owned());
    }
    if wire.record.is_some_and(|record| record as usize >= records) {
        return Err("an entry's record is missing".to_owned());
    }
    Ok(Entry {
        device: Device { name: DeviceName(text(wire.device_name)?), text: text(wire.device)? },
        environment: Environment { text: text(wire.environment)? },
        share: Share::per_mille(wire.share).map_err(|error| error.to_string())?,
        grant: Grant { mechanism: text(wire.mechanism)?, units: wire.units },
        batch,
        dims,
        graph: wire.graph as usize,
        split: Split::new(wire.parts, wire.lanes).ok_or("an entry is split into parts that no lanes share")?,
        configs: wire.configs.into_iter().map(chosen).collect::<Result<_, _>>()?,
        record: wire.record.map(|record| record as usize),
    })
}
