//! Protobuf's wire format over borrowed bytes: fields, one after the other, nothing copied and nothing allocated.
//!
//! A message that ends before its file does is *malformed* when it runs over its own length; only the file's own end makes a
//! *truncated* file. Groups, reserved field numbers and unknown wire types are refused: no writer of ONNX makes them, and
//! each has been used to feed two readers two different models.

use super::error::{Class, ImportError};

/// What a field carries.
#[derive(Copy, Clone, Debug)]
pub enum Payload<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Fixed64([u8; 8]),
    Bytes(&'a [u8]),
}

/// One field of a message.
#[derive(Copy, Clone, Debug)]
pub struct Field<'a> {
    pub number: u32,
    pub payload: Payload<'a>,
    /// Where its payload ends, in bytes from the start of the file.
    end: usize,
}

/// Walks the fields of one message.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where `bytes` begin in the file.
    base: usize,
    /// Whether these bytes are the whole file.
    whole: bool,
}

impl<'a> Reader<'a> {
    /// The outermost message of a file.
    pub fn file(bytes: &'a [u8]) -> Self {
        Reader { bytes, at: 0, base: 0, whole: true }
    }

    /// The next field, or `None` at the end.
    ///
    /// # Errors
    /// [`Class::Truncated`] when the file ends inside a field, [`Class::Malformed`] when the bytes are no field.
    pub fn next(&mut self) -> Result<Option<Field<'a>>, ImportError> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|&number| number != 0 && number < 1 << 29);
        let Some(number) = number else {
            return Err(self.malformed(format!("field number {} at byte {}", tag >> 3, self.base + self.at)));
        };
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(self.fixed()?),
            2 => Payload::Bytes(self.delimited()?),
            5 => Payload::Fixed32(self.fixed()?),
            3 | 4 => return Err(self.malformed(format!("a group (field {number}) at byte {}", self.base + self.at))),
            wire => return Err(self.malformed(format!("wire type {wire} at byte {}", self.base + self.at))),
        };
        Ok(Some(Field { number, payload, end: self.base + self.at }))
    }

    fn varint(&mut self) -> Result<u64, ImportError> {
        let mut value = 0u64;
        for shift in 0..10 {
            let Some(&byte) = self.bytes.get(self.at) else { return Err(self.cut("a number")) };
            self.at += 1;
            if shift == 9 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * shift);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed(format!("a number of more than 64 bits at byte {}", self.base + self.at)))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ImportError> {
        let Some(bytes) = self.bytes.get(self.at..self.at + N) else { return Err(self.cut("a number")) };
        self.at += N;
        Ok(bytes.try_into().expect("the slice was cut to N"))
    }

    fn delimited(&mut self) -> Result<&'a [u8], ImportError> {
        let len = self.varint()?;
        let end = i64::try_from(len).ok().and_then(|len| usize::try_from(len).ok()).and_then(|len| self.at.checked_add(len));
        let Some(end) = end else {
            return Err(self.malformed(format!("a length of {len} bytes at byte {}", self.base + self.at)));
        };
        let Some(bytes) = self.bytes.get(self.at..end) else {
            return Err(self.cut(&format!("a part of {len} bytes")));
        };
        self.at = end;
        Ok(bytes)
    }

    fn cut(&self, inside: &str) -> ImportError {
        let end = self.base + self.bytes.len();
        if self.whole {
            ImportError::new(Class::Truncated, "", format!("ends at byte {end}, inside {inside}"))
        } else {
            self.malformed(format!("a message ends at byte {end}, inside {inside}"))
        }
    }

    fn malformed(&self, found: String) -> ImportError {
        ImportError::new(Class::Malformed, "", found)
    }
}

impl<'a> Field<'a> {
    /// A varint, as protobuf's `int64` and `int32` are sent.
    ///
    /// # Errors
    /// [`Class::Malformed`] for another wire type, as for all readers below.
    pub fn int(self) -> Result<i64, ImportError> {
        match self.payload {
            Payload::Varint(value) => Ok(value as i64),
            _ => Err(self.mismatch("a whole number")),
        }
    }

