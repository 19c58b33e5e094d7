//! Unfinished tunings: a file beside the database says what was asked, from the start of a tuning until its artifacts are written.
//! What was measured is in the database anyway; the file is what `--continue` needs to ask for the rest in the same words.

use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What was asked of a tuning, in the words of the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// Raised when fields change; a file of another number is not an unfinished tuning of this build.
    pub version: u32,
    pub models: Vec<PathBuf>,
    pub output: Option<PathBuf>,
    pub devices: Vec<String>,
    pub shares_per_mille: Vec<u16>,
    pub batches: Vec<u32>,
    pub dims: Vec<(String, u64)>,
    pub budget: String,
    pub objective: String,
    pub strategy: String,
    pub max_error: f64,
    pub relaxed: bool,
    pub seed: u64,
    /// Other flags, as they were written.
    pub flags: Vec<String>,
}

/// The version of [`Asked`].
pub const VERSION: u32 = 2;

/// Where unfinished tunings of a database are noted.
fn folder(database: &Path) -> PathBuf {
    database.join("unfinished")
}

/// The file of a set of models: the same models, however they are listed, have the same.
fn file(database: &Path, models: &[PathBuf]) -> PathBuf {
    let mut paths: Vec<String> = models
        .iter()
        .map(|path| fs::canonicalize(path).unwrap_or_else(|_| path.clone()).to_string_lossy().into_owned())
        .collect();
    paths.sort();
    let hash = blake3::hash(paths.join("\n").as_bytes()).to_hex();
    folder(database).join(format!("{}.json", &hash.as_str()[..16]))
}

/// Notes that a tuning begins.
///
/// # Errors
/// What the disk says.
pub fn begin(database: &Path, asked: &Asked) -> io::Result<()> {
    let path = file(database, &asked.models);
    fs::create_dir_all(folder(database))?;
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, serde_json::to_vec_pretty(asked)?)?;
    fs::rename(temporary, path)
}

/// Notes that a tuning is finished. A file that is not there is no error.
///
/// # Errors
/// What the disk says.
pub fn finish(database: &Path, models: &[PathBuf]) -> io::Result<()> {
    match fs::remove_file(file(database, models)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The last unfinished tuning of these models, if there is one; a file that cannot be read is none.
pub fn unfinished(database: &Path, models: &[PathBuf]) -> Option<Asked> {
    let asked: Asked = serde_json::from_slice(&fs::read(file(database, models)).ok()?).ok()?;
    (asked.version == VERSION).then_some(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tuning_is_unfinished_from_begin_to_finish() {
        let folder = tempfile::tempdir().unwrap();
        let asked = Asked {
            version: VERSION,
            models: vec!["b.onnx".into(), "a.onnx".into()],
            output: None,
            devices: vec!["cpu".into()],
            shares_per_mille: vec![500, 1000],
            batches: vec![1, 4],
            dims: vec![("seq".into(), 128)],
            budget: "60s".into(),
            objective: "latency".into(),
            strategy: "auto".into(),
            max_error: 1e-4,
            relaxed: false,
            seed: 7,
            flags: vec![],
        };
        let models: Vec<PathBuf> = vec!["a.onnx".into(), "b.onnx".into()];
        assert_eq!(unfinished(folder.path(), &models), None);
        begin(folder.path(), &asked).unwrap();
        assert_eq!(unfinished(folder.path(), &models), Some(asked));
        assert_eq!(unfinished(folder.path(), &models[..1]), None);
        finish(folder.path(), &models).unwrap();
        finish(folder.path(), &models).unwrap();
        assert_eq!(unfinished(folder.path(), &models), None);
    }
}
