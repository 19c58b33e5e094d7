//! One fault at a time, at every point where the store touches the disk or the index.
//!
//! Goal: whatever fails, at whatever moment, a tuning that is continued ends with the same set of observations, and what a ticket
//! confirmed is in it. Method: sixty trials; a disk or an index that fails, panics or stops for good at the n-th visit of a point;
//! reopen until all sixty are there; compare, and let `check` look. A point that is never visited fails the test.

use crate::campaign;
use crate::kill::temporary;
use crate::merge::everything_of;
use crate::sample::{self, Random};
use schema::*;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tuning_db::disk::{Disk, DiskFile, RealDisk};
use tuning_db::index::{Changes, Flow, Index, IndexError};
use tuning_db::{OpenOptions, Store, Verify};

const TRIALS: usize = 60;

/// Where a fault happens; the second tells whether it takes a damaged index to get there.
const POINTS: [(&str, bool); 19] = [
    ("journal.open", false),
    ("journal.write", false),
    ("journal.short_write", false),
    ("journal.fsync", false),
    ("journal.rotate", false),
    ("journal.grow", false),
    ("journal.dirsync", false),
    ("index.open", false),
    ("index.apply", false),
    ("index.apply_corrupt", false),
    ("index.get", false),
    ("index.scan", false),
    ("index.flush", false),
    ("snap.write", false),
    ("snap.fsync", false),
    ("snap.rename", false),
    ("snap.map", true),
    ("head.replace", false),
    ("manifest.replace", false),
];
const QUARANTINE: (&str, bool) = ("quarantine.move", true);

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Way {
    Error,
    Full,
    Panic,
    /// This operation and all that follow fail, as if the process were gone.
    Stop,
}

const WAYS: [Way; 4] = [Way::Error, Way::Full, Way::Panic, Way::Stop];

/// A fault at the n-th visit of a point.
struct Plan {
    point: &'static str,
    way: Way,
    nth: u64,
    visits: AtomicU64,
}

impl Plan {
    fn is_hit(&self, points: &[&str]) -> bool {
        let stopped = self.way == Way::Stop && self.visits.load(Ordering::SeqCst) >= self.nth;
        stopped || (points.contains(&self.point) && self.visits.fetch_add(1, Ordering::SeqCst) + 1 == self.nth)
    }

    fn visit(&self, points: &[&str]) -> io::Result<()> {
        if !self.is_hit(points) {
            return Ok(());
        }
        match self.way {
            Way::Error | Way::Stop => Err(io::Error::other("injected")),
            Way::Full => Err(io::Error::new(io::ErrorKind::StorageFull, "injected")),
            Way::Panic => panic!("injected at {}", self.point),
        }
    }

    fn visit_index(&self, points: &[&str]) -> Result<(), IndexError> {
        self.visit(points).map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => IndexError::Full,
            _ if self.point == "index.apply_corrupt" => IndexError::Corrupt("injected".into()),
            _ => IndexError::Io("injected".into()),
        })
    }
}

/// What part of the database a path belongs to.
fn part(path: &Path) -> &'static str {
    let text = path.to_str().unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let last = |folder: &str| text.ends_with(folder) || path.parent().is_some_and(|parent| parent.ends_with(folder));
    match () {
        () if text.contains("/quarantine/") => "quarantine",
        () if last("journal") => "journal",
        () if last("snap") && name.contains("head") => "head",
        () if last("snap") => "snap",
        () if name.contains("manifest.json") => "manifest",
        () => "",
    }
}

struct FaultyDisk(Arc<Plan>);

struct FaultyFile {
    file: Box<dyn DiskFile>,
    part: &'static str,
    plan: Arc<Plan>,
}

