//! Everything of a core but its policy, and what follows from it: made anew when it changes, so that a decision, which asks for it once for
//! each model and worker, finds it made.

use super::core::{Limits, Run};
use super::drift::Drift;
use super::rate::Slip;
use super::{
    Curve, CurveId, DeviceId, Fleet, Index, Ledger, Nanos, Queue, Rate, Refit, RowId, STREAMS_MAX, Served, Stages, Worker,
    WorkerId,
};
use schema::Share;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(super) struct State {
    pub index: Arc<Index>,
    /// By device.
    pub workers: Vec<Worker>,
    pub ledger: Ledger,
    pub limits: Limits,
    pub models: Vec<ModelState>,
    /// By curve.
    pub refits: Vec<[Refit; 3]>,
    /// By row, over all curves.
    pub drifts: Vec<Drift>,
    pub runs: Vec<Run>,
    /// By row, over all curves: as recorded, and refitted since.
    stages: Vec<Stages>,
    /// By curve, the workers of its device and share.
    places: Vec<Vec<WorkerId>>,
    /// By curve, the row that the policy works a long queue off with.
    pub steady: Vec<usize>,
    /// By device, which workers are its.
    of_device: Vec<Range<usize>>,
    /// By worker, when its share can be had; an instant that is over: now.
    free_at: Vec<Nanos>,
    /// Of one device, when which part of it is given back. Room to work in.
    ends: Vec<(Nanos, u16)>,
    /// By device, the load that arrivals make, and at which instant.
    loads: Vec<Cell<Option<(Nanos, f64)>>>,
}

/// What is kept of each model.
#[derive(Debug)]
pub(super) struct ModelState {
    pub queue: Queue,
    pub rate: Rate,
    pub served: Served,
    pub slip: Slip,
    /// Where a row takes least of a device, and how much: see `admission::cheapest`.
    pub cheapest: Option<(DeviceId, f64)>,
    /// Accepted and not answered.
    pub held: usize,
    /// The share it last ran at, by device.
    pub last_share: Vec<Option<Share>>,
}

impl State {
    /// Idle, all workers ready; without models.
    pub fn new(fleet: &Fleet, index: Arc<Index>, limits: Limits) -> State {
        let (mut workers, mut of_device): (Vec<Worker>, Vec<Range<usize>>) = (Vec::new(), Vec::new());
        for (at, device) in fleet.devices.iter().enumerate() {
            let first = workers.len();
            let id = |place: u16| WorkerId(first as u16 + place);
            for (place, &share) in device.workers.iter().enumerate() {
                let other = |&(a, b): &(u16, u16)| match place as u16 {
                    place if place == a => Some(id(b)),
                    place if place == b => Some(id(a)),
                    _ => None,
                };
                let overlaps = device.overlaps.iter().filter_map(other).collect();
                workers.push(Worker::new(DeviceId(at as u16), share, device.engines, overlaps));
            }
            of_device.push(first..workers.len());
        }
        let largest = index.curves().iter().map(|curve| curve.largest().batch.rows() as usize).max().unwrap_or(0);
        let run = |_| Run::idle(largest.min(limits.queue_len_max));
        let runs = (0..workers.len() * STREAMS_MAX).map(run).collect();
        let mut state = State {
            index: index.clone(),
            ledger: Ledger::new(fleet.devices.iter().map(|device| device.gap)),
            limits,
            models: Vec::new(),
            refits: Vec::new(),
            drifts: Vec::new(),
            runs,
            stages: Vec::new(),
            places: Vec::new(),
            steady: Vec::new(),
            free_at: vec![Nanos::ZERO; workers.len()],
            ends: Vec::with_capacity(workers.len()),
            loads: vec![Cell::new(None); fleet.devices.len()],
            of_device,
            workers,
        };
        state.change(index);
        state
    }

