//! Ctrl-C during a real tuning, by running the binary and sending it signals.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Starts a tuning of the shipped model whose last end-to-end measurement takes seconds.
fn tune(home: &Path, flags: &[&str]) -> Child {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/mnist_cnn.onnx");
    Command::new(env!("CARGO_BIN_EXE_tunewright"))
        .arg("tune")
        .arg(model)
        .args(["--json=lines"])
        .args(flags)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), signal).unwrap();
}

/// Reads events until one of that name.
fn wait_for(events: &mut impl BufRead, name: &str) {
    let wanted = format!("\"event\":\"{name}\"");
    let mut line = String::new();
    while !line.contains(&wanted) {
        line.clear();
        assert!(events.read_line(&mut line).unwrap() > 0, "it ended before a {name}");
    }
}

/// Sends the signals once the first entry was measured and the second, long one begins; the code, stderr and the time to the end.
fn interrupted(home: &Path, signals: &[Signal]) -> (Option<i32>, String, Duration) {
    let mut child = tune(home, &["--batch", "1,1024", "--budget", "20s"]);
    let mut events = BufReader::new(child.stdout.take().unwrap());
    wait_for(&mut events, "row");
    let start = Instant::now();
    signals.iter().for_each(|&one| signal(&child, one));
    // What it still says must not fill the pipe.
    let rest = std::thread::spawn(move || events.read_to_string(&mut String::new()));
    let code = child.wait().unwrap().code();
    let took = start.elapsed();
    rest.join().unwrap().unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    (code, errors, took)
}

#[test]
fn the_first_ctrl_c_saves_within_two_seconds_and_says_how_to_go_on() {
    let home = tempfile::tempdir().unwrap();
    let (code, errors, took) = interrupted(home.path(), &[Signal::INT]);
    assert_eq!(code, Some(130), "{errors}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert!(errors.contains("finishing this trial, then saving; Ctrl-C again stops now"), "{errors}");
    let last = errors.lines().last().unwrap_or_default();
    assert!(last.starts_with("continue with: tunewright tune --continue ") && last.ends_with("mnist_cnn.onnx"), "{errors}");
    assert!(home.path().join("mnist_cnn.tune").is_file(), "what there is gets written");
    let on = tune(home.path(), &["--continue", "--budget", "5s"]).wait_with_output().unwrap();
    assert_eq!(on.status.code(), Some(0), "{}", String::from_utf8_lossy(&on.stderr));
    let said = String::from_utf8(on.stdout).unwrap();
    let result: serde_json::Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(result["entries"].as_array().unwrap().len(), 2, "both batches are measured now");
    assert!(result["trials"]["reused"].as_u64().unwrap() > 0);
}

#[test]
fn sigterm_is_the_first_ctrl_c_with_its_own_code_and_a_second_signal_ends_at_once() {
    let home = tempfile::tempdir().unwrap();
    let (code, errors, took) = interrupted(home.path(), &[Signal::TERM]);
    assert_eq!(code, Some(143), "{errors}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let home = tempfile::tempdir().unwrap();
    let (code, errors, took) = interrupted(home.path(), &[Signal::INT, Signal::TERM]);
    assert!(matches!(code, Some(130 | 143)), "{errors}");
    assert!(took < Duration::from_millis(500) && !errors.contains("continue with"), "{took:?} {errors}");
}
