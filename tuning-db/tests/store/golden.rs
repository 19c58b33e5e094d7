//! Formats: files of released versions are read for ever, newer ones are refused untouched. `UPDATE=1` writes the files of this
//! version anew, which is right only before its release.

use crate::merge::everything_of;
use crate::sample::{self, Random};
use schema::*;
use std::fs;
use std::path::{Path, PathBuf};
use tuning_db::journal::FrameRef;
use tuning_db::journal::segment::{COUNTER, FORMAT, HEADER_BYTES, SegmentHeader, scan};
use tuning_db::{IndexKind, Of, OpenOptions, Query, Reader, Source, Store, StoreError};

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1")
}

fn options() -> OpenOptions {
    OpenOptions {
        snapshot_every: None,
        serve: false,
        index: IndexKind::Memory,
        writer: Some([0xab; 16]),
        ..OpenOptions::default()
    }
}

fn fill(path: &Path) {
    let store = Store::open(path, options()).unwrap();
    let mut random = Random(2026);
    for n in 0..2 {
        store.put_task(TaskKey::of(&sample::task_text(n)), &sample::task_text(n)).unwrap();
        store.put_device(&sample::device(n).0, &sample::device(n).1).unwrap();
        store.put_model(sample::model_key(n), &format!("model{n}")).unwrap();
    }
    for _ in 0..20 {
        store.append(sample::any(&mut random)).unwrap().wait().unwrap();
    }
    store.close().unwrap();
}

fn answer(path: &Path) -> String {
    let reader = Reader::open(path, Source::C).unwrap();
    let mut text = String::new();
    for (name, of) in Of::ALL {
        let query = Query::parse("(stale or not stale) and (refused or not refused)").unwrap().of(of).at(1_770_000_000);
        let rows = reader.query(&query).unwrap().to_json();
        text += &format!("{name}\n{}\n", serde_json::to_string_pretty(&rows["rows"]).unwrap());
    }
    text
}

fn copy(from: &Path, to: &Path) {
    for sub in ["journal", "snap"] {
        fs::create_dir_all(to.join(sub)).unwrap();
        for entry in fs::read_dir(from.join(sub)).unwrap().map(|entry| entry.unwrap()) {
            fs::copy(entry.path(), to.join(sub).join(entry.file_name())).unwrap();
        }
    }
    fs::copy(from.join("manifest.json"), to.join("manifest.json")).unwrap();
}

#[test]
fn databases_of_released_versions_are_read() {
    let dir = tempfile::tempdir().unwrap();
    if std::env::var_os("UPDATE").is_some() {
        let path = dir.path().join("db");
        fill(&path);
        drop(fs::remove_dir_all(golden()));
        copy(&path, &golden());
        fs::write(golden().join("rows.txt"), answer(&path)).unwrap();
    }
    assert_eq!(answer(&golden()), fs::read_to_string(golden().join("rows.txt")).unwrap());
    // The journal alone says the same, and so does the snapshot alone.
    for without in ["snap", "journal"] {
        let path = dir.path().join(without);
        copy(&golden(), &path);
        fs::remove_dir_all(path.join(without)).unwrap();
        assert_eq!(answer(&path), answer(&golden()), "without {without}");
    }
}

#[test]
fn this_version_still_writes_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    fill(&path);
    for file in ["snap/1.tws", "snap/head"] {
        assert!(fs::read(path.join(file)).unwrap() == fs::read(golden().join(file)).unwrap(), "{file}");
    }
    // Where commits begin depends on how soon the writer woke; everything else does not.
    let frames = |path: &Path| {
        let bytes = fs::read(path.join("journal/0000000000000001.twj")).unwrap();
        let header = SegmentHeader::parse(&bytes).unwrap();
        let found = scan(&bytes, &header.writer, header.number, HEADER_BYTES).frames;
        let plain = |frame: &FrameRef| {
            (frame.kind, frame.flags & COUNTER, frame.schema, frame.seq, bytes[frame.payload.clone()].to_vec())
        };
        (header, found.iter().map(plain).collect::<Vec<_>>())
    };
    assert!(frames(&path) == frames(&golden()));
}

#[test]
fn a_newer_format_is_refused_and_untouched() {
    let dir = tempfile::tempdir().unwrap();
    for what in ["manifest", "segment", "snapshot"] {
        let path = dir.path().join(what);
        copy(&golden(), &path);
        let file = match what {
            "manifest" => {
                let file = path.join("manifest.json");
                let text = fs::read_to_string(&file).unwrap().replace("\"min_reader\": 1", "\"min_reader\": 2");
                fs::write(&file, text).unwrap();
                file
            }
            "segment" => {
                let file = path.join("journal/0000000000000001.twj");
                let mut bytes = fs::read(&file).unwrap();
                let header = SegmentHeader { format: FORMAT + 1, ..SegmentHeader::parse(&bytes).unwrap() };
                bytes[..64].copy_from_slice(&header.encode());
                fs::write(&file, bytes).unwrap();
                file
            }
            _ => {
                let file = path.join("snap/1.tws");
                let mut bytes = fs::read(&file).unwrap();
                bytes[10] = 2;
                fs::write(&file, bytes).unwrap();
                file
            }
        };
        let before = fs::read(&file).unwrap();
        let query = Query::parse("").unwrap();
        let read = Reader::open(&path, Source::C).and_then(|reader| reader.query(&query));
        let opened = Store::open(&path, options()).map(drop);
        if what == "snapshot" {
            // A snapshot is a copy: without it the journal answers.
            read.unwrap();
        } else {
            assert!(matches!(read, Err(StoreError::Newer { found: 2, known: 1, .. })), "{what}: {read:?}");
            assert!(matches!(opened, Err(StoreError::Newer { .. })), "{what}: {opened:?}");
            assert_eq!(fs::read(&file).unwrap(), before);
        }
    }
}

#[test]
fn the_golden_database_can_be_continued() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    copy(&golden(), &path);
    let store = Store::open(&path, OpenOptions { index: IndexKind::Sled, writer: None, ..options() }).unwrap();
    assert_eq!(store.open_report().lost, 0);
    let before = everything_of(&store).len();
    store.append(sample::any(&mut Random(1))).unwrap().wait().unwrap();
    assert_eq!((before, everything_of(&store).len()), (20, 21));
}
