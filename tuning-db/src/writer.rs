//! The writer: one thread that owns the journal. Group commit: whatever was handed in while the last sync ran goes together.
//!
//! A commit is at most 64 frames or 256 KiB, and begins at once when the one before has ended: nothing waits for company (docs/adr/0008). Order
//! within a commit: journal, sync, index, tickets. So what a ticket confirms is on disk *and* seen by every question.

use crate::caught::panic_text;
use crate::error::StoreError;
use crate::index::Absent;
use crate::ingest::Ingest;
use crate::journal::{Appender, Frame};
use crate::open::{IndexKind, index_error, replace_index};
use crate::queue::{Item, commit};
use crate::rebuild::{Built, Gathered};
use crate::record::{Note, Record};
use crate::state::State;
use crate::store::Shared;
use crate::ticket::Promise;
use schema::{NewObservation, ObservationId};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

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

/// The numbers of observations: those of their frames, but above every number known here, of whatever writer, so that what is measured
/// after a merge is newer than what was merged ([`ObservationId::order`]).
pub(crate) struct Numbers {
    greatest: u64,
}

impl Numbers {
    /// No database comes to a greater number; one that says so takes no part, or an import could end all numbers.
    const MAX: u64 = 1 << 62;

    /// Above those of observations an index knows of.
    pub fn above(known: impl IntoIterator<Item = u64>) -> Self {
        let mut numbers = Numbers { greatest: 0 };
        known.into_iter().for_each(|seq| numbers.saw(seq));
        numbers
    }

    /// Takes notice of an observation of another database.
    fn saw(&mut self, seq: u64) {
        if seq <= Self::MAX {
            self.greatest = self.greatest.max(seq);
        }
    }

    /// The number of the observation in a frame.
    fn next(&mut self, frame: u64) -> u64 {
        self.greatest = (self.greatest + 1).max(frame);
        self.greatest
    }
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    appender: Appender,
    kind: IndexKind,
    numbers: Numbers,
}

impl Writer {
    pub fn new(shared: Arc<Shared>, appender: Appender, kind: IndexKind, numbers: Numbers) -> Self {
        Writer { shared, appender, kind, numbers }
    }

    /// Until stopped or the disk fails for good.
    pub fn run(mut self) {
        loop {
            // Anything but frames stands alone.
            let items = self.shared.queue.take(COMMIT_FRAMES, |work| matches!(work, Work::New(_) | Work::Record(_)));
            // Whatever happens here, nobody may wait for an answer that never comes.
            let done = catch_unwind(AssertUnwindSafe(|| self.commit(items)))
                .unwrap_or_else(|panic| Err(StoreError::Closed { why: panic_text(&*panic) }));
            match done {
                Ok(false) => {}
                Ok(true) => break self.shared.queue.close(&StoreError::Closed { why: "it was closed".into() }),
                Err(error) => break self.shared.queue.close(&error),
            }
        }
        if let Err(error) = self.appender.close_segment() {
            tracing::warn!(%error, "the last segment keeps its zeros");
        }
    }

    /// Whether it is time to stop.
    fn commit(&mut self, items: Vec<Item<Work>>) -> Result<bool, StoreError> {
        let mut frames = Vec::with_capacity(items.len());
        let mut records = Vec::with_capacity(items.len());
        let mut promises = Vec::with_capacity(items.len());
        let mut bytes = 0;
        for Item { work, promise } in items {
            let seq = self.appender.next_seq() + frames.len() as u64;
            let own = ObservationId { writer: self.appender.writer(), seq };
            let record = match work {
                Work::New(new) => {
                    let seq = self.numbers.next(seq);
                    Record::Observation(Box::new(new.with_id(ObservationId { seq, ..own })))
                }
                Work::Record(record) => {
                    if let Record::Observation(observation) = &record {
                        self.numbers.saw(observation.id.seq);
                    }
                    record
                }
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
            frames.push(Frame { kind: record.kind(), schema: record.schema(), seq, payload });
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
        let committed = commit(self, promises, |writer| writer.appender.append(frames), |writer| writer.take_in(records));
        frames.clear();
        records.clear();
        committed?;
        if self.appender.is_full() {
            return Err(StoreError::Full { path: self.shared.path.clone() });
        }
        Ok(())
    }

    /// Brings the index up to the journal; makes it again when it turns out damaged.
    fn take_in(&mut self, records: &[Record]) -> Result<(), StoreError> {
        let seq = self.appender.next_seq() - 1;
        let shared = self.shared.clone();
        let mut state = shared.state.write();
        let state = &mut *state;
        let dropped = std::mem::take(&mut state.dropped);
        let mut ingest = Ingest::new(&*state.index, dropped);
        ingest.reached = std::mem::take(&mut state.reached);
        let done = records.iter().try_for_each(|record| ingest.record(record)).and_then(|()| ingest.watermark(seq));
        state.reached = std::mem::take(&mut ingest.reached);
        let (changes, dropped) = ingest.finish();
        state.dropped = dropped;
        let done = done.and_then(|()| state.apply(&changes));
        state.seq = seq;
        let rebuilds = state.rebuilds;
        match done {
            Ok(()) => Ok(()),
            Err(error) => self.rebuild_state(state, &error.to_string(), rebuilds),
        }
    }

    fn begin_snapshot(&mut self, promise: Promise) -> Result<(), StoreError> {
        let (number, reached) = {
            let state = self.shared.state.read();
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
        let frame = Frame { kind: record.kind(), schema: record.schema(), seq, payload: record.encode() };
        // The answer carries the generation, the sequence number is the watermark.
        let answer = ObservationId { writer: u128::from(number).to_be_bytes(), seq };
        let take_in = |writer: &mut Self| {
            let taken_in = writer.take_in(&[record]);
            writer.shared.state.write().begin_snapshot();
            taken_in
        };
        commit(self, &mut vec![(promise, answer)], |writer| writer.appender.append(&[frame]), take_in)
    }

    fn rebuild(&mut self, why: &str, rebuilds: u64) -> Result<(), StoreError> {
        let shared = self.shared.clone();
        self.rebuild_state(&mut shared.state.write(), why, rebuilds)
    }

    fn rebuild_state(&mut self, state: &mut State, why: &str, rebuilds: u64) -> Result<(), StoreError> {
        state.replace(rebuilds, |state| {
            tracing::warn!(why, "the index is damaged and made again");
            let (disk, path) = (&*self.shared.disk, &self.shared.path);
            let gathered = Gathered::from_journal(disk, &path.join("journal"))?;
            let Built { index, dropped, reached } =
                gathered.into_index(self.appender.next_seq() - 1).map_err(|error| index_error(path, error))?;
            // When making it fails nobody may take nothing for an answer.
            state.index = Box::new(Absent);
            state.index = match self.kind {
                IndexKind::Memory => Box::new(index),
                IndexKind::Sled => replace_index(disk, path, &mut state.manifest, index, &mut None)?,
            };
            (state.dropped, state.reached) = (dropped, reached);
            Ok(())
        })
    }
}
