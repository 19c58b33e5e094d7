//! Cores of the host, asked of the system: affinity mask, cgroup quota, sysfs.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::path::Path;

/// The cores this process may use, hyperthreads of one core beside each other, and what made them fewer than the machine's:
/// `affinity` or `cgroup`. Never empty.
pub fn cores() -> (Vec<usize>, Option<&'static str>) {
    let mut cores = affinity();
    let mut why = (cores.len() < online_cores()).then_some("affinity");
    cores.sort_by_key(|&core| (place(core), core));
    if let Some(quota) = cgroup_quota_cores()
        && quota < cores.len()
    {
        cores.truncate(quota.max(1));
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

/// Whole cores the cgroup's quota is worth, the least over this group and those around it; `None` without a quota.
fn cgroup_quota_cores() -> Option<usize> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let mut quotas = Vec::new();
    let mut at = Path::new("/sys/fs/cgroup").join(own.trim_start_matches('/'));
    loop {
        if let Ok(text) = fs::read_to_string(at.join("cpu.max")) {
            quotas.extend(parse_cpu_max(&text));
        }
        if at == Path::new("/sys/fs/cgroup") || !at.pop() {
            break;
        }
    }
    let v1 = |file: &str| fs::read_to_string(Path::new("/sys/fs/cgroup/cpu").join(file)).ok();
    if let (Some(quota), Some(period)) = (v1("cpu.cfs_quota_us"), v1("cpu.cfs_period_us")) {
        quotas.extend(parse_cpu_max(&format!("{} {}", quota.trim(), period.trim())));
    }
    quotas.into_iter().min()
}

/// Whole cores of `quota period`, both in µs; `None` for `max` or nonsense.
fn parse_cpu_max(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    let cores = quota.checked_div(period)?;
    Some(usize::try_from(cores).unwrap_or(usize::MAX).max(1))
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
    fn quotas_round_down_to_whole_cores_and_never_to_none() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("250000 100000"), Some(2));
        assert_eq!(parse_cpu_max("50000 100000"), Some(1));
        assert_eq!(parse_cpu_max("-1 100000"), None);
        assert_eq!(parse_cpu_max("1 0"), None);
    }

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
