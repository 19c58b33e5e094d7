//! Hostile models: each of the shared set is refused with the class that the set demands, or accepted where it demands that.
//!
//! Every file is imported on a thread with a small stack. "Refused" is not enough: a reader that refuses everything for one silly reason
//! would pass. The set's README is its script, `make_evil.py`.

use crate::allocations::peak_bytes;
use crate::shared::shared;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tunewright::import::{Limits, Options, load};

/// What the harness allows one import.
const SECONDS_MAX: Duration = Duration::from_secs(2);
const BYTES_MAX: i64 = 512 << 20;
const STACK_BYTES: usize = 512 << 10;

/// Imports on a small stack; the class, or "ok", the message, and the most bytes held.
fn import(path: &Path) -> (String, String, i64) {
    let path = path.to_owned();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || {
        // A plan of a tiny model on any machine; the default depends on the memory of this one.
        let mut limits = Limits::default();
        limits.set("plan-bytes", 64 << 30).unwrap();
        let mut outcome = None;
        let peak = peak_bytes(|| outcome = Some(load(&path, &Options { limits, ..Options::default() })));
        match outcome.expect("it ran") {
            Ok(model) => ("ok".to_owned(), model.graph.nodes.len().to_string(), peak),
            Err(error) => (error.class().name().to_owned(), error.to_string(), peak),
        }
    });
    thread.unwrap().join().unwrap_or_else(|_| ("panic".to_owned(), String::new(), 0))
}

/// A copy of the set with the links and the pipe that git does not keep.
fn copy_with_specials(set: &Path, manifest: &Value) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for folder in ["files", "outside"] {
        std::fs::create_dir(copy.path().join(folder)).unwrap();
        for entry in std::fs::read_dir(set.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let bytes = std::fs::read(entry.path()).unwrap();
            std::fs::write(copy.path().join(folder).join(entry.file_name()), bytes).unwrap();
        }
    }
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for special in manifest["specials"].as_array().unwrap() {
        if let Some(link) = special.get("symlink") {
            std::os::unix::fs::symlink(text(&special["to"]), copy.path().join(text(link))).unwrap();
        } else if let Some(link) = special.get("hardlink") {
            std::fs::hard_link(copy.path().join(text(&special["to"])), copy.path().join(text(link))).unwrap();
        } else if let Some(fifo) = special.get("fifo") {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mkfifoat(rustix::fs::CWD, copy.path().join(text(fifo)), mode).unwrap();
        }
    }
    copy
}

#[test]
fn every_file_gets_the_class_that_the_set_demands() {
    let Some(set) = shared("evil") else { return };
    let manifest: Value = serde_json::from_slice(&std::fs::read(set.join("manifest.json")).unwrap()).unwrap();
    let copy = copy_with_specials(&set, &manifest);
    let (mut wrong, mut most) = (Vec::new(), (Duration::ZERO, 0));
    let files = manifest["files"].as_array().unwrap();
    for file in files {
        let name = file["file"].as_str().unwrap();
        let expect = file["expect"].as_str().unwrap();
        let also = file.get("expect_also").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let start = Instant::now();
        let (class, message, peak) = import(&copy.path().join("files").join(name));
        let took = start.elapsed();
        if class != expect && !also.into_iter().any(|other| other == class) {
            wrong.push(format!("{name}: {class}, expected {expect}: {message}"));
        }
        if took > SECONDS_MAX || peak > BYTES_MAX {
            wrong.push(format!("{name}: took {took:?} and {peak} bytes"));
        }
        most = (most.0.max(took), most.1.max(peak));
        if std::env::var_os("TUNEWRIGHT_SHOW").is_some() {
            println!("{class:16} {took:>9.1?} {peak:>9} {}", message.rsplit('/').next().unwrap_or_default());
        }
    }
    println!("{} files; the slowest took {:?}, the largest {} bytes", files.len(), most.0, most.1);
    assert!(wrong.is_empty(), "{} of {} wrong:\n{}", wrong.len(), files.len(), wrong.join("\n"));
}
