//! Workers and what is in flight on them.
//!
//! A worker owns one share of one device and is made in advance. It holds its share in the ledger while anything is in flight. The
//! worker of a device with copy engines has up to three runs in flight, each in another stage; any other does one run at a time.

use super::{DeviceId, ModelId, Nanos, Stage, Stages};
use schema::Share;

/// A worker, by its place in the fleet.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u16);

/// A run in flight: where it is kept, and which of all runs it is.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId {
    pub(super) slot: u16,
    pub number: u64,
}

/// What copies while something is computed.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub enum Engines {
    /// Nothing: the stages of a run follow each other, as on a host, where copying takes the cores that compute.
    #[default]
    None,
    /// One for both directions; downloads go first.
    One,
    /// One for each direction.
    Two,
}

impl Engines {
    /// Of a device with so many engines that copy.
    pub fn of(copy_engines: u32) -> Engines {
        match copy_engines {
            0 => Engines::None,
            1 => Engines::One,
            _ => Engines::Two,
        }
    }

    /// The time between the ends of two runs of these stages, one close behind the other, with as many in flight as
    /// [`Stages::streams`] says (papers §2.2, E4).
    pub fn cycle(self, stages: Stages) -> Nanos {
        match self {
            Engines::None => stages.total(),
            Engines::One => stages.compute.max(stages.upload + stages.download),
            Engines::Two => stages.slowest(),
        }
    }
}

/// The devices and workers there are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleet {
    pub devices: Vec<FleetDevice>,
}

/// One device of a [`Fleet`].
#[derive(Clone, Debug, PartialEq)]
pub struct FleetDevice {
    pub engines: Engines,
    /// From the last run at one share to the first at another, until it is measured.
    pub gap: Nanos,
    /// The share of each of its workers. All of them together may be more than the device; those in use never are.
    pub workers: Vec<Share>,
    /// Workers, by their places here, that never run at once though their shares would allow it: they own units in common, as two core sets
    /// of unequal size may.
    pub overlaps: Vec<(u16, u16)>,
}

/// Runs that one worker may have in flight.
pub const STREAMS_MAX: usize = 3;

/// Whether a worker can be given work.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Presence {
    Ready,
    /// It died and is being replaced.
    Away,
    /// Its device is lost.
    Lost,
}

/// One worker.
#[derive(Clone, Debug)]
pub struct Worker {
    pub device: DeviceId,
    pub share: Share,
    pub engines: Engines,
    /// Workers that own some of its units too.
    pub(super) overlaps: Box<[WorkerId]>,
    pub(super) presence: Presence,
    /// The oldest first.
    pub(super) flights: Flights,
    /// When each stage was last over, of whichever run.
    ended: [Nanos; 3],
}

#[derive(Copy, Clone, Debug)]
pub(super) struct Flight {
    pub run: RunId,
    pub model: ModelId,
    /// As predicted.
    pub stages: Stages,
    /// When its upload can begin at the earliest: its start and the gap.
    pub begins: Nanos,
    /// How many stages are over.
    pub passed: usize,
    /// When each stage ended, or is predicted to.
    pub ends: [Nanos; 3],
}

/// At most [`STREAMS_MAX`] flights.
#[derive(Clone, Debug, Default)]
pub(super) struct Flights {
    /// Those without a gap in front.
    list: [Option<Flight>; STREAMS_MAX],
    len: usize,
}

impl Flights {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Flight> {
        self.list[..self.len].iter().flatten()
    }

    pub fn last(&self) -> Option<&Flight> {
        self.list[self.len.checked_sub(1)?].as_ref()
    }

    pub fn push(&mut self, flight: Flight) {
        *self.list.get_mut(self.len).expect("a worker has at most STREAMS_MAX runs in flight") = Some(flight);
        self.len += 1;
    }

    pub fn get_mut(&mut self, run: RunId) -> Option<&mut Flight> {
        self.list.iter_mut().flatten().find(|flight| flight.run == run)
    }

    pub fn remove(&mut self, run: RunId) -> Option<Flight> {
        let at = self.list.iter().position(|flight| flight.is_some_and(|flight| flight.run == run))?;
        let flight = self.list[at].take();
        self.list[at..].rotate_left(1);
        self.len -= 1;
        flight
    }

    pub fn pop(&mut self) -> Option<Flight> {
        let flight = self.list[0].take()?;
        self.list.rotate_left(1);
        self.len -= 1;
        Some(flight)
    }
}

/// When a run would begin and end.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// When it can be started at the earliest.
    pub start: Nanos,
    pub finish: Nanos,
}

