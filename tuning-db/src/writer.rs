//! The writer: one thread that owns the journal. Group commit: whatever was handed in while the last sync ran goes together.
//!
//! A commit is at most 64 frames or 256 KiB, and begins at once when the one before has ended: nothing waits for company. Order
//! within a commit: journal, sync, index, tickets. So what a ticket confirms is on disk *and* seen by every question.

use crate::caught::panic_text;
use crate::envelope::SCHEMA;
use crate::error::StoreError;
use crate::index::{Changes, Index, get_over};
use crate::ingest::{Dropped, Ingest};
use crate::journal::{Appender, Frame};
use crate::manifest::Manifest;
use crate::open::{IndexKind, index_error, replace_index};
use crate::rebuild::{Built, Gathered};
use crate::record::{Note, Record};
use crate::store::{Shared, locked};
use crate::ticket::Promise;
use schema::{NewObservation, ObservationId};
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};

const COMMIT_FRAMES: usize = 64;
const COMMIT_BYTES: usize = 256 << 10;

/// What the writer is asked to do.
pub(crate) enum Work {
    New(Box<NewObservation>),
    Record(Record),
    /// Notes a new generation; from then on changes are recorded so that a snapshot of this moment can be taken.
    BeginSnapshot,
    /// Makes the index again, unless that has happened since.
    Rebuild {
        why: String,
        rebuilds: u64,
    },
    Stop,
}

/// Work with the promise to answer.
pub(crate) struct Item {
    pub work: Work,
    pub promise: Promise,
}

/// What was handed in and not taken yet.
#[derive(Default)]
pub(crate) struct Queue {
    pub items: VecDeque<Item>,
    /// Why nothing more is taken.
    pub closed: Option<StoreError>,
}

