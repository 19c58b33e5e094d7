//! A disk that loses, tears and reorders what was not synced, and fails when it likes.
//!
//! Goal: nothing a ticket confirmed is ever lost, nothing appears that was never handed in, and a reopened store works. Method: a
//! store on a simulated disk is driven by a seed; it "crashes" at any operation; each unsynced write is kept, lost or torn at 512
//! bytes, each unsynced name kept or lost; then it is opened again, several times over.

use crate::campaign;
use crate::sample::{self, Random};
use schema::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tuning_db::disk::{Disk, DiskFile};
use tuning_db::{IndexKind, OpenOptions, Store};

const SECTOR: usize = 512;

#[derive(Clone, Default)]
struct Content {
    /// What a reader sees.
    now: Vec<u8>,
    /// What a crash cannot take.
    synced: Vec<u8>,
    /// Since the last sync, in order.
    pending: Vec<Write>,
}

#[derive(Clone)]
enum Write {
    At(u64, Vec<u8>),
    Size(u64),
}

fn apply(bytes: &mut Vec<u8>, write: &Write) {
    match write {
        Write::At(offset, data) => {
            let end = *offset as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(data);
        }
        Write::Size(size) => bytes.resize(*size as usize, 0),
    }
}

impl Content {
    fn write(&mut self, write: Write) {
        apply(&mut self.now, &write);
        self.pending.push(write);
    }

    fn sync(&mut self) {
        let Content { synced, pending, .. } = self;
        pending.drain(..).for_each(|write| apply(synced, &write));
    }
}

#[derive(Clone, Debug)]
enum NameChange {
    Made(PathBuf, u64),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

#[derive(Default)]
struct Inner {
    random: u64,
    contents: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    synced_names: BTreeMap<PathBuf, u64>,
    changes: Vec<NameChange>,
    next: u64,
    /// Operations until the machine stops.
    fuse: u64,
    /// Operations that fail once: number, kind.
    faults: BTreeMap<u64, io::ErrorKind>,
    count: u64,
    capacity: u64,
}

impl Inner {
    fn random(&mut self) -> Random {
        let mut random = Random(self.random);
        self.random = random.next();
        random
    }

    /// Counts an operation that changes something; fails when the machine has stopped or this one is to fail.
    fn step(&mut self) -> io::Result<()> {
        self.count += 1;
        if self.count > self.fuse {
            return Err(io::Error::other("the machine has stopped"));
        }
        match self.faults.get(&self.count) {
            Some(kind) => Err(io::Error::new(*kind, "simulated")),
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|id| self.contents.get(id)).map(|content| content.now.len() as u64).sum()
    }

    /// Power goes: what was not synced is kept, lost or torn, piece by piece.
    fn crash(&mut self) {
        let mut random = self.random();
        let mut names = self.synced_names.clone();
        for change in std::mem::take(&mut self.changes) {
            if random.chance(50) {
                continue;
            }
            match change {
                NameChange::Made(path, id) => {
                    names.insert(path, id);
                }
                NameChange::Renamed(from, to) => {
                    // A rename of a file whose making was lost has nothing to rename.
                    if let Some(id) = names.remove(&from) {
                        names.insert(to, id);
                    }
                }
                NameChange::Removed(path) => {
                    names.remove(&path);
                }
            }
        }
        self.names = names;
        for content in self.contents.values_mut() {
            let mut bytes = content.synced.clone();
            for write in std::mem::take(&mut content.pending) {
                match &write {
                    Write::At(offset, data) => {
                        let mut at = 0;
                        while at < data.len() {
                            let room = SECTOR - (*offset as usize + at) % SECTOR;
                            let len = room.min(data.len() - at);
                            if random.chance(60) {
                                apply(&mut bytes, &Write::At(offset + at as u64, data[at..at + len].to_vec()));
                            }
                            at += len;
                        }
                    }
                    Write::Size(_) if random.chance(50) => apply(&mut bytes, &write),
                    Write::Size(_) => {}
                }
            }
            content.now.clone_from(&bytes);
            content.synced = bytes;
        }
        self.synced_names = self.names.clone();
        let kept: BTreeSet<u64> = self.names.values().copied().collect();
        self.contents.retain(|id, _| kept.contains(id));
    }
}

#[derive(Clone)]
struct SimDisk(Arc<Mutex<Inner>>);

struct SimFile {
    disk: Arc<Mutex<Inner>>,
    id: u64,
}

fn missing() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "no such file")
}

