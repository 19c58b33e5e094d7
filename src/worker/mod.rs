//! Workers: processes that own a share of a device.
//!
//! A worker is this binary executed again with [`FLAG`]. It confines itself to its cores before it makes its pool, lowers its own
//! limits, dies with its parent, and then answers asks over one socket until it is told to quit. What is measured here is what serving
//! at that share will see. A worker that is late, crashes or holds too much is ended, and the death has a class; who asked decides
//! what it means.
//!
//! The socket is the worker's standard input, used both ways; open files travel beside asks ([`files`]). Its standard output and error are files in memory: the first holds the lane
//! of a lap that is running, the second what a panic said, and both can be read after the worker is gone.

mod child;
mod files;
mod instance;
mod plans;
mod probe;
pub mod protocol;
#[allow(unsafe_code)]
pub mod segment;
mod serving;
#[allow(unsafe_code)]
mod task_bench;
pub mod watchdog;

pub use protocol::{Answer, Ask, Entry, Lane, Owned, Probe, Serve, Told};
pub use serving::{EntryError, plan_of, sizes};

use crate::device::{Grant, GrantError, Machine};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use schema::{FailureClass, Share};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, mpsc};
use std::time::{Duration, Instant};
use thiserror::Error;

/// The hidden first argument that makes the program a worker.
pub const FLAG: &str = "__worker";

/// Variables a worker keeps from its parent's environment.
const KEPT_VARIABLES: &[&str] = &[
    "PATH",
    "HOME",
    "LANG",
    "RUST_BACKTRACE",
    "LD_LIBRARY_PATH",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    // Where drivers keep what they compiled, and whether.
    "XDG_CACHE_HOME",
    "MESA_SHADER_CACHE_DIR",
    "MESA_SHADER_CACHE_DISABLE",
    "MESA_SHADER_CACHE_MAX_SIZE",
    // Which cards there are and in which order, and the headers that kernels for them are compiled with.
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_PATH",
];
/// From spawning to the answer of the first ask.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most of a dead worker's last words that is kept.
const LAST_WORDS_BYTES: u64 = 400;

/// Why there is no worker.
#[derive(Debug, Error)]
pub enum SpawnError {
    #[error(
        "no worker program: {0} has no `tunewright` beside it; pass its path, or call `tunewright::worker::serve_if_asked` first in main"
    )]
    NoProgram(PathBuf),
    #[error("cannot start {program}: {source}")]
    Start { program: PathBuf, source: io::Error },
    #[error("the share is not to be had: {0}")]
    Share(String),
    #[error("the worker did not take its cores: {0}")]
    Handshake(String),
}

/// How a worker ended before it answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    /// Timeout, crash, out of memory or device lost.
    pub class: FailureClass,
    pub detail: String,
    /// The lane of a lap that was running.
    pub lane: Option<u32>,
}

/// A process that owns a grant.
pub struct Worker {
    child: Child,
    socket: UnixStream,
    progress: File,
    words: File,
    resident_max_bytes: u64,
    /// Units of its grant: as granted, or as it counted them.
    units: u32,
    /// What it said that is no whole answer yet, or not asked for.
    unheard: Vec<u8>,
    /// Its end was seen: nothing more can be asked.
    dead: bool,
}

/// What came first.
#[derive(Debug)]
pub enum Heard {
    Answer(Answer),
    /// Whoever waits has something else to do.
    Bell,
}

/// Whether this program runs as a worker when it is asked to.
static SERVES: AtomicBool = AtomicBool::new(false);

/// Runs as a worker when the first argument says so, and returns the exit code then. To be called first in `main` by programs that
/// tune or serve shares through this library.
pub fn serve_if_asked() -> Option<ExitCode> {
    SERVES.store(true, Ordering::Relaxed);
    let asked = std::env::args_os().nth(1).is_some_and(|argument| argument == FLAG);
    asked.then(|| child::serve().unwrap_or(ExitCode::FAILURE))
}

