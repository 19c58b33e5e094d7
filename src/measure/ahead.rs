//! Compiling ahead: while a slot builds, verifies and times configs, compilers have the driver compile those that come next.
//!
//! A compiler is a worker of the same device on a core that no slot owns. What it compiles stays in the driver's cache on disk, where the
//! slot's worker finds it. Its word counts for nothing: a config that it refuses, hangs on or dies of is built by the slot as if there
//! were no compilers, and judged by that alone. A slot takes its configs from the front, compilers take theirs from the back, and so they
//! meet; with nothing left there, compilers take what is foreseen of later rounds. A slot waits for what a compiler is at, never for more.
//!
//! Source: the design's §3.3 (2), a compile pool on free host threads. Where we differ, it is not a pool of threads: CubeCL compiles on
//! the one thread of its device, so each compiler is a process. [`Queue`] decides and knows neither clock nor process.

use super::{Phase, Phases};
use crate::device::Grant;
use crate::worker::{Answer, Ask, Death, Worker, watchdog};
use kernels::Task;
use schema::{Config, ConfigKey, Seed, TaskKey};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A task with more operand bytes is not compiled ahead: two workers' copies of them would not fit.
const OPERAND_BYTES_MAX: u64 = 96 << 20;
/// Compilers of one place at most: a round has no more configs.
const COMPILERS_MAX: usize = 8;
/// Deaths of compilers in a row after which nothing is compiled ahead any more.
const DEATHS_MAX: u32 = 3;
/// Kernels after which it is known whether slots gain, once compiling them took compilers so long.
const JUDGED_FROM: (u32, Duration) = (4, Duration::from_millis(200));
/// Slots gain nothing if they still need this part of what compilers needed, in per cent.
const USELESS_PCT: u128 = 80;
/// How often a slot that waits looks whether it should still.
const TICK: Duration = Duration::from_millis(50);
/// Resting compilers are ended within the time that a worker needs to end.
const REST: Duration = Duration::from_secs(2);

/// A config of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    pub task: Task,
    pub config: Config,
}

impl Job {
    fn key(&self) -> Key {
        (self.task.key(), self.config.key())
    }
}

type Key = (TaskKey, ConfigKey);

/// What became of a job that somebody took.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// A compiler is at it.
    Compiling,
    /// It took a compiler so long.
    Compiled(Duration),
    /// A slot builds it or has built it.
    Slots,
}

/// What a slot finds that is about to build a config.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It compiles it itself.
    Own,
    /// A compiler is at it.
    Wait,
    /// It was compiled, which took so long.
    Ready(Duration),
}

/// Who compiles what, and in which order.
#[derive(Debug, Default)]
pub struct Queue {
    /// What each slot has still to build of its round, in its order.
    rounds: BTreeMap<usize, VecDeque<Job>>,
    /// What is expected of later rounds, the nearest first.
    foreseen: VecDeque<Job>,
    fates: BTreeMap<Key, Fate>,
}

impl Queue {
    /// A slot begins a round.
    pub fn begin(&mut self, slot: usize, jobs: Vec<Job>) {
        let open = |job: &Job| !self.fates.contains_key(&job.key());
        let open: VecDeque<Job> = jobs.into_iter().filter(open).collect();
        self.rounds.insert(slot, open);
    }

    /// Later rounds are expected to be these, and no longer what was expected before.
    pub fn foresee(&mut self, jobs: Vec<Job>) {
        self.foreseen = jobs.into();
    }

    /// A slot is about to build a config.
    pub fn claim(&mut self, slot: usize, key: Key) -> Claim {
        if let Some(round) = self.rounds.get_mut(&slot) {
            round.retain(|job| job.key() != key);
        }
        match self.fates.get(&key) {
            Some(Fate::Compiling) => return Claim::Wait,
            Some(&Fate::Compiled(took)) => {
                self.fates.insert(key, Fate::Slots);
                return Claim::Ready(took);
            }
            Some(Fate::Slots) | None => {}
        }
        self.fates.insert(key, Fate::Slots);
        Claim::Own
    }

