//! Imports in a process of its own give what imports here give: the same graph, the same key, the same refusals.

use crate::shared::shared;
use crate::shipped::mnist_cnn;
use serde_json::Value;
use std::path::Path;
use tunewright::import::{Model, Options, load};
use tunewright::sandbox;

fn apart() -> Options {
    Options { elsewhere: Some(sandbox::load), ..Options::default() }
}

fn described(model: &Model) -> (String, String) {
    (model.graph.to_string(), format!("{:?} {}", model.facts(), model.key()))
}

#[test]
fn the_same_model_comes_out() {
    let (here, there) = (load(&mnist_cnn(), &Options::default()).unwrap(), load(&mnist_cnn(), &apart()).unwrap());
    assert_eq!(described(&here), described(&there));
    assert_eq!(here.graph, there.graph, "the weights too");
}

#[test]
fn limits_and_missing_files_are_told_as_here() {
    let mut options = apart();
    options.limits.set("nodes", 3).unwrap();
    let there = load(&mnist_cnn(), &options).unwrap_err().to_string();
    let here = load(&mnist_cnn(), &Options { elsewhere: None, ..options }).unwrap_err().to_string();
    assert_eq!(here, there);
    let missing = Path::new("/nowhere/x.onnx");
    assert_eq!(load(missing, &apart()).unwrap_err().to_string(), load(missing, &Options::default()).unwrap_err().to_string());
}

/// Every file of the hostile set, both ways: refusals word for word, accepted models node for node.
#[test]
fn hostile_models_are_refused_in_the_same_words() {
    let Some(set) = shared("evil/manifest.json") else { return };
    let files = set.with_file_name("files");
    let manifest: Value = serde_json::from_slice(&std::fs::read(&set).unwrap()).unwrap();
    let mut compared = 0;
    for entry in manifest["files"].as_array().unwrap() {
        let path = files.join(entry["file"].as_str().unwrap());
        if !path.is_file() {
            continue; // links and pipes, which git does not keep, are tests/evil.rs's
        }
        let answer = |options: &Options| match load(&path, options) {
            Ok(model) => described(&model).0,
            Err(error) => format!("{:?} {error}", error.class()),
        };
        assert_eq!(answer(&Options::default()), answer(&apart()), "{}", path.display());
        compared += 1;
    }
    assert!(compared > 100, "{compared} files of the set are here");
}
