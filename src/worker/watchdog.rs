//! How long a worker may take and how much it may hold, and how it is ended.

use crate::device;
use rustix::process::{Pid, Signal, kill_process_group};
use schema::Picos;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

/// No answer takes longer than this, whatever was expected.
pub const HARD: Duration = Duration::from_secs(30);
/// Granted beside ten times the expected time: building, packing, a busy machine.
pub const SLACK: Duration = Duration::from_secs(2);
/// How often memory is looked at while waiting.
pub const TICK: Duration = Duration::from_millis(50);
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_millis(200);

/// The deadline of an answer whose work took `best` at best so far: 10 × that + 2 s, at most 30 s.
pub fn deadline(best: Option<Picos>) -> Duration {
    let expected = best.map_or(HARD, |best| Duration::from_nanos(best.as_nanos()).saturating_mul(10));
    expected.saturating_add(SLACK).min(HARD)
}

/// Bytes a process has in memory; `None` when it is gone.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    pages.checked_mul(rustix::param::page_size() as u64)
}

/// Half of the memory there is: what one worker may hold that tries what nobody has tried before.
pub fn resident_max_bytes() -> u64 {
    device::memory_bytes() / 2
}

/// What a worker may hold that serves: all of the memory there is but a sixteenth. It holds the weights of models that somebody wants to
/// be loaded, so that only the machine bounds them; beyond that it is ended, and its requests run again, before the system ends whom it likes.
pub fn serving_max_bytes() -> u64 {
    device::memory_bytes() / 16 * 15
}

/// Ends a worker and its whole process group: SIGTERM, 200 ms, SIGKILL, and reaps it.
pub fn end(child: &mut Child) -> Option<ExitStatus> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    if let Ok(Some(status)) = child.try_wait() {
        return Some(status);
    }
    signal(Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < GRACE {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    signal(Signal::KILL);
    child.wait().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_follow_the_best_time_up_to_half_a_minute() {
        assert_eq!(deadline(None), HARD);
        assert_eq!(deadline(Some(Picos::from_secs_f64(0.1))), Duration::from_secs(3));
        assert_eq!(deadline(Some(Picos::from_secs_f64(60.0))), HARD);
    }

    #[test]
    fn this_process_is_resident() {
        assert!(resident_bytes(std::process::id()).unwrap() > 1 << 20);
        assert_eq!(resident_bytes(u32::MAX), None);
    }
}