    /// What a compiler is to do next: the end of the longest round, or else what is foreseen.
    pub fn next_job(&mut self) -> Option<Job> {
        let longest = self.rounds.values_mut().max_by_key(|round| round.len());
        let mut next = longest.and_then(VecDeque::pop_back);
        while next.is_none() {
            next = Some(self.foreseen.pop_front()?).filter(|job| !self.fates.contains_key(&job.key()));
        }
        let job = next?;
        self.rounds.values_mut().for_each(|round| round.retain(|other| *other != job));
        self.fates.insert(job.key(), Fate::Compiling);
        Some(job)
    }

    /// A compiler is done with a job; without a time it left it to the slots.
    pub fn done(&mut self, job: &Job, took: Option<Duration>) {
        self.fates.insert(job.key(), took.map_or(Fate::Slots, Fate::Compiled));
    }

    /// Nothing is to be compiled ahead of what is known.
    pub fn clear(&mut self) {
        self.rounds.clear();
        self.foreseen.clear();
    }
}

/// What compiling ahead brought on a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub compilers: usize,
    /// Kernels that compilers compiled, and those that slots then built.
    pub compiled: u32,
    pub used: u32,
    /// How long slots waited for compilers.
    pub waited: Duration,
    /// Why nothing is compiled ahead, or nothing any more.
    pub off: Option<String>,
    /// What compilers needed for the kernels that slots used, and what the slots still needed for them.
    spent: Duration,
    left: Duration,
    deaths: u32,
}

impl Tally {
    /// Of a place without compilers.
    pub fn off(why: String) -> Tally {
        Tally { off: Some(why), ..Tally::default() }
    }

    /// A slot needed `left` to compile what a compiler had needed `spent` for.
    fn used(&mut self, spent: Duration, left: Duration) {
        self.used += 1;
        self.spent += spent;
        self.left += left;
        let judged = self.used >= JUDGED_FROM.0 && self.spent >= JUDGED_FROM.1;
        if judged && self.left.as_nanos() * 100 > self.spent.as_nanos() * USELESS_PCT {
            self.give_up("slots are not faster for it: the driver keeps nothing it compiled, or had it before".to_owned());
        }
    }

    fn died(&mut self, detail: &str) {
        self.deaths += 1;
        if self.deaths >= DEATHS_MAX {
            self.give_up(format!("{DEATHS_MAX} compilers in a row died: {detail}"));
        }
    }

    /// The first reason stands.
    fn give_up(&mut self, why: String) {
        self.off.get_or_insert(why);
    }
}

/// The grants of a place's compilers, one for each of `cores` that none of its slots owns.
///
/// # Errors
/// Why there are none, in one line.
pub fn grants(slots: &[Grant], cores: &[usize], software: bool) -> Result<Vec<Grant>, String> {
    let Some(slot) = slots.first() else { return Err("nothing is measured there".to_owned()) };
    if slot.limits.gpu.is_none() {
        return Err("kernels of the host are compiled with the program".to_owned());
    }
    if !software {
        // And on CUDA for another reason as well: CubeCL reads what other processes compiled only when its own starts.
        return Err("to compile a kernel is to run it, beside what is timed".to_owned());
    }
    let free = cores.iter().filter(|core| slots.iter().all(|slot| !slot.cores.contains(core)));
    let grants: Vec<Grant> = free.take(COMPILERS_MAX).map(|&core| Grant { cores: vec![core], ..slot.clone() }).collect();
    if grants.is_empty() { Err("no core is free beside the slots".to_owned()) } else { Ok(grants) }
}

/// The compilers of a place, which its slots share.
pub struct Compilers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    program: PathBuf,
    seed: Seed,
    state: Mutex<State>,
    changed: Condvar,
    /// Grows whenever what compilers are at is not wanted any more.
    epoch: AtomicU64,
}

#[derive(Default)]
struct State {
    queue: Queue,
    tally: Tally,
    phases: Phases,
    /// Compilers that are at something.
    busy: usize,
    stopped: bool,
}

