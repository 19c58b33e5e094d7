//! Cores and caches of the host, asked of the system: affinity mask, cgroup quota, sysfs; cpuid and plain constants where that
//! is silent.

use rustix::thread::sched_getaffinity;
use std::fs;
use std::path::Path;

/// Sizes in bytes; L1d and L2 per core, L3 shared.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Caches {
    pub l1d_bytes: u64,
    pub l2_bytes: u64,
    pub l3_bytes: u64,
}

/// What is assumed where neither sysfs nor cpuid tells: the smallest caches of processors sold in the last ten years.
const ASSUMED: Caches = Caches { l1d_bytes: 32 << 10, l2_bytes: 256 << 10, l3_bytes: 4 << 20 };

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

/// Cores that are switched on in this machine.
pub fn online_cores() -> usize {
    let text = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    match parse_list(&text) {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        count => count,
    }
}

/// The caches a core sees.
pub fn caches(core: usize) -> Caches {
    let sysfs = sysfs_caches(&Path::new("/sys/devices/system/cpu").join(format!("cpu{core}")).join("cache"));
    let cpuid = cpuid_caches();
    let pick = |of: fn(&Caches) -> u64| [of(&sysfs), of(&cpuid), of(&ASSUMED)].into_iter().find(|&bytes| bytes > 0).unwrap_or(0);
    Caches { l1d_bytes: pick(|c| c.l1d_bytes), l2_bytes: pick(|c| c.l2_bytes), l3_bytes: pick(|c| c.l3_bytes) }
}

/// The cores of the affinity mask, ascending.
fn affinity() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => {
            let cores: Vec<usize> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| set.is_set(core)).collect();
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

/// The caches sysfs lists; 0 where it lists none.
fn sysfs_caches(folder: &Path) -> Caches {
    let mut caches = Caches { l1d_bytes: 0, l2_bytes: 0, l3_bytes: 0 };
    for index in 0..8 {
        let read = |file: &str| fs::read_to_string(folder.join(format!("index{index}")).join(file)).unwrap_or_default();
        let bytes = parse_size(&read("size"));
        match (read("level").trim(), read("type").trim()) {
            ("1", "Data" | "Unified") => caches.l1d_bytes = bytes,
            ("2", "Data" | "Unified") => caches.l2_bytes = bytes,
            ("3", "Data" | "Unified") => caches.l3_bytes = bytes,
            _ => {}
        }
    }
    caches
}

/// Bytes of `32K` or `1M`; 0 for what cannot be read.
fn parse_size(text: &str) -> u64 {
    let text = text.trim();
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift)).unwrap_or(0)
}

/// The caches cpuid lists; 0 where it lists none.
#[cfg(target_arch = "x86_64")]
fn cpuid_caches() -> Caches {
    let mut caches = Caches { l1d_bytes: 0, l2_bytes: 0, l3_bytes: 0 };
    let cpuid = raw_cpuid::CpuId::new();
    for cache in cpuid.get_cache_parameters().into_iter().flatten() {
        use raw_cpuid::CacheType::{Data, Unified};
        let ways = (cache.associativity() * cache.physical_line_partitions() * cache.coherency_line_size()) as u64;
        let bytes = ways * cache.sets() as u64;
        match (cache.level(), cache.cache_type()) {
            (1, Data | Unified) => caches.l1d_bytes = bytes,
            (2, Data | Unified) => caches.l2_bytes = bytes,
            (3, Data | Unified) => caches.l3_bytes = bytes,
            _ => {}
        }
    }
    if let Some(amd) = cpuid.get_l1_cache_and_tlb_info() {
        caches.l1d_bytes = caches.l1d_bytes.max(u64::from(amd.dcache_size()) << 10);
    }
    if let Some(amd) = cpuid.get_l2_l3_cache_and_tlb_info() {
        caches.l2_bytes = caches.l2_bytes.max(u64::from(amd.l2cache_size()) << 10);
        caches.l3_bytes = caches.l3_bytes.max(u64::from(amd.l3cache_size()) << 19);
    }
    caches
}

/// Other processors have no cpuid.
#[cfg(not(target_arch = "x86_64"))]
fn cpuid_caches() -> Caches {
    Caches { l1d_bytes: 0, l2_bytes: 0, l3_bytes: 0 }
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
    fn lists_and_sizes_are_read() {
        assert_eq!(parse_list("0-3,8\n"), 5);
        assert_eq!(parse_list(""), 0);
        assert_eq!(parse_list("5-2"), 0);
        assert_eq!(parse_size("32K\n"), 32 << 10);
        assert_eq!(parse_size("1M"), 1 << 20);
        assert_eq!(parse_size("wide"), 0);
    }

    #[test]
    fn this_machine_has_a_core_and_caches() {
        let (cores, _) = cores();
        assert!(!cores.is_empty());
        let caches = caches(cores[0]);
        assert!(caches.l1d_bytes >= 8 << 10 && caches.l2_bytes >= caches.l1d_bytes && caches.l3_bytes > 0);
    }
}
