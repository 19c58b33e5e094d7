//! Where the material lies that is shared between checkouts and too large for this one.

use std::path::{Path, PathBuf};

/// A path under the shared folder: `TUNEWRIGHT_SHARED`, else `../shared` beside the repository. `None`, and a line on stderr, when
/// it is not there.
pub fn shared(path: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("TUNEWRIGHT_SHARED") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"),
    };
    let found = root.join(path);
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: {} is not here; set TUNEWRIGHT_SHARED", found.display());
    None
}

/// The materialised models (`make_models.py OUT`): `TUNEWRIGHT_MODELS`, else `../models`. `None`, and a line on stderr, when they are
/// not there.
pub fn models() -> Option<PathBuf> {
    let root = match std::env::var_os("TUNEWRIGHT_MODELS") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../models"),
    };
    if root.is_dir() {
        return Some(root);
    }
    eprintln!("skipped: no models at {}; set TUNEWRIGHT_MODELS to what make_models.py wrote", root.display());
    None
}
