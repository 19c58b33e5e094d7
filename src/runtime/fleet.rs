//! Devices, the shares of them that have workers, and the threads that keep these.

use super::RuntimeError;
use super::catalog::Source;
use super::hand::Hand;
use super::mailbox::{Sender, mailbox};
use super::shared::Shared;
use crate::device::{self, Grant};
use crate::placement::Site;
use crate::schedule::{DeviceId, Engines, Fleet, FleetDevice, Nanos, WorkerId};
use schema::Share;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;

/// A device with its workers.
pub(super) struct Seat {
    pub site: Site,
    /// Each share that has workers, and their grants.
    shares: Vec<(Share, Vec<Grant>)>,
    /// What copies while it computes.
    engines: Engines,
    /// The number of its first worker.
    pub first: u16,
}

impl Seat {
    /// A device with workers of the shares that are wanted, or of those that the artifacts were tuned for there, or of `at_most`, the part
    /// of it that workers may have together. `engines`: what copies while a device with memory of its own computes, if its driver is not to
    /// be believed.
    ///
    /// # Errors
    /// A device that is not here, or a share that it does not give.
    pub fn open(
        name: &str,
        (wanted, at_most): (&[Share], Share),
        engines: Option<Engines>,
        sources: &[Arc<Source>],
    ) -> Result<Seat, RuntimeError> {
        let site = Site::new(device::open(name)?)?;
        let machine = &site.machine;
        let mut shares = wanted.to_vec();
        if shares.is_empty() {
            let entries = sources.iter().flat_map(|source| source.artifact.entries());
            let fits = |share: Share| share <= at_most && machine.slots(share) > 0;
            let here = entries.filter(|entry| entry.device.key() == machine.key() && fits(entry.share));
            shares.extend(here.map(|entry| entry.share));
        }
        if shares.is_empty() {
            shares.push(at_most);
        }
        shares.sort_unstable();
        shares.dedup();
        let granted = |&share: &Share| {
            // The error of a share that it does not give.
            machine.grant(share)?;
            let count = machine.slots(share).min(usize::from(at_most.as_per_mille() / share.as_per_mille()));
            let grants = (0..count).map(|slot| machine.grant_slot(share, slot)).collect::<Result<Vec<_>, _>>()?;
            Ok((share, grants))
        };
        let shares = shares.iter().rev().map(granted).collect::<Result<Vec<_>, RuntimeError>>()?;
        let engines = match machine.limits.gpu {
            Some(_) => engines.unwrap_or(Engines::of(machine.copy_engines)),
            // Copying takes the cores that compute.
            None => Engines::None,
        };
        Ok(Seat { site, shares, engines, first: 0 })
    }

    /// Each share with the units that its workers have.
    pub fn units(&self) -> impl Iterator<Item = (Share, u32)> {
        self.shares.iter().filter_map(|(share, grants)| Some((*share, grants.first()?.grant.units)))
    }

    /// Each share with its workers.
    pub fn workers(&self) -> impl Iterator<Item = (Share, impl Iterator<Item = WorkerId> + Clone)> {
        let ends = self.shares.iter().scan(self.first, |next, (share, grants)| {
            let range: Range<u16> = *next..*next + grants.len() as u16;
            *next = range.end;
            Some((*share, range))
        });
        ends.map(|(share, range)| (share, range.map(WorkerId)))
    }
}

/// What the scheduler knows of the devices.
pub(super) fn fleet(seats: &[Seat]) -> Fleet {
    let device = |seat: &Seat| {
        let grants: Vec<&Grant> = seat.shares.iter().flat_map(|(_, grants)| grants).collect();
        let workers = grants.iter().map(|grant| grant.share).collect();
        FleetDevice { engines: seat.engines, gap: Nanos::ZERO, workers, overlaps: overlaps(&grants) }
    };
    Fleet { devices: seats.iter().map(device).collect() }
}

/// The grants that own cores in common. A share that the driver gives is no set of cores.
fn overlaps(grants: &[&Grant]) -> Vec<(u16, u16)> {
    let shared = |a: &Grant, b: &Grant| a.by_driver().is_none() && a.cores.iter().any(|core| b.cores.contains(core));
    let pairs = grants.iter().enumerate().flat_map(|(at, a)| {
        let later = grants[at + 1..].iter().enumerate().filter(move |(_, b)| shared(a, b));
        later.map(move |(after, _)| (at as u16, (at + 1 + after) as u16))
    });
    pairs.collect()
}

/// Starts a worker for each grant, all at once, each with a thread that keeps it.
///
/// # Errors
/// A worker or a thread that cannot be started.
pub(super) fn hands(
    seats: &mut [Seat],
    program: &Path,
    shared: &Arc<Shared>,
) -> Result<(Vec<Sender>, Vec<JoinHandle<()>>), RuntimeError> {
    let (mut jobs, mut threads, mut started) = (Vec::new(), Vec::new(), Vec::new());
    for (at, seat) in seats.iter_mut().enumerate() {
        seat.first = jobs.len() as u16;
        for grant in seat.shares.iter().flat_map(|(_, grants)| grants) {
            let id = WorkerId(jobs.len() as u16);
            let this = (id, DeviceId(at as u16), seat.engines);
            let (sender, receiver) = mailbox()?;
            let (grant, program, shared) = (grant.clone(), program.to_owned(), Arc::downgrade(shared));
            let (ready, answer) = channel();
            let keep = move || {
                let (hand, said) = match Hand::new(this, grant, program, shared, receiver) {
                    Ok(hand) => (Some(hand), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                // Who opens the runtime waits for it.
                let _ = ready.send(said);
                hand.into_iter().for_each(Hand::serve);
            };
            threads.push(std::thread::Builder::new().name(format!("hand-{}", id.0)).spawn(keep)?);
            jobs.push(sender);
            started.push(answer);
        }
    }
    for answer in started {
        let gone = |_| Err(crate::worker::SpawnError::Handshake("its thread ended".to_owned()));
        answer.recv().unwrap_or_else(gone)?;
    }
    Ok((jobs, threads))
}
