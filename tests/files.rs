//! File tests of passes: `tests/files/passes/<pass>/<name>.txt` holds a graph before and after.
//!
//! ```text
//! # What this shows, in a sentence.
//! pass: fold_batch_norm eliminate_dead_code
//! <graph>
//! ----
//! <graph>
//! ```
//!
//! Without a `pass:` line the folder's pass runs alone. The verifier runs before and after each pass, and both graphs are computed on
//! the same made-up inputs and must agree, where every operator has a reference. `UPDATE=1` rewrites the second graph.

use crate::interpret;
use std::fs;
use std::path::{Path, PathBuf};
use tunewright::graph::{Graph, text, verify};
use tunewright::passes;

#[test]
fn passes_make_the_graphs_of_their_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/passes");
    let mut failures = Vec::new();
    let mut count = 0;
    for pass in passes::PASSES {
        let cases = cases(&root.join(pass.name));
        if cases.is_empty() {
            failures.push(format!("pass {} has no file test", pass.name));
        }
        for case in cases {
            count += 1;
            if let Err(why) = check(pass.name, &case) {
                failures.push(format!("{}: {why}", case.strip_prefix(&root).unwrap_or(&case).display()));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {count}:\n{}", failures.len(), failures.join("\n"));
}

fn cases(folder: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

fn check(folder: &str, case: &Path) -> Result<(), String> {
    let source = fs::read_to_string(case).map_err(|e| e.to_string())?;
    let (before, expected) = source.split_once("----\n").unwrap_or((&source, ""));
    let names = before.lines().find_map(|line| line.strip_prefix("pass:")).unwrap_or(folder);
    let body: String = before.lines().filter(|line| !line.starts_with("pass:")).map(|line| format!("{line}\n")).collect();
    let original = text::parse(&body).map_err(|e| e.to_string())?;
    let mut graph = original.clone();
    verify(&graph).map_err(|e| e.to_string())?;
    let options = passes::Options::default();
    for name in names.split_whitespace() {
        let pass = passes::pass(name).ok_or_else(|| format!("no pass {name}"))?;
        (pass.run)(&mut graph, &options).map_err(|e| e.to_string())?;
        verify(&graph).map_err(|e| format!("after {name}: {e}"))?;
    }
    interpret::agree(&original, &graph)?;
    compare(case, before, expected, &graph)
}

fn compare(case: &Path, before: &str, expected: &str, graph: &Graph) -> Result<(), String> {
    let found = graph.to_string();
    if found == expected {
        return Ok(());
    }
    if std::env::var_os("UPDATE").is_some() {
        return fs::write(case, format!("{before}----\n{found}")).map_err(|e| e.to_string());
    }
    Err(format!("gives (UPDATE=1 rewrites the file)\n{found}"))
}
