//! Cores of the host, asked of the system: affinity mask, cgroup quota, sysfs.

use super::cgroup;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;

/// The cores this process may use, hyperthreads of one core beside each other, and what made them fewer than the machine's:
/// `affinity` or `cgroup`. Never empty.
pub fn cores() -> (Vec<usize>, Option<&'static str>) {
    let mut cores = affinity();
    let mut why = (cores.len() < online_cores()).then_some("affinity");
    cores.sort_by_key(|&core| (place(core), core));
    // Whole cores, of which there is always one.
    if let Some(quota) = cgroup::quota().map(|processors| (processors as usize).max(1))
        && quota < cores.len()
    {
        cores.truncate(quota);
        why = Some("cgroup");
    }
    (cores, why)
}

/// Runs `work` with this thread, and all threads that begin meanwhile, on these cores only.
///
/// # Errors
/// What the system says.
pub fn confined<T>(cores: &[usize], work: impl FnOnce() -> T) -> std::io::Result<T> {
    let before = sched_getaffinity(None)?;
    let mut set = CpuSet::new();
    cores.iter().filter(|&&core| core < CpuSet::MAX_CPU).for_each(|&core| set.set(core));
    sched_setaffinity(None, &set)?;
    let done = work();
    sched_setaffinity(None, &before)?;
    Ok(done)
}

/// Cores that are switched on in this machine.
pub fn online_cores() -> usize {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    match parse_list(&text) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// The cores of the affinity mask, ascending.
fn affinity() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => {
            let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect();
            if cores.is_empty() { vec![0] } else { cores }
        }
        Err(_) => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    }
}

/// Package and core a logical processor belongs to.
fn place(core: usize) -> (u64, u64) {
    let read = |file: &str| {
        let path = format!("/sys/devices/system/cpu/cpu{core}/topology/{file}");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(core as u64)
    };
    (read("physical_package_id"), read("core_id"))
}

/// How many numbers a list such as `0-3,8` names.
fn parse_list(text: &str) -> usize {
    let span = |part: &str| -> Option<usize> {
        let (lo, hi) = part.split_once('-').unwrap_or((part, part));
        let (lo, hi) = (lo.parse::<usize>().ok()?, hi.parse::<usize>().ok()?);
        hi.checked_sub(lo)?.checked_add(1)
    };
    text.trim().split(',').filter_map(span).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        assert_eq!(parse_list("0-3,8\n"), 5);
        assert_eq!(parse_list(""), 0);
        assert_eq!(parse_list("5-2"), 0);
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(!cores().0.is_empty());
    }
}
