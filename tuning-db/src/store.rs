//! The store: a database opened for writing.

use crate::disk::Disk;
use crate::envelope::VALUE_BYTES_MAX;
use crate::error::StoreError;
use crate::index::{Index, IndexError};
use crate::key;
use crate::lock::Lock;
use crate::manifest::Manifest;
use crate::open::{self, OpenOptions, OpenReport, index_error};
use crate::publish;
use crate::queue::Queue;
use crate::record::Record;
use crate::state::{Served, State};
use crate::tables::{Best, DeviceRow, ModelRow, Tables};
use crate::ticket::Ticket;
use crate::writer::{Numbers, Work, Writer};
use schema::{
    Config, Device, DeviceKey, Environment, ModelFeatures, ModelKey, NewObservation, Numerics, Observation, Outcome, Share,
    TaskKey,
};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Longest detail of a failure, in bytes.
const DETAIL_BYTES_MAX: usize = 512;

/// A database opened for writing. One process has it at a time; others read by [`Reader`](crate::Reader).
///
/// All methods take `&self` and may be called from several threads.
pub struct Store {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    publisher: Mutex<Option<JoinHandle<()>>>,
    server: Mutex<Option<crate::socket::Server>>,
    report: OpenReport,
    lock: Mutex<Option<Lock>>,
}

/// What the threads of a store share.
pub(crate) struct Shared {
    pub path: PathBuf,
    pub disk: Arc<dyn Disk>,
    pub queue: Queue<Work>,
    pub state: Served,
    /// Held while a snapshot is being written: one at a time.
    pub publishing: Mutex<()>,
    /// Keys whose names have been handed in.
    known: Mutex<HashSet<[u8; 16]>>,
    pub stop: Mutex<bool>,
    pub stopped: Condvar,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Hands something to the writer.
    pub fn hand_in(&self, work: Work) -> Result<Ticket, StoreError> {
        self.queue.hand_in(work)
    }

    /// Asks the index. When it turns out damaged it is made again, and asked once more.
    pub fn ask<T>(&self, question: impl Fn(&dyn Index) -> Result<T, IndexError>) -> Result<T, StoreError> {
        let rebuild = |why, rebuilds| self.hand_in(Work::Rebuild { why, rebuilds })?.wait().map(drop);
        self.state.ask(question, rebuild)?.map_err(|error| index_error(&self.path, error))
    }
}

