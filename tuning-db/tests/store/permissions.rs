//! What the operating system forbids: an error that names it, and reading goes on where reading is allowed.
//!
//! Root may do everything, so each case runs in a child under another uid; where that cannot be, the cases are skipped and counted.
//! Reading answers from the folder of another user too, but only its owner writes it, root included.

use crate::sample::{self, Random};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use tuning_db::{OpenOptions, Query, Reader, Source, Store, StoreError};

const CASE: &str = "TUNEWRIGHT_TEST_PERMISSIONS";
const PATH: &str = "TUNEWRIGHT_TEST_PERMISSIONS_DB";
const NOBODY: u32 = 65_534;
const RECORDS: usize = 20;

fn options() -> OpenOptions {
    OpenOptions { snapshot_every: None, ..OpenOptions::default() }
}

fn fill(path: &Path, seed: u64) {
    let store = Store::open(path, options()).unwrap();
    let mut random = Random(seed);
    let tickets: Vec<_> = (0..RECORDS).map(|_| store.append(sample::trial(&mut random)).unwrap()).collect();
    for ticket in tickets {
        ticket.wait().unwrap();
    }
    store.close().unwrap();
}

fn all(path: &Path, source: Source) -> Result<(usize, Source), StoreError> {
    let query = Query::parse("(stale or not stale) and (refused or not refused)").unwrap().of(tuning_db::Of::Trials);
    let rows = Reader::open(path, source)?.query(&query)?;
    Ok((rows.rows.len(), rows.source.unwrap_or_default()))
}

fn is_forbidden<T>(done: Result<T, StoreError>) {
    match done {
        Err(error) => assert_eq!(error.class(), "machine.permission", "{error}"),
        Ok(_) => panic!("it was allowed"),
    }
}

/// A case under another uid. As a test of its own it does nothing.
#[test]
fn child() {
    let (Ok(case), Some(path)) = (std::env::var(CASE), std::env::var_os(PATH)) else { return };
    let path = Path::new(&path);
    match case.as_str() {
        "other uid" => {
            is_forbidden(Store::open(path, options()));
            is_forbidden(Reader::open(path, Source::Auto));
        }
        "read-only folder" | "read-only medium" => {
            is_forbidden(Store::open(path, options()));
            assert_eq!(all(path, Source::Auto).unwrap(), (RECORDS, Source::C));
        }
        "read-only file" => {
            // Segments are never opened for writing again: it takes more than that to stop a tuner.
            fill(path, 2);
            assert_eq!(all(path, Source::C).unwrap().0, 2 * RECORDS);
        }
        "unreadable journal" => {
            is_forbidden(Store::open(path, OpenOptions { verify: tuning_db::Verify::Journal, ..options() }));
        }
        "unwritable snap" => {
            let store = Store::open(path, options()).unwrap();
            store.append(sample::trial(&mut Random(9))).unwrap().wait().unwrap();
            is_forbidden(store.publish_snapshot());
            store.append(sample::trial(&mut Random(10))).unwrap().wait().unwrap();
            is_forbidden(store.close());
            assert_eq!(all(path, Source::C).unwrap().0, RECORDS + 2);
        }
        "no socket" => {
            let store = Store::open(path, options()).unwrap();
            store.append(sample::trial(&mut Random(9))).unwrap().wait().unwrap();
            assert_eq!(all(path, Source::Auto).unwrap(), (RECORDS + 1, Source::C));
            assert!(all(path, Source::B).is_err());
            store.close().unwrap();
        }
        "writable by all" => {
            is_forbidden(Store::open(path, options()));
            assert_eq!(all(path, Source::Auto).unwrap(), (RECORDS, Source::C));
        }
        "unwritable lock" => {
            is_forbidden(Store::open(path, options()));
            assert_eq!(all(path, Source::Auto).unwrap(), (RECORDS, Source::C));
        }
        other => panic!("no case {other}"),
    }
}

/// Not even root may in a container without that right, or where there is no other user.
fn may_give_away(dir: &Path) -> bool {
    let probe = dir.join("probe");
    fs::write(&probe, []).unwrap();
    rustix::process::geteuid().is_root() && chown(&probe, Some(NOBODY), Some(NOBODY)).is_ok()
}

