//! The processor's energy counter, where the system lets us read it.

use std::fs;

/// Where Linux shows the counter of the first package (Intel and AMD alike).
const COUNTER: &str = "/sys/class/powercap/intel-rapl:0/energy_uj";

/// Microjoules of the package since some moment.
///
/// # Errors
/// Why there is no figure: no counter, or no permission to read it.
pub fn energy_uj() -> Result<u64, &'static str> {
    match fs::read_to_string(COUNTER) {
        Ok(text) => text.trim().parse().map_err(|_| "the energy counter shows no number"),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            Err("the energy counter may only be read by root (chmod a+r /sys/class/powercap/intel-rapl:0/energy_uj)")
        }
        Err(_) => Err("no counter on this device"),
    }
}
