//! Publishing: a consistent snapshot taken while writing goes on.
//!
//! The writer notes the generation and from then on keeps, of every key it changes, what it held. The index is read in parts, each
//! under the lock for a moment, with those kept values laid over it: together they are the index of the moment the note was written.

use crate::error::StoreError;
use crate::open::index_error;
use crate::snapshot::Writer;
use crate::state::Part;
use crate::store::{Shared, locked};
use crate::writer::Work;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// Bytes read at a time under the lock: about 2 ms.
const PART_BYTES: usize = 1 << 20;
/// Publishing takes at most one part in so many of the time.
const PACE: u32 = 20;

/// Publishes every so often until the store stops; less often when a snapshot takes long.
pub(crate) fn run(shared: &Shared, every: Duration) {
    let mut wait = every;
    loop {
        let stop = locked(&shared.stop);
        let (stop, _) = shared.stopped.wait_timeout_while(stop, wait, |stop| !*stop).unwrap_or_else(PoisonError::into_inner);
        if *stop {
            return;
        }
        drop(stop);
        let started = Instant::now();
        if let Err(error) = publish(shared) {
            tracing::warn!(%error, "no snapshot was published");
        }
        wait = every.max(started.elapsed() * PACE);
    }
}

/// Publishes when something changed; the generation that readers see.
pub(crate) fn publish(shared: &Shared) -> Result<u64, StoreError> {
    let _one = locked(&shared.publishing);
    {
        let state = shared.state.read();
        if state.published == Some(state.seq) || state.seq == 0 {
            return crate::tables::Tables(&*state.index).generation().map_err(|error| index_error(&shared.path, error));
        }
    }
    let begun = shared.hand_in(Work::BeginSnapshot)?.wait()?;
    let generation = u64::try_from(u128::from_be_bytes(begun.writer)).unwrap_or(u64::MAX);
    let written = write(shared, generation, begun.seq);
    let mut state = shared.state.write();
    state.end_snapshot();
    if written.is_ok() {
        state.published = Some(begun.seq);
    }
    written.map(|()| generation)
}

fn write(shared: &Shared, generation: u64, watermark: u64) -> Result<(), StoreError> {
    let mut writer = Writer::begin(&*shared.disk, &shared.path, generation)?;
    let mut from = Vec::new();
    loop {
        let part = match part(shared, &from) {
            Ok(part) => part,
            Err(error) => {
                writer.abandon(&*shared.disk);
                return Err(error);
            }
        };
        for (key, value) in &part.entries {
            if let Err(error) = writer.add(key, value) {
                writer.abandon(&*shared.disk);
                return Err(error);
            }
        }
        match part.next {
            Some(next) => from = next,
            None => break,
        }
    }
    writer.finish(&*shared.disk, &shared.path, generation, watermark).map(drop)
}

fn part(shared: &Shared, from: &[u8]) -> Result<Part, StoreError> {
    match shared.state.read().part(from, PART_BYTES) {
        Ok(Some(part)) => Ok(part),
        Ok(None) => Err(StoreError::damaged(&shared.path, "the index was made again during a snapshot")),
        Err(error) => Err(index_error(&shared.path, error)),
    }
}