impl SimDisk {
    fn file(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let inner = self.0.lock().unwrap();
        let id = *inner.names.get(path).ok_or_else(missing)?;
        Ok(Box::new(SimFile { disk: self.0.clone(), id }))
    }
}

impl Disk for SimDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        {
            let mut inner = self.0.lock().unwrap();
            inner.step()?;
            if inner.names.contains_key(path) {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "exists"));
            }
            inner.next += 1;
            let id = inner.next;
            inner.contents.insert(id, Content::default());
            inner.names.insert(path.to_owned(), id);
            inner.changes.push(NameChange::Made(path.to_owned(), id));
        }
        self.file(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(path)
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.file(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let inner = self.0.lock().unwrap();
        let names = inner.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.step()?;
        let id = inner.names.remove(from).ok_or_else(missing)?;
        inner.names.insert(to.to_owned(), id);
        inner.changes.push(NameChange::Renamed(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.step()?;
        inner.names.remove(path).ok_or_else(missing)?;
        inner.changes.push(NameChange::Removed(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        inner.step()?;
        let in_dir = |path: &Path| path.parent() == Some(dir);
        let names: Vec<(PathBuf, u64)> =
            inner.names.iter().filter(|(path, _)| in_dir(path)).map(|(path, id)| (path.clone(), *id)).collect();
        inner.synced_names.retain(|path, _| !in_dir(path));
        inner.synced_names.extend(names);
        inner.changes.retain(|change| match change {
            NameChange::Made(path, _) | NameChange::Removed(path) | NameChange::Renamed(path, _) => !in_dir(path),
        });
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let inner = self.disk.lock().unwrap();
        let bytes = &inner.contents.get(&self.id).ok_or_else(missing)?.now;
        let from = (offset as usize).min(bytes.len());
        let len = into.len().min(bytes.len() - from);
        into[..len].copy_from_slice(&bytes[from..from + len]);
        Ok(len)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.disk.lock().unwrap();
        let step = inner.step();
        let full = inner.used() + bytes.len() as u64 > inner.capacity;
        let mut random = inner.random();
        let content = inner.contents.get_mut(&self.id).ok_or_else(missing)?;
        if full {
            return Err(io::Error::new(io::ErrorKind::StorageFull, "simulated"));
        }
        if let Err(error) = step {
            // A write that fails may have written something.
            let part = random.below(bytes.len() as u64 + 1) as usize;
            content.write(Write::At(offset, bytes[..part].to_vec()));
            return Err(error);
        }
        content.write(Write::At(offset, bytes.to_vec()));
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        let inner = self.disk.lock().unwrap();
        Ok(inner.contents.get(&self.id).ok_or_else(missing)?.now.len() as u64)
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        let mut inner = self.disk.lock().unwrap();
        inner.step()?;
        inner.contents.get_mut(&self.id).ok_or_else(missing)?.write(Write::Size(size));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut inner = self.disk.lock().unwrap();
        let step = inner.step();
        let content = inner.contents.get_mut(&self.id).ok_or_else(missing)?;
        if let Err(error) = step {
            // What a failed sync leaves is as good as never written, and no later sync brings it back.
            content.pending.clear();
            return Err(error);
        }
        content.sync();
        Ok(())
    }
}

/// Everything that was confirmed must be found; what is found must have been handed in.
struct World {
    disk: SimDisk,
    path: PathBuf,
    random: Random,
    confirmed: BTreeMap<ObservationId, NewObservation>,
    handed_in: Vec<NewObservation>,
    writers: u8,
}

impl World {
    fn new(seed: u64) -> Self {
        let inner = Inner { random: seed ^ 0x5eed, fuse: u64::MAX, capacity: u64::MAX, ..Inner::default() };
        World {
            disk: SimDisk(Arc::new(Mutex::new(inner))),
            path: PathBuf::from("/sim/db"),
            random: Random(seed),
            confirmed: BTreeMap::new(),
            handed_in: Vec::new(),
            writers: 0,
        }
    }

    fn open(&mut self) -> Result<Store, tuning_db::StoreError> {
        self.writers += 1;
        let options = OpenOptions {
            index: IndexKind::Memory,
            disk: Arc::new(self.disk.clone()),
            snapshot_every: None,
            serve: false,
            writer: Some([self.writers; 16]),
            ..OpenOptions::default()
        };
        Store::open(&self.path, options)
    }

    /// From opening to a crash.
    fn life(&mut self) {
        let fuse = if self.random.chance(80) { 5 + self.random.below(60) } else { u64::MAX / 2 };
        {
            let mut inner = self.disk.0.lock().unwrap();
            inner.count = 0;
            inner.fuse = fuse;
            inner.faults.clear();
            if self.random.chance(30) {
                let at = 1 + self.random.below(40);
                let kind = if self.random.chance(50) { io::ErrorKind::Other } else { io::ErrorKind::StorageFull };
                inner.faults.insert(at, kind);
                if self.random.chance(30) {
                    inner.faults.insert(at + 1 + self.random.below(6), io::ErrorKind::Other);
                }
            }
        }
        if let Ok(store) = self.open() {
            self.work(&store);
            if self.random.chance(50) {
                // Fails when the machine has stopped.
                let _ = store.close();
            }
        }
        let mut inner = self.disk.0.lock().unwrap();
        inner.fuse = u64::MAX;
        inner.faults.clear();
        inner.crash();
    }

    fn work(&mut self, store: &Store) {
        for _ in 0..self.random.below(12) {
            let burst = 1 + self.random.below(5);
            let new: Vec<NewObservation> = (0..burst).map(|_| sample::any(&mut self.random)).collect();
            let tickets: Vec<_> = new.iter().filter_map(|new| store.append(new.clone()).ok()).collect();
            for (new, ticket) in new.iter().zip(tickets) {
                self.handed_in.push(new.clone());
                if let Ok(id) = ticket.wait() {
                    assert!(self.confirmed.insert(id, new.clone()).is_none(), "one id was given twice");
                }
            }
            if self.random.chance(15) {
                let _ = store.publish_snapshot();
            }
        }
    }

    fn verify(&mut self, seed: u64) {
        let store = self.open().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(store.open_report().lost, 0, "seed {seed}: {:?}", store.open_report());
        let found = crate::merge::everything_of(&store);
        for (id, new) in &self.confirmed {
            let expected = new.clone().with_id(*id);
            assert_eq!(found.get(id), Some(&expected), "seed {seed}: {id} was confirmed");
        }
        for observation in found.values() {
            let known = self.handed_in.iter().any(|new| new.clone().with_id(observation.id) == *observation);
            assert!(known, "seed {seed}: {} was never handed in", observation.id);
        }
        drop(store);
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..1 + seed % 4 {
        world.life();
        world.verify(seed);
    }
}

#[test]
fn nothing_confirmed_is_lost_when_the_power_goes() {
    for seed in 0..campaign(2_000, 1_000_000) {
        simulate(seed);
    }
}

#[test]
fn a_full_disk_loses_nothing_confirmed() {
    for seed in 0..campaign(50, 2_000) {
        let mut world = World::new(seed);
        world.disk.0.lock().unwrap().capacity = (4 << 20) + 1_000 * (1 + seed * 200);
        let mut refused = 0;
        for _ in 0..3 {
            if let Ok(store) = world.open() {
                for _ in 0..60 {
                    let new = sample::any(&mut world.random);
                    let Ok(ticket) = store.append(new.clone()) else {
                        refused += 1;
                        break;
                    };
                    world.handed_in.push(new.clone());
                    match ticket.wait() {
                        Ok(id) => drop(world.confirmed.insert(id, new)),
                        Err(error) => {
                            assert_eq!(error.class(), "machine.disk", "seed {seed}: {error}");
                            refused += 1;
                        }
                    }
                }
                drop(store);
            }
        }
        world.disk.0.lock().unwrap().capacity = u64::MAX;
        world.verify(seed);
        assert!(refused > 0 || seed > 5, "seed {seed}: the disk never was full");
    }
}
