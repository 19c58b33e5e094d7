//! Floats of eight bits and fewer: exact decoding, and encoding to the nearest value with ties to the even code.

use schema::DType;
use std::sync::OnceLock;

/// One format: how codes decode, and what lies beyond the largest finite value.
struct Format {
    exponent_bits: u32,
    mantissa_bits: u32,
    bias: i32,
    /// The code of the largest finite value.
    largest: u8,
    /// The codes of +infinity and NaN, where the format has them.
    infinity: Option<u8>,
    nan: Option<u8>,
    /// Whether 0x80 is NaN and there is no negative zero.
    unsigned_zero: bool,
}

const E4M3FN: Format =
    Format { exponent_bits: 4, mantissa_bits: 3, bias: 7, largest: 0x7e, infinity: None, nan: Some(0x7f), unsigned_zero: false };
const E4M3FNUZ: Format =
    Format { exponent_bits: 4, mantissa_bits: 3, bias: 8, largest: 0x7f, infinity: None, nan: Some(0x80), unsigned_zero: true };
const E5M2: Format = Format {
    exponent_bits: 5,
    mantissa_bits: 2,
    bias: 15,
    largest: 0x7b,
    infinity: Some(0x7c),
    nan: Some(0x7e),
    unsigned_zero: false,
};
const E5M2FNUZ: Format =
    Format { exponent_bits: 5, mantissa_bits: 2, bias: 16, largest: 0x7f, infinity: None, nan: Some(0x80), unsigned_zero: true };
const E2M1: Format =
    Format { exponent_bits: 2, mantissa_bits: 1, bias: 1, largest: 0x7, infinity: None, nan: None, unsigned_zero: false };

fn format(dtype: DType) -> Option<&'static Format> {
    Some(match dtype {
        DType::F8E4M3Fn => &E4M3FN,
        DType::F8E4M3FnUz => &E4M3FNUZ,
        DType::F8E5M2 => &E5M2,
        DType::F8E5M2FnUz => &E5M2FNUZ,
        DType::F4E2M1 => &E2M1,
        _ => return None,
    })
}

impl Format {
    /// The value of a code without its sign, as if all codes were finite.
    fn magnitude(&self, code: u8) -> f32 {
        let mantissa = f32::from(code & ((1 << self.mantissa_bits) - 1)) / (1 << self.mantissa_bits) as f32;
        let exponent = i32::from(code >> self.mantissa_bits);
        match exponent {
            0 => mantissa * 2f32.powi(1 - self.bias),
            _ => (1.0 + mantissa) * 2f32.powi(exponent - self.bias),
        }
    }

    fn sign(&self) -> u8 {
        1 << (self.exponent_bits + self.mantissa_bits)
    }

    fn decode(&self, code: u8) -> f32 {
        let magnitude = code & (self.sign() - 1);
        if self.nan == Some(code)
            || (!self.unsigned_zero && self.nan.is_some() && magnitude > self.infinity.unwrap_or(self.largest))
        {
            return f32::NAN;
        }
        let value = if self.infinity == Some(magnitude) { f32::INFINITY } else { self.magnitude(magnitude) };
        if code & self.sign() != 0 { -value } else { value }
    }

    fn encode(&self, value: f32, saturate: bool) -> u8 {
        let sign = if value.is_sign_negative() { self.sign() } else { 0 };
        if value.is_nan() {
            // A format without NaN turns it into negative zero, as ml_dtypes does.
            return self.nan.map_or(self.sign(), |nan| if self.unsigned_zero { nan } else { nan | sign });
        }
        let size = value.abs();
        // The first code whose value is not below; one past the largest stands for overflow.
        let past = u16::from(self.largest) + 1;
        let (mut low, mut high) = (0u16, past);
        while low < high {
            let middle = (low + high) / 2;
            if self.magnitude(middle as u8) < size { low = middle + 1 } else { high = middle }
        }
        let mut code = low;
        if low == past && self.past_value() < size {
            code = past;
        } else if low > 0 {
            let above = if low == past { self.past_value() } else { self.magnitude(low as u8) };
            let below = self.magnitude((low - 1) as u8);
            let (up, down) = (above - size, size - below);
            if down < up || (down == up && (low - 1) & 1 == 0) {
                code = low - 1;
            }
        }
        if code == past {
            if saturate || (self.infinity.is_none() && self.nan.is_none()) {
                return self.largest | sign;
            }
            return match (self.infinity, self.nan) {
                (Some(infinity), _) => infinity | sign,
                (None, Some(nan)) if self.unsigned_zero => nan,
                (None, nan) => nan.unwrap_or(self.largest) | sign,
            };
        }
        if code == 0 && self.unsigned_zero { 0 } else { code as u8 | sign }
    }

