//! External data: tensors whose bytes lie in files beside the model.
//!
//! The model names the files, so the names are hostile. A location is a plain relative path; it is opened beneath the model's folder by
//! the kernel itself (`openat2` with `RESOLVE_BENEATH`, or component by component where that is missing), without following
//! links, without blocking, and must turn out to be a regular file of one name: a hard link has two, and could be somebody else's
//! file. Sources: onnx's `docs/ExternalDataSecurity.md` and the five CVEs behind it.

use super::error::{Class, Excess, ImportError, quote};
use super::proto::TensorProto;
use super::source;
use bytes::Bytes;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The longest location, in bytes.
const LOCATION_BYTES_MAX: usize = 1024;

/// The folder of a model, and the files of it that were opened.
pub(super) struct External {
    folder: Option<Folder>,
    files: BTreeMap<String, Bytes>,
    bytes: u64,
    bytes_max: u64,
}

struct Folder {
    path: PathBuf,
    fd: OwnedFd,
    /// Links may resolve within this folder.
    root: Option<PathBuf>,
}

/// Where a tensor's data are.
struct Place<'a> {
    location: &'a str,
    offset: u64,
    length: Option<u64>,
}

impl External {
    /// No folder: a model in memory has no external data.
    pub fn none() -> Self {
        External { folder: None, files: BTreeMap::new(), bytes: 0, bytes_max: 0 }
    }

    /// The files beside `model`. `root` names a folder within which links may resolve.
    pub fn beside(model: &Path, root: Option<&Path>, bytes_max: u64) -> Result<Self, ImportError> {
        let path = match model.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())
            .map_err(|error| ImportError::new(Class::Unreadable, "", format!("its folder cannot be read: {error}")))?;
        let root = match root {
            Some(root) => Some(root.canonicalize().map_err(|error| {
                ImportError::new(Class::Unreadable, "", format!("the external root {} cannot be read: {error}", root.display()))
            })?),
            None => None,
        };
        Ok(External { folder: Some(Folder { path, fd, root }), files: BTreeMap::new(), bytes: 0, bytes_max })
    }

    /// The files that were opened, by name: part of the model's identity.
    pub fn into_files(self) -> BTreeMap<String, Bytes> {
        self.files
    }

    /// The `need` bytes of a tensor.
    ///
    /// # Errors
    /// [`Class::PathEscape`], [`Class::ExternalMissing`], [`Class::ExternalRange`], [`Class::TensorSize`] when the length given is
    /// another than the type and shape need, [`Class::Malformed`] for keys that are missing, unknown or no numbers.
    pub fn data(&mut self, tensor: &TensorProto<'_>, need: u64) -> Result<Bytes, ImportError> {
        let place = place(&tensor.external_data)?;
        let file = self.file(place.location)?;
        if let Some(length) = place.length
            && length != need
        {
            let found = format!("the length of its external data is {length} bytes, type and shape need {need}");
            return Err(ImportError::new(Class::TensorSize, "", found));
        }
        let end = place.offset.checked_add(need).filter(|&end| end <= file.len() as u64);
        let Some(end) = end else {
            let found = format!("{need} bytes from {} of {}, which has {}", place.offset, quote(place.location), file.len());
            return Err(ImportError::new(Class::ExternalRange, "", found));
        };
        Ok(file.slice(place.offset as usize..end as usize))
    }

    fn file(&mut self, location: &str) -> Result<Bytes, ImportError> {
        let clean = clean(location)?;
        if let Some(bytes) = self.files.get(&clean) {
            return Ok(bytes.clone());
        }
        let Some(folder) = &self.folder else {
            let found = format!("data in {}, but the model has no folder", quote(location));
            return Err(ImportError::new(Class::ExternalMissing, "", found).advise("load it by its path"));
        };
        let file = folder.open(&clean).map_err(|error| refuse(error, location))?;
        let facts = file.metadata().map_err(|error| ImportError::new(Class::Unreadable, "", error.to_string()))?;
        if !facts.is_file() {
            return Err(escape(location, "is not a regular file"));
        }
        if facts.nlink() != 1 && folder.root.is_none() {
            return Err(escape(location, &format!("has {} names and could be a file of elsewhere", facts.nlink())));
        }
        self.bytes = self.bytes.saturating_add(facts.len());
        if self.bytes > self.bytes_max {
            let excess = Excess { limit: "external-bytes", allowed: self.bytes_max, need: Some(self.bytes) };
            return Err(ImportError::limit("", "bytes of external data", excess));
        }
        let bytes = source::bytes_of(&file, facts.len())
            .map_err(|error| ImportError::new(Class::Unreadable, "", format!("{} cannot be read: {error}", quote(location))))?;
        self.files.insert(clean, bytes.clone());
        Ok(bytes)
    }
}

impl Folder {
    fn open(&self, location: &str) -> Result<File, Errno> {
        if let Some(root) = &self.root {
            let path =
                self.path.join(location).canonicalize().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            let inside = path.strip_prefix(root).map_err(|_| Errno::XDEV)?;
            let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            return open_beneath(&root, inside);
        }
        open_beneath(&self.fd, Path::new(location))
    }
}

const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC).union(OFlags::NOCTTY);

fn open_beneath(folder: &OwnedFd, path: &Path) -> Result<File, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(folder, path, FILE, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => open_by_component(folder, path),
        opened => opened.map(File::from),
    }
}

