//! Keys of the index: first byte the table, second the key version, then parts of fixed width in big-endian, so that the order of
//! bytes is the order of values and a prefix is exactly a question.

use schema::{Batch, ConfigKey, DeviceKey, EnvironmentKey, ModelKey, Numerics, ObservationId, Picos, Share, TaskKey};

/// Version of every key.
pub const KEY_VERSION: u8 = 1;

/// The tables, by their first byte.
pub mod table {
    pub const BESTS: u8 = b'B';
    pub const DEVICES: u8 = b'D';
    pub const FEATURES: u8 = b'F';
    pub const KEYS: u8 = b'K';
    pub const MODELS: u8 = b'M';
    pub const TRIALS: u8 = b'T';
    pub const META: u8 = b'X';
    /// All of them, in the order of the index.
    pub const ALL: [u8; 7] = [BESTS, DEVICES, FEATURES, KEYS, MODELS, TRIALS, META];
}

/// A key under construction: table, version, parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub Vec<u8>);

impl Key {
    fn new(table: u8) -> Self {
        let mut bytes = Vec::with_capacity(68);
        bytes.extend([table, KEY_VERSION]);
        Key(bytes)
    }

    fn with(mut self, part: &[u8]) -> Self {
        self.0.extend_from_slice(part);
        self
    }

    /// The first key after every key that begins with this one.
    pub fn end(&self) -> Vec<u8> {
        prefix_end(&self.0)
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// The least byte string greater than every string that begins with `prefix`; empty means there is none.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    end
}

/// Everything in a table.
pub fn whole(table: u8) -> Key {
    Key::new(table)
}

/// Model records of a model.
pub fn model_prefix(model: ModelKey) -> Key {
    Key::new(table::MODELS).with(&model.0)
}

/// A model record. `shape` is the hash of what else tells records of one batch apart: fixed axes, numerics, environment.
pub fn model(model: ModelKey, device: DeviceKey, share: Share, batch: Batch, shape: [u8; 8]) -> Key {
    model_prefix(model).with(&device.0).with(&u16_order(share.as_per_mille())).with(&u32_order(batch.rows())).with(&shape)
}

/// Trials of a task; of a model's runs, when given a model's key.
pub fn trial_prefix(subject: [u8; 16]) -> Key {
    Key::new(table::TRIALS).with(&subject)
}

/// Trials of a task on a share of a device.
pub fn trial_group(subject: [u8; 16], device: DeviceKey, share: Share) -> Key {
    trial_prefix(subject).with(&device.0).with(&u16_order(share.as_per_mille()))
}

/// Trials of one config.
pub fn trial_config(subject: [u8; 16], device: DeviceKey, share: Share, config: ConfigKey) -> Key {
    trial_group(subject, device, share).with(&config.0)
}

/// One trial.
pub fn trial(subject: [u8; 16], device: DeviceKey, share: Share, config: ConfigKey, id: ObservationId) -> Key {
    trial_config(subject, device, share, config).with(&id_hash(id))
}

/// The parts of a trial's key.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct TrialKey {
    pub subject: [u8; 16],
    pub device: DeviceKey,
    pub share: Share,
    pub config: ConfigKey,
    pub id_hash: [u8; 16],
}

impl TrialKey {
    /// The parts, when `key` is a trial's.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let key = body(key, table::TRIALS, 66)?;
        Some(TrialKey {
            subject: part(key, 0)?,
            device: DeviceKey(part(key, 16)?),
            share: Share::per_mille(u16::from_be_bytes(part(key, 32)?)).ok()?,
            config: ConfigKey(part(key, 34)?),
            id_hash: part(key, 50)?,
        })
    }
}

/// Bests of a task.
pub fn best_prefix(task: TaskKey) -> Key {
    Key::new(table::BESTS).with(&task.0)
}

/// Bests of a task on a share of a device, fastest first.
pub fn best_group(task: TaskKey, device: DeviceKey, share: Share, numerics: Numerics) -> Key {
    best_prefix(task).with(&device.0).with(&u16_order(share.as_per_mille())).with(&[numerics as u8])
}

/// One best. `config` is the hash of config and environment.
pub fn best(task: TaskKey, device: DeviceKey, share: Share, numerics: Numerics, time: Picos, config: [u8; 8]) -> Key {
    best_group(task, device, share, numerics).with(&u64_order(time.0)).with(&config)
}

/// The parts of a best's key.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct BestKey {
    pub task: TaskKey,
    pub device: DeviceKey,
    pub share: Share,
    pub numerics: Numerics,
    pub time: Picos,
}

impl BestKey {
    /// The parts, when `key` is a best's.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let key = body(key, table::BESTS, 51)?;
        let numerics = match key[34] {
            0 => Numerics::Strict,
            1 => Numerics::Relaxed,
            _ => return None,
        };
        Some(BestKey {
            task: TaskKey(part(key, 0)?),
            device: DeviceKey(part(key, 16)?),
            share: Share::per_mille(u16::from_be_bytes(part(key, 32)?)).ok()?,
            numerics,
            time: Picos(u64::from_be_bytes(part(key, 35)?)),
        })
    }
}

/// The parts of a model record's key.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RowKey {
    pub model: ModelKey,
    pub device: DeviceKey,
    pub share: Share,
    pub batch: Batch,
}

impl RowKey {
    /// The parts, when `key` is a model record's.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let key = body(key, table::MODELS, 46)?;
        Some(RowKey {
            model: ModelKey(part(key, 0)?),
            device: DeviceKey(part(key, 16)?),
            share: Share::per_mille(u16::from_be_bytes(part(key, 32)?)).ok()?,
            batch: Batch::new(u32::from_be_bytes(part(key, 34)?))?,
        })
    }
}