    /// The value after the largest finite one, were there one.
    fn past_value(&self) -> f32 {
        let step = self.magnitude(self.largest) - self.magnitude(self.largest - 1);
        let top = self.largest & ((1 << self.mantissa_bits) - 1);
        // A full mantissa steps into the next power of two, which is as far away.
        debug_assert!(top < (1 << self.mantissa_bits));
        self.magnitude(self.largest) + step
    }
}

/// The 256 values of a narrow float type.
fn table(dtype: DType) -> Option<&'static [f32; 256]> {
    static TABLES: OnceLock<Vec<(DType, [f32; 256])>> = OnceLock::new();
    let tables = TABLES.get_or_init(|| {
        let mut tables = Vec::new();
        for dtype in [DType::F8E4M3Fn, DType::F8E4M3FnUz, DType::F8E5M2, DType::F8E5M2FnUz, DType::F4E2M1] {
            let Some(format) = format(dtype) else { continue };
            tables.push((dtype, std::array::from_fn(|code| format.decode(code as u8))));
        }
        let powers = std::array::from_fn(|code| if code == 255 { f32::NAN } else { 2f64.powi(code as i32 - 127) as f32 });
        tables.push((DType::F8E8M0, powers));
        tables
    });
    tables.iter().find(|(of, _)| *of == dtype).map(|(_, table)| table)
}

/// The value of a code; NaN for a type that is no narrow float.
pub(crate) fn decode(dtype: DType, codes: &[u8]) -> Vec<f32> {
    match table(dtype) {
        Some(table) => codes.iter().map(|&code| table[usize::from(code)]).collect(),
        None => vec![f32::NAN; codes.len()],
    }
}

/// The nearest codes. `saturate` takes what overflows to the largest finite value.
pub(crate) fn encode(dtype: DType, values: &[f32], saturate: bool) -> Vec<u8> {
    match format(dtype) {
        Some(format) => values.iter().map(|&value| format.encode(value, saturate)).collect(),
        None => values.iter().map(|&value| encode_power(value, saturate, "nearest")).collect(),
    }
}

/// The code of a power of two (`F8E8M0`); `round` is `up`, `down` or `nearest`.
pub(crate) fn encode_power(value: f32, saturate: bool, round: &str) -> u8 {
    if value.is_nan() {
        return 255;
    }
    if value.is_infinite() {
        return if saturate { 254 } else { 255 };
    }
    let bits = value.abs().to_bits();
    let (exponent, mantissa) = ((bits >> 23) as u8, bits & 0x7f_ffff);
    // Below the normal range 2^-127 is the subnormal with the top mantissa bit.
    let up = match (round, exponent) {
        ("down", _) => false,
        ("up", 0) => mantissa > 0x40_0000,
        ("up", _) => mantissa > 0,
        (_, 0) => mantissa > 0x60_0000,
        (_, _) => mantissa >= 0x40_0000,
    };
    match exponent {
        254 if up && !saturate => 255,
        254 => 254,
        code => code + u8::from(up),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_finite_code_encodes_back() {
        for dtype in [DType::F8E4M3Fn, DType::F8E4M3FnUz, DType::F8E5M2, DType::F8E5M2FnUz] {
            for code in 0..=255u8 {
                let value = decode(dtype, &[code])[0];
                if value.is_finite() {
                    assert_eq!(encode(dtype, &[value], false)[0], code, "{dtype} {code:#x} {value}");
                }
            }
        }
        for code in 0..16u8 {
            assert_eq!(encode(DType::F4E2M1, &decode(DType::F4E2M1, &[code]), false)[0], code);
        }
    }

    #[test]
    fn overflow_saturates_only_when_asked() {
        assert_eq!(encode(DType::F8E4M3Fn, &[1e6, -1e6, 464.0, 465.0], true), [0x7e, 0xfe, 0x7e, 0x7e]);
        assert_eq!(encode(DType::F8E4M3Fn, &[1e6, 464.0, 465.0], false), [0x7f, 0x7e, 0x7f]);
        assert_eq!(encode(DType::F8E5M2, &[1e9, f32::INFINITY, 61439.0], false), [0x7c, 0x7c, 0x7b]);
        assert_eq!(encode(DType::F8E5M2FnUz, &[1e9, -0.0], false), [0x80, 0]);
    }
}
