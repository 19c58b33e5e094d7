//! The command line, by running the binary: help, codes, one-line errors, JSON.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// The binary in an empty home, without colours and settings of whoever runs the tests.
pub fn tunewright(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tunewright"))
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("LANG", "C.UTF-8")
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("stderr is UTF-8")
}

/// Runs, and asserts the exit code and that stderr is one line of that class.
fn refused(arguments: &[&str], code: i32, class: &str) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), arguments);
    let text = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    let errors: Vec<&str> = text.lines().filter(|line| line.starts_with("error[")).collect();
    assert_eq!(errors.len(), 1, "{arguments:?}: one line, found {text}");
    assert!(errors[0].starts_with(&format!("error[{class}]: ")), "{arguments:?}: {text}");
    errors[0].to_owned()
}

#[test]
fn nothing_asked_prints_help_with_examples() {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("Examples:"), "{}", stderr(&output));
    let help = tunewright(home.path(), &["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("Examples:"));
}

#[test]
fn a_typo_is_answered_and_not_run() {
    assert!(refused(&["devies"], 2, "usage.command").contains("did you mean 'devices'?"));
    refused(&["devices", "--bogus"], 2, "usage.flag");
    refused(&["devices", "--json=xml"], 2, "usage.value");
}

#[test]
fn devices_lists_the_cpu_and_why_others_are_absent() {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), &["devices", "--json"]);
    assert_eq!(output.status.code(), Some(0));
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["schema"], "devices.result");
    assert_eq!(object["devices"][0]["name"], "cpu");
    let absent = object["devices"].as_array().unwrap().iter().filter(|device| device["present"] == false);
    assert!(absent.clone().count() > 0 && absent.clone().all(|device| device["reason"].as_str().is_some_and(|r| !r.is_empty())));
}

#[test]
fn errors_are_objects_too_when_json_is_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), &["--json", "devies"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&object["schema"], &object["exit"], &object["class"]), (&"error".into(), &2.into(), &"usage.command".into()));
}

#[test]
fn doctor_says_a_line_per_check() {
    let home = tempfile::tempdir().unwrap();
    let output = tunewright(home.path(), &["doctor", "--probe", "50ms", "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<&str> = object["checks"].as_array().unwrap().iter().filter_map(|check| check["name"].as_str()).collect();
    for name in ["governor", "load", "timer", "noise", "device", "disk", "database"] {
        assert!(names.contains(&name), "{name} is checked");
    }
}

#[test]
fn settings_come_from_the_environment_and_the_nearest_file_and_unknown_keys_warn() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("tunewright.toml"), "db = \"here\"\n[tune]\nbudgte = \"5m\"\n").unwrap();
    let output = tunewright(home.path(), &["doctor", "--settings", "--json"]);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["settings"][0]["value"], "here");
    assert!(stderr(&output).contains("unknown key tune.budgte; did you mean tune.budget?"), "{}", stderr(&output));
    std::fs::write(home.path().join("tunewright.toml"), "db = \n").unwrap();
    let output = tunewright(home.path(), &["devices"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn completions_begin_with_where_to_put_them() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = tunewright(home.path(), &["completions", shell]);
        assert!(stdout(&output).lines().take(2).any(|line| line.starts_with("# Put this into")), "{shell}");
    }
}