impl Worker {
    pub(super) fn new(device: DeviceId, share: Share, engines: Engines, overlaps: Box<[WorkerId]>) -> Worker {
        let (presence, flights) = (Presence::Ready, Flights::default());
        Worker { device, share, engines, overlaps, presence, flights, ended: [Nanos::ZERO; 3] }
    }

    /// Workers that never run while it does, whatever their shares are.
    pub fn overlaps(&self) -> &[WorkerId] {
        &self.overlaps
    }

    pub fn presence(&self) -> Presence {
        self.presence
    }

    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Whether the engines leave room to begin a run of these stages now. The share is the ledger's business.
    pub fn can_begin(&self, stages: Stages) -> bool {
        self.has_room(if self.engines == Engines::None { 1 } else { stages.streams() })
    }

    /// The same for a run that makes use of so many streams.
    pub(super) fn has_room(&self, streams: usize) -> bool {
        let uploading = || self.flights.iter().any(|flight| flight.passed == Stage::Upload as usize);
        let downloading = || self.flights.iter().any(|flight| flight.passed == Stage::Download as usize);
        match self.engines {
            _ if self.presence != Presence::Ready => false,
            Engines::None => self.flights.is_empty(),
            Engines::One => self.flights.len() < streams && !uploading() && !downloading(),
            Engines::Two => self.flights.len() < streams && !uploading(),
        }
    }

    /// When everything in flight is computed: F of papers §2.3. Where nothing overlaps, when all of it is over.
    pub fn computed(&self, now: Nanos) -> Nanos {
        let stage = if self.engines == Engines::None { Stage::Download } else { Stage::Compute };
        self.flights.last().map_or(now, |flight| flight.ends[stage as usize].max(now))
    }

    /// When all in flight is predicted to be over; `None` when there is nothing.
    pub fn over_at(&self) -> Option<Nanos> {
        self.flights.last().map(|flight| flight.ends[2])
    }

    /// When a run begun no earlier than `earliest` would start and finish, behind what is in flight.
    pub(super) fn forecast(&self, now: Nanos, earliest: Nanos, gap: Nanos, stages: Stages) -> Forecast {
        let last = self.flights.last();
        let start = match (self.engines, last) {
            (_, None) => earliest.max(now),
            (Engines::None, Some(last)) => last.ends[2].max(earliest).max(now),
            (_, Some(last)) => {
                // The stream of the oldest run, when all are taken, and the copy engine.
                let full = self.flights.len() >= stages.streams();
                let oldest = self.flights.iter().next().filter(|_| full).map_or(now, |oldest| oldest.ends[2]);
                last.ends[0].max(oldest).max(earliest).max(now)
            }
        };
        let ends = self.ends(start + gap, stages, [Nanos::ZERO; 3], 0, last, now);
        Forecast { start, finish: ends[2] }
    }

    /// A stage of a run is over.
    pub(super) fn pass(&mut self, run: RunId, stage: Stage, now: Nanos) {
        let flight = self.flights.get_mut(run).expect("a run in flight is on its worker");
        flight.passed = flight.passed.max(stage as usize + 1);
        flight.ends[stage as usize] = now;
        self.ended[stage as usize] = now;
        self.forecast_flights(now);
    }

    /// A run is over.
    pub(super) fn land(&mut self, run: RunId, now: Nanos) {
        self.flights.remove(run).expect("a run in flight is on its worker");
        self.ended[Stage::Download as usize] = now;
        self.forecast_flights(now);
    }

    /// Predicts anew all that is in flight: some stage ended earlier or later than predicted.
    pub(super) fn forecast_flights(&mut self, now: Nanos) {
        let mut before: Option<Flight> = None;
        for at in 0..STREAMS_MAX {
            let Some(mut flight) = self.flights.list[at] else { break };
            flight.ends = self.ends(flight.begins, flight.stages, flight.ends, flight.passed, before.as_ref(), now);
            self.flights.list[at] = Some(flight);
            before = Some(flight);
        }
    }

    /// The ends of the stages of a run behind `before`, of which the first `passed` are over.
    fn ends(
        &self,
        begins: Nanos,
        stages: Stages,
        mut ends: [Nanos; 3],
        passed: usize,
        before: Option<&Flight>,
        now: Nanos,
    ) -> [Nanos; 3] {
        for stage in &Stage::ALL[passed..] {
            let at = *stage as usize;
            let own = if at == 0 { begins } else { ends[at - 1] };
            let of = if (self.engines, *stage) == (Engines::None, Stage::Upload) { 2 } else { at };
            let engine = before.map_or(self.ended[of], |before| before.ends[of]);
            // What is not over by now ends now at the earliest.
            ends[at] = (own.max(engine) + stages.get(*stage)).max(now);
        }
        ends
    }
}
