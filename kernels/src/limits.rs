//! What a device can do, as plain values: what rules and kernels may ask.

use crate::Rule;
use crate::caches::Caches;
use schema::Numerics;
use std::fmt;

/// An instruction set for which variants have code. The order is that of preference.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    Scalar,
    Neon,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

impl Isa {
    /// The best this processor has.
    pub fn detect() -> Isa {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx2") && has!("fma") && has!("f16c") {
                if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                    return Isa::Avx512;
                }
                return Isa::Avx2;
            }
        }
        if cfg!(target_arch = "aarch64") { Isa::Neon } else { Isa::Scalar }
    }

    /// The lower-case name, as in the device name `cpu:avx2`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// The set of that [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Isa> {
        [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::Avx512].into_iter().find(|isa| isa.name() == name)
    }

    /// f32 lanes of one vector.
    pub fn lanes(self) -> usize {
        match self {
            Isa::Scalar => 1,
            Isa::Neon => 4,
            Isa::Avx2 => 8,
            Isa::Avx512 => 16,
        }
    }

    /// Vector registers.
    pub fn registers(self) -> usize {
        match self {
            Isa::Scalar | Isa::Avx2 => 16,
            Isa::Neon | Isa::Avx512 => 32,
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A type narrower than f32 that the operands of a product can be rounded to. Its sums stay f32.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum Narrow {
    F16,
    Bf16,
    /// f32 with the precision of f16; exists in matrix instructions only.
    Tf32,
}

impl Narrow {
    /// All of them.
    pub const ALL: [Narrow; 3] = [Narrow::F16, Narrow::Bf16, Narrow::Tf32];

    /// As a knob's value and for people.
    pub fn name(self) -> &'static str {
        match self {
            Narrow::F16 => "f16",
            Narrow::Bf16 => "bf16",
            Narrow::Tf32 => "tf32",
        }
    }

    /// The type of that [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Narrow> {
        Narrow::ALL.into_iter().find(|narrow| narrow.name() == name)
    }

    /// The most by which converting to it changes a number within its range, of the number's size: 2¹⁻ᵖ for p bits of precision, since
    /// Vulkan lets a device cut off what is beyond them.
    pub fn rounding(self) -> f64 {
        match self {
            Narrow::F16 | Narrow::Tf32 => 1.0 / 1024.0,
            Narrow::Bf16 => 1.0 / 128.0,
        }
    }
}

/// Some of the narrow types.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct NarrowTypes {
    pub f16: bool,
    pub bf16: bool,
    pub tf32: bool,
}

impl NarrowTypes {
    /// None of them.
    pub const NONE: NarrowTypes = NarrowTypes { f16: false, bf16: false, tf32: false };

    /// Whether it is one of these.
    pub fn has(self, narrow: Narrow) -> bool {
        match narrow {
            Narrow::F16 => self.f16,
            Narrow::Bf16 => self.bf16,
            Narrow::Tf32 => self.tf32,
        }
    }

    /// The names of these.
    pub fn names(self) -> Vec<&'static str> {
        Narrow::ALL.into_iter().filter(|&narrow| self.has(narrow)).map(Narrow::name).collect()
    }
}

/// The rule of every config that rounds operands to a narrow type.
pub const RELAXED: Rule = Rule {
    reason: "narrower types are used only with --numerics relaxed",
    holds: |_, _, limits| limits.numerics == Numerics::Relaxed,
};

/// The limits of a grant of a device, and what arithmetic is allowed there.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    pub isa: Isa,
    /// Cores granted: the threads of the pool a kernel runs in.
    pub units: u32,
    /// Per core.
    pub l1d_bytes: u64,
    /// Per core.
    pub l2_bytes: u64,
    /// Shared by all.
    pub l3_bytes: u64,
    /// Of the device beside these cores that has memory of its own, where the grant is one of such a device.
    pub gpu: Option<GpuLimits>,
    /// Strict where nobody asked. A default is strict whatever this says; see [`relaxed`](Self::relaxed).
    pub numerics: Numerics,
}

/// What a device with memory of its own can do. A *cube* is a group of *units* that share fast memory.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct GpuLimits {
    /// Memory that the units of a cube share.
    pub shared_bytes: u32,
    pub units_per_cube: u32,
    /// Units of a cube along each axis.
    pub cube_dim: [u32; 3],
    /// Cubes of one launch along each axis.
    pub cubes_per_axis: u32,
    /// Buffers of one launch.
    pub bindings: u32,
    /// Of the largest buffer.
    pub buffer_bytes: u64,
    /// Turns of loops that a unit may take in all, those of loops within loops multiplied; `None` where nothing bounds them.
    pub turns: Option<u32>,
    /// A driver that computes on the host's processor: what units share, and that they wait for each other, costs more there than it saves.
    pub software: bool,
    /// Units that do a matrix instruction together; `None` where kernels have none.
    pub plane_units: Option<u32>,
    /// Types that its kernels hold in memory and convert from and to f32.
    pub narrow: NarrowTypes,
    /// Types of the operands of its matrix instructions with f32 sums: of 16 × 16 × 16, for tf32 of 16 × 16 × 8.
    pub matrix: NarrowTypes,
}

impl Limits {
    /// What `units` cores of this machine have to offer that are such as `core`.
    pub fn of_core(core: usize, units: u32) -> Self {
        let Caches { l1d_bytes, l2_bytes, l3_bytes } = Caches::of_core(core);
        Limits { isa: Isa::detect(), units, l1d_bytes, l2_bytes, l3_bytes, gpu: None, numerics: Numerics::Strict }
    }

    /// The same with narrower types allowed: for configs that are named, by whom the user allowed them or by an artifact, in which nobody
    /// but such a one puts them.
    #[must_use]
    pub fn relaxed(self) -> Self {
        Limits { numerics: Numerics::Relaxed, ..self }
    }

    /// The same without them.
    #[must_use]
    pub fn strict(self) -> Self {
        Limits { numerics: Numerics::Strict, ..self }
    }
}
