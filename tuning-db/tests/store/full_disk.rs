//! A disk that really is full: a tmpfs of a few megabytes.
//!
//! Goal: the store stops with `machine.disk`, and with room again everything confirmed is there. Needs a mount namespace of its own
//! (root, or user namespaces); where that is not allowed the test says so and how many cases were skipped.

use crate::campaign;
use crate::merge::everything_of;
use crate::sample::{self, Random};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use tuning_db::{OpenOptions, Store};

const DIR: &str = "TUNEWRIGHT_TEST_FULL_DISK";
const ACKS: &str = "TUNEWRIGHT_TEST_FULL_DISK_ACKS";
const SKIPPED: i32 = 77;

fn options() -> OpenOptions {
    OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() }
}

/// Writes until the disk is full. As a test of its own it does nothing.
#[test]
fn fill() {
    let (Some(dir), Some(acks)) = (std::env::var_os(DIR), std::env::var_os(ACKS)) else { return };
    let mut acks = std::fs::File::create(acks).unwrap();
    let store = match Store::open(&Path::new(&dir).join("db"), options()) {
        Ok(store) => store,
        Err(error) => return assert_eq!(error.class(), "machine.disk", "{error}"),
    };
    let mut random = Random(1);
    loop {
        let tickets: Vec<_> = (0..256).map_while(|_| store.append(sample::any(&mut random)).ok()).collect();
        let asked = tickets.len();
        for ticket in tickets {
            match ticket.wait() {
                Ok(id) => writeln!(acks, "{id}").unwrap(),
                Err(error) => assert!(["machine.disk", "db.damaged"].contains(&error.class()), "{error}"),
            }
        }
        if asked < 256 {
            break;
        }
    }
    // There is no room for a snapshot either.
    let _ = store.close();
}

/// Looks whether all of it is there. As a test of its own it does nothing.
#[test]
fn look() {
    let (Some(dir), Some(acks)) = (std::env::var_os(DIR), std::env::var_os(ACKS)) else { return };
    let confirmed: BTreeSet<String> = std::fs::read_to_string(acks).unwrap().lines().map(str::to_owned).collect();
    let store = Store::open(&Path::new(&dir).join("db"), options()).unwrap();
    assert_eq!(store.open_report().lost, 0, "{:?}", store.open_report());
    let found: BTreeSet<String> = everything_of(&store).keys().map(ToString::to_string).collect();
    assert!(confirmed.is_subset(&found), "{} of {} are lost", confirmed.difference(&found).count(), confirmed.len());
    store.append(sample::any(&mut Random(2))).unwrap().wait().unwrap();
    store.close().unwrap();
}

const SCRIPT: &str = r#"
mount -t tmpfs -o "size=$3M,mode=0700" tmpfs "$2" || exit 77
"$1" full_disk::fill --exact --nocapture || exit 1
mount -o remount,size=400M "$2" || exit 77
"$1" full_disk::look --exact --nocapture || exit 2
"#;

#[test]
fn what_was_confirmed_before_the_disk_was_full_is_there() {
    // The few are those around the reserve of 4 MB, where least is left to stop with.
    let sizes: Vec<u64> = if campaign(8, 50) == 50 { (1..=50).collect() } else { vec![1, 2, 3, 4, 5, 6, 8, 12] };
    let (mut skipped, mut confirmed) = (0, 0);
    for megabytes in &sizes {
        let dir = tempfile::tempdir().unwrap();
        let (disk, acks) = (dir.path().join("disk"), dir.path().join("acks"));
        std::fs::create_dir(&disk).unwrap();
        let namespace: &[&str] = if rustix::process::geteuid().is_root() { &["-m"] } else { &["-U", "-r", "-m"] };
        let output = Command::new("unshare")
            .args(namespace)
            .args(["sh", "-c", SCRIPT, "sh"])
            .arg(std::env::current_exe().unwrap())
            .arg(&disk)
            .arg(megabytes.to_string())
            .env(DIR, &disk)
            .env(ACKS, &acks)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                confirmed += std::fs::read_to_string(&acks).unwrap().lines().count();
            }
            // `unshare` itself says 1 when it may not.
            Ok(output) if output.status.code() == Some(SKIPPED) || output.stderr.starts_with(b"unshare:") => skipped += 1,
            Err(_) => skipped += 1,
            Ok(output) => panic!(
                "{megabytes} MB: {}\n{}{}",
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
    if skipped > 0 {
        println!("skipped {skipped} of {} disks: no mount namespace is allowed here", sizes.len());
    } else {
        assert!(confirmed > 10_000, "only {confirmed} were confirmed: the disks were never used");
    }
}