/// A device under all its environments.
pub fn device_prefix(device: DeviceKey) -> Key {
    Key::new(table::DEVICES).with(&device.0)
}

/// A device in an environment.
pub fn device(device: DeviceKey, environment: EnvironmentKey) -> Key {
    device_prefix(device).with(&environment.0)
}

/// The parts of a device's key.
pub fn parse_device(key: &[u8]) -> Option<(DeviceKey, EnvironmentKey)> {
    let key = body(key, table::DEVICES, 24)?;
    Some((DeviceKey(part(key, 0)?), EnvironmentKey(part(key, 16)?)))
}

/// The features of a model at a batch; `shape` as in the keys of its runs.
pub fn features(model: ModelKey, shape: ConfigKey) -> Key {
    Key::new(table::FEATURES).with(&model.0).with(&shape.0)
}

/// What a model's or task's key stands for.
pub fn name(key: [u8; 16]) -> Key {
    Key::new(table::KEYS).with(&key)
}

/// The key whose name is stored there.
pub fn parse_name(key: &[u8]) -> Option<[u8; 16]> {
    part(body(key, table::KEYS, 16)?, 0)
}

/// Facts about the index itself.
pub mod meta {
    use super::{Key, table, whole};
    use schema::DeviceKey;

    /// Up to where the journal is in the index.
    pub fn watermark() -> Key {
        whole(table::META).with(b"w")
    }

    /// The last published generation.
    pub fn generation() -> Key {
        whole(table::META).with(b"g")
    }

    /// The environment a device was last seen in here.
    pub fn current(device: DeviceKey) -> Key {
        current_prefix().with(&device.0)
    }

    /// All current environments.
    pub fn current_prefix() -> Key {
        whole(table::META).with(b"e")
    }

    /// Tombstones.
    pub fn tombstone_prefix() -> Key {
        whole(table::META).with(b"t")
    }

    /// A tombstone, by the hash of its bytes.
    pub fn tombstone(hash: [u8; 16]) -> Key {
        tombstone_prefix().with(&hash)
    }

    /// Observations that share an id and differ.
    pub fn conflict_prefix() -> Key {
        whole(table::META).with(b"c")
    }

    /// One of those, by the hash of its id and of its bytes.
    pub fn conflict(id_hash: [u8; 16], payload: [u8; 16]) -> Key {
        conflict_prefix().with(&id_hash).with(&payload)
    }

    /// Up to which write of each writer a generation reached.
    pub fn history_prefix() -> Key {
        whole(table::META).with(b"h")
    }

    /// That, of one writer.
    pub fn history(writer: [u8; 16]) -> Key {
        history_prefix().with(&writer)
    }

    /// The device whose current environment is stored there.
    pub fn parse_current(key: &[u8]) -> Option<DeviceKey> {
        let prefix = current_prefix();
        key.strip_prefix(prefix.as_ref())?.try_into().ok().map(DeviceKey)
    }

    /// The hashes of id and bytes of a conflict.
    pub fn parse_conflict(key: &[u8]) -> Option<([u8; 16], [u8; 16])> {
        let prefix = conflict_prefix();
        let rest = key.strip_prefix(prefix.as_ref())?;
        Some((rest.get(..16)?.try_into().ok()?, rest.get(16..)?.try_into().ok()?))
    }

    /// The writer whose history is stored there.
    pub fn parse_history(key: &[u8]) -> Option<[u8; 16]> {
        let prefix = history_prefix();
        key.strip_prefix(prefix.as_ref())?.try_into().ok()
    }
}

/// The hash by which an id stands in keys.
pub fn id_hash(id: ObservationId) -> [u8; 16] {
    let mut bytes = [0; 24];
    bytes[..16].copy_from_slice(&id.writer);
    bytes[16..].copy_from_slice(&id.seq.to_be_bytes());
    cut(&bytes)
}

/// BLAKE3, its first 16 bytes.
pub fn cut(bytes: &[u8]) -> [u8; 16] {
    let mut cut = [0; 16];
    cut.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    cut
}

fn body(key: &[u8], table: u8, len: usize) -> Option<&[u8]> {
    let body = key.strip_prefix(&[table, KEY_VERSION])?;
    (body.len() == len).then_some(body)
}

fn part<const N: usize>(bytes: &[u8], from: usize) -> Option<[u8; N]> {
    bytes.get(from..from + N)?.try_into().ok()
}

/// Big-endian.
pub fn u16_order(value: u16) -> [u8; 2] {
    value.to_be_bytes()
}

/// Big-endian.
pub fn u32_order(value: u32) -> [u8; 4] {
    value.to_be_bytes()
}

/// Big-endian.
pub fn u64_order(value: u64) -> [u8; 8] {
    value.to_be_bytes()
}

/// Big-endian with the sign bit flipped.
pub fn i64_order(value: i64) -> [u8; 8] {
    ((value as u64) ^ (1 << 63)).to_be_bytes()
}

/// The number [`i64_order`] encoded.
pub fn i64_value(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}

/// Negative: all bits inverted; else the sign bit set; −0 as 0. `None` for NaN.
pub fn f64_order(value: f64) -> Option<[u8; 8]> {
    if value.is_nan() {
        return None;
    }
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    Some(if bits >> 63 == 1 { !bits } else { bits | (1 << 63) }.to_be_bytes())
}

/// The number [`f64_order`] encoded.
pub fn f64_value(bytes: [u8; 8]) -> f64 {
    let bits = u64::from_be_bytes(bytes);
    f64::from_bits(if bits >> 63 == 1 { bits & !(1 << 63) } else { !bits })
}
