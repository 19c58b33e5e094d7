//! The code base keeps its own rules: who imports whom, where sled and `unsafe` are named, what files are called.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `folders`, without build products.
fn sources(folders: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The table of ARCHITECTURE.md: room → what it may import.
fn rooms() -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = text.split("| room | may import |").nth(1).expect("ARCHITECTURE.md has the table of rooms");
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let mut cells = line.trim_matches('|').split('|');
            let room = names(cells.next().unwrap()).pop_first().expect("a row names its room");
            let may = cells.next().unwrap();
            (room, if may.contains("everything") { BTreeSet::from(["*".to_owned()]) } else { names(may) })
        })
        .collect()
}

/// The rooms and packages a file's code names: `crate::x`, and packages of ours. Comments and tests in the file do not count.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut found = BTreeSet::new();
    let mut take = |name: &str| {
        let name: String = name.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '-')).collect();
        found.insert(name);
    };
    for line in code.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        for rest in line.split("crate::").skip(1) {
            match rest.strip_prefix('{') {
                Some(list) => list.split(',').for_each(|item| take(item.trim())),
                None => take(rest),
            }
        }
        for (path, package) in [
            ("kernels::", "kernels"),
            ("burn_ops::", "burn-ops"),
            ("cube_kernels::", "cube-kernels"),
            ("tuning_db::", "tuning-db"),
        ] {
            if line
                .match_indices(path)
                .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':'))
            {
                take(package);
            }
        }
    }
    found
}

#[test]
fn rooms_import_only_what_the_architecture_allows() {
    let rooms = rooms();
    let source = root().join("src");
    let mut wrong = Vec::new();
    for path in sources(&["src"]) {
        let inside = path.strip_prefix(&source).unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if matches!(room.as_str(), "lib" | "main") {
            continue;
        }
        let Some(may) = rooms.get(&room) else {
            wrong.push(format!("{}: room `{room}` is not in ARCHITECTURE.md", inside.display()));
            continue;
        };
        for import in imports(&fs::read_to_string(&path).unwrap()) {
            let known = rooms.contains_key(&import) || import.contains('-') || import == "kernels";
            if known && import != room && !may.contains("*") && !may.contains(&import) {
                wrong.push(format!("{}: `{room}` may not import `{import}`", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "mend the import, or the table in ARCHITECTURE.md with a reason:\n{}", wrong.join("\n"));
}

#[test]
fn one_file_names_sled() {
    let named: Vec<_> = sources(&["src", "kernels", "tuning-db/src", "tuning-db/schema"])
        .into_iter()
        .filter(|path| {
            let text = fs::read_to_string(path).unwrap();
            let named = |line: &str| {
                line.match_indices("sled::").any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            };
            text.lines().any(|line| !line.trim_start().starts_with("//") && named(line))
        })
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .collect();
    assert_eq!(named, ["tuning-db/src/index_sled.rs"]);
}

#[test]
fn no_file_is_a_drawer() {
    let drawers = ["utils", "util", "common", "helpers", "helper", "misc", "stuff"];
    for path in sources(&["src", "kernels", "tuning-db", "tests"]) {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(!drawers.contains(&stem), "{}: what belongs nowhere belongs to the type of its first argument", path.display());
    }
}

#[test]
fn panics_unwind_in_every_profile() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(
        manifest.contains("panic = \"unwind\"") && !manifest.contains("panic = \"abort\""),
        "sled panics are caught; abort would end us"
    );
}

#[test]
fn burn_searches_nothing_behind_our_back() {
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let line = manifest.lines().find(|line| line.starts_with("burn = ")).expect("the workspace pins burn");
    assert!(line.contains("default-features = false") && !line.contains("fusion") && !line.contains("autotune"), "{line}");
}

#[test]
fn the_readme_and_ci_name_the_same_test_command() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let ci = fs::read_to_string(root().join(".ci/run")).unwrap();
    let blocks: Vec<&str> = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).map(str::trim).collect();
    assert_eq!(blocks.len(), 2, "one command to tune, one to test");
    assert!(blocks[0].starts_with("cargo run --release -- tune "));
    assert!(root().join(blocks[0].split(' ').next_back().unwrap()).is_file(), "the model ships");
    assert!(ci.contains(&format!("exec {}", blocks[1])), "CI runs the README's test command and nothing else");
}

/// The kernels' package has many such places and its own words for them; here each one is a decision.
#[test]
fn unsafe_is_allowed_in_six_places_of_the_library() {
    let mut allowed = Vec::new();
    for path in sources(&["src", "tuning-db"]) {
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, line)| line.starts_with('#') && line.contains("allow(unsafe_code)"))
        {
            let what = if line.starts_with("#!") { "the file" } else { lines[i + 1] };
            allowed.push(format!("{}: {what}", path.strip_prefix(root()).unwrap().display()));
        }
    }
    let known = [
        "src/artifact/mod.rs: mod fault;",
        "src/artifact/mod.rs: mod map;",
        "src/execute/mod.rs: mod memory;",
        "src/import/source.rs: the file",
        "src/worker/mod.rs: pub mod segment;",
        "src/worker/mod.rs: mod task_bench;",
    ];
    assert_eq!(allowed, known, "a new place needs a line in ARCHITECTURE.md and here");
    let denied = |file: &str| fs::read_to_string(root().join(file)).unwrap().contains("#![deny(unsafe_code)]");
    assert!(denied("src/lib.rs") && denied("tuning-db/src/lib.rs"));
}
