//! Snapshots: the whole index at one watermark as an immutable file, and `head`, which says which is the newest.
//!
//! `<generation>.tws`, little-endian: header (64 bytes), data blocks, directory. A block holds whole entries (`u8` length of the key,
//! `u32` length of the value, key, value) up to 64 KiB; the directory has 96 bytes a block: offset u64, length u32, entries u32,
//! xxh3-64 of the block, length of its first key u8, that key padded to 71 bytes. Everything is read by `pread` and checked before
//! it is believed: a file cut or changed underneath is an error, never a signal.

use crate::disk::{Disk, DiskFile, read_file, replace_file};
use crate::error::{At, StoreError};
use crate::index::{Changes, Flow, Index, IndexError};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use xxhash_rust::xxh3::xxh3_64;

/// The folder's name.
pub const DIR: &str = "snap";
/// The name of the file that says which snapshot is the newest.
pub const HEAD: &str = "head";
/// Format of snapshots.
pub const FORMAT: u16 = 1;
/// Snapshots are taken away when newer ones come: so often is `head` read again.
const TRIES: usize = 3;
/// Snapshots kept.
const KEPT: usize = 2;

const MAGIC: [u8; 8] = *b"\x89TWS\r\n\x1a\n";
const HEAD_MAGIC: [u8; 8] = *b"TWHEAD\r\n";
const HEADER_BYTES: usize = 64;
const BLOCK_BYTES: usize = 64 << 10;
const ENTRY_BYTES: usize = 96;
const KEY_BYTES_MAX: usize = 71;
/// A block holds one entry at least, and a value has 64 KiB at most.
const BLOCK_BYTES_MAX: usize = 2 * BLOCK_BYTES;
const DIRECTORY_BYTES_MAX: u64 = 64 << 20;
/// Blocks kept decoded for the next question.
const CACHED: usize = 16;

/// Which snapshot is the newest.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub generation: u64,
    /// Up to where the journal is in it.
    pub watermark: u64,
    /// The sum in the snapshot's header.
    pub sum: u64,
}

impl Head {
    fn encode(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes[..8].copy_from_slice(&HEAD_MAGIC);
        bytes[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.watermark.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.sum.to_le_bytes());
        let sum = xxh3_64(&bytes[..56]);
        bytes[56..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 64] = bytes.try_into().ok()?;
        let at = |at: usize| u64_at(bytes, at);
        (bytes[..8] == HEAD_MAGIC && xxh3_64(&bytes[..56]) == at(56)).then(|| Head {
            generation: at(16),
            watermark: at(24),
            sum: at(32),
        })
    }

