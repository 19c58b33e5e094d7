//! What questions are answered from: an index, replaced as a whole when it turns out damaged, and read as of one moment while
//! writing goes on.
//!
//! Everything that must change together changes under one lock; loom tries every order of its steps (`src/models.rs`). What holds
//! in each of them:
//! - An index that is damaged is made again once, however many questions met the damage, and each of them is then answered from the
//!   new one.
//! - The parts of a snapshot are of one moment: of each key that changed since, what it held then is kept; when the index was made
//!   again in between there is no snapshot.

use crate::error::StoreError;
use crate::index::{Changes, Flow, Index, IndexError, get_over, scan_over};
use crate::ingest::Dropped;
use crate::manifest::Manifest;
use crate::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::BTreeMap;
use std::sync::PoisonError;

/// An index and what the store knows beside it.
pub(crate) struct State {
    pub index: Box<dyn Index>,
    pub dropped: Dropped,
    pub reached: BTreeMap<[u8; 16], u64>,
    /// While a snapshot is taken: of each key changed since, what it held.
    undo: Option<Changes>,
    /// Up to where the journal is in the index.
    pub seq: u64,
    /// The same of the newest snapshot.
    pub published: Option<u64>,
    /// How often the index was made again while open.
    pub rebuilds: u64,
    pub manifest: Manifest,
}

/// Entries of a snapshot, and from which key the next part begins.
pub(crate) struct Part {
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    pub next: Option<Vec<u8>>,
}

impl State {
    /// Of an index just opened.
    pub fn new(index: Box<dyn Index>, dropped: Dropped, reached: BTreeMap<[u8; 16], u64>, seq: u64, manifest: Manifest) -> Self {
        State { index, dropped, reached, undo: None, seq, published: None, rebuilds: 0, manifest }
    }

    /// Applies changes, keeping for a snapshot under way what they replace.
    ///
    /// # Errors
    /// As the index reports it.
    pub fn apply(&mut self, changes: &Changes) -> Result<(), IndexError> {
        if let Some(undo) = &mut self.undo {
            for key in changes.0.keys() {
                if !undo.0.contains_key(key) {
                    let held = get_over(&*self.index, &Changes::default(), key)?;
                    undo.0.insert(key.clone(), held);
                }
            }
        }
        self.index.apply(changes)
    }

    /// This is the moment of a snapshot, whose parts will be asked for.
    pub fn begin_snapshot(&mut self) {
        self.undo = Some(Changes::default());
    }

    /// No more parts will be asked for.
    pub fn end_snapshot(&mut self) {
        self.undo = None;
    }

    /// The entries from a key on as they were when the snapshot began, up to some bytes; `None` when the index was made again since.
    ///
    /// # Errors
    /// As the index reports it, and [`IndexError::Corrupt`] for a value that is not as it was written.
    pub fn part(&self, from: &[u8], bytes: usize) -> Result<Option<Part>, IndexError> {
        let Some(undo) = &self.undo else { return Ok(None) };
        let mut part = Part { entries: Vec::new(), next: None };
        let (mut held, mut fault) = (0, None);
        scan_over(&*self.index, undo, from, &[], &mut |key, value| {
            if held >= bytes {
                part.next = Some(key.to_vec());
                return Flow::Break(());
            }
            // Only what is as it was written goes into a snapshot.
            if let Err(error) = crate::envelope::open(key, value) {
                fault = Some(error);
                return Flow::Break(());
            }
            held += key.len() + value.len();
            part.entries.push((key.to_vec(), value.to_vec()));
            Flow::Continue(())
        })?;
        fault.map_or(Ok(Some(part)), |fault| Err(fault.into()))
    }

    /// Puts an index that was made again in the place of this one, unless that has happened since `rebuilds` was read.
    ///
    /// # Errors
    /// What `make` says; the index is then what `make` left.
    pub fn replace(&mut self, rebuilds: u64, make: impl FnOnce(&mut Self) -> Result<(), StoreError>) -> Result<(), StoreError> {
        if self.rebuilds != rebuilds {
            return Ok(());
        }
        make(self)?;
        // A snapshot under way would mix two indexes.
        self.undo = None;
        self.published = None;
        self.rebuilds += 1;
        Ok(())
    }
}

/// The state that the threads of a store share.
pub(crate) struct Served(RwLock<State>);

impl Served {
    /// Of one that nobody shares yet.
    pub fn new(state: State) -> Self {
        Served(RwLock::new(state))
    }

    /// For reading.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For changing.
    pub fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the index. When it turns out damaged, `rebuild` has it made again, given why and how often that had happened before,
    /// and it is asked once more.
    ///
    /// # Errors
    /// What `rebuild` says, and what the index says otherwise or after it.
    pub fn ask<T>(
        &self,
        question: impl Fn(&dyn Index) -> Result<T, IndexError>,
        rebuild: impl FnOnce(String, u64) -> Result<(), StoreError>,
    ) -> Result<Result<T, IndexError>, StoreError> {
        let (answer, rebuilds) = {
            let state = self.read();
            (question(&*state.index), state.rebuilds)
        };
        match answer {
            Err(IndexError::Corrupt(why)) => {
                rebuild(why, rebuilds)?;
                Ok(question(&*self.read().index))
            }
            answer => Ok(answer),
        }
    }
}
