//! What a device is and what it runs under, as canonical texts whose hashes are keys.
//!
//! The device's text holds what the hardware *is*: no serial number, no bus, no host name, so two identical machines share their
//! records. The environment's text holds what may change under the same hardware and would make old figures doubtful.

use kernels::Limits;
use std::fs;

/// What the system says of the processor.
#[derive(Clone, Debug, PartialEq)]
pub struct Processor {
    pub vendor: String,
    pub model: String,
    /// Family, model and stepping numbers, or implementer and part.
    pub numbers: String,
    pub microcode: String,
}

/// Reads `/proc/cpuinfo`; cpuid and plain words where it is silent.
pub fn processor() -> Processor {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|key| key.trim() == name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).filter(|value| !value.is_empty())
    };
    let first = |names: &[&str]| names.iter().find_map(|name| field(name));
    let numbers: Vec<String> =
        ["cpu family", "model", "stepping", "CPU implementer", "CPU part", "CPU variant"].into_iter().filter_map(field).collect();
    Processor {
        vendor: first(&["vendor_id", "CPU implementer"]).unwrap_or_else(cpuid_vendor),
        model: first(&["model name", "Hardware", "Processor"]).unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        numbers: if numbers.is_empty() { "unknown".to_owned() } else { numbers.join(".") },
        microcode: field("microcode").unwrap_or_else(|| "unknown".to_owned()),
    }
}

#[cfg(target_arch = "x86_64")]
fn cpuid_vendor() -> String {
    raw_cpuid::CpuId::new().get_vendor_info().map_or_else(|| "unknown".to_owned(), |vendor| vendor.as_str().to_owned())
}

#[cfg(not(target_arch = "x86_64"))]
fn cpuid_vendor() -> String {
    "unknown".to_owned()
}

/// The device's text: a `name=value` per line.
pub fn device_text(processor: &Processor, limits: &Limits, capped: bool) -> String {
    let isa = if capped { format!("{} (capped)", limits.isa) } else { limits.isa.to_string() };
    format!(
        "kind=cpu\nvendor={}\nmodel={}\nnumbers={}\nunits={}\nmemory={}\nl1d={}\nl2={}\nl3={}\nisa={isa}",
        processor.vendor,
        processor.model,
        processor.numbers,
        limits.units,
        memory_class(),
        limits.l1d_bytes,
        limits.l2_bytes,
        limits.l3_bytes,
    )
}

/// The environment's text: a `name=value` per line.
pub fn environment_text(processor: &Processor) -> String {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let major = release.split('.').next().unwrap_or("unknown").to_owned();
    format!(
        "os={} {major}\nmicrocode={}\nkernels={}\ntool={}",
        std::env::consts::OS,
        processor.microcode,
        kernel_set_hash(),
        env!("CARGO_PKG_VERSION"),
    )
}

/// Every variant of this build with its revision, a line each, in the order of the lists.
pub fn kernel_set() -> String {
    let lines = kernels::OPERATORS
        .iter()
        .flat_map(|operator| operator.variants)
        .map(|variant| format!("{}@{}\n", variant.id, variant.revision));
    lines.collect()
}

/// The hash of the variants for devices with memory of their own, 16 hexadecimal digits.
pub fn cube_set_hash() -> String {
    let variants = cube_kernels::OPERATORS.iter().flat_map(|operator| operator.variants);
    let text: String = variants.map(|variant| format!("{}@{}\n", variant.id, variant.revision)).collect();
    schema::EnvironmentKey::of(&text).to_string()
}

/// The hash of [`kernel_set`], 16 hexadecimal digits.
pub fn kernel_set_hash() -> String {
    schema::EnvironmentKey::of(&kernel_set()).to_string()
}

/// The machine's memory, rounded to a power of two of GiB, so that a few reserved MiB make no other device.
fn memory_class() -> String {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<f64>().ok()).unwrap_or(0.0);
    let gib = kib / f64::from(1u32 << 20);
    if gib <= 0.0 { "unknown".to_owned() } else { format!("{}GiB", gib.log2().round().exp2()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::Isa;

    #[test]
    fn texts_are_stable_and_name_no_machine() {
        let processor = processor();
        let limits = Limits {
            isa: Isa::Scalar,
            units: 2,
            l1d_bytes: 1,
            l2_bytes: 2,
            l3_bytes: 3,
            gpu: None,
            numerics: schema::Numerics::Strict,
        };
        let text = device_text(&processor, &limits, false);
        assert_eq!(text, device_text(&processor, &limits, false));
        assert_ne!(text, device_text(&processor, &limits, true));
        assert_eq!(environment_text(&processor), environment_text(&processor));
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        assert!(host.is_empty() || !text.lines().any(|line| line.ends_with(&format!("={host}"))));
    }
}