impl FaultyDisk {
    fn wrap(&self, file: Box<dyn DiskFile>, path: &Path) -> Box<dyn DiskFile> {
        Box::new(FaultyFile { file, part: part(path), plan: self.0.clone() })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.visit(if part(path) == "journal" { &["journal.open"] } else { &[] })?;
        Ok(self.wrap(RealDisk.create(path)?, path))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.wrap(RealDisk.open(path)?, path))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.visit(if part(path) == "snap" { &["snap.map"] } else { &[] })?;
        RealDisk.open_read(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(dir)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        RealDisk.create_dir(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.visit(match part(to) {
            "quarantine" => &["quarantine.move"],
            "head" => &["head.replace"],
            "snap" => &["snap.rename"],
            "manifest" => &["manifest.replace"],
            _ => &[],
        })?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.visit(&[])?;
        RealDisk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.visit(match part(dir) {
            "journal" => &["journal.dirsync"],
            _ => &[],
        })?;
        RealDisk.sync_dir(dir)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let grows = bytes.iter().all(|byte| *byte == 0);
        let visited = self.plan.visit(match self.part {
            "journal" if grows => &["journal.grow"],
            "journal" => &["journal.write", "journal.short_write"],
            "snap" => &["snap.write"],
            _ => &[],
        });
        if visited.is_err() && self.plan.point == "journal.short_write" {
            self.file.write_at(offset, &bytes[..bytes.len() / 2])?;
        }
        visited?;
        self.file.write_at(offset, bytes)
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.plan.visit(if self.part == "journal" { &["journal.rotate"] } else { &[] })?;
        self.file.set_size(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.plan.visit(match self.part {
            "journal" => &["journal.fsync"],
            "snap" => &["snap.fsync"],
            _ => &[],
        })?;
        self.file.sync()
    }
}

struct FaultyIndex {
    index: Box<dyn Index>,
    plan: Arc<Plan>,
}

impl Index for FaultyIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        self.plan.visit_index(&["index.get"])?;
        self.index.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], f: &mut dyn FnMut(&[u8], &[u8]) -> Flow) -> Result<(), IndexError> {
        self.plan.visit_index(&["index.scan"])?;
        self.index.scan(from, to, f)
    }

    fn apply(&mut self, changes: &Changes) -> Result<(), IndexError> {
        self.plan.visit_index(&["index.apply", "index.apply_corrupt"])?;
        self.index.apply(changes)
    }

    fn hint_flush(&mut self) -> Result<(), IndexError> {
        self.plan.visit_index(&["index.flush"])?;
        self.index.hint_flush()
    }
}

fn sound() -> OpenOptions {
    OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() }
}

/// A tuning: what it wants to know, and what was confirmed to it.
struct Tuning {
    trials: Vec<NewObservation>,
    confirmed: BTreeMap<ObservationId, NewObservation>,
}

impl Tuning {
    /// Measures what is not known yet, up to `until`; whether it came to its end.
    fn run(&mut self, path: &Path, options: OpenOptions, until: usize) -> bool {
        let Ok(store) = Store::open(path, options) else { return false };
        let Ok(known) = known(&store) else { return false };
        let missing: Vec<_> = self.trials[..until].iter().filter(|trial| !known.values().any(|one| is_of(one, trial))).collect();
        for (i, group) in missing.chunks(7).enumerate() {
            let tickets: Vec<_> = group.iter().map_while(|new| store.append((*new).clone()).ok()).collect();
            for (new, ticket) in group.iter().zip(tickets) {
                let Ok(id) = ticket.wait() else { return false };
                assert!(self.confirmed.insert(id, (*new).clone()).is_none(), "an id twice");
            }
            if i % 3 == 2 && store.publish_snapshot().is_err() {
                return false;
            }
        }
        store.close().is_ok()
    }
}

fn is_of(observation: &Observation, trial: &NewObservation) -> bool {
    trial.clone().with_id(observation.id) == *observation
}

/// Everything in the store, or that it cannot be asked just now.
fn known(store: &Store) -> Result<BTreeMap<ObservationId, Observation>, tuning_db::StoreError> {
    let tasks = (0..4).map(|n| TaskKey::of(&sample::task_text(n)));
    let models = (0..3).map(|n| TaskKey(sample::model_key(n).0));
    let mut found = BTreeMap::new();
    for task in tasks.chain(models) {
        found.extend(store.trials_of_task(task)?.into_iter().map(|observation| (observation.id, observation)));
    }
    Ok(found)
}

