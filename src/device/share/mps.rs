//! Parts of an NVIDIA card by its Multi-Process Service: a process's kernels occupy at most a percentage of the multiprocessors.
//!
//! The percentage is a variable in the worker's environment. Without NVIDIA's control daemon it means nothing, and nobody says so: a worker
//! is trusted once it has counted the multiprocessors it has. Parts together are never more than the card, but which multiprocessors are
//! whose is the driver's choice, and memory is everybody's.
//!
//! A daemon that answers this user is used and left alone. Otherwise one is started, with a folder of its own for its sockets, under a shell
//! that reads a pipe of ours: when we end, however we end, the pipe does, and the shell tells the daemon to quit.
//!
//! Source: NVIDIA, Multi-Process Service, "Volta MPS execution resource provisioning" and `man nvidia-cuda-mps-control`.

use super::{ByDriver, Grant, Mechanism};
use crate::device::Machine;
use schema::Share;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Parts below the whole, which needs no daemon.
pub const MECHANISM: Mechanism =
    Mechanism { name: "mps", possible, grant, by_driver: Some(ByDriver { lacks, environment, counted }) };

const CONTROL: &str = "nvidia-cuda-mps-control";
const PERCENTAGE: &str = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE";
const PIPES: &str = "CUDA_MPS_PIPE_DIRECTORY";
const LOGS: &str = "CUDA_MPS_LOG_DIRECTORY";

/// The parts there are, in per mille: the share curves' and what is left beside a quarter.
const PARTS: [u16; 4] = [125, 250, 500, 750];

/// Starts the daemon `$1` with its folder `$2`, says so, and tells it to quit at the end of its input. `timeout` because a daemon that hangs
/// would hang us.
const KEEPER: &str = r#"
timeout 10 "$1" -d </dev/null >"$2/said" 2>&1 || exit 1
echo ready
exec >/dev/null
read -r _
echo quit | timeout 10 "$1" >/dev/null 2>&1
rm -rf "$2"
"#;

fn units(of: u32, share: Share) -> u32 {
    (u64::from(of) * u64::from(share.as_per_mille()) / 1000) as u32
}

fn possible(machine: &Machine) -> Vec<Share> {
    let Some(of) = machine.multiprocessors.filter(|_| lacks(machine).is_none()) else { return Vec::new() };
    let parts = PARTS.into_iter().filter_map(|mille| Share::per_mille(mille).ok());
    parts.filter(|&share| units(of, share) > 0).collect()
}

/// The units are those asked for; the worker counts those it got.
fn grant(machine: &Machine, share: Share, slot: usize) -> Option<Grant> {
    let of = machine.multiprocessors?;
    let slots = usize::from(1000 / share.as_per_mille());
    (slot < slots && possible(machine).contains(&share)).then(|| Grant {
        device: machine.device.name.clone(),
        share,
        slot,
        grant: schema::Grant { mechanism: MECHANISM.name.to_owned(), units: units(of, share) },
        cores: machine.cores.clone(),
        limits: machine.limits,
    })
}

fn lacks(machine: &Machine) -> Option<String> {
    machine.multiprocessors?;
    missing(std::env::var_os(PERCENTAGE).is_some(), &std::env::var_os("PATH").unwrap_or_default())
}

fn missing(capped: bool, path: &OsStr) -> Option<String> {
    if capped {
        return Some(format!("{PERCENTAGE} gives this process a part itself; unset it"));
    }
    found(path).is_none().then(|| format!("parts want NVIDIA's {CONTROL}, which is not on PATH"))
}

fn found(path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|folder| folder.join(CONTROL)).find(|file| file.is_file())
}

/// The driver rounds to what it can cap; every part but the whole is within a quarter of itself.
fn counted(grant: &Grant, multiprocessors: Option<u32>) -> Result<u32, String> {
    let asked = grant.grant.units;
    match multiprocessors {
        Some(got) if got.abs_diff(asked) <= asked / 4 => Ok(got),
        Some(got) => Err(format!("asked for {asked} multiprocessors, the worker has {got}: the MPS daemon does not cap it")),
        None => Err("the driver does not count the worker's multiprocessors".to_owned()),
    }
}

fn environment(grant: &Grant) -> Result<Vec<(String, String)>, String> {
    /// Lives as long as this process.
    static OURS: Mutex<Option<Daemon>> = Mutex::new(None);
    let program = found(&std::env::var_os("PATH").unwrap_or_default()).ok_or_else(|| format!("{CONTROL} left PATH"))?;
    let control = Control { program, pipes: std::env::var_os(PIPES).map(PathBuf::from) };
    let folder = std::env::temp_dir().join(format!("tunewright-mps-{}", std::process::id()));
    let pipes = control.reached(&mut OURS.lock().unwrap_or_else(PoisonError::into_inner), folder)?;
    Ok(variables(grant.share, pipes))
}

