//! One `.npy` array: a magic, a version, a header in Python's syntax, the elements.
//!
//! Source: numpy's `numpy/lib/format.py`, versions 1.0 to 3.0.

use bytes::Bytes;
use kernels::Tensor;
use schema::DType;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Extents at most; numpy allows 64.
const RANK_MAX: usize = 64;

/// What the header says of the elements.
struct Header {
    /// `<f4`, `|b1`, `<U5`: byte order, kind, bytes of one element (of `U`: characters).
    descr: String,
    fortran: bool,
    shape: Vec<usize>,
}

/// The tensor in the bytes of a file. Elements are turned to this machine's byte order and to rows.
pub(super) fn decode(bytes: Vec<u8>) -> Result<Tensor, String> {
    let (header, at) = header(&bytes)?;
    let count =
        header.shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent)).ok_or("has too many elements")?;
    let (order, kind, width) = parts(&header.descr)?;
    if kind == 'U' || kind == 'S' {
        return texts(&bytes[at..], &header, kind, width, order == '>');
    }
    let dtype = dtype(kind, width).ok_or_else(|| format!("has elements of type '{}', which no tensor has", header.descr))?;
    let need = count.checked_mul(width).ok_or("has too many elements")?;
    if bytes.len() - at != need {
        return Err(format!("has {} bytes of elements, its shape {:?} needs {need}", bytes.len() - at, header.shape));
    }
    let mut data = Bytes::from(bytes).slice(at..);
    if order == '>' && width > 1 {
        // A complex number is two floats, each swapped on its own.
        let unit = if kind == 'c' { width / 2 } else { width };
        let mut swapped = data.to_vec();
        swapped.chunks_exact_mut(unit).for_each(<[u8]>::reverse);
        data = Bytes::from(swapped);
    }
    if header.fortran && header.shape.len() > 1 {
        data = Bytes::from(to_rows(&data, &header.shape, width));
    }
    if dtype == DType::Bool && data.iter().any(|&byte| byte > 1) {
        return Err("has a truth value that is neither 0 nor 1".to_owned());
    }
    Tensor::from_bytes(dtype, header.shape, data).ok_or_else(|| "does not fill its shape".to_owned())
}

/// The header, and where the elements begin.
fn header(bytes: &[u8]) -> Result<(Header, usize), String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("does not begin as a npy array does")?;
    let (&[major, _minor], rest) = rest.split_first_chunk::<2>().ok_or("ends in its header")?;
    let (len, start) = match major {
        1 => rest.first_chunk::<2>().map(|len| (usize::from(u16::from_le_bytes(*len)), 10)),
        2 | 3 => rest.first_chunk::<4>().map(|len| (u32::from_le_bytes(*len) as usize, 12)),
        other => return Err(format!("has version {other}, known are 1 to 3")),
    }
    .ok_or("ends in its header")?;
    let end = start + len;
    let text = bytes.get(start..end).ok_or("ends in its header")?;
    let text = std::str::from_utf8(text).map_err(|_| "has a header that is no text")?;
    Ok((parse(text).ok_or_else(|| "has a header that cannot be read".to_owned())??, end))
}

/// The dictionary `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`. The outer `None`: not such a dictionary.
fn parse(text: &str) -> Option<Result<Header, String>> {
    let mut rest = text.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, after) = quoted(rest)?;
        rest = after.trim_start().strip_prefix(':')?.trim_start();
        match key {
            "descr" => {
                if !rest.starts_with(['\'', '"']) {
                    return Some(Err("has elements of several fields".to_owned()));
                }
                let (value, after) = quoted(rest)?;
                (descr, rest) = (Some(value.to_owned()), after);
            }
            "fortran_order" => {
                let after = rest.strip_prefix("True").map(|after| (true, after));
                let (value, after) = after.or_else(|| rest.strip_prefix("False").map(|after| (false, after)))?;
                (fortran, rest) = (Some(value), after);
            }
            "shape" => {
                let (list, after) = rest.strip_prefix('(')?.split_once(')')?;
                let extents = list.split(',').map(str::trim).filter(|extent| !extent.is_empty());
                let extents: Option<Vec<usize>> = extents.map(|extent| extent.trim_end_matches('L').parse().ok()).collect();
                (shape, rest) = (Some(extents?), after);
            }
            _ => return None,
        }
        rest = rest.trim_start();
        rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
    }
    let header = Header { descr: descr?, fortran: fortran?, shape: shape? };
    if header.shape.len() > RANK_MAX {
        return Some(Err(format!("has {} axes, at most {RANK_MAX} are allowed", header.shape.len())));
    }
    Some(Ok(header))
}

/// A text in quotes, and what follows it.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|quote| matches!(quote, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// Byte order, kind and width of a `descr`.
fn parts(descr: &str) -> Result<(char, char, usize), String> {
    let unknown = || format!("has elements of type '{descr}', which no tensor has");
    let (order, rest) = match descr.chars().next() {
        Some(order @ ('<' | '>' | '|' | '=')) => (order, &descr[1..]),
        _ => ('=', descr),
    };
    let kind = rest.chars().next().ok_or_else(unknown)?;
    if kind == 'O' {
        return Err("holds pickled objects, which are never read".to_owned());
    }
    let width = rest[kind.len_utf8()..].parse().map_err(|_| unknown())?;
    Ok((order, kind, width))
}

