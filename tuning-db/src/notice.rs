//! Notice of change: a folder is watched, or asked each second where it cannot be.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use std::path::Path;
use std::time::{Duration, Instant};

/// Asked so often where a folder cannot be watched.
const EVERY: Duration = Duration::from_secs(1);

/// Waits until `changed` says so, asking whenever something in `dir` is renamed; `None` when `limit` passes first.
pub fn wait<T>(dir: &Path, limit: Duration, mut changed: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK).and_then(|watch| {
        inotify::add_watch(&watch, dir, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE)?;
        Ok(watch)
    });
    loop {
        // Asked after the watch is set: a change in between is not missed.
        if let Some(answer) = changed() {
            return Some(answer);
        }
        let left = limit.checked_sub(started.elapsed()).filter(|left| !left.is_zero())?;
        match &watch {
            Ok(watch) => {
                let step = left.min(EVERY * 10);
                let time = rustix::event::Timespec { tv_sec: step.as_secs() as i64, tv_nsec: i64::from(step.subsec_nanos()) };
                let mut fds = [PollFd::new(watch, PollFlags::IN)];
                // An interrupted or failed wait only asks sooner.
                let _ = poll(&mut fds, Some(&time));
                let mut buffer = [0; 4096];
                while rustix::io::read(watch, &mut buffer).is_ok_and(|read| read > 0) {}
            }
            Err(_) => std::thread::sleep(left.min(EVERY)),
        }
    }
}