fn variables(share: Share, pipes: Option<PathBuf>) -> Vec<(String, String)> {
    let pipes = pipes.map(|folder| (PIPES.to_owned(), folder.to_string_lossy().into_owned()));
    [(PERCENTAGE.to_owned(), share.to_string())].into_iter().chain(pipes).collect()
}

/// NVIDIA's program that talks to the daemon, and is it.
struct Control {
    program: PathBuf,
    /// The folder of the daemon's sockets, where it is not NVIDIA's own.
    pipes: Option<PathBuf>,
}

/// A daemon that we started. It quits when this is dropped, or with our process.
struct Daemon {
    folder: PathBuf,
    keeper: Child,
}

impl Control {
    /// The folder of a daemon's sockets: of ours, of one that answers already, or of one that is started; `None` for NVIDIA's own folder.
    fn reached(&self, ours: &mut Option<Daemon>, folder: PathBuf) -> Result<Option<PathBuf>, String> {
        if ours.is_none() && self.answers() {
            return Ok(self.pipes.clone());
        }
        if ours.is_none() {
            *ours = Some(Daemon::start(&self.program, folder)?);
        }
        Ok(ours.as_ref().map(|daemon| daemon.folder.clone()))
    }

    /// Whether a daemon answers this user.
    fn answers(&self) -> bool {
        let mut command = Command::new("timeout");
        command.arg("10").arg(&self.program).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.envs(self.pipes.iter().map(|folder| (PIPES, folder)));
        let asked = command.spawn().and_then(|mut child| {
            // It may have ended before it was asked.
            let _ = child.stdin.take().map(|mut input| input.write_all(b"get_server_list\n"));
            child.wait_with_output()
        });
        let absent = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains("Cannot find MPS control daemon");
        asked.is_ok_and(|said| said.status.success() && !absent(&said.stdout) && !absent(&said.stderr))
    }
}