    /// The newest snapshot, if there is one and its head is whole.
    pub fn read(disk: &dyn Disk, db: &Path) -> Option<Self> {
        Head::parse(&read_file(disk, &db.join(DIR).join(HEAD), 64).ok()??)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"))
}

/// The name of a snapshot's file.
pub fn file_name(generation: u64) -> String {
    format!("{generation}.tws")
}

/// The generations whose snapshots are there, newest first.
pub fn generations(disk: &dyn Disk, db: &Path) -> Vec<u64> {
    let names = disk.list(&db.join(DIR)).unwrap_or_default();
    let mut found: Vec<u64> = names.iter().filter_map(|name| name.strip_suffix(".tws")?.parse().ok()).collect();
    found.sort_unstable();
    found.reverse();
    found
}

/// All snapshots that can be opened, newest first.
pub fn all(disk: &dyn Disk, db: &Path) -> Vec<Snapshot> {
    generations(disk, db).into_iter().filter_map(|generation| Snapshot::open(disk, db, generation).ok()).collect()
}

/// The first answer that a snapshot gives: the one `head` names, else the others, newest first. Those that went away while they were
/// looked for made room for newer ones: then `head` is read again.
///
/// # Errors
/// What `ask` returns; a snapshot that cannot be opened is passed over.
pub fn first_of<T>(
    disk: &dyn Disk,
    db: &Path,
    ask: &mut dyn FnMut(&Snapshot) -> Result<Option<T>, StoreError>,
) -> Result<Option<T>, StoreError> {
    for _ in 0..TRIES {
        let head = Head::read(disk, db).map(|head| head.generation);
        let rest = generations(disk, db).into_iter().filter(|generation| Some(*generation) != head);
        for generation in head.into_iter().chain(rest) {
            let Ok(snapshot) = Snapshot::open(disk, db, generation) else { continue };
            if let Some(answer) = ask(&snapshot)? {
                return Ok(Some(answer));
            }
        }
        if Head::read(disk, db).map(|head| head.generation) == head {
            break;
        }
    }
    Ok(None)
}

/// How far the journal reached when the newest snapshot was made, from whatever is left of head and snapshots.
pub fn watermark(disk: &dyn Disk, db: &Path) -> Option<u64> {
    let head = Head::read(disk, db).map(|head| head.watermark);
    all(disk, db).iter().map(|found| found.watermark).chain(head).max()
}

/// Writes a snapshot entry by entry.
pub struct Writer {
    file: Box<dyn DiskFile>,
    temporary: PathBuf,
    dir: PathBuf,
    offset: u64,
    block: Vec<u8>,
    block_first: Vec<u8>,
    block_entries: u32,
    directory: Vec<u8>,
    entries: u64,
}

impl Writer {
    /// Begins one. The file gets its name at the end.
    ///
    /// # Errors
    /// What the disk says.
    pub fn begin(disk: &dyn Disk, db: &Path, generation: u64) -> Result<Self, StoreError> {
        let dir = db.join(DIR);
        let temporary = dir.join(format!(".{generation}.tmp-{}", std::process::id()));
        let _ = disk.remove(&temporary);
        let file = disk.create(&temporary).at(&temporary, "make a snapshot")?;
        Ok(Writer {
            file,
            temporary,
            dir,
            offset: HEADER_BYTES as u64,
            block: Vec::with_capacity(BLOCK_BYTES),
            block_first: Vec::new(),
            block_entries: 0,
            directory: Vec::new(),
            entries: 0,
        })
    }