    /// An `int32`: sent as 64 bits, the upper ones the sign.
    pub fn int32(self) -> Result<i32, ImportError> {
        Ok(self.int()? as i32)
    }

    /// A float.
    pub fn float(self) -> Result<f32, ImportError> {
        match self.payload {
            Payload::Fixed32(bytes) => Ok(f32::from_le_bytes(bytes)),
            _ => Err(self.mismatch("a float")),
        }
    }

    /// Bytes.
    pub fn bytes(self) -> Result<&'a [u8], ImportError> {
        match self.payload {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => Err(self.mismatch("bytes")),
        }
    }

    /// A message within this one.
    pub fn message(self) -> Result<Reader<'a>, ImportError> {
        let bytes = self.bytes()?;
        Ok(Reader { bytes, at: 0, base: self.end - bytes.len(), whole: false })
    }

    /// Whole numbers, one or packed; calls `push` for each.
    pub fn ints(self, mut push: impl FnMut(i64) -> Result<(), ImportError>) -> Result<(), ImportError> {
        match self.payload {
            Payload::Varint(value) => push(value as i64),
            Payload::Bytes(_) => {
                let mut reader = self.message()?;
                while reader.at < reader.bytes.len() {
                    push(reader.varint()? as i64)?;
                }
                Ok(())
            }
            _ => Err(self.mismatch("whole numbers")),
        }
    }

    /// Fixed-width numbers of `N` bytes, one or packed, as the bytes they are in the file.
    pub fn fixed<const N: usize>(self) -> Result<FixedRun<'a, N>, ImportError> {
        let single = |bytes: &[u8]| bytes.try_into().ok().map(FixedRun::One);
        let run = match self.payload {
            Payload::Fixed32(bytes) => single(&bytes),
            Payload::Fixed64(bytes) => single(&bytes),
            Payload::Bytes(bytes) if bytes.len().is_multiple_of(N) => Some(FixedRun::Packed(bytes)),
            _ => None,
        };
        run.ok_or_else(|| self.mismatch("numbers of fixed width"))
    }

    fn mismatch(self, wanted: &str) -> ImportError {
        let found = format!("field {} before byte {} is not {wanted}", self.number, self.end);
        ImportError::new(Class::Malformed, "", found)
    }
}

/// Fixed-width numbers as they lie in the file.
pub enum FixedRun<'a, const N: usize> {
    One([u8; N]),
    Packed(&'a [u8]),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(bytes: &[u8]) -> Option<Class> {
        let mut reader = Reader::file(bytes);
        loop {
            match reader.next() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(error.class()),
            }
        }
    }

    #[test]
    fn ends_and_lies_are_told_apart() {
        assert_eq!(class(&[0x08, 0x01]), None);
        assert_eq!(class(&[0x08, 0x80]), Some(Class::Truncated));
        assert_eq!(class(&[0x0a, 0x05, 1, 2]), Some(Class::Truncated));
        assert_eq!(class(&[0x0d, 1, 2, 3]), Some(Class::Truncated));
        assert_eq!(class(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]), Some(Class::Malformed));
        assert_eq!(class(&[0x00, 0x01]), Some(Class::Malformed));
        assert_eq!(class(&[0x0b]), Some(Class::Malformed));
        assert_eq!(class(&[0x0f]), Some(Class::Malformed));
    }

    #[test]
    fn a_message_longer_than_its_length_is_malformed() {
        let mut outer = Reader::file(&[0x0a, 0x02, 0x0a, 0x05, 0x08, 0x01]);
        let mut inner = outer.next().unwrap().unwrap().message().unwrap();
        assert_eq!(inner.next().unwrap_err().class(), Class::Malformed);
    }
}