/// The program that runs as a worker: this one when it has called [`serve_if_asked`], whatever it is named, or else the `tunewright`
/// beside it.
///
/// # Errors
/// [`SpawnError::NoProgram`] when there is none.
pub fn program() -> Result<PathBuf, SpawnError> {
    let own = std::env::current_exe().map_err(|source| SpawnError::Start { program: "itself".into(), source })?;
    if SERVES.load(Ordering::Relaxed) {
        return Ok(own);
    }
    let name = format!("tunewright{}", std::env::consts::EXE_SUFFIX);
    // Tests run from target/PROFILE/deps, examples from target/PROFILE/examples.
    let beside = own.ancestors().skip(1).take(2).map(|folder| folder.join(&name)).find(|path| path.is_file());
    beside.ok_or(SpawnError::NoProgram(own))
}

/// A grant of that share, proved by a worker where the driver gives it: its units are those the worker counted.
///
/// # Errors
/// [`GrantError`]: the device cannot give it, or did not.
pub fn proved(machine: &Machine, share: Share, program: &Path) -> Result<Grant, GrantError> {
    let mut grant = machine.grant(share)?;
    if grant.by_driver().is_some() {
        let worker = Worker::spawn(&grant, program).map_err(|error| machine.refused(share, error.to_string()))?;
        grant.grant.units = worker.units();
    }
    Ok(grant)
}