fn own_all(path: &Path, uid: u32) {
    chown(path, Some(uid), Some(uid)).unwrap();
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() {
            own_all(&entry.path(), uid)
        } else {
            chown(entry.path(), Some(uid), Some(uid)).unwrap()
        }
    }
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode_all(path: &Path, bits: u32) {
    mode(path, bits);
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap()) {
        if entry.file_type().unwrap().is_dir() { mode_all(&entry.path(), bits) } else { mode(&entry.path(), bits) }
    }
}

const CASES: [&str; 9] = [
    "other uid",
    "writable by all",
    "read-only folder",
    "read-only medium",
    "read-only file",
    "unreadable journal",
    "unwritable snap",
    "no socket",
    "unwritable lock",
];

/// Makes the database of a case and runs its child; whether it could be run.
fn runs(case: &str, program: &Path, outer: &Path) -> bool {
    let path = outer.join(case.replace(' ', "-"));
    fill(&path, 1);
    own_all(&path, NOBODY);
    let segment = || path.join("journal/0000000000000001.twj");
    match case {
        "other uid" => own_all(&path, 0),
        "writable by all" => {
            own_all(&path, 0);
            mode_all(&path, 0o777);
        }
        "read-only folder" => ["", "journal", "snap"].iter().for_each(|part| mode(&path.join(part), 0o500)),
        "read-only file" => mode(&segment(), 0o400),
        "unreadable journal" => mode(&segment(), 0o000),
        "unwritable snap" => mode(&path.join("snap"), 0o500),
        "no socket" => fs::create_dir(path.join("sock")).unwrap(),
        "unwritable lock" => mode(&path.join("lock"), 0o000),
        _ => {}
    }
    let test = ["permissions::child", "--exact", "--nocapture"];
    let mut command = if case == "read-only medium" {
        let mut command = Command::new("unshare");
        let script = r#"mount --bind "$2" "$2" && mount -o remount,bind,ro "$2" || exit 77
            exec setpriv --reuid 65534 --regid 65534 --clear-groups "$1" permissions::child --exact --nocapture"#;
        command.args(["-m", "sh", "-c", script, "sh"]).arg(program).arg(&path);
        command
    } else {
        let mut command = Command::new(program);
        command.args(test).uid(NOBODY).gid(NOBODY);
        command
    };
    let Ok(output) = command.env(CASE, case).env(PATH, &path).current_dir("/").output() else { return false };
    // 127: there is no `setpriv`.
    if matches!(output.status.code(), Some(77 | 127)) || output.stderr.starts_with(b"unshare:") {
        return false;
    }
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{case}: {}", String::from_utf8_lossy(&said));
    true
}

#[test]
fn what_is_forbidden_is_said_and_reading_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    if !may_give_away(dir.path()) {
        println!("skipped {} cases: only root may become another user", CASES.len());
        return;
    }
    mode(dir.path(), 0o755);
    // The test program may lie where another user cannot reach it.
    let program = dir.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let skipped = CASES.iter().filter(|case| !runs(case, &program, dir.path())).count();
    if skipped > 0 {
        println!("skipped {skipped} of {} cases: no mount namespace is allowed here", CASES.len());
    }
}

/// Root may write everything, and would leave files that their owner cannot open.
#[test]
fn root_does_not_write_the_database_of_another() {
    let dir = tempfile::tempdir().unwrap();
    if !may_give_away(dir.path()) {
        println!("skipped 1 case: only root may give a folder away");
        return;
    }
    let path = dir.path().join("db");
    fill(&path, 1);
    own_all(&path, NOBODY);
    match Store::open(&path, options()) {
        Err(StoreError::Foreign { owner, .. }) => assert_eq!(owner, NOBODY),
        other => panic!("{:?}", other.map(|store| store.path().to_owned())),
    }
    assert_eq!(all(&path, Source::Auto).unwrap(), (RECORDS, Source::C));
}

#[test]
fn a_folder_that_others_may_write_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let line = || Store::open(&path, options()).unwrap().open_report().exposed_line();
    assert_eq!(line(), None);
    for (bits, is_told) in [(0o755, false), (0o770, true), (0o702, true), (0o700, false)] {
        mode(&path, bits);
        assert_eq!(line().is_some_and(|line| line.contains(&format!("{bits:o}"))), is_told, "{bits:o}");
    }
}