/// Whether the fault happened.
fn tune_with(point: (&'static str, bool), way: Way, nth: u64) -> bool {
    let place = format!("{} {way:?} {nth}", point.0);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let mut random = Random(60);
    let trials: Vec<_> = (0..TRIALS).map(|_| sample::any(&mut random)).collect();
    let mut tuning = Tuning { trials, confirmed: BTreeMap::new() };
    assert!(tuning.run(&path, sound(), TRIALS / 3), "{place}");
    let plan = Arc::new(Plan { point: point.0, way, nth, visits: AtomicU64::new(0) });
    let between = plan.clone();
    let faulty = OpenOptions {
        disk: Arc::new(FaultyDisk(plan.clone())),
        verify: if point.1 { Verify::Rebuild("injected".into()) } else { Verify::Usual },
        between: Some(Arc::new(move |index: Box<dyn Index>| -> Result<Box<dyn Index>, IndexError> {
            between.visit_index(&["index.open"])?;
            Ok(Box::new(FaultyIndex { index, plan: between.clone() }))
        })),
        ..sound()
    };
    // A panic of the caller's own thread is the caller's; the store must not mind it.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tuning.run(&path, faulty, TRIALS)));
    let mut tries = 0;
    while !tuning.run(&path, sound(), TRIALS) {
        tries += 1;
        assert!(tries < 3, "{place}: it does not come to an end");
    }
    let store = Store::open(&path, sound()).unwrap();
    assert_eq!(temporary(&path), Vec::<String>::new(), "{place}");
    assert_eq!(store.open_report().lost, 0, "{place}: {:?}", store.open_report());
    let found = everything_of(&store);
    assert_eq!(found.len(), TRIALS, "{place}");
    for trial in &tuning.trials {
        assert!(found.values().any(|one| is_of(one, trial)), "{place}: a trial is missing");
    }
    for (id, new) in &tuning.confirmed {
        assert!(found.get(id).is_some_and(|one| is_of(one, new)), "{place}: {id} was confirmed");
    }
    store.close().unwrap();
    let report = tuning_db::check(&path).unwrap();
    assert!(report.is_clean(), "{place}: {:?}", report.findings);
    plan.visits.load(Ordering::SeqCst) >= nth
}

#[test]
fn a_continued_tuning_ends_with_the_same_observations() {
    for point in POINTS.into_iter().chain([QUARANTINE]) {
        for way in WAYS {
            for nth in 1..=campaign(1, 8) {
                assert!(tune_with(point, way, nth) || nth > 1, "{} was never visited", point.0);
            }
        }
    }
}

/// What is handed in behind the commit that panics is answered too, and closing comes to an end.
#[test]
fn a_panic_of_the_writer_is_told_to_all_who_wait() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    Store::open(&path, sound()).unwrap().close().unwrap();
    let plan = Arc::new(Plan { point: "index.apply", way: Way::Panic, nth: 2, visits: AtomicU64::new(0) });
    let faulty = OpenOptions {
        between: Some(Arc::new(move |index: Box<dyn Index>| -> Result<Box<dyn Index>, IndexError> {
            Ok(Box::new(FaultyIndex { index, plan: plan.clone() }))
        })),
        ..sound()
    };
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let store = Store::open(&path, faulty).unwrap();
        let mut random = Random(1);
        store.append(sample::any(&mut random)).unwrap().wait().unwrap();
        let tickets: Vec<_> = (0..1_000).map_while(|_| store.append(sample::any(&mut random)).ok()).collect();
        let refused = tickets.into_iter().filter_map(|ticket| ticket.wait().err()).count();
        let last = store.append(sample::any(&mut random)).err().map(|error| error.to_string());
        let closed = store.close().is_ok();
        done.send((refused, last, closed)).unwrap();
    });
    let (refused, last, closed) = is_done.recv_timeout(std::time::Duration::from_secs(60)).expect("somebody waits for ever");
    assert!(refused > 0);
    assert_eq!(last.as_deref(), Some("the database was closed: panic: injected at index.apply"));
    assert!(!closed, "it was not closed cleanly");
}