impl Worker {
    /// Starts a worker that owns `grant`.
    ///
    /// # Errors
    /// [`SpawnError`] when the program is missing, cannot be started, does not confine itself to its cores or finds that the driver did
    /// not give it its share.
    pub fn spawn(grant: &Grant, program: &Path) -> Result<Worker, SpawnError> {
        let failed = |source| SpawnError::Start { program: program.to_owned(), source };
        let memory = |name: &str| memfd_create(name, MemfdFlags::CLOEXEC).map(File::from).map_err(|error| failed(error.into()));
        let (progress, words) = (memory("worker-progress")?, memory("worker-words")?);
        let (socket, theirs) = UnixStream::pair().map_err(failed)?;
        let stdio = |file: &File| file.try_clone().map(Stdio::from).map_err(failed);
        let mut command = Command::new(program);
        command.arg(FLAG).process_group(0).env_clear();
        command.envs(KEPT_VARIABLES.iter().filter_map(|name| Some((*name, std::env::var_os(name)?))));
        // Without it drivers complain, where the worker's last words are looked for.
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() {
            command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
        }
        if let Some(by_driver) = grant.by_driver() {
            command.envs((by_driver.environment)(grant).map_err(SpawnError::Share)?);
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(stdio(&progress)?).stderr(stdio(&words)?);
        let child = spawn_from_lasting_thread(command).map_err(failed)?;
        let resident_max_bytes = watchdog::resident_max_bytes();
        let mut worker = Worker {
            child,
            socket,
            progress,
            words,
            resident_max_bytes,
            units: grant.grant.units,
            unheard: Vec::new(),
            dead: false,
        };
        match worker.ask(&Ask::Own(Owned::new(grant)), HANDSHAKE) {
            Ok(Answer::Owned { multiprocessors }) => {
                if let Some(by_driver) = grant.by_driver() {
                    worker.units = (by_driver.counted)(grant, multiprocessors).map_err(SpawnError::Share)?;
                }
                Ok(worker)
            }
            Ok(Answer::Wrong { reason }) => Err(SpawnError::Handshake(reason)),
            Ok(other) => Err(SpawnError::Handshake(format!("it answered {other:?}"))),
            Err(death) => Err(SpawnError::Handshake(death.detail)),
        }
    }

    /// The most it may hold in memory before it is ended.
    pub fn set_resident_max_bytes(&mut self, bytes: u64) {
        self.resident_max_bytes = bytes;
    }

    /// Units of its grant, as stored in records.
    pub fn units(&self) -> u32 {
        self.units
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks, and waits for the answer until the deadline. After a death there is no worker any more.
    ///
    /// # Errors
    /// [`Death`] when it did not answer in time, crashed or held too much; it is gone then.
    pub fn ask(&mut self, ask: &Ask, deadline: Duration) -> Result<Answer, Death> {
        self.exchange(ask, &[], deadline, &|| true)
    }

    /// As [`ask`](Self::ask), with open files beside the ask, which the worker gets as its own.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn ask_with(&mut self, ask: &Ask, files: &[BorrowedFd<'_>], deadline: Duration) -> Result<Answer, Death> {
        self.exchange(ask, files, deadline, &|| true)
    }

    /// As [`ask`](Self::ask); the worker is ended as well as soon as `go_on` says no, which is asked every [`watchdog::TICK`].
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn ask_while(&mut self, ask: &Ask, deadline: Duration, go_on: &dyn Fn() -> bool) -> Result<Answer, Death> {
        self.exchange(ask, &[], deadline, go_on)
    }

    fn exchange(
        &mut self,
        ask: &Ask,
        files: &[BorrowedFd<'_>],
        within: Duration,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Answer, Death> {
        self.tell(ask, files)?;
        let deadline = Instant::now().checked_add(within);
        loop {
            if let Heard::Answer(answer) = self.hear_while(deadline, None, go_on)? {
                return Ok(answer);
            }
        }
    }

    /// Asks, with open files beside the ask, and does not wait.
    ///
    /// # Errors
    /// [`Death`] when it is gone.
    pub fn tell(&mut self, ask: &Ask, files: &[BorrowedFd<'_>]) -> Result<(), Death> {
        if self.dead {
            return Err(Death { class: FailureClass::Crash, detail: "the worker is gone".to_owned(), lane: None });
        }
        files::write(&mut self.socket, ask, files).map_err(|_| self.bury(None))
    }

    /// Waits for its next answer, until the deadline if there is one, or until `bell` can be read.
    ///
    /// # Errors
    /// As [`ask`](Self::ask).
    pub fn hear(&mut self, deadline: Option<Instant>, bell: Option<BorrowedFd<'_>>) -> Result<Heard, Death> {
        self.hear_while(deadline, bell, &|| true)
    }

    fn hear_while(
        &mut self,
        deadline: Option<Instant>,
        bell: Option<BorrowedFd<'_>>,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Heard, Death> {
        let start = Instant::now();
        loop {
            match whole(&mut self.unheard) {
                Ok(Some(answer)) => return Ok(Heard::Answer(answer)),
                Ok(None) => {}
                Err(error) => return Err(self.bury(Some((FailureClass::Crash, format!("it answered garbage: {error}"))))),
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                let late = format!("no answer within {:.1} s", (now - start).as_secs_f64());
                return Err(self.bury(Some((FailureClass::Timeout, late))));
            }
            if !go_on() {
                return Err(self.bury(Some((FailureClass::Timeout, "nobody waits for the answer any more".to_owned()))));
            }
            // Who is not waited for holds no more than it did.
            let wait = deadline.map(|deadline| (deadline - now).min(watchdog::TICK));
            match self.ready(bell, wait) {
                Ok((true, _)) => self.read()?,
                Ok((false, true)) => return Ok(Heard::Bell),
                Ok((false, false)) => {
                    let resident = watchdog::resident_bytes(self.child.id()).unwrap_or(0);
                    if resident > self.resident_max_bytes {
                        let held = format!("held {} MB, allowed are {} MB", resident >> 20, self.resident_max_bytes >> 20);
                        return Err(self.bury(Some((FailureClass::OutOfMemory, held))));
                    }
                }
                Err(_) => return Err(self.bury(None)),
            }
        }
    }

    /// Waits until it has said something, or the bell rings: which of both.
    fn ready(&self, bell: Option<BorrowedFd<'_>>, wait: Option<Duration>) -> io::Result<(bool, bool)> {
        let time = wait.map(|wait| Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() });
        let socket = PollFd::new(&self.socket, PollFlags::IN);
        // A socket that is asked for nothing, in place of a bell.
        let bell = bell
            .map_or_else(|| PollFd::new(&self.socket, PollFlags::empty()), |bell| PollFd::from_borrowed_fd(bell, PollFlags::IN));
        let mut both = [socket, bell];
        match poll(&mut both, time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok((!both[0].revents().is_empty(), both[1].revents().contains(PollFlags::IN))),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes in what it has said.
    fn read(&mut self) -> Result<(), Death> {
        let mut part = [0; 16 << 10];
        match self.socket.read(&mut part) {
            Ok(0) => Err(self.bury(None)),
            Ok(count) => {
                self.unheard.extend_from_slice(&part[..count]);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(_) => Err(self.bury(None)),
        }
    }

    /// Ends it and says what it died of: what is given, or what its exit and its last words tell.
    fn bury(&mut self, known: Option<(FailureClass, String)>) -> Death {
        // At the end of the stream the process is ending by itself: its own status tells more than ours would.
        if known.is_none() {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(500) && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let status = watchdog::end(&mut self.child);
        self.dead = true;
        let lane = self.progress();
        let words = self.last_words();
        let (class, mut detail) = known.unwrap_or_else(|| {
            let (signal, code) = status.map_or((None, None), |status| (status.signal(), status.code()));
            let class = class_of(signal, code, words.as_deref().unwrap_or_default());
            let how = match (signal, code) {
                (Some(signal), _) => format!("killed by signal {signal}"),
                (None, Some(code)) => format!("exited with code {code}"),
                (None, None) => "ended".to_owned(),
            };
            (class, how)
        });
        if let Some(words) = words {
            detail = format!("{detail}: {words}");
        }
        Death { class, detail, lane }
    }

    /// The lane it was timing, if it was in a lap.
    fn progress(&self) -> Option<u32> {
        let mut number = [0; 4];
        self.progress.read_exact_at(&mut number, 0).ok()?;
        u32::from_le_bytes(number).checked_sub(1)
    }

    /// The end of what it wrote to its standard error, in one line.
    fn last_words(&self) -> Option<String> {
        let len = self.words.metadata().ok()?.len();
        let mut bytes = vec![0; usize::try_from(len.min(LAST_WORDS_BYTES)).ok()?];
        self.words.read_exact_at(&mut bytes, len.saturating_sub(LAST_WORDS_BYTES)).ok()?;
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> =
            text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("note:")).collect();
        (!lines.is_empty()).then(|| lines.join("; "))
    }
}

/// Words of a process that found no memory.
const NO_MEMORY: [&str; 2] = ["memory allocation of", "Cannot allocate memory"];

/// What a worker died of that ended by itself, by its signal, its exit code and its last words.
fn class_of(signal: Option<i32>, code: Option<i32>, words: &str) -> FailureClass {
    match (signal, code) {
        // Nobody else sends SIGKILL but the kernel short of memory.
        (Some(9), _) => FailureClass::OutOfMemory,
        // What Rust says before it aborts, and the system where a thread finds no room for its stack.
        (Some(6), _) if NO_MEMORY.iter().any(|said| words.contains(said)) => FailureClass::OutOfMemory,
        (None, Some(code)) if code == i32::from(child::LOST) => FailureClass::DeviceLost,
        _ => FailureClass::Crash,
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.dead {
            // It reads the end of the stream and quits by itself, or is ended after the grace.
            let _ = self.socket.shutdown(std::net::Shutdown::Both);
            watchdog::end(&mut self.child);
        }
    }
}

/// Takes the first answer out of what was read; `None` while it is not whole.
fn whole(read: &mut Vec<u8>) -> io::Result<Option<Answer>> {
    let Some((len, payload)) = read.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len);
    if len > protocol::FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
    }
    let Some(payload) = payload.get(..len as usize) else { return Ok(None) };
    let answer = protocol::decode(payload)?;
    read.drain(..4 + len as usize);
    Ok(Some(answer))
}

type Spawn = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns from a thread that never ends: a worker asks to die with its parent, and Linux takes the *thread* that spawned it for the
/// parent.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Spawn>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Spawn>();
        let serve = move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        };
        // Without the thread the receiver is dropped and every send below fails, which the caller is told.
        let _ = std::thread::Builder::new().name("worker-spawner".to_owned()).spawn(serve);
        Mutex::new(sender)
    });
    let gone = || io::Error::other("the thread that starts workers is gone");
    let (sender, receiver) = mpsc::channel();
    spawner.lock().map_err(|_| gone())?.send((command, sender)).map_err(|_| gone())?;
    receiver.recv().map_err(|_| gone())?
}