    /// Adds an entry; keys ascend.
    ///
    /// # Errors
    /// What the disk says, and [`StoreError::TooLarge`] for a key no table has.
    pub fn add(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if key.len() > KEY_BYTES_MAX {
            return Err(StoreError::TooLarge { found: key.len(), limit: KEY_BYTES_MAX });
        }
        if !self.block.is_empty() && self.block.len() + key.len() + value.len() + 5 > BLOCK_BYTES {
            self.end_block()?;
        }
        if self.block.is_empty() {
            self.block_first = key.to_vec();
        }
        self.block.push(key.len() as u8);
        self.block.extend((value.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value);
        self.block_entries += 1;
        self.entries += 1;
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), StoreError> {
        if self.block.is_empty() {
            return Ok(());
        }
        self.file.write_at(self.offset, &self.block).at(&self.temporary, "write a snapshot")?;
        self.directory.extend(self.offset.to_le_bytes());
        self.directory.extend((self.block.len() as u32).to_le_bytes());
        self.directory.extend(self.block_entries.to_le_bytes());
        self.directory.extend(xxh3_64(&self.block).to_le_bytes());
        self.directory.push(self.block_first.len() as u8);
        self.directory.extend_from_slice(&self.block_first);
        let padded = self.directory.len().next_multiple_of(ENTRY_BYTES);
        self.directory.resize(padded, 0);
        self.offset += self.block.len() as u64;
        self.block.clear();
        self.block_entries = 0;
        Ok(())
    }

    /// Ends it, gives it its name, points `head` to it and takes older snapshots away.
    ///
    /// # Errors
    /// What the disk says; then `head` points to what it did before, and the temporary file is gone.
    pub fn finish(self, disk: &dyn Disk, db: &Path, generation: u64, watermark: u64) -> Result<Head, StoreError> {
        let temporary = self.temporary.clone();
        let done = self.end(disk, db, generation, watermark);
        if done.is_err() {
            // It may be what fills the disk.
            let _ = disk.remove(&temporary);
        }
        done
    }

    fn end(mut self, disk: &dyn Disk, db: &Path, generation: u64, watermark: u64) -> Result<Head, StoreError> {
        self.end_block()?;
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&MAGIC);
        header[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        header[10..12].copy_from_slice(&FORMAT.to_le_bytes());
        header[16..24].copy_from_slice(&generation.to_le_bytes());
        header[24..32].copy_from_slice(&watermark.to_le_bytes());
        header[32..40].copy_from_slice(&self.offset.to_le_bytes());
        header[40..48].copy_from_slice(&(self.directory.len() as u64).to_le_bytes());
        header[48..56].copy_from_slice(&self.entries.to_le_bytes());
        let sum = sum(&header, &self.directory);
        header[56..].copy_from_slice(&sum.to_le_bytes());
        self.file.write_at(self.offset, &self.directory).at(&self.temporary, "write a snapshot")?;
        self.file.write_at(0, &header).at(&self.temporary, "write a snapshot")?;
        self.file.sync().at(&self.temporary, "sync a snapshot")?;
        let path = self.dir.join(file_name(generation));
        disk.rename(&self.temporary, &path).at(&path, "name a snapshot")?;
        disk.sync_dir(&self.dir).at(&self.dir, "sync the snapshots' folder")?;
        let head = Head { generation, watermark, sum };
        replace_file(disk, &self.dir, HEAD, &head.encode()).at(&self.dir.join(HEAD), "write head")?;
        for old in generations(disk, db).into_iter().filter(|found| *found <= generation).skip(KEPT) {
            // A reader that has it open keeps reading it; one that comes later reads head again.
            let _ = disk.remove(&self.dir.join(file_name(old)));
        }
        Ok(head)
    }

    /// Gives up and takes the temporary file away.
    pub fn abandon(self, disk: &dyn Disk) {
        let _ = disk.remove(&self.temporary);
    }
}

fn sum(header: &[u8; HEADER_BYTES], directory: &[u8]) -> u64 {
    let mut hash = xxhash_rust::xxh3::Xxh3::new();
    hash.update(&header[..56]);
    hash.update(directory);
    hash.digest()
}

struct Block {
    offset: u64,
    len: usize,
    sum: u64,
    first: Vec<u8>,
}

/// An open snapshot: an index that cannot change.
pub struct Snapshot {
    file: Box<dyn DiskFile>,
    blocks: Vec<Block>,
    pub generation: u64,
    pub watermark: u64,
    pub entries: u64,
    pub sum: u64,
    cache: Mutex<Vec<(usize, std::sync::Arc<Vec<u8>>)>>,
}

impl Snapshot {
    /// Opens the snapshot of a generation. Reads header and directory; blocks are read and checked when asked for.
    ///
    /// # Errors
    /// [`StoreError::Newer`], [`StoreError::Damaged`] naming what is wrong, and what the disk says.
    pub fn open(disk: &dyn Disk, db: &Path, generation: u64) -> Result<Self, StoreError> {
        let path = db.join(DIR).join(file_name(generation));
        let file = disk.open_read(&path).at(&path, "open a snapshot")?;
        let size = file.size().at(&path, "read a snapshot")?;
        let mut header = [0; HEADER_BYTES];
        let read = file.read_at(0, &mut header).at(&path, "read a snapshot")?;
        if read < HEADER_BYTES || header[..8] != MAGIC {
            return Err(StoreError::damaged(&path, "not a snapshot"));
        }
        let (directory_at, directory_len) = (u64_at(&header, 32), u64_at(&header, 40));
        let fits = directory_at.checked_add(directory_len) == Some(size) && directory_len.is_multiple_of(ENTRY_BYTES as u64);
        let found = u16::from_le_bytes([header[10], header[11]]);
        if found > FORMAT {
            let made_by = "a newer tunewright".to_owned();
            return Err(StoreError::Newer { path, found: u32::from(found), known: u32::from(FORMAT), made_by });
        }
        if !fits || directory_len > DIRECTORY_BYTES_MAX {
            return Err(StoreError::damaged(&path, format!("a snapshot of {size} bytes that says it has others")));
        }
        let mut directory = vec![0; directory_len as usize];
        let read = file.read_at(directory_at, &mut directory).at(&path, "read a snapshot")?;
        if read < directory.len() || sum(&header, &directory) != u64_at(&header, 56) {
            return Err(StoreError::damaged(&path, "the directory of a snapshot fails its checksum"));
        }
        if u64_at(&header, 16) != generation {
            return Err(StoreError::damaged(&path, "a snapshot under the name of another"));
        }
        let mut blocks = Vec::with_capacity(directory.len() / ENTRY_BYTES);
        let mut expect = HEADER_BYTES as u64;
        for entry in directory.chunks_exact(ENTRY_BYTES) {
            let (offset, len, key_len) = (u64_at(entry, 0), u32_at(entry, 8) as usize, usize::from(entry[24]));
            if offset != expect || len > BLOCK_BYTES_MAX || key_len > KEY_BYTES_MAX {
                return Err(StoreError::damaged(&path, "a snapshot's blocks do not fit together"));
            }
            expect = offset.saturating_add(len as u64);
            blocks.push(Block { offset, len, sum: u64_at(entry, 16), first: entry[25..25 + key_len].to_vec() });
        }
        Ok(Snapshot {
            file,
            blocks,
            generation,
            watermark: u64_at(&header, 24),
            entries: u64_at(&header, 48),
            sum: u64_at(&header, 56),
            cache: Mutex::new(Vec::new()),
        })
    }