impl Compilers {
    /// One for each grant. Their workers are `program` executed again, when there is first something to compile.
    pub fn start(program: &Path, grants: Vec<Grant>, seed: Seed) -> Compilers {
        let state = State { tally: Tally { compilers: grants.len(), ..Tally::default() }, ..State::default() };
        let shared = Arc::new(Shared {
            program: program.to_owned(),
            seed,
            state: Mutex::new(state),
            changed: Condvar::new(),
            epoch: AtomicU64::new(0),
        });
        let start = |grant: Grant| {
            let thread = shared.clone();
            let started = std::thread::Builder::new().name("compiler".to_owned()).spawn(move || thread.compile(&grant));
            started.map_err(|error| shared.state().tally.give_up(format!("no thread for a compiler: {error}"))).ok()
        };
        let threads = grants.into_iter().filter_map(start).collect();
        Compilers { shared, threads }
    }

    /// A slot begins a round with these configs.
    pub fn begin(&self, slot: usize, task: &Task, configs: &[Config]) {
        let jobs = if fits(task) { jobs(task, configs).collect() } else { Vec::new() };
        self.shared.state().queue.begin(slot, jobs);
        self.shared.changed.notify_all();
    }

    /// Later rounds are expected to be these.
    pub fn foresee(&self, rounds: &[(Task, Vec<Config>)]) {
        let fitting = rounds.iter().filter(|(task, _)| fits(task));
        self.shared.state().queue.foresee(fitting.flat_map(|(task, configs)| jobs(task, configs)).collect());
        self.shared.changed.notify_all();
    }

    /// A slot is about to build a config: how long it took to compile, if it was; waits for a compiler that is at it, as long as
    /// `lasts` says so.
    pub fn claim(&self, slot: usize, task: &Task, config: &Config, lasts: &dyn Fn() -> bool) -> Option<Duration> {
        let (key, start) = ((task.key(), config.key()), Instant::now());
        let mut state = self.shared.state();
        loop {
            let found = match state.queue.claim(slot, key) {
                Claim::Own => None,
                Claim::Ready(took) => Some(took),
                Claim::Wait if lasts() => {
                    state = self.shared.changed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
                    continue;
                }
                Claim::Wait => None,
            };
            state.tally.waited += start.elapsed();
            return found;
        }
    }

    /// A slot built what took a compiler `spent`: the driver's part in that took it `left`, a run `run`.
    pub fn used(&self, spent: Duration, left: Duration, run: Duration) {
        self.shared.state().tally.used(spent.saturating_sub(run), left);
    }

    /// Ends what compilers are at and lets them forget what they hold: the cores and the memory are wanted.
    pub fn rest(&self) {
        let mut state = self.shared.state();
        state.queue.clear();
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.shared.changed.notify_all();
        let busy = |state: &mut State| state.busy > 0;
        drop(self.shared.changed.wait_timeout_while(state, REST, busy));
    }

    /// Where their time went since this was last asked.
    pub fn phases(&self) -> Phases {
        std::mem::take(&mut self.shared.state().phases)
    }

    /// What they brought so far.
    pub fn tally(&self) -> Tally {
        self.shared.state().tally.clone()
    }
}

