//! Caches of the host, asked of sysfs; cpuid and plain constants where that is silent.

use std::fs;
use std::path::Path;

/// Sizes in bytes; L1d and L2 per core, L3 shared.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct Caches {
    pub l1d_bytes: u64,
    pub l2_bytes: u64,
    pub l3_bytes: u64,
}

/// What is assumed where neither sysfs nor cpuid tells: the smallest caches of processors sold in the last ten years.
const ASSUMED: Caches = Caches { l1d_bytes: 32 << 10, l2_bytes: 256 << 10, l3_bytes: 4 << 20 };

impl Caches {
    /// The caches a core sees.
    pub fn of_core(core: usize) -> Self {
        let sysfs = sysfs_caches(&Path::new("/sys/devices/system/cpu").join(format!("cpu{core}")).join("cache"));
        let cpuid = cpuid_caches();
        let pick =
            |of: fn(&Caches) -> u64| [of(&sysfs), of(&cpuid), of(&ASSUMED)].into_iter().find(|&bytes| bytes > 0).unwrap_or(0);
        Caches { l1d_bytes: pick(|c| c.l1d_bytes), l2_bytes: pick(|c| c.l2_bytes), l3_bytes: pick(|c| c.l3_bytes) }
    }
}

/// The caches sysfs lists; 0 where it lists none.
fn sysfs_caches(folder: &Path) -> Caches {
    let mut caches = Caches::default();
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
    let mut caches = Caches::default();
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
    Caches::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_size("32K\n"), 32 << 10);
        assert_eq!(parse_size("1M"), 1 << 20);
        assert_eq!(parse_size("wide"), 0);
    }

    #[test]
    fn this_machine_has_caches() {
        let caches = Caches::of_core(0);
        assert!(caches.l1d_bytes >= 8 << 10 && caches.l2_bytes >= caches.l1d_bytes && caches.l3_bytes > 0);
    }
}