    /// The newest snapshot that can be read: the one `head` names, else the highest that opens.
    pub fn newest(disk: &dyn Disk, db: &Path) -> Option<Self> {
        let head = Head::read(disk, db).map(|head| head.generation);
        let all = generations(disk, db);
        head.into_iter().chain(all).find_map(|generation| Snapshot::open(disk, db, generation).ok())
    }

    fn block(&self, at: usize) -> Result<std::sync::Arc<Vec<u8>>, IndexError> {
        let mut cache = self.cache.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(found) = cache.iter().position(|(held, _)| *held == at) {
            let hit = cache.remove(found);
            let bytes = hit.1.clone();
            cache.push(hit);
            return Ok(bytes);
        }
        let block = &self.blocks[at];
        let mut bytes = vec![0; block.len];
        let read = self.file.read_at(block.offset, &mut bytes).map_err(|error| IndexError::Io(error.to_string()))?;
        if read < bytes.len() || xxh3_64(&bytes) != block.sum {
            return Err(IndexError::Corrupt(format!("block {at} of snapshot {} fails its checksum", self.generation)));
        }
        let bytes = std::sync::Arc::new(bytes);
        if cache.len() >= CACHED {
            cache.remove(0);
        }
        cache.push((at, bytes.clone()));
        Ok(bytes)
    }

    /// Reads and checks every block.
    ///
    /// # Errors
    /// The first that is wrong.
    pub fn verify(&self) -> Result<u64, IndexError> {
        let mut entries = 0;
        self.scan(&[], &[], &mut |_, _| {
            entries += 1;
            Flow::Continue(())
        })?;
        if entries == self.entries { Ok(entries) } else { Err(IndexError::Corrupt("a snapshot lacks entries".into())) }
    }
}

/// The entries of a block, until one does not fit.
fn entries(bytes: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let entry = (|| {
            let (head, tail) = rest.split_at_checked(5)?;
            let (key, tail) = tail.split_at_checked(usize::from(head[0]))?;
            let (value, tail) = tail.split_at_checked(u32_at(head, 1) as usize)?;
            rest = tail;
            Some((key, value))
        })();
        if entry.is_none() {
            rest = &[];
        }
        Some(entry)
    })
}

impl Index for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let mut found = None;
        let mut end = key.to_vec();
        end.push(0);
        self.scan(key, &end, &mut |_, value| {
            found = Some(value.to_vec());
            Flow::Break(())
        })?;
        Ok(found)
    }

    fn scan(&self, from: &[u8], to: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError> {
        let start = self.blocks.partition_point(|block| block.first.as_slice() <= from).saturating_sub(1);
        for (at, block) in self.blocks.iter().enumerate().skip(start) {
            if !to.is_empty() && block.first.as_slice() >= to {
                break;
            }
            let bytes = self.block(at)?;
            for entry in entries(&bytes) {
                let (key, value) = entry.ok_or_else(|| IndexError::Corrupt(format!("block {at} ends inside an entry")))?;
                if !to.is_empty() && key >= to {
                    return Ok(());
                }
                if key >= from && f(key, value).is_break() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn apply(&mut self, _: &Changes) -> Result<(), IndexError> {
        Err(IndexError::Io("a snapshot cannot change".into()))
    }

    fn hint_flush(&mut self) -> Result<(), IndexError> {
        Ok(())
    }
}
