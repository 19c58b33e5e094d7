//! kill -9: a real process writes, dies at a random moment, and everything it said was safe is there.

use crate::campaign;
use crate::merge::everything_of;
use crate::sample::{self, Random};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tuning_db::disk::{Disk, RealDisk};
use tuning_db::{OpenOptions, Store};

const PATH: &str = "TUNEWRIGHT_TEST_CHILD_DB";
const SEED: &str = "TUNEWRIGHT_TEST_CHILD_SEED";

/// The child: writes until it is killed, and says what is safe. As a test of its own it does nothing.
#[test]
fn child() {
    let (Ok(path), Ok(seed)) = (std::env::var(PATH), std::env::var(SEED)) else { return };
    let options = OpenOptions { snapshot_every: Some(Duration::from_millis(20)), serve: false, ..OpenOptions::default() };
    let store = Store::open(Path::new(&path), options).unwrap();
    let mut random = Random(seed.parse().unwrap());
    // Behind the name that the test's harness prints there is no end of line.
    println!();
    if let Some(line) = store.open_report().line() {
        println!("mended {line}");
    }
    loop {
        let tickets: Vec<_> = (0..1 + random.below(4)).map(|_| store.append(sample::any(&mut random)).unwrap()).collect();
        for ticket in tickets {
            println!("ack {}", ticket.wait().unwrap());
        }
        std::io::stdout().flush().unwrap();
    }
}

fn start(path: &Path, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["kill::child", "--exact", "--nocapture"])
        .env(PATH, path)
        .env(SEED, seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Temporary files, in any folder of the database that has them.
pub fn temporary(path: &Path) -> Vec<String> {
    let names = ["", "journal", "snap"].iter().flat_map(|part| RealDisk.list(&path.join(part)).unwrap());
    names.filter(|name| name.contains(".tmp-")).collect()
}

#[test]
fn what_was_confirmed_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut path = dir.path().join("db-0");
    let mut random = Random(4711);
    let mut confirmed = BTreeSet::new();
    for round in 0..campaign(200, 5_000) {
        if round % 50 == 0 {
            path = dir.path().join(format!("db-{round}"));
            confirmed.clear();
        }
        let mut child = start(&path, round);
        let output = BufReader::new(child.stdout.take().unwrap());
        let (said, heard) = std::sync::mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        let mut lines: Vec<String> = Vec::new();
        let after = |word: &str, lines: &[String]| -> Vec<String> {
            lines.iter().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect()
        };
        // Sometimes during recovery, sometimes well into the work, however slow the machine is.
        let wanted = if random.chance(30) { 0 } else { random.below(20) as usize };
        while after("ack ", &lines).len() < wanted {
            lines.push(heard.recv().expect("the child goes on until it is killed"));
        }
        std::thread::sleep(Duration::from_millis(random.below(20)));
        child.kill().unwrap();
        child.wait().unwrap();
        lines.extend(heard);
        let (acknowledged, mended) = (after("ack ", &lines), after("mended ", &lines));
        assert!(mended.is_empty(), "round {round}: {mended:?}");
        confirmed.extend(acknowledged);
        // Sometimes twice in a row.
        if random.chance(70) {
            let store = Store::open(&path, OpenOptions { snapshot_every: None, serve: false, ..OpenOptions::default() }).unwrap();
            let report = store.open_report();
            assert_eq!((report.lost, &report.rebuilt), (0, &None), "round {round}: {report:?}");
            assert_eq!(temporary(&path), Vec::<String>::new(), "round {round}: left by the one that was killed");
            let found: BTreeSet<String> = everything_of(&store).keys().map(ToString::to_string).collect();
            assert!(confirmed.is_subset(&found), "round {round}: {:?}", confirmed.difference(&found).collect::<Vec<_>>());
            store.close().unwrap();
        }
        if round % 25 == 24 {
            let report = tuning_db::check(&path).unwrap();
            assert!(report.is_clean(), "round {round}: {:?}", report.findings);
        }
    }
    assert!(confirmed.len() > 50, "the children wrote only {}", confirmed.len());
}