impl Store {
    /// Opens a database for writing: takes the lock, heals what an earlier crash or damage left.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when another process writes it, [`StoreError::Newer`], [`StoreError::Missing`] without
    /// `options.create`, [`StoreError::Permission`], [`StoreError::Foreign`], [`StoreError::Full`],
    /// [`StoreError::NetworkFileSystem`].
    pub fn open(path: &Path, options: OpenOptions) -> Result<Store, StoreError> {
        let opened = open::open(path, &options)?;
        if let Some(line) = opened.report.line() {
            tracing::warn!("{line}");
        }
        let head = crate::snapshot::Head::read(&*options.disk, path);
        let seq = opened.appender.next_seq() - 1;
        let history = Tables(&*opened.index).history().map_err(|error| index_error(path, error))?;
        let published = history.into_values().filter_map(|history| history.0.last().map(|(_, seq)| *seq));
        let numbers = Numbers::above(published.chain(opened.reached.values().copied()));
        let damaged = opened.report.rebuilt.is_some();
        let mut state = State::new(opened.index, opened.dropped, opened.reached, seq, opened.manifest);
        state.published = if damaged { None } else { head.map(|head| head.watermark) };
        let shared = Arc::new(Shared {
            path: path.to_owned(),
            disk: options.disk.clone(),
            queue: Queue::new(),
            state: Served::new(state),
            publishing: Mutex::new(()),
            known: Mutex::default(),
            stop: Mutex::new(false),
            stopped: Condvar::new(),
        });
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(work)
                .map_err(|error| StoreError::io(path, "start a thread", error))
        };
        let writer = Writer::new(shared.clone(), opened.appender, options.index, numbers);
        let writer = spawn("tuning-db writer", Box::new(move || writer.run()))?;
        let publisher = match options.snapshot_every {
            Some(every) => {
                let shared = shared.clone();
                Some(spawn("tuning-db publisher", Box::new(move || publish::run(&shared, every)))?)
            }
            None => None,
        };
        let server = if options.serve { crate::socket::Server::start(&shared) } else { None };
        Ok(Store {
            shared,
            writer: Mutex::new(Some(writer)),
            publisher: Mutex::new(publisher),
            server: Mutex::new(server),
            report: opened.report,
            lock: Mutex::new(opened.lock),
        })
    }

    /// What opening found and did.
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Hands in an observation. It is durable, and seen by every reading method here, once the ticket says so.
    ///
    /// A failure's detail is cut to 512 bytes.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and after a failure of the disk the error that ended writing.
    pub fn append(&self, observation: NewObservation) -> Result<Ticket, StoreError> {
        self.shared.hand_in(Work::New(Box::new(checked(observation)?)))
    }

    /// Says what a task's key stands for. Durable with the next ticket.
    ///
    /// # Errors
    /// [`StoreError::Input`] when the key is not the text's, and as [`append`](Self::append).
    pub fn put_task(&self, key: TaskKey, text: &str) -> Result<(), StoreError> {
        if TaskKey::of(text) != key {
            return Err(StoreError::Input { what: format!("task {key} is not the key of '{text}'") });
        }
        self.put_name(key.0, Record::Task { key, text: text.to_owned() })
    }

    /// Says what a model's key stands for. Durable with the next ticket.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn put_model(&self, key: ModelKey, name: &str) -> Result<(), StoreError> {
        self.put_name(key.0, Record::Model { key, name: name.to_owned() })
    }

    /// Says what a model's graph is like. Durable with the next ticket.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn put_features(&self, features: &ModelFeatures) -> Result<(), StoreError> {
        let record = Record::Features(Box::new(features.clone()));
        check_size(&record)?;
        let known = self.shared.ask(|index| Tables(index).features_of(features.model, features.batch, &features.dims))?;
        if known.as_ref() != Some(features) {
            drop(self.shared.hand_in(Work::Record(record))?);
        }
        Ok(())
    }

    fn put_name(&self, key: [u8; 16], record: Record) -> Result<(), StoreError> {
        check_size(&record)?;
        if locked(&self.shared.known).contains(&key) {
            return Ok(());
        }
        if self.shared.ask(|index| Tables(index).name(key))?.is_none() {
            drop(self.shared.hand_in(Work::Record(record))?);
        }
        locked(&self.shared.known).insert(key);
        Ok(())
    }

    /// Says that a device is here, and under what it runs now: records of its other environments are stale from here on.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn put_device(&self, device: &Device, environment: &Environment) -> Result<(), StoreError> {
        let record = Record::Device { device: device.clone(), environment: environment.clone(), here: true };
        check_size(&record)?;
        let entry = key::device(device.key(), environment.key());
        let known = self.shared.ask(|index| {
            let current = Tables(index).current(device.key())?;
            Ok(current == Some(environment.key()) && index.get(entry.as_ref())?.is_some())
        })?;
        if !known {
            // Later questions depend on it: it is waited for.
            self.shared.hand_in(Work::Record(record))?.wait()?;
        }
        Ok(())
    }

    /// All observations of a task on a share of a device, failures included, in the order of config keys.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the index cannot be read even after it was made again.
    pub fn trials(&self, task: TaskKey, device: DeviceKey, share: Share) -> Result<Vec<Observation>, StoreError> {
        self.shared.ask(|index| Tables(index).observations(key::trial_group(task.0, device, share).as_ref()))
    }

    /// All observations of a task, on every device and share.
    ///
    /// # Errors
    /// As [`trials`](Self::trials).
    pub fn trials_of_task(&self, task: TaskKey) -> Result<Vec<Observation>, StoreError> {
        self.shared.ask(|index| Tables(index).observations(key::trial_prefix(task.0).as_ref()))
    }

    /// Whether a config has been tried in the device's current environment, with any outcome; in any, while none was put.
    ///
    /// # Errors
    /// As [`trials`](Self::trials).
    pub fn was_tried(&self, task: TaskKey, device: DeviceKey, share: Share, config: &Config) -> Result<bool, StoreError> {
        self.shared.ask(|index| Tables(index).was_tried(task, device, share, config))
    }

    /// The `k` fastest configs by pooled time: those of the device's current environment first, then stale ones, marked.
    ///
    /// # Errors
    /// As [`trials`](Self::trials).
    pub fn bests(
        &self,
        task: TaskKey,
        device: DeviceKey,
        share: Share,
        numerics: Numerics,
        k: usize,
    ) -> Result<Vec<Best>, StoreError> {
        self.shared.ask(|index| Tables(index).bests(task, device, share, numerics, k))
    }

    /// Records of a model, by device, share and batch; stale ones are marked.
    ///
    /// # Errors
    /// As [`trials`](Self::trials).
    pub fn models(&self, model: ModelKey) -> Result<Vec<ModelRow>, StoreError> {
        self.shared.ask(|index| Tables(index).models(Some(model)))
    }

    /// All devices that were ever put, in all their environments.
    ///
    /// # Errors
    /// As [`trials`](Self::trials).
    pub fn devices(&self) -> Result<Vec<DeviceRow>, StoreError> {
        self.shared.ask(|index| Tables(index).devices())
    }

    /// The text of a task.
    ///
    /// # Errors
    /// As [`trials`](Self::trials).
    pub fn task_text(&self, task: TaskKey) -> Result<Option<String>, StoreError> {
        self.shared.ask(|index| Tables(index).name(task.0))
    }

    /// The last published generation; 0 before the first.
    ///
    /// # Errors
    /// As [`trials`](Self::trials).
    pub fn generation(&self) -> Result<u64, StoreError> {
        self.shared.ask(|index| Tables(index).generation())
    }

    /// Publishes what is durable now as a snapshot, when anything changed since the last one. The generation readers see.
    ///
    /// # Errors
    /// What the disk says.
    pub fn publish_snapshot(&self) -> Result<u64, StoreError> {
        publish::publish(&self.shared)
    }

    /// Publishes although nothing changed: the snapshot there may be damaged.
    pub(crate) fn publish_again(&self) -> Result<u64, StoreError> {
        self.shared.state.write().published = None;
        self.publish_snapshot()
    }

    /// Runs a question over the index as it is now.
    ///
    /// # Errors
    /// As [`trials`](Self::trials).
    pub fn query(&self, query: &crate::query::Query) -> Result<crate::query::Rows, StoreError> {
        self.shared.ask(|index| crate::query::eval::rows(index, query))
    }

    /// Publishes, closes the journal and the index, and says so in the manifest.
    ///
    /// # Errors
    /// What the disk says. What was acknowledged is safe all the same.
    pub fn close(self) -> Result<(), StoreError> {
        self.shut()
    }

    /// Makes the index again from the journal.
    pub(crate) fn rebuild(&self, why: &str) -> Result<(), StoreError> {
        let rebuilds = self.shared.state.read().rebuilds;
        self.shared.hand_in(Work::Rebuild { why: why.to_owned(), rebuilds })?.wait().map(drop)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    fn shut(&self) -> Result<(), StoreError> {
        let Some(writer) = locked(&self.writer).take() else { return Ok(()) };
        *locked(&self.shared.stop) = true;
        self.shared.stopped.notify_all();
        drop(locked(&self.server).take());
        if let Some(publisher) = locked(&self.publisher).take() {
            // A publisher that panicked has nothing left to do.
            let _ = publisher.join();
        }
        let published = publish::publish(&self.shared).map(drop);
        let _ = self.shared.hand_in(Work::Stop);
        let _ = writer.join();
        let mut state = self.shared.state.write();
        let flushed = state.index.hint_flush().map_err(|error| index_error(&self.shared.path, error));
        state.index = Box::new(crate::index_btree::BTreeIndex::default());
        let closed = published.and(flushed);
        if closed.is_ok() {
            let manifest = Manifest { clean_close: true, ..state.manifest.clone() };
            manifest.write(&*self.shared.disk, &self.shared.path)?;
        }
        drop(state);
        drop(locked(&self.lock).take());
        closed
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Err(error) = self.shut() {
            tracing::warn!(%error, "the database was not closed cleanly");
        }
    }
}

/// An observation within the limits of the format.
pub(crate) fn checked(mut observation: NewObservation) -> Result<NewObservation, StoreError> {
    if let Outcome::Failed { detail, .. } = &mut observation.outcome {
        let mut end = detail.len().min(DETAIL_BYTES_MAX);
        while !detail.is_char_boundary(end) {
            end -= 1;
        }
        detail.truncate(end);
    }
    let bytes = postcard::to_stdvec(&observation).map_or(usize::MAX, |bytes| bytes.len());
    if bytes > RECORD_BYTES_MAX {
        return Err(StoreError::TooLarge { found: bytes, limit: RECORD_BYTES_MAX });
    }
    Ok(observation)
}

/// Room for envelope, id and key.
pub(crate) const RECORD_BYTES_MAX: usize = VALUE_BYTES_MAX - 128;

pub(crate) fn check_size(record: &Record) -> Result<(), StoreError> {
    let bytes = record.encode().len();
    if bytes > RECORD_BYTES_MAX {
        return Err(StoreError::TooLarge { found: bytes, limit: RECORD_BYTES_MAX });
    }
    Ok(())
}
