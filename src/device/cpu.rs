//! The host's processor: its cores by affinity and cgroup quota, its caches, its best instruction set, and the same processor with
//! the instruction set capped.

use super::{Backend, Find, Machine, cores, fingerprint};
use kernels::{Isa, Limits};
use schema::{Device, DeviceName, Environment};

/// The host's processor.
pub const BACKEND: Backend = Backend { name: "cpu", find: Find::Host(whole) };

/// All of it that this process may use.
fn whole() -> Machine {
    let processor = fingerprint::processor();
    let (cores, why_fewer) = cores::cores();
    let units = u32::try_from(cores.len()).unwrap_or(u32::MAX);
    let limits = Limits::of_core(cores.first().copied().unwrap_or(0), units);
    let online = cores::online_cores();
    let cores_text = match why_fewer {
        Some(why) if cores.len() < online => format!("{} of {online} cores ({why})", cores.len()),
        _ if cores.len() == 1 => "1 core".to_owned(),
        _ => format!("{} cores", cores.len()),
    };
    Machine {
        device: Device { name: DeviceName("cpu".to_owned()), text: fingerprint::device_text(&processor, &limits, false) },
        environment: Environment { text: fingerprint::environment_text(&processor) },
        summary: format!("{}, {cores_text}, {}", processor.model, isa_words(limits.isa)),
        limits,
        cores,
        multiprocessors: None,
        copy_engines: 0,
        software: false,
    }
}

/// The instruction set as people write it.
fn isa_words(isa: Isa) -> &'static str {
    match isa {
        Isa::Scalar => "scalar",
        Isa::Neon => "NEON",
        Isa::Avx2 => "AVX2+FMA",
        Isa::Avx512 => "AVX-512",
    }
}

impl Machine {
    /// The same cores with no instruction set above `isa`: a device of its own. `None` when the processor lacks the set.
    pub(super) fn capped(&self, isa: Isa) -> Option<Machine> {
        let has = isa == Isa::Scalar || isa == self.limits.isa || (isa == Isa::Avx2 && self.limits.isa == Isa::Avx512);
        let words = (isa_words(self.limits.isa), isa_words(isa));
        has.then(|| Machine {
            device: Device {
                name: DeviceName(format!("cpu:{isa}")),
                text: fingerprint::device_text(&fingerprint::processor(), &Limits { isa, ..self.limits }, true),
            },
            summary: self.summary.replace(words.0, &format!("capped to {}", words.1)),
            limits: Limits { isa, ..self.limits },
            ..self.clone()
        })
    }
}