/// What questions are answered from.
pub(crate) struct State {
    pub index: Box<dyn Index>,
    pub dropped: Dropped,
    pub reached: BTreeMap<[u8; 16], u64>,
    /// While a snapshot is taken: of each key changed since, what it held.
    pub undo: Option<Changes>,
    /// Up to where the journal is in the index.
    pub seq: u64,
    /// The same of the newest snapshot.
    pub published: Option<u64>,
    /// How often the index was made again while open.
    pub rebuilds: u64,
    pub manifest: Manifest,
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    appender: Appender,
    kind: IndexKind,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, appender: Appender, kind: IndexKind) -> Self {
        Writer { shared, appender, kind }
    }

    /// Until stopped or the disk fails for good.
    pub fn run(mut self) {
        loop {
            let items = self.take();
            // Whatever happens here, nobody may wait for an answer that never comes.
            let done = catch_unwind(AssertUnwindSafe(|| self.commit(items)))
                .unwrap_or_else(|panic| Err(StoreError::Closed { why: panic_text(&*panic) }));
            match done {
                Ok(false) => {}
                Ok(true) => break self.refuse_more(StoreError::Closed { why: "it was closed".into() }),
                Err(error) => break self.refuse_more(error),
            }
        }
        if let Err(error) = self.appender.close_segment() {
            tracing::warn!(%error, "the last segment keeps its zeros");
        }
    }

    fn refuse_more(&self, why: StoreError) {
        let mut queue = locked(&self.shared.queue);
        queue.closed = Some(why.clone());
        queue.items.drain(..).for_each(|item| item.promise.keep(Err(why.clone())));
    }

    /// The next commit's worth. Anything but frames stands alone.
    fn take(&self) -> Vec<Item> {
        let mut queue = locked(&self.shared.queue);
        while queue.items.is_empty() {
            queue = self.shared.queued.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let is_frame = |item: &Item| matches!(item.work, Work::New(_) | Work::Record(_));
        let frames = queue.items.iter().take(COMMIT_FRAMES).take_while(|item| is_frame(item)).count();
        queue.items.drain(..frames.max(1)).collect()
    }

    /// Whether it is time to stop.
    fn commit(&mut self, items: Vec<Item>) -> Result<bool, StoreError> {
        let mut frames = Vec::with_capacity(items.len());
        let mut records = Vec::with_capacity(items.len());
        let mut promises = Vec::with_capacity(items.len());
        let mut bytes = 0;
        for Item { work, promise } in items {
            let seq = self.appender.next_seq() + frames.len() as u64;
            let own = ObservationId { writer: self.appender.writer(), seq };
            let record = match work {
                Work::New(new) => Record::Observation(Box::new(new.with_id(own))),
                Work::Record(record) => record,
                Work::BeginSnapshot => return self.begin_snapshot(promise).map(|()| false),
                Work::Rebuild { why, rebuilds } => {
                    promise.keep(self.rebuild(&why, rebuilds).map(|()| own));
                    return Ok(false);
                }
                Work::Stop => {
                    promise.keep(Ok(own));
                    return Ok(true);
                }
            };
            let id = if let Record::Observation(observation) = &record { observation.id } else { own };
            let payload = record.encode();
            bytes += payload.len();
            frames.push(Frame { kind: record.kind(), schema: SCHEMA, seq, payload });
            records.push(record);
            promises.push((promise, id));
            if bytes >= COMMIT_BYTES {
                self.write(&mut frames, &mut records, &mut promises)?;
                bytes = 0;
            }
        }
        self.write(&mut frames, &mut records, &mut promises)?;
        Ok(false)
    }

    fn write(
        &mut self,
        frames: &mut Vec<Frame>,
        records: &mut Vec<Record>,
        promises: &mut Vec<(Promise, ObservationId)>,
    ) -> Result<(), StoreError> {
        let written = self.appender.append(frames);
        frames.clear();
        if let Err(error) = written {
            promises.drain(..).for_each(|(promise, _)| promise.keep(Err(error.clone())));
            return Err(error);
        }
        let taken_in = self.take_in(records);
        records.clear();
        // Durable is durable, whatever became of the index.
        promises.drain(..).for_each(|(promise, id)| promise.keep(Ok(id)));
        taken_in?;
        if self.appender.is_full() {
            return Err(StoreError::Full { path: self.shared.path.clone() });
        }
        Ok(())
    }

    /// Brings the index up to the journal; makes it again when it turns out damaged.
    fn take_in(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let seq = self.appender.next_seq() - 1;
        let shared = self.shared.clone();
        let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let dropped = std::mem::take(&mut state.dropped);
        let mut ingest = Ingest::new(&*state.index, dropped);
        ingest.reached = std::mem::take(&mut state.reached);
        let done = records.iter().try_for_each(|record| ingest.record(record)).and_then(|()| ingest.watermark(seq));
        state.reached = std::mem::take(&mut ingest.reached);
        let (changes, dropped) = ingest.finish();
        state.dropped = dropped;
        let done = done.and_then(|()| {
            if let Some(undo) = &mut state.undo {
                for key in changes.0.keys() {
                    if !undo.0.contains_key(key) {
                        let held = get_over(&*state.index, &Changes::default(), key)?;
                        undo.0.insert(key.clone(), held);
                    }
                }
            }
            state.index.apply(&changes)
        });
        state.seq = seq;
        let rebuilds = state.rebuilds;
        match done {
            Ok(()) => Ok(()),
            Err(error) => self.rebuild_state(state, &error.to_string(), rebuilds),
        }
    }

    fn begin_snapshot(&mut self, promise: Promise) -> Result<(), StoreError> {
        let (number, reached) = {
            let state = self.shared.state.read().unwrap_or_else(PoisonError::into_inner);
            let held = crate::tables::Tables(&*state.index).generation();
            let number = match held {
                Ok(held) => held.saturating_add(1),
                Err(error) => {
                    promise.keep(Err(index_error(&self.shared.path, error)));
                    return Ok(());
                }
            };
            (number, state.reached.iter().map(|(writer, seq)| (*writer, *seq)).collect())
        };
        let record = Record::Note(Note::Generation { number, reached });
        let seq = self.appender.next_seq();
        let frame = Frame { kind: record.kind(), schema: SCHEMA, seq, payload: record.encode() };
        if let Err(error) = self.appender.append(&[frame]) {
            promise.keep(Err(error.clone()));
            return Err(error);
        }
        let taken_in = self.take_in(&[record]);
        {
            let mut state = self.shared.state.write().unwrap_or_else(PoisonError::into_inner);
            state.undo = Some(Changes::default());
        }
        // The answer carries the generation, the sequence number is the watermark.
        promise.keep(Ok(ObservationId { writer: u128::from(number).to_be_bytes(), seq }));
        taken_in
    }

    fn rebuild(&mut self, why: &str, rebuilds: u64) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        let mut state = shared.state.write().unwrap_or_else(PoisonError::into_inner);
        self.rebuild_state(&mut state, why, rebuilds)
    }

    fn rebuild_state(&mut self, state: &mut State, why: &str, rebuilds: u64) -> Result<(), StoreError> {
        if state.rebuilds != rebuilds {
            return Ok(());
        }
        tracing::warn!(why, "the index is damaged and made again");
        let (disk, path) = (&*self.shared.disk, &self.shared.path);
        let gathered = Gathered::from_journal(disk, &path.join("journal"))?;
        let Built { index, dropped, reached } =
            gathered.into_index(self.appender.next_seq() - 1).map_err(|error| index_error(path, error))?;
        state.index = Box::new(crate::index_btree::BTreeIndex::default());
        state.index = match self.kind {
            IndexKind::Memory => Box::new(index),
            IndexKind::Sled => replace_index(disk, path, &mut state.manifest, index, &mut None)?,
        };
        (state.dropped, state.reached) = (dropped, reached);
        // A snapshot under way would mix two indexes.
        state.undo = None;
        state.published = None;
        state.rebuilds += 1;
        Ok(())
    }
}
