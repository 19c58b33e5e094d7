//! The worker's side: confines itself, makes its pool, and answers asks until it is told to quit.

use super::files::Receiver;
use super::plans::PlanBench;
use super::probe;
use super::protocol::{self, Answer, Ask, Lane, Owned};
use super::serving::Serving;
use super::task_bench::TaskBench;
use crate::device;
use crate::execute::{self, Pool};
use cube_kernels::Gpu;
use kernels::Limits;
use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity, set_no_new_privs};
use schema::DeviceName;
use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The most files a worker has open: an artifact for each model it serves, and what drivers open. A segment is closed once it is mapped.
const FILES_MAX: u64 = 1024;

/// The exit code of a worker whose device is lost.
pub(super) const LOST: u8 = 70;

/// What the worker was given.
pub(super) struct Share {
    pub limits: Limits,
    pub pool: Arc<Pool>,
    /// The device, where it has memory of its own.
    pub gpu: Option<Gpu>,
    /// Its standard output: tells the parent which lane runs.
    progress: File,
}

/// Answers asks until `Quit` or the end of the stream, or until the device is lost.
pub(super) fn serve() -> io::Result<ExitCode> {
    // Our parent may have died before this line; then it is not our parent any more.
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != parent {
        return Ok(ExitCode::SUCCESS);
    }
    lower_limits();
    let mut socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut asks = Receiver::new(socket.try_clone()?);
    let progress = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let share = match protocol::read(&mut asks)? {
        Some(Ask::Own(owned)) => match own(&owned, progress) {
            Ok(share) => {
                let multiprocessors = share.gpu.as_ref().and_then(Gpu::multiprocessors);
                protocol::write(&mut socket, &Answer::Owned { multiprocessors })?;
                share
            }
            Err(reason) => {
                protocol::write(&mut socket, &Answer::Wrong { reason })?;
                return Ok(ExitCode::SUCCESS);
            }
        },
        _ => return Ok(ExitCode::SUCCESS),
    };
    let line = Arc::new(Line { socket: Mutex::new(socket), gpu: share.gpu.clone() });
    let mut tasks = TaskBench::new(&share);
    let mut plans = PlanBench::new(&share);
    let mut serving = Serving::new(&share, &line);
    while let Some(ask) = protocol::read(&mut asks)? {
        let files = asks.take_files();
        let answer = match ask {
            Ask::Quit => {
                line.write(&Answer::Done)?;
                return Ok(ExitCode::SUCCESS);
            }
            Ask::Destroy => match share.gpu.as_ref().is_some_and(Gpu::destroy) {
                true => {
                    line.write(&Answer::Done)?;
                    continue;
                }
                false => Answer::Wrong { reason: "there is no device that can be destroyed".to_owned() },
            },
            Ask::Own(_) => Answer::Wrong { reason: "a worker owns one share for life".to_owned() },
            Ask::Open { task, seed, max_error } => tasks.open(&task, seed, max_error),
            Ask::Build { slot, config } => tasks.build(slot, &config),
            Ask::Compile { task, seed, config } => tasks.compile(&task, seed, &config),
            Ask::Lap { lanes } => tasks.lap(&lanes),
            Ask::Probe => probe::probe(&share),
            Ask::Wake { gap_ms, samples } => probe::wake(&share, Duration::from_millis(gap_ms), samples),
            Ask::Drop { slots } => {
                tasks.drop_slots(&slots);
                plans.drop_slots(&slots);
                Answer::Done
            }
            Ask::Close => {
                tasks.close();
                plans.close();
                Answer::Done
            }
            Ask::LoadPlan { slot, artifact, entry, split, configs, seed } => {
                plans.load(slot, &artifact, &entry, (split, &configs), seed)
            }
            Ask::ComparePlans { slots, max_error } => plans.compare(&slots, max_error),
            Ask::LapPlans { lanes } => plans.lap(&lanes),
            Ask::RehearsePlans { lanes } => plans.rehearse(&lanes),
            Ask::PlanStages { slot, rounds } => plans.stages(slot, rounds),
            Ask::Serve { slot, serve } => serving.load(slot, &serve, files),
            Ask::Another { slot, of } => serving.another(slot, of, files),
            Ask::Run { slot } => match serving.run(slot) {
                Some(answer) => answer,
                None => continue,
            },
            Ask::Collect { slot, room } => serving.collect(slot, files, room),
            Ask::Release { slots } => {
                serving.drop_slots(&slots);
                Answer::Done
            }
        };
        line.say(&answer)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The way back to who asks, for every thread that answers.
pub(super) struct Line {
    socket: Mutex<UnixStream>,
    gpu: Option<Gpu>,
}

impl Line {
    /// Answers, unless the device is lost: then the process says so on its standard error and ends with [`LOST`].
    pub fn say(&self, answer: &Answer) -> io::Result<()> {
        if let Some(lost) = self.gpu.as_ref().and_then(Gpu::lost) {
            eprintln!("{lost}");
            std::process::exit(i32::from(LOST));
        }
        self.write(answer)
    }

    fn write(&self, answer: &Answer) -> io::Result<()> {
        protocol::write(&mut *self.socket.lock().unwrap_or_else(PoisonError::into_inner), answer)
    }
}

/// What a worker never needs. Best effort: a limit that is already lower stays.
fn lower_limits() {
    let lower = |resource, most| {
        let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    };
    lower(Resource::Core, 0);
    lower(Resource::Nofile, FILES_MAX);
    lower(Resource::Fsize, 1 << 30);
    let _ = set_no_new_privs(true);
}

/// Confines this process to its cores, then makes the pool, whose threads inherit them.
fn own(owned: &Owned, progress: File) -> Result<Share, String> {
    let mut limits = owned.limits().ok_or_else(|| format!("unknown instruction set '{}'", owned.isa))?;
    let mut cores = CpuSet::new();
    for &core in &owned.cores {
        if core as usize >= CpuSet::MAX_CPU {
            return Err(format!("core {core} is beyond what an affinity mask holds"));
        }
        cores.set(core as usize);
    }
    sched_setaffinity(None, &cores).map_err(|error| format!("cannot take cores {:?}: {error}", owned.cores))?;
    let pool = execute::pool(limits.units).map_err(|error| format!("cannot start {} threads: {error}", limits.units))?;
    let cores: Vec<usize> = owned.cores.iter().map(|&core| core as usize).collect();
    let gpu = device::gpu(&DeviceName(owned.device.clone()), &cores).map_err(|error| error.to_string())?;
    limits.gpu = gpu.as_ref().map(|gpu| *gpu.limits());
    Ok(Share { limits, pool, gpu, progress })
}

impl Share {
    /// Times each lane inside the pool, telling the parent which one runs.
    pub fn lap(&self, lanes: &[Lane], mut sample: impl FnMut(u32) -> Option<u64> + Send) -> Answer {
        let timed: Option<Vec<u64>> = self.pool.install(|| {
            let time = |(at, lane): (usize, &Lane)| {
                self.running(Some(at));
                match lane {
                    Lane::Sentinel => Some(sentinel()),
                    Lane::Slot(slot) => sample(*slot),
                }
            };
            lanes.iter().enumerate().map(time).collect()
        });
        // Where the device died, the lane stays for the parent to find.
        if self.gpu.as_ref().is_none_or(|gpu| gpu.lost().is_none()) {
            self.running(None);
        }
        match timed {
            Some(picos) => Answer::Times { picos },
            None => Answer::Wrong { reason: "a lane names an empty slot".to_owned() },
        }
    }

    /// Leaves the number of the lane where the parent finds it if this process dies.
    fn running(&self, lane: Option<usize>) {
        let number = lane.and_then(|lane| u32::try_from(lane + 1).ok()).unwrap_or(0);
        let _ = self.progress.write_all_at(&number.to_le_bytes(), 0);
    }
}

/// The time of work that never changes and touches no memory: eight independent chains of multiply and add. It slows down with the
/// clock and with whoever takes the core away.
fn sentinel() -> u64 {
    let mut sums = black_box([1.0f32; 32]);
    let start = Instant::now();
    for _ in 0..2000 {
        for sum in &mut sums {
            *sum = *sum * 0.999 + 0.001;
        }
    }
    let time = picos(start);
    black_box(sums);
    time
}

/// Picoseconds since `start`.
pub(super) fn picos(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_mul(1000)
}