impl Drop for Compilers {
    fn drop(&mut self) {
        self.shared.state().stopped = true;
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.shared.changed.notify_all();
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

fn fits(task: &Task) -> bool {
    kernels::operator(task.operator()).is_some_and(|operator| (operator.bytes)(task) < OPERAND_BYTES_MAX)
}

fn jobs<'a>(task: &'a Task, configs: &'a [Config]) -> impl Iterator<Item = Job> + 'a {
    configs.iter().map(|config| Job { task: task.clone(), config: config.clone() })
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a compiler.
    fn compile(&self, grant: &Grant) {
        let mut worker = None;
        let mut epoch = self.epoch.load(Ordering::SeqCst);
        while let Some(job) = self.next(&mut worker, &mut epoch) {
            let (start, mut phases) = (Instant::now(), Phases::default());
            let answer = self.ask(&mut worker, grant, &job, epoch);
            let mut rest = start.elapsed();
            if let Ok(&Answer::Compiled { generate_ps, compile_ps }) = answer.as_ref() {
                for (phase, picos) in [(Phase::Generate, generate_ps), (Phase::Compile, compile_ps)] {
                    let part = Duration::from_nanos(picos / 1000).min(rest);
                    phases.add(phase, part);
                    rest -= part;
                }
            }
            // Starting, making operands, and what came to nothing.
            phases.add(Phase::Load, rest);
            let mut state = self.state();
            state.busy -= 1;
            state.phases.absorb(phases);
            let compiled = matches!(answer, Ok(Answer::Compiled { .. }));
            match answer {
                Ok(_) => state.tally.deaths = 0,
                Err(_) if self.epoch.load(Ordering::SeqCst) != epoch => {}
                Err(why) => state.tally.died(&why),
            }
            state.tally.compiled += u32::from(compiled);
            state.queue.done(&job, compiled.then(|| phases.of(Phase::Compile)));
            drop(state);
            self.changed.notify_all();
        }
    }

    /// The next job, once there is one; `None` when there will be none.
    fn next(&self, worker: &mut Option<Worker>, epoch: &mut u64) -> Option<Job> {
        let mut state = self.state();
        loop {
            if state.stopped || state.tally.off.is_some() {
                state.queue.clear();
                return None;
            }
            let now = self.epoch.load(Ordering::SeqCst);
            if *epoch != now {
                *epoch = now;
                drop(state);
                if worker.as_mut().is_some_and(|worker| worker.ask(&Ask::Close, watchdog::HARD).is_err()) {
                    *worker = None;
                }
                state = self.state();
                continue;
            }
            if let Some(job) = state.queue.next_job() {
                state.busy += 1;
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has a worker compile a job; after an error there is no worker any more.
    fn ask(&self, worker: &mut Option<Worker>, grant: &Grant, job: &Job, epoch: u64) -> Result<Answer, String> {
        let own = match worker.take() {
            Some(worker) => worker,
            None => Worker::spawn(grant, &self.program).map_err(|error| error.to_string())?,
        };
        let own = worker.insert(own);
        let ask = Ask::Compile { task: job.task.to_string(), seed: self.seed.0, config: job.config.clone() };
        let wanted = || self.epoch.load(Ordering::SeqCst) == epoch;
        let answer = own.ask_while(&ask, watchdog::HARD, &wanted);
        answer.map_err(|Death { class, detail, .. }| {
            tracing::debug!(?class, %detail, "a compiler died");
            *worker = None;
            detail
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::fake;
    use crate::space::Space;

    fn some(count: usize) -> Vec<Job> {
        let task = fake::task(256);
        let space = Space::new(&task, fake::operator(), &fake::limits());
        let configs = space.indices().filter_map(|index| space.nth(index)).take(count);
        configs.map(|config| Job { task: task.clone(), config }).collect()
    }

    const TOOK: Duration = Duration::from_millis(300);

    #[test]
    fn slots_take_from_the_front_and_compilers_from_the_back() {
        let (jobs, mut queue) = (some(4), Queue::default());
        queue.begin(0, jobs.clone());
        assert_eq!(queue.claim(0, jobs[0].key()), Claim::Own);
        assert_eq!(queue.next_job(), Some(jobs[3].clone()));
        assert_eq!(queue.next_job(), Some(jobs[2].clone()));
        queue.done(&jobs[3], Some(TOOK));
        assert_eq!(queue.claim(0, jobs[1].key()), Claim::Own);
        assert_eq!(queue.claim(0, jobs[2].key()), Claim::Wait);
        queue.done(&jobs[2], None);
        assert_eq!(queue.claim(0, jobs[2].key()), Claim::Own, "what a compiler leaves the slot builds");
        assert_eq!(queue.claim(0, jobs[3].key()), Claim::Ready(TOOK));
        assert_eq!((queue.claim(0, jobs[3].key()), queue.next_job()), (Claim::Own, None), "its worker has it now");
    }

    #[test]
    fn what_is_foreseen_comes_after_every_round_and_nothing_is_compiled_twice() {
        let (jobs, mut queue) = (some(6), Queue::default());
        queue.foresee(vec![jobs[0].clone(), jobs[1].clone(), jobs[4].clone(), jobs[5].clone()]);
        queue.begin(0, vec![jobs[0].clone()]);
        queue.begin(1, vec![jobs[2].clone(), jobs[3].clone(), jobs[0].clone()]);
        let order: Vec<Job> = std::iter::from_fn(|| queue.next_job()).collect();
        assert_eq!(order, [0, 3, 2, 1, 4, 5].map(|at| jobs[at].clone()));
        queue.begin(0, jobs.clone());
        queue.foresee(jobs);
        assert_eq!(queue.next_job(), None);
    }

    /// Any order of begins, claims and compilers: each config is built by its slot exactly once it is not waiting, and compiled at most
    /// once by a compiler.
    #[test]
    fn every_config_is_built_whatever_compilers_do() {
        for seed in 0..200 {
            let mut stream = crate::space::Stream::new(Seed(seed));
            let (all, mut queue) = (some(12), Queue::default());
            let (mut at_work, mut compiled): (Vec<Job>, Vec<Key>) = (Vec::new(), Vec::new());
            queue.foresee(all.iter().filter(|_| stream.below(2) == 0).cloned().collect());
            let mut rounds: Vec<VecDeque<Job>> = all.chunks(6).map(|round| round.to_vec().into()).collect();
            rounds.iter().enumerate().for_each(|(slot, round)| queue.begin(slot, round.clone().into()));
            let mut steps = 0;
            while rounds.iter().any(|round| !round.is_empty()) {
                steps += 1;
                assert!(steps < 10_000, "seed {seed}: somebody waits for ever");
                match stream.below(3) {
                    0 => {
                        let slot = stream.below(rounds.len());
                        if let Some(job) = rounds[slot].front()
                            && queue.claim(slot, job.key()) != Claim::Wait
                        {
                            rounds[slot].pop_front();
                        }
                    }
                    1 => at_work.extend(queue.next_job().inspect(|job| compiled.push(job.key()))),
                    _ if !at_work.is_empty() => {
                        let job = at_work.swap_remove(stream.below(at_work.len()));
                        queue.done(&job, (stream.below(4) > 0).then_some(TOOK));
                    }
                    _ => {}
                }
            }
            let count = compiled.len();
            compiled.sort();
            compiled.dedup();
            assert_eq!(compiled.len(), count, "seed {seed}");
        }
    }

    #[test]
    fn it_is_given_up_where_slots_gain_nothing_or_compilers_die() {
        let (mut useful, mut useless, mut short) = (Tally::default(), Tally::default(), Tally::default());
        for _ in 0..20 {
            useful.used(TOOK, TOOK / 4);
            useless.used(TOOK, TOOK);
            short.used(Duration::from_millis(1), Duration::from_millis(2));
        }
        assert_eq!((useful.off, short.off), (None, None));
        assert!(useless.off.unwrap().contains("not faster"));
        let mut dying = Tally::default();
        dying.died("signal 11");
        dying.died("signal 11");
        assert_eq!(dying.off, None);
        dying.died("signal 11");
        assert!(dying.off.unwrap().ends_with("signal 11"));
    }

    #[test]
    fn compilers_have_the_cores_that_no_slot_owns() {
        let gpu = kernels::GpuLimits { software: true, ..fake_gpu() };
        let slot = |cores: &[usize]| Grant {
            device: schema::DeviceName("wgpu:0".into()),
            share: schema::Share::WHOLE,
            slot: 0,
            grant: schema::Grant { mechanism: "worker_threads".into(), units: 1 },
            cores: cores.to_vec(),
            limits: kernels::Limits { gpu: Some(gpu), ..fake::limits() },
        };
        let cores = |slots: &[Grant], software| {
            let granted = grants(slots, &[4, 5, 6, 7], software)?;
            Ok::<_, String>(granted.into_iter().map(|grant| grant.cores).collect::<Vec<_>>())
        };
        assert_eq!(cores(&[slot(&[4]), slot(&[5])], true), Ok(vec![vec![6], vec![7]]));
        assert!(cores(&[slot(&[4, 5, 6, 7])], true).unwrap_err().contains("no core is free"));
        assert!(cores(&[slot(&[4])], false).unwrap_err().contains("beside what is timed"));
        let host = Grant { limits: fake::limits(), ..slot(&[4]) };
        assert!(cores(&[host], true).unwrap_err().contains("with the program"));
    }

    fn fake_gpu() -> kernels::GpuLimits {
        kernels::GpuLimits {
            shared_bytes: 32 << 10,
            units_per_cube: 1024,
            cube_dim: [1024; 3],
            cubes_per_axis: 65_535,
            bindings: 30,
            buffer_bytes: 128 << 20,
            turns: None,
            software: false,
            plane_units: None,
            narrow: kernels::NarrowTypes::NONE,
            matrix: kernels::NarrowTypes::NONE,
        }
    }
}
