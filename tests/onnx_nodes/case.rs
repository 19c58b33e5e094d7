//! A node test as the exporter writes it, and numpy's idea of equality.

use bytes::Bytes;
use kernels::reference::{self, Budget, Call};
use kernels::{Attribute, Attributes, Datum, Tensor};
use schema::DType;

/// One case: tolerances, and sets of inputs with their outputs.
pub struct Case {
    pub rtol: f64,
    pub atol: f64,
    pub sets: Vec<(Vec<Datum>, Vec<Datum>)>,
}

impl Case {
    /// Reads what `export.py` wrote; panics on anything else.
    pub fn read(bytes: &[u8]) -> Self {
        let mut reader = Reader(bytes);
        assert_eq!(reader.take(8), b"TWCASE1\n", "a case of this format");
        let (rtol, atol) = (f64::from_bits(reader.u64()), f64::from_bits(reader.u64()));
        let sets = (0..reader.u32()).map(|_| (reader.data(), reader.data())).collect();
        Case { rtol, atol, sets }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().expect("four bytes"))
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take(8).try_into().expect("eight bytes"))
    }

    fn data(&mut self) -> Vec<Datum> {
        (0..self.u32()).map(|_| self.datum()).collect()
    }

    fn datum(&mut self) -> Datum {
        match self.take(1)[0] {
            0 => Datum::Tensor(self.tensor()),
            1 => Datum::Sequence(self.data()),
            2 => Datum::Optional(None),
            3 => Datum::Optional(Some(Box::new(self.datum()))),
            tag => panic!("a datum of kind {tag}"),
        }
    }

    fn tensor(&mut self) -> Tensor {
        let dtype = DType::of_code(self.u32().into()).expect("a known type");
        let rank = self.u32();
        let shape: Vec<usize> = (0..rank).map(|_| self.u64() as usize).collect();
        if dtype == DType::String {
            let texts = (0..shape.iter().product()).map(|_| {
                let length = self.u32() as usize;
                String::from_utf8_lossy(self.take(length)).into_owned()
            });
            let texts = texts.collect();
            return Tensor::strings(shape, texts);
        }
        let length = self.u64() as usize;
        Tensor::from_bytes(dtype, shape, Bytes::copy_from_slice(self.take(length))).expect("the bytes fill the shape")
    }
}

/// What differs by more than `atol + rtol · |expected|`; whole numbers, truths and texts must be equal. NaN equals NaN.
pub fn differ(found: &Datum, expected: &Datum, rtol: f64, atol: f64) -> Option<String> {
    match (found, expected) {
        (Datum::Tensor(found), Datum::Tensor(expected)) => tensors_differ(found, expected, rtol, atol),
        (Datum::Sequence(found), Datum::Sequence(expected)) => match found.len() == expected.len() {
            true => found.iter().zip(expected).find_map(|(found, expected)| differ(found, expected, rtol, atol)),
            false => Some(format!("a sequence of {}, not {}", found.len(), expected.len())),
        },
        (Datum::Optional(None), Datum::Optional(None)) => None,
        (Datum::Optional(Some(found)), Datum::Optional(Some(expected))) => differ(found, expected, rtol, atol),
        _ => Some("another kind of datum".to_owned()),
    }
}

fn tensors_differ(found: &Tensor, expected: &Tensor, rtol: f64, atol: f64) -> Option<String> {
    let kind = |tensor: &Tensor| format!("{}{:?}", tensor.dtype(), tensor.shape());
    if found.dtype() != expected.dtype() || found.shape() != expected.shape() {
        return Some(format!("{}, not {}", kind(found), kind(expected)));
    }
    if !expected.dtype().is_float() {
        return (found != expected).then(|| format!("{found:?}, not {expected:?}"));
    }
    let apart = |(a, b): &(f64, f64)| !(a == b || (a.is_nan() && b.is_nan()) || (a - b).abs() <= atol + rtol * b.abs());
    let (found, expected) = (doubles(found), doubles(expected));
    let at = found.iter().copied().zip(expected.iter().copied()).position(|pair| apart(&pair))?;
    Some(format!("element {at} is {}, not {}", found[at], expected[at]))
}

fn doubles(tensor: &Tensor) -> Vec<f64> {
    let attributes = Attributes::default().with("to", Attribute::Int(DType::F64.code()));
    let input = Datum::Tensor(tensor.clone());
    let call = Call { op: "Cast", attributes: &attributes, inputs: &[Some(&input)], outputs: 1, budget: &Budget::unlimited() };
    let cast = reference::evaluate(&call).expect("floats become doubles");
    cast[0].tensor().and_then(|tensor| tensor.values::<f64>()).expect("doubles").into_owned()
}