/// The same without `openat2` (before Linux 5.6, or under a filter): each component opened without following links.
fn open_by_component(folder: &OwnedFd, path: &Path) -> Result<File, Errno> {
    let Some(name) = path.file_name() else { return Err(Errno::ISDIR) };
    let mut at: Option<OwnedFd> = None;
    for component in path.parent().into_iter().flat_map(Path::components) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let from = at.as_ref().map_or(folder.as_fd(), AsFd::as_fd);
        // Without following, a link is "not a directory".
        let next = rustix::fs::openat(from, component.as_os_str(), flags, Mode::empty()).map_err(|error| match error {
            Errno::NOTDIR => Errno::LOOP,
            other => other,
        })?;
        at = Some(next);
    }
    let from = at.as_ref().map_or(folder.as_fd(), AsFd::as_fd);
    rustix::fs::openat(from, name, FILE | OFlags::NOFOLLOW, Mode::empty()).map(File::from)
}

/// Reads the keys: each once, only those of the standard, location required.
fn place<'a>(pairs: &[(&'a str, &'a str)]) -> Result<Place<'a>, ImportError> {
    let (mut location, mut offset, mut length, mut checksum) = (None, None, None, None);
    for &(key, value) in pairs {
        let slot = match key {
            "location" => &mut location,
            "offset" => &mut offset,
            "length" => &mut length,
            "checksum" => &mut checksum,
            _ => {
                let found = format!("unknown key {} of external data; known are location, offset, length, checksum", quote(key));
                return Err(ImportError::new(Class::Malformed, "", found));
            }
        };
        if slot.replace(value).is_some() {
            // Two locations are the way to have one checked and the other opened.
            let class = if key == "location" { Class::PathEscape } else { Class::Malformed };
            return Err(ImportError::new(class, "", format!("key {} of external data given twice", quote(key))));
        }
    }
    let location = location.ok_or_else(|| ImportError::new(Class::Malformed, "", "external data without a location"))?;
    // The path is judged first: a path that escapes is the graver fault.
    clean(location)?;
    let offset = offset.map(|text| number("offset", text)).transpose()?.unwrap_or(0);
    Ok(Place { location, offset, length: length.map(|text| number("length", text)).transpose()? })
}

fn number(key: &str, text: &str) -> Result<u64, ImportError> {
    text.parse::<u64>().map_err(|_| {
        let class = if text.parse::<i128>().is_ok() { Class::ExternalRange } else { Class::Malformed };
        ImportError::new(class, "", format!("{key} of external data is {}, not a count of bytes", quote(text)))
    })
}

/// A location without its `.` components.
fn clean(location: &str) -> Result<String, ImportError> {
    let reason = if location.is_empty() {
        "is empty"
    } else if location.len() > LOCATION_BYTES_MAX {
        "is longer than 1,024 bytes"
    } else if location.contains(['\0', '\\', ':']) {
        "has a NUL, a backslash or a colon"
    } else if location.starts_with('/') {
        "is absolute"
    } else if location.split('/').any(|part| part.is_empty() || part == "..") {
        "has an empty or a '..' component"
    } else {
        let parts: Vec<&str> = location.split('/').filter(|&part| part != ".").collect();
        if !parts.is_empty() {
            return Ok(parts.join("/"));
        }
        "is a folder"
    };
    Err(escape(location, reason))
}

fn escape(location: &str, reason: &str) -> ImportError {
    ImportError::new(Class::PathEscape, "", format!("the path {} of its external data {reason}", quote(location)))
}

fn refuse(error: Errno, location: &str) -> ImportError {
    match error {
        Errno::LOOP | Errno::XDEV => escape(location, "leads through a link or out of the model's folder")
            .advise("put the file there, or name the folder its links lead to by --external-root"),
        Errno::ISDIR | Errno::NXIO | Errno::NODEV => escape(location, "is not a regular file"),
        Errno::NOENT | Errno::NOTDIR => {
            ImportError::new(Class::ExternalMissing, "", format!("no file {} beside the model", quote(location)))
        }
        error => ImportError::new(Class::Unreadable, "", format!("{} cannot be opened: {error}", quote(location))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_plain_relative_paths() {
        assert_eq!(clean("./a/b.bin").unwrap(), "a/b.bin");
        for bad in ["", ".", "..", "a/../b", "/a", "a//b", "a/", "a\\b", "c:x", "a\0b", "http://x/y"] {
            assert_eq!(clean(bad).unwrap_err().class(), Class::PathEscape, "{bad:?}");
        }
    }

    #[test]
    fn without_openat2_links_are_refused_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(at("in/sub")).unwrap();
        std::fs::write(at("in/sub/data"), b"data").unwrap();
        std::fs::write(at("out"), b"secret").unwrap();
        std::os::unix::fs::symlink("../out", at("in/link")).unwrap();
        std::os::unix::fs::symlink("sub", at("in/dir")).unwrap();
        let fd: OwnedFd = File::open(at("in")).unwrap().into();
        assert!(open_by_component(&fd, Path::new("sub/data")).is_ok());
        assert_eq!(open_by_component(&fd, Path::new("link")).unwrap_err(), Errno::LOOP);
        assert_eq!(open_by_component(&fd, Path::new("dir/data")).unwrap_err(), Errno::LOOP);
        assert_eq!(open_by_component(&fd, Path::new("sub/none")).unwrap_err(), Errno::NOENT);
    }
}
