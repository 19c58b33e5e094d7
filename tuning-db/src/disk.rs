//! The few operations on files that durability rests on, behind a trait, so that a simulator can lose, tear and reorder them.
//!
//! What is promised elsewhere assumes of a disk only this: bytes written before a successful [`DiskFile::sync`] are there after a
//! crash; names made or changed before a successful [`Disk::sync_dir`] are there after a crash; a rename is seen whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

/// A file system, or a simulation of one.
pub trait Disk: Send + Sync {
    /// Makes a file that does not exist yet, for reading and writing, owner only.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens a file for reading only.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// The names in a folder, sorted; empty when there is no such folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Makes a folder, owner only; one that exists is fine.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// Gives a file or folder another name, replacing a file of that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Takes a file away.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Reads at an offset; fewer bytes than asked only at the end.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;
    /// Writes all bytes at an offset, growing the file.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Bytes in the file.
    fn size(&self) -> io::Result<u64>;
    /// Cuts or grows the file.
    fn set_size(&self, size: u64) -> io::Result<()>;
    /// Makes bytes and size durable. After an error nothing is known about what was written since the last success, and calling
    /// it again proves nothing.
    fn sync(&self) -> io::Result<()>;
}

/// The file system of this machine.
#[derive(Copy, Clone, Debug, Default)]
pub struct RealDisk;

fn flags() -> i32 {
    (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC).bits() as i32
}

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).custom_flags(flags()).open(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().read(true).write(true).custom_flags(flags()).open(path)?))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).custom_flags(flags()).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Box::new(file))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

impl DiskFile for File {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match FileExt::read_at(self, &mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_size(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// All bytes of a file, or `None` when there is none; an error when it has more than `limit`.
pub fn read_file(disk: &dyn Disk, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match disk.open_read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.size()?;
    if size > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{size} bytes, at most {limit} are expected")));
    }
    let mut bytes = vec![0; size as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Puts a file in place of another at once: temporary file, sync, rename, sync of the folder.
pub fn replace_file(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.tmp-{}-{}", std::process::id(), random_hex()));
    let done = (|| {
        let file = disk.create(&temporary)?;
        file.write_at(0, bytes)?;
        file.sync()?;
        disk.rename(&temporary, &dir.join(name))
    })();
    if let Err(error) = done {
        // The first error is the one that matters; a leftover is taken away at the next opening.
        let _ = disk.remove(&temporary);
        return Err(error);
    }
    disk.sync_dir(dir)
}

/// 16 random bytes of the operating system.
pub(crate) fn random_16() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn random_hex() -> String {
    let bytes = random_16().unwrap_or_default();
    bytes[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}
