//! `manifest.json`: which format this is, which folder holds the index, whether the last writer closed it.
//!
//! Small, replaced whole, with a sum over itself; everything in it can be found out again without it.

use crate::disk::{Disk, read_file, replace_file};
use crate::error::{At, StoreError};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The name of the file.
pub const FILE: &str = "manifest.json";
/// Format of databases written by this version.
pub const FORMAT: u32 = 1;
const BYTES_MAX: u64 = 64 << 10;

/// What the manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// The oldest version of readers that may read it.
    pub min_reader: u32,
    /// 32 hexadecimal digits, made once.
    pub uuid: String,
    pub created_by: String,
    pub engine: Engine,
    /// Whether the last writer closed it.
    pub clean_close: bool,
    /// How often it was opened for writing.
    pub openings: u64,
    /// How long the last opening of the index took.
    pub last_open_ms: u64,
}

/// What holds the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    pub name: String,
    pub version: String,
    /// `index-3`: the number grows with every rebuild.
    pub dir: String,
}

#[derive(Serialize, Deserialize)]
struct Summed {
    #[serde(flatten)]
    manifest: Manifest,
    /// xxh3-64 of the manifest without this field, as JSON without blanks, in hexadecimal.
    sum: String,
}

/// What was found in place of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Whole(Manifest),
    Missing,
    Damaged,
}

fn sum(manifest: &Manifest) -> String {
    let text = serde_json::to_vec(manifest).expect("plain fields always encode");
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&text))
}

impl Manifest {
    /// Of a new database.
    pub fn new(uuid: [u8; 16]) -> Self {
        Manifest {
            format: FORMAT,
            min_reader: FORMAT,
            uuid: uuid.iter().map(|byte| format!("{byte:02x}")).collect(),
            created_by: concat!("tunewright ", env!("CARGO_PKG_VERSION")).to_owned(),
            engine: Engine { name: "sled".to_owned(), version: "0.34.7".to_owned(), dir: "index-1".to_owned() },
            clean_close: true,
            openings: 0,
            last_open_ms: 0,
        }
    }

    /// The manifest of a database.
    ///
    /// # Errors
    /// [`StoreError::Newer`] when this version must not read the database, and what the disk says. Damage is no error.
    pub fn read(disk: &dyn Disk, dir: &Path) -> Result<Found, StoreError> {
        let path = dir.join(FILE);
        let bytes = match read_file(disk, &path, BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Found::Missing),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => return Ok(Found::Damaged),
            Err(error) => return Err(StoreError::io(&path, "read the manifest", error)),
        };
        let Ok(text) = serde_json::from_slice::<serde_json::Value>(&bytes) else { return Ok(Found::Damaged) };
        let number = |name: &str| text.get(name).and_then(serde_json::Value::as_u64);
        // A newer manifest may have other fields, hence another sum: the version is asked first.
        if let Some(found) = number("min_reader").filter(|found| *found > u64::from(FORMAT) && *found < 1_000) {
            let made_by = text.get("created_by").and_then(|text| text.as_str()).unwrap_or("a newer tunewright");
            return Err(StoreError::Newer {
                path,
                found: u32::try_from(found).unwrap_or(u32::MAX),
                known: FORMAT,
                made_by: made_by.chars().filter(|c| !c.is_control()).take(80).collect(),
            });
        }
        Ok(match serde_json::from_value::<Summed>(text) {
            Ok(summed) if sum(&summed.manifest) == summed.sum && summed.manifest.engine.dir_number().is_some() => {
                Found::Whole(summed.manifest)
            }
            _ => Found::Damaged,
        })
    }

    /// Puts it in place of the one there.
    ///
    /// # Errors
    /// What the disk says.
    pub fn write(&self, disk: &dyn Disk, dir: &Path) -> Result<(), StoreError> {
        let summed = Summed { manifest: self.clone(), sum: sum(self) };
        let mut text = serde_json::to_vec_pretty(&summed).expect("plain fields always encode");
        text.push(b'\n');
        replace_file(disk, dir, FILE, &text).at(&dir.join(FILE), "write the manifest")
    }
}

impl Engine {
    /// The number in the folder's name.
    pub fn dir_number(&self) -> Option<u64> {
        index_number(&self.dir)
    }
}

/// The number of an index folder.
pub fn index_number(name: &str) -> Option<u64> {
    name.strip_prefix("index-")?.parse().ok().filter(|number| *number < u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn every_changed_byte_is_damage_or_newer() {
        let dir = tempfile::tempdir().unwrap();
        Manifest::new([3; 16]).write(&RealDisk, dir.path()).unwrap();
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        let found = Manifest::read(&RealDisk, dir.path()).unwrap();
        assert_eq!(found, Found::Whole(Manifest::new([3; 16])));
        for at in 0..whole.len() {
            let mut hurt = whole.clone();
            hurt[at] ^= 1;
            std::fs::write(&path, &hurt).unwrap();
            match Manifest::read(&RealDisk, dir.path()) {
                Ok(Found::Damaged) | Err(StoreError::Newer { .. }) => {}
                // A blank more or less between fields says the same.
                Ok(Found::Whole(same)) => assert_eq!(Found::Whole(same), found),
                other => panic!("byte {at}: {other:?}"),
            }
        }
    }
}