impl Daemon {
    /// Starts one with its sockets in `folder`, which is made.
    fn start(program: &Path, folder: PathBuf) -> Result<Daemon, String> {
        // Left by a process of this number that was killed together with its keeper.
        let _ = fs::remove_dir_all(&folder);
        let refused = |why: String| format!("cannot start {}: {why}", program.display());
        DirBuilder::new().mode(0o700).create(&folder).map_err(|error| refused(format!("{}: {error}", folder.display())))?;
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "keeper"]).arg(program).arg(&folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // Ctrl-C is for us. Devices are numbered by the daemon first and then by its clients, who still see this variable.
        command.process_group(0).env(PIPES, &folder).env(LOGS, &folder).env_remove("CUDA_VISIBLE_DEVICES");
        let mut keeper = command.spawn().map_err(|error| refused(error.to_string()))?;
        let mut line = String::new();
        let read = keeper.stdout.take().map(|said| BufReader::new(said).read_line(&mut line));
        let daemon = Daemon { folder, keeper };
        if matches!(read, Some(Ok(_))) && line == "ready\n" {
            return Ok(daemon);
        }
        let said = fs::read_to_string(daemon.folder.join("said")).unwrap_or_default();
        let said = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
        Err(refused(if said.is_empty() { "it gave no reason".to_owned() } else { said }))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        // The keeper removes it only after a daemon that ran.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device;
    use rustix::process::{Pid, Signal, kill_process};
    use std::os::unix::fs::symlink;
    use std::time::{Duration, Instant};

    /// A folder with a stand-in for NVIDIA's program.
    struct Fake {
        folder: tempfile::TempDir,
        control: Control,
    }

    fn fake() -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join(CONTROL);
        symlink(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults").join(CONTROL), &program).unwrap();
        fs::create_dir(folder.path().join("default")).unwrap();
        Fake { folder, control: Control { program, pipes: None } }
    }

    impl Fake {
        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn told(&self) -> Vec<String> {
            let told = fs::read_to_string(self.path("told")).unwrap_or_default();
            told.lines().map(str::to_owned).collect()
        }
    }

    fn card(multiprocessors: u32) -> Machine {
        Machine { multiprocessors: Some(multiprocessors), ..device::open("cpu").unwrap() }
    }

    fn half() -> Grant {
        let machine = card(132);
        let share = Share::percent(50.0).unwrap();
        Grant {
            device: machine.device.name,
            share,
            slot: 0,
            grant: schema::Grant { mechanism: "mps".into(), units: units(132, share) },
            cores: machine.cores,
            limits: machine.limits,
        }
    }

    #[test]
    fn one_daemon_is_started_for_all_workers_and_told_to_quit_once() {
        let fake = fake();
        let mut ours = None;
        let pipes = fake.control.reached(&mut ours, fake.path("own")).unwrap();
        assert_eq!(pipes, Some(fake.path("own")));
        assert_eq!(fake.control.reached(&mut ours, fake.path("other")).unwrap(), pipes);
        assert!(fake.path("own/control").exists());
        drop(ours);
        assert_eq!(fake.told(), ["start all", "quit"]);
        assert!(!fake.path("own").exists());
    }

    #[test]
    fn a_daemon_that_answers_is_used_and_left_alone() {
        let fake = fake();
        fs::write(fake.path("default/control"), "").unwrap();
        let mut ours = None;
        assert_eq!(fake.control.reached(&mut ours, fake.path("own")), Ok(None));
        assert!(ours.is_none());
        let elsewhere = Control { program: fake.control.program.clone(), pipes: Some(fake.path("default")) };
        assert_eq!(elsewhere.reached(&mut ours, fake.path("own")), Ok(Some(fake.path("default"))));
        assert!(fake.path("default/control").exists());
        assert_eq!(fake.told(), ["get_server_list", "get_server_list"]);
    }

    #[test]
    fn a_daemon_that_does_not_start_is_refused_with_its_own_words() {
        let fake = fake();
        fs::write(fake.path("forbidden"), "").unwrap();
        let error = fake.control.reached(&mut None, fake.path("own")).unwrap_err();
        assert!(error.starts_with("cannot start ") && error.ends_with(": Operation not permitted"), "{error}");
        assert!(!fake.path("own").exists());
    }

    /// Holds a daemon until it is killed: the other half of the next test, in a process of its own.
    #[test]
    #[ignore = "the next test runs it"]
    fn holds_a_daemon() {
        let folder = PathBuf::from(std::env::var_os("TUNEWRIGHT_TEST_FOLDER").unwrap());
        let daemon = Daemon::start(&folder.join(CONTROL), folder.join("own")).unwrap();
        println!("holds {}", daemon.folder.display());
        loop {
            std::thread::park();
        }
    }

    #[test]
    fn a_daemon_quits_when_who_started_it_is_killed() {
        let fake = fake();
        let name = "device::share::mps::tests::holds_a_daemon";
        let mut holder = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--ignored", "--nocapture", "--test-threads", "1"])
            .env("TUNEWRIGHT_TEST_FOLDER", fake.folder.path())
            .env("CUDA_VISIBLE_DEVICES", "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(holder.stdout.take().unwrap()).lines();
        assert!(said.any(|line| line.unwrap().contains("holds ")), "the daemon was started");
        kill_process(Pid::from_raw(holder.id() as i32).unwrap(), Signal::KILL).unwrap();
        holder.wait().unwrap();
        // Nobody is left whose end could be waited for.
        let start = Instant::now();
        while fake.path("own").exists() && start.elapsed() < Duration::from_secs(60) {
            std::thread::yield_now();
        }
        assert_eq!(fake.told(), ["start all", "quit"]);
    }

    #[test]
    fn the_worker_reads_the_percentage_and_where_the_daemon_listens() {
        let eighth = Share::percent(12.5).unwrap();
        assert_eq!(variables(eighth, None), [(PERCENTAGE.to_owned(), "12.5".to_owned())]);
        let pipes = variables(eighth, Some("/tmp/own".into()));
        assert_eq!(pipes[1], (PIPES.to_owned(), "/tmp/own".to_owned()));
    }

    #[test]
    fn what_a_worker_counts_is_stored_and_an_uncapped_one_is_refused() {
        assert_eq!(counted(&half(), Some(66)), Ok(66));
        assert_eq!(counted(&half(), Some(68)), Ok(68), "the driver rounds");
        let error = counted(&half(), Some(132)).unwrap_err();
        assert_eq!(error, "asked for 66 multiprocessors, the worker has 132: the MPS daemon does not cap it");
        assert!(counted(&half(), Some(13)).is_err(), "somebody else's cap");
        assert!(counted(&half(), None).is_err());
        for mille in PARTS {
            let share = Share::per_mille(mille).unwrap();
            let grant = Grant { grant: schema::Grant { mechanism: "mps".into(), units: units(132, share) }, ..half() };
            assert!(counted(&grant, Some(132)).is_err(), "the whole card is no {share} %");
        }
    }

    #[test]
    fn without_the_control_program_or_inside_a_part_it_says_what_is_missing() {
        let fake = fake();
        assert_eq!(missing(false, fake.folder.path().as_os_str()), None);
        assert!(missing(true, fake.folder.path().as_os_str()).unwrap().contains("unset it"));
        assert!(missing(false, fake.path("default").as_os_str()).unwrap().contains("not on PATH"));
    }
}