    /// Goes by another index. What was learnt against the old records says nothing of the new ones.
    pub fn change(&mut self, index: Arc<Index>) {
        self.refits = refits(&index);
        self.drifts = vec![Drift::new(); index.row_count()];
        self.stages = index.curves().iter().flat_map(|curve| curve.rows.iter().map(|row| row.stages)).collect();
        let place = |curve: &Curve| {
            let of_share = |&at: &usize| self.workers[at].share == curve.share;
            let on_device = self.of_device[usize::from(curve.device.0)].clone();
            on_device.filter(of_share).map(|at| WorkerId(at as u16)).collect()
        };
        self.places = index.curves().iter().map(place).collect();
        self.steady = index.curves().iter().map(Curve::steady).collect();
        self.index = index;
        (0..self.refits.len() as u32).for_each(|curve| self.refitted(CurveId(curve)));
    }

    /// A curve was refitted: its rows take other times.
    pub fn refitted(&mut self, curve: CurveId) {
        let refits = &self.refits[curve.0 as usize];
        let first = self.index.row_number(RowId { curve, row: 0 });
        for (row, stages) in self.index.curve(curve).rows.iter().zip(&mut self.stages[first..]) {
            *stages = row.stages.map(|stage, time| time.scaled(refits[stage as usize].factor(row.batch.rows())));
        }
    }

    /// Something began, passed or ended on a device: its shares can be had at other instants.
    pub fn moved(&mut self, device: DeviceId) {
        let of_device = self.of_device[usize::from(device.0)].clone();
        self.ends.clear();
        let busy =
            self.workers[of_device.clone()].iter().filter_map(|worker| Some((worker.over_at()?, worker.share.as_per_mille())));
        self.ends.extend(busy);
        self.ends.sort_unstable();
        let unused = Share::WHOLE.as_per_mille() - self.ledger.in_use(device);
        for at in of_device {
            self.free_at[at] = self.freed_at(&self.workers[at], unused);
        }
    }

    /// When the share of a worker can be had: now, or when enough of what is in flight on its device is over.
    fn freed_at(&self, worker: &Worker, unused: u16) -> Nanos {
        if worker.in_flight() > 0 {
            return Nanos::ZERO;
        }
        let mut free = unused;
        let mut ends = self.ends.iter();
        let mut at = Nanos::ZERO;
        while free < worker.share.as_per_mille() {
            let Some(&(end, share)) = ends.next() else { return Nanos::NEVER };
            (at, free) = (end, free + share);
        }
        let apart = worker.overlaps().iter().filter_map(|other| self.workers[usize::from(other.0)].over_at());
        apart.fold(at, Nanos::max)
    }

    /// Rows arrived, or cost another time than they did.
    pub fn load_changed(&self) {
        self.loads.iter().for_each(|load| load.set(None));
    }

    /// The load of a device at an instant, made by `make` unless it is known.
    pub fn load(&self, device: DeviceId, now: Nanos, make: impl FnOnce() -> f64) -> f64 {
        let kept = &self.loads[usize::from(device.0)];
        match kept.get() {
            Some((at, load)) if at == now => load,
            _ => {
                let load = make();
                kept.set(Some((now, load)));
                load
            }
        }
    }

    /// By row number: as recorded, and refitted since.
    pub fn stages(&self, row: usize) -> Stages {
        self.stages[row]
    }

    /// The workers of a curve's device and share.
    pub fn places(&self, curve: CurveId) -> &[WorkerId] {
        &self.places[curve.0 as usize]
    }

    /// When a worker's share can be had; an instant that is over: now.
    pub fn free_at(&self, worker: WorkerId) -> Nanos {
        self.free_at[usize::from(worker.0)]
    }

    /// The workers of a device, by their numbers.
    pub fn workers_on(&self, device: DeviceId) -> Range<usize> {
        self.of_device[usize::from(device.0)].clone()
    }
}

fn refits(index: &Index) -> Vec<[Refit; 3]> {
    let of = |curve: &Curve| {
        let noises = curve.rows.iter().map(|row| row.spread.as_f64() / row.stages.total().as_f64());
        let noise = noises.fold(0.0, f64::max);
        curve.lines.map(|line| Refit::new(line, noise))
    };
    index.curves().iter().map(of).collect()
}
