//! What surrounds every value of the index: 20 bytes that say what it is and prove that it is what was written *under this key*.
//!
//! `"TW" | schema u16 | kind u8 | codec u8 | reserved u16 | len u32 | xxh3-64 over key ‖ first 12 bytes ‖ payload`, little-endian.
//! Codec 0 is postcard. Another codec is refused: none has been released (`docs/adr/0005`).

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

/// Bytes before the payload.
pub const ENVELOPE_BYTES: usize = 20;
/// The newest version of a record type; each kind says its own.
pub const SCHEMA: u16 = 2;
/// The largest value, envelope included: larger ones would go to sled's blob folder.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// What a value holds.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    Trial = 1,
    Final = 2,
    ModelRun = 3,
    ModelRow = 4,
    Best = 5,
    Device = 6,
    Name = 7,
    Meta = 8,
    Features = 9,
}

impl Kind {
    fn parse(byte: u8) -> Option<Self> {
        use Kind::*;
        [Trial, Final, ModelRun, ModelRow, Best, Device, Name, Meta, Features].into_iter().find(|&kind| kind as u8 == byte)
    }

    /// The version that its values have; older readers refuse what is newer than they are.
    fn schema(self) -> u16 {
        if self == Kind::Features { 2 } else { 1 }
    }
}

/// Why a value is not to be trusted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EnvelopeError {
    #[error("a value of {0} bytes has no envelope")]
    Short(usize),
    #[error("a value does not begin with TW")]
    Magic,
    #[error("a value fails its checksum")]
    Sum,
    #[error("a value has schema {found}, known is up to {known}")]
    Newer { found: u16, known: u16 },
    #[error("a value has kind {0} or a codec that is unknown")]
    Unknown(u8),
    #[error("a value does not decode: {0}")]
    Decode(String),
}

fn sum(key: &[u8], head: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(key);
    hash.update(head);
    hash.update(payload);
    hash.digest()
}

/// A record as a value under a key.
///
/// # Errors
/// [`EnvelopeError::Decode`] when the record cannot be encoded or is larger than a value may be.
pub fn seal<T: Serialize>(key: &[u8], kind: Kind, record: &T) -> Result<Vec<u8>, EnvelopeError> {
    let mut value = vec![0; ENVELOPE_BYTES];
    value = postcard::to_extend(record, value).map_err(|error| EnvelopeError::Decode(error.to_string()))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(EnvelopeError::Decode(format!("{} bytes, at most {VALUE_BYTES_MAX}", value.len())));
    }
    let len = (value.len() - ENVELOPE_BYTES) as u32;
    value[..2].copy_from_slice(b"TW");
    value[2..4].copy_from_slice(&kind.schema().to_le_bytes());
    value[4] = kind as u8;
    value[8..12].copy_from_slice(&len.to_le_bytes());
    let sum = sum(key, &value[..12], &value[ENVELOPE_BYTES..]);
    value[12..20].copy_from_slice(&sum.to_le_bytes());
    Ok(value)
}

/// Kind and payload of a value, when its sum holds.
///
/// # Errors
/// [`EnvelopeError`], the first thing that is wrong. The sum is checked before the version is believed.
pub fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<(Kind, &'a [u8]), EnvelopeError> {
    let Some((head, payload)) = value.split_at_checked(ENVELOPE_BYTES) else {
        return Err(EnvelopeError::Short(value.len()));
    };
    if head[..2] != *b"TW" {
        return Err(EnvelopeError::Magic);
    }
    let stored = u64::from_le_bytes(head[12..20].try_into().expect("8 bytes"));
    let len = u32::from_le_bytes(head[8..12].try_into().expect("4 bytes"));
    if payload.len() != len as usize || sum(key, &head[..12], payload) != stored {
        return Err(EnvelopeError::Sum);
    }
    let schema = u16::from_le_bytes([head[2], head[3]]);
    if schema > SCHEMA {
        return Err(EnvelopeError::Newer { found: schema, known: SCHEMA });
    }
    match Kind::parse(head[4]) {
        Some(kind) if head[5] == 0 && schema == kind.schema() => Ok((kind, payload)),
        _ => Err(EnvelopeError::Unknown(head[4])),
    }
}

/// The record in a payload.
///
/// # Errors
/// [`EnvelopeError::Decode`] when it is no such record or bytes are left over.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, EnvelopeError> {
    match postcard::take_from_bytes(payload) {
        Ok((record, [])) => Ok(record),
        Ok((_, rest)) => Err(EnvelopeError::Decode(format!("{} bytes left over", rest.len()))),
        Err(error) => Err(EnvelopeError::Decode(error.to_string())),
    }
}
