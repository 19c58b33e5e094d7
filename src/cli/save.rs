//! Files that commands write besides artifacts: whole or not at all.

use super::failure::Failure;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file through `fill`: beside its place first, then renamed, so that what was there stays when something fails. A place that
/// is no regular file (a pipe, a terminal) is written to as it stands.
///
/// # Errors
/// What the system says, and whatever `fill` fails with.
pub fn save<T>(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<T, Failure>) -> Result<T, Failure> {
    let failed = |error: io::Error| Failure::io("write", path, &error);
    // Through links, so that a link stays one.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    if fs::metadata(&target).is_ok_and(|data| !data.is_file()) {
        let file = OpenOptions::new().write(true).open(&target).map_err(failed)?;
        return fill_file(&file, fill, path);
    }
    let temporary = beside(&target).ok_or_else(|| Failure::new("usage.value", path.display(), "it names no file"))?;
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(failed)?;
    let filled = fill_file(&file, fill, path).and_then(|value| {
        file.sync_all().and_then(|()| fs::rename(&temporary, &target)).map_err(failed)?;
        Ok(value)
    });
    filled.inspect_err(|_| {
        // After a failure nothing of ours stays.
        let _ = fs::remove_file(&temporary);
    })
}

fn fill_file<T>(file: &File, fill: impl FnOnce(&mut dyn Write) -> Result<T, Failure>, path: &Path) -> Result<T, Failure> {
    let mut out = BufWriter::new(file);
    let value = fill(&mut out)?;
    out.flush().map_err(|error| Failure::io("write", path, &error))?;
    Ok(value)
}

fn beside(target: &Path) -> Option<PathBuf> {
    let name = target.file_name()?.to_string_lossy().into_owned();
    Some(target.with_file_name(format!(".{name}.tmp-{}", std::process::id())))
}

/// Saves bytes.
///
/// # Errors
/// What the system says.
pub fn save_bytes(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    save(path, |out| out.write_all(bytes).map_err(|error| Failure::io("write", path, &error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_there_stays_when_something_fails_and_nothing_of_ours_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("z.npz");
        save_bytes(&path, b"before").unwrap();
        let failed: Result<(), Failure> = save(&path, |out| {
            let _ = out.write_all(b"half");
            Err(Failure::new("machine.disk", "z", "disk full"))
        });
        assert_eq!(failed.unwrap_err().class, "machine.disk");
        assert_eq!(fs::read(&path).unwrap(), b"before");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(save_bytes(Path::new("/dev/full"), &[0; 10]).unwrap_err().class, "machine.disk");
    }
}
