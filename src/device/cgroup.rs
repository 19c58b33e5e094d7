//! What the group of processes that we are in may use at most: control groups of version 2, and of version 1 where they are mounted.

use std::fs;
use std::path::Path;

const ROOT: &str = "/sys/fs/cgroup";

/// Processors the quota is worth, the least over this group and those around it; `None` without a quota.
pub fn quota() -> Option<f64> {
    let one = |quota: String, period: String| parse_cpu_max(&format!("{} {}", quota.trim(), period.trim()));
    let v1 = v1("cpu/cpu.cfs_quota_us").zip(v1("cpu/cpu.cfs_period_us")).and_then(|(quota, period)| one(quota, period));
    files("cpu.max").iter().filter_map(|text| parse_cpu_max(text)).chain(v1).min_by(f64::total_cmp)
}

/// Bytes of memory, the least over this group and those around it; `None` without a limit.
pub fn memory_bytes() -> Option<u64> {
    let limits = files("memory.max").into_iter().chain(v1("memory/memory.limit_in_bytes"));
    // Without a limit version 2 says `max`, and version 1 more than any machine has.
    limits.filter_map(|text| text.trim().parse().ok()).filter(|&bytes: &u64| bytes < 1 << 60).min()
}

/// What a file says in our own group and in each around it, as far as there is one.
fn files(name: &str) -> Vec<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let own = Path::new(ROOT).join(own.trim_start_matches('/'));
    // Inside a container the group's own folder is the root of what is mounted.
    let around = own.ancestors().take_while(|folder| folder.starts_with(ROOT));
    around.filter_map(|folder| fs::read_to_string(folder.join(name)).ok()).collect()
}

fn v1(name: &str) -> Option<String> {
    fs::read_to_string(Path::new(ROOT).join(name)).ok()
}

/// Processors of `quota period`, both in µs; `None` for `max` or nonsense.
fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_parts_of_processors() {
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max("250000 100000"), Some(2.5));
        assert_eq!(parse_cpu_max("50000 100000"), Some(0.5));
        assert_eq!(parse_cpu_max("-1 100000"), None);
        assert_eq!(parse_cpu_max("1 0"), None);
    }

    #[test]
    fn what_a_group_may_hold_is_something() {
        assert!(memory_bytes().is_none_or(|bytes| bytes > 0) && quota().is_none_or(|processors| processors > 0.0));
    }
}