fn dtype(kind: char, width: usize) -> Option<DType> {
    Some(match (kind, width) {
        ('f', 2) => DType::F16,
        ('f', 4) => DType::F32,
        ('f', 8) => DType::F64,
        ('i', 1) => DType::I8,
        ('i', 2) => DType::I16,
        ('i', 4) => DType::I32,
        ('i', 8) => DType::I64,
        ('u', 1) => DType::U8,
        ('u', 2) => DType::U16,
        ('u', 4) => DType::U32,
        ('u', 8) => DType::U64,
        ('b', 1) => DType::Bool,
        ('c', 8) => DType::C64,
        ('c', 16) => DType::C128,
        _ => return None,
    })
}

/// Texts of a fixed width: `U` in characters of four bytes, `S` in bytes; zeros at the end do not count.
fn texts(data: &[u8], header: &Header, kind: char, width: usize, big: bool) -> Result<Tensor, String> {
    let one = if kind == 'U' { width.checked_mul(4) } else { Some(width) }.ok_or("has too long texts")?;
    let count =
        header.shape.iter().try_fold(1usize, |count, &extent| count.checked_mul(extent)).ok_or("has too many elements")?;
    if count.checked_mul(one) != Some(data.len()) || header.fortran && header.shape.len() > 1 {
        return Err("has texts that do not fill its shape in rows".to_owned());
    }
    if one == 0 && count > 1 << 20 {
        return Err("has too many empty texts".to_owned());
    }
    let text = |at: usize| -> Result<String, String> {
        let bytes = &data[at * one..(at + 1) * one];
        if kind == 'S' {
            let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            return std::str::from_utf8(&bytes[..end]).map(str::to_owned).map_err(|_| "has a text that is no UTF-8".to_owned());
        }
        let number = |four: &[u8]| {
            let four = [four[0], four[1], four[2], four[3]];
            if big { u32::from_be_bytes(four) } else { u32::from_le_bytes(four) }
        };
        let letters = bytes.chunks_exact(4).map(|four| char::from_u32(number(four)));
        let text: Option<String> = letters.collect();
        Ok(text.ok_or("has a text with an invalid character")?.trim_end_matches('\0').to_owned())
    };
    Ok(Tensor::strings(header.shape.clone(), (0..count).map(text).collect::<Result<_, _>>()?))
}

/// Elements in column-major order to rows.
fn to_rows(data: &[u8], shape: &[usize], width: usize) -> Vec<u8> {
    let mut strides = vec![width; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1] * shape[axis - 1];
    }
    let mut rows = Vec::with_capacity(data.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..data.len() / width {
        let at: usize = index.iter().zip(&strides).map(|(i, stride)| i * stride).sum();
        rows.extend_from_slice(&data[at..at + width]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    rows
}

/// Header and elements of a tensor, to be written one after the other.
pub(super) fn encode(tensor: &Tensor) -> Result<[Bytes; 2], String> {
    let (descr, data) = match tensor.texts() {
        Some(texts) => {
            let width = texts.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(1);
            let mut data = Vec::with_capacity(texts.len() * width * 4);
            for text in texts {
                let letters = text.chars().map(u32::from).chain(std::iter::repeat(0)).take(width);
                letters.for_each(|letter| data.extend_from_slice(&letter.to_le_bytes()));
            }
            (format!("<U{width}"), Bytes::from(data))
        }
        None => elements(tensor)?,
    };
    let extents: String = tensor.shape().iter().map(|extent| format!("{extent}, ")).collect();
    let extents = if tensor.shape().len() == 1 { extents.trim_end() } else { extents.trim_end_matches(", ") };
    let mut dictionary = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({extents}), }}");
    // Magic, version and length are ten bytes; the elements begin at a multiple of 64, the header ends with a line end.
    let padded = (10 + dictionary.len() + 1).next_multiple_of(64);
    dictionary.extend(std::iter::repeat_n(' ', padded - 10 - dictionary.len() - 1));
    dictionary.push('\n');
    let len = u16::try_from(dictionary.len()).map_err(|_| "has a header over 64 KiB".to_owned())?;
    let head = [MAGIC, &[1, 0], &len.to_le_bytes(), dictionary.as_bytes()].concat();
    Ok([Bytes::from(head), data])
}

/// Type and bytes of elements; bfloat16 becomes f32, which holds it exactly, and narrow integers become whole bytes.
fn elements(tensor: &Tensor) -> Result<(String, Bytes), String> {
    let plain = |code: &str| Ok((code.to_owned(), tensor.shared_bytes()));
    match tensor.dtype() {
        DType::F16 => plain("<f2"),
        DType::F32 => plain("<f4"),
        DType::F64 => plain("<f8"),
        DType::I8 | DType::I4 | DType::I2 => plain("|i1"),
        DType::I16 => plain("<i2"),
        DType::I32 => plain("<i4"),
        DType::I64 => plain("<i8"),
        DType::U8 | DType::U4 | DType::U2 => plain("|u1"),
        DType::U16 => plain("<u2"),
        DType::U32 => plain("<u4"),
        DType::U64 => plain("<u8"),
        DType::Bool => plain("|b1"),
        DType::C64 => plain("<c8"),
        DType::C128 => plain("<c16"),
        DType::Bf16 => {
            let wide: Vec<f32> = tensor.reinterpret::<half::bf16>().iter().map(|value| value.to_f32()).collect();
            Ok(("<f4".to_owned(), Tensor::new(vec![wide.len()], wide).shared_bytes()))
        }
        other => Err(format!("has elements of type {other}, which numpy does not know")),
    }
}
