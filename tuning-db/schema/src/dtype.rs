//! Element types.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The type of a tensor's elements.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DType {
    F32,
    F64,
    F16,
    Bf16,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    Bool,
    String,
    C64,
    C128,
    F8E4M3Fn,
    F8E4M3FnUz,
    F8E5M2,
    F8E5M2FnUz,
    F8E8M0,
    F4E2M1,
    I4,
    U4,
    I2,
    U2,
}

/// Every element type, in the order of declaration.
pub static DTYPES: &[DType] = &[
    DType::F32,
    DType::F64,
    DType::F16,
    DType::Bf16,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::Bool,
    DType::String,
    DType::C64,
    DType::C128,
    DType::F8E4M3Fn,
    DType::F8E4M3FnUz,
    DType::F8E5M2,
    DType::F8E5M2FnUz,
    DType::F8E8M0,
    DType::F4E2M1,
    DType::I4,
    DType::U4,
    DType::I2,
    DType::U2,
];

impl DType {
    /// Bits per element as stored in a file; 0 for strings, which have no fixed size.
    pub fn bits(self) -> u32 {
        use DType::*;
        match self {
            String => 0,
            I2 | U2 => 2,
            I4 | U4 | F4E2M1 => 4,
            I8 | U8 | Bool | F8E4M3Fn | F8E4M3FnUz | F8E5M2 | F8E5M2FnUz | F8E8M0 => 8,
            F16 | Bf16 | I16 | U16 => 16,
            F32 | I32 | U32 => 32,
            F64 | I64 | U64 | C64 => 64,
            C128 => 128,
        }
    }

    /// Bytes per element in memory. Types narrower than a byte are unpacked to one byte each; strings have no fixed size: 0.
    pub fn bytes(self) -> usize {
        self.bits().div_ceil(8) as usize
    }

    /// Whether arithmetic on it rounds.
    pub fn is_float(self) -> bool {
        use DType::*;
        matches!(self, F32 | F64 | F16 | Bf16 | F8E4M3Fn | F8E4M3FnUz | F8E5M2 | F8E5M2FnUz | F8E8M0 | F4E2M1)
    }

    /// The short name used in texts, keys and messages.
    pub fn name(self) -> &'static str {
        use DType::*;
        match self {
            F32 => "f32",
            F64 => "f64",
            F16 => "f16",
            Bf16 => "bf16",
            I8 => "i8",
            I16 => "i16",
            I32 => "i32",
            I64 => "i64",
            U8 => "u8",
            U16 => "u16",
            U32 => "u32",
            U64 => "u64",
            Bool => "bool",
            String => "string",
            C64 => "c64",
            C128 => "c128",
            F8E4M3Fn => "f8e4m3fn",
            F8E4M3FnUz => "f8e4m3fnuz",
            F8E5M2 => "f8e5m2",
            F8E5M2FnUz => "f8e5m2fnuz",
            F8E8M0 => "f8e8m0",
            F4E2M1 => "f4e2m1",
            I4 => "i4",
            U4 => "u4",
            I2 => "i2",
            U2 => "u2",
        }
    }

    /// The number ONNX gives the type (`TensorProto.DataType`, and the `to` and `dtype` attributes).
    pub fn code(self) -> i64 {
        use DType::*;
        match self {
            F32 => 1,
            U8 => 2,
            I8 => 3,
            U16 => 4,
            I16 => 5,
            I32 => 6,
            I64 => 7,
            String => 8,
            Bool => 9,
            F16 => 10,
            F64 => 11,
            U32 => 12,
            U64 => 13,
            C64 => 14,
            C128 => 15,
            Bf16 => 16,
            F8E4M3Fn => 17,
            F8E4M3FnUz => 18,
            F8E5M2 => 19,
            F8E5M2FnUz => 20,
            U4 => 21,
            I4 => 22,
            F4E2M1 => 23,
            F8E8M0 => 24,
            U2 => 25,
            I2 => 26,
        }
    }

    /// The type of that [`code`](Self::code).
    pub fn of_code(code: i64) -> Option<Self> {
        DTYPES.iter().copied().find(|d| d.code() == code)
    }

    /// The type of that [`name`](Self::name).
    pub fn parse(name: &str) -> Option<Self> {
        DTYPES.iter().copied().find(|d| d.name() == name)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_back() {
        for &dtype in DTYPES {
            assert_eq!(DType::parse(dtype.name()), Some(dtype));
            assert_eq!(DType::of_code(dtype.code()), Some(dtype));
        }
    }
}
