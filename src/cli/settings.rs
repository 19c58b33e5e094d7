//! Settings: flag over `TUNEWRIGHT_<SECTION>_<KEY>` over `tunewright.toml` here or in the nearest parent over the user's file.
//!
//! Each flag that takes a value is a key, under the name of its command; the list is read off the commands themselves. What a file or
//! the environment says becomes the flag's default before the arguments are parsed, so a setting is checked as the flag is.

use super::Global;
use super::failure::{Failure, nearest};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The largest settings file that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Keys that `tune` reads itself, with their defaults: with `--continue` the words of the earlier call stand between flag and setting.
static TUNE: &[(&str, &str)] = &[
    ("tune.device", "auto"),
    ("tune.share", "100"),
    ("tune.batch", "1"),
    ("tune.budget", "60s"),
    ("tune.strategy", "auto"),
    ("tune.numerics", "strict"),
    ("tune.max_error", "1e-4"),
    ("tune.seed", "0"),
];

/// A setting there may be.
pub struct Key {
    /// `tune.budget`, `db`.
    pub name: String,
    /// The subcommands that lead to its flag; none for flags of every command.
    command: Vec<String>,
    argument: String,
    default: Option<String>,
}

impl Key {
    fn new(section: Option<&str>, command: &[String], argument: &clap::Arg) -> Option<Self> {
        let long = argument.get_long()?;
        let takes_value = matches!(argument.get_action(), clap::ArgAction::Set | clap::ArgAction::Append);
        if !takes_value || argument.is_hide_set() || matches!(long, "config" | "json" | "json-version") {
            return None;
        }
        let flag = long.replace('-', "_");
        let name = section.map_or_else(|| flag.clone(), |section| format!("{}.{flag}", section.replace('-', "_")));
        let default = argument.get_default_values().first().map(|value| value.to_string_lossy().into_owned());
        let known = || TUNE.iter().find(|(key, _)| *key == name).map(|(_, default)| (*default).to_owned());
        let default = default.or_else(known);
        Some(Key { name, command: command.to_vec(), argument: argument.get_id().to_string(), default })
    }

    fn variable(&self) -> Option<String> {
        // TUNEWRIGHT_LOG filters the log; it does not name its file.
        (self.name != "log").then(|| format!("TUNEWRIGHT_{}", self.name.replace('.', "_").to_ascii_uppercase()))
    }
}

/// Every key, those of all commands first.
pub fn keys() -> &'static [Key] {
    static KEYS: OnceLock<Vec<Key>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let root = super::command();
        let mut keys: Vec<Key> = root.get_arguments().filter_map(|argument| Key::new(None, &[], argument)).collect();
        for command in root.get_subcommands() {
            let name = command.get_name().to_owned();
            // A group of commands has no section of its own, its commands have.
            let inner: Vec<&clap::Command> = command.get_subcommands().collect();
            let path = |last: Option<&clap::Command>| {
                std::iter::once(name.clone()).chain(last.map(|last| last.get_name().to_owned())).collect::<Vec<_>>()
            };
            if inner.is_empty() {
                keys.extend(command.get_arguments().filter_map(|argument| Key::new(Some(&name), &path(None), argument)));
            }
            for last in inner {
                keys.extend(
                    last.get_arguments().filter_map(|argument| Key::new(Some(last.get_name()), &path(Some(last)), argument)),
                );
            }
        }
        keys
    })
}

/// What the files and the environment say.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Key, value and where it came from; the first of a key wins.
    entries: Vec<(String, String, String)>,
    /// Unknown keys, to be warned about.
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads what applies here.
    ///
    /// # Errors
    /// A file that was named and cannot be read, or any that does not parse.
    pub fn load(global: &Global) -> Result<Self, Failure> {
        let mut settings = Settings::default();
        for key in keys() {
            let Some(variable) = key.variable() else { continue };
            if let Ok(value) = std::env::var(&variable) {
                settings.entries.push((key.name.clone(), value, variable));
            }
        }
        if let Some(path) = &global.config {
            settings.read(path)?;
        } else if !global.no_config {
            for path in default_files().iter().filter(|path| path.is_file()) {
                settings.read(path)?;
            }
        }
        Ok(settings)
    }

    /// The value of a key.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.entry(key).map(|(_, value, _)| value.as_str())
    }

    fn entry(&self, key: &str) -> Option<&(String, String, String)> {
        self.entries.iter().find(|(name, ..)| name == key)
    }

    /// Every setting with its value, if it has one, and its origin.
    pub fn origins(&self) -> impl Iterator<Item = (&str, Option<&str>, &str)> {
        keys().iter().map(|key| match self.entry(&key.name) {
            Some((_, value, from)) => (key.name.as_str(), Some(value.as_str()), from.as_str()),
            None => (key.name.as_str(), key.default.as_deref(), "default"),
        })
    }

    /// The commands with what is set as the flags' defaults.
    pub fn filled_into(&self, mut command: clap::Command) -> clap::Command {
        for key in keys().iter().filter(|key| !key.command.is_empty() && !TUNE.iter().any(|(name, _)| *name == key.name)) {
            let Some((_, value, _)) = self.entry(&key.name) else { continue };
            // Flags keep their defaults for the life of the program.
            let value: &'static str = Box::leak(value.clone().into_boxed_str());
            command = with_default(command, &key.command, &key.argument, value);
        }
        command
    }

    /// Blames the setting for what a flag refuses, when a setting gave its value.
    pub fn blame(&self, failure: Failure) -> Failure {
        let blamed = self.entries.iter().find(|(name, value, _)| {
            let flag = name.rsplit('.').next().unwrap_or(name).replace('_', "-");
            failure.what == format!("--{flag} {value}")
        });
        match blamed {
            Some((name, value, from)) => Failure { what: format!("setting {name} = {value}"), place: from.clone(), ..failure },
            None => failure,
        }
    }

    fn read(&mut self, path: &Path) -> Result<(), Failure> {
        let size = std::fs::metadata(path).map_err(|error| Failure::io("read", path, &error))?.len();
        if size > CONFIG_BYTES_MAX {
            return Err(Failure::new(
                "input.limit_exceeded",
                path.display(),
                format!("{size} bytes, the limit is {CONFIG_BYTES_MAX}"),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|error| Failure::io("read", path, &error))?;
        let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
            let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            Failure::new("input.settings", path.display(), error.message()).at(format!("line {line}"))
        })?;
        self.take("", &table, path);
        Ok(())
    }

    fn take(&mut self, prefix: &str, table: &toml::Table, path: &Path) {
        for (key, value) in table {
            let key = format!("{prefix}{key}");
            let text = match value {
                toml::Value::Table(inner) if prefix.is_empty() => {
                    self.take(&format!("{key}."), inner, path);
                    continue;
                }
                toml::Value::String(text) => text.clone(),
                toml::Value::Array(items) => {
                    items.iter().map(|item| item.to_string().trim_matches('"').to_owned()).collect::<Vec<_>>().join(",")
                }
                other => other.to_string(),
            };
            if keys().iter().any(|known| known.name == key) {
                self.entries.push((key, text, path.display().to_string()));
            } else {
                let near = nearest(&key, keys().iter().map(|known| known.name.as_str()));
                let near = near.map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                self.warnings.push(format!("{}: unknown key {key}{near}", path.display()));
            }
        }
    }
}

fn with_default(command: clap::Command, path: &[String], argument: &str, value: &'static str) -> clap::Command {
    match path {
        [] => command.mut_arg(argument, |argument| argument.default_value(value)),
        [first, rest @ ..] => command.mut_subcommand(first, |inner| with_default(inner, rest, argument, value)),
    }
}

/// `tunewright.toml` here or in the nearest parent, then the user's.
fn default_files() -> Vec<PathBuf> {
    let here = std::env::current_dir().ok();
    let near =
        here.iter().flat_map(|here| here.ancestors()).map(|folder| folder.join("tunewright.toml")).find(|path| path.is_file());
    let home = std::env::var_os("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config")));
    near.into_iter().chain(home.map(|home| home.join("tunewright/config.toml"))).collect()
}

/// The database: the flag, the setting, or `$XDG_DATA_HOME/tunewright/db`.
pub fn database_path(global: &Global, settings: &Settings) -> PathBuf {
    let set = global.db.clone().or_else(|| settings.text("db").map(PathBuf::from));
    set.unwrap_or_else(|| {
        let data = std::env::var_os("XDG_DATA_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
        data.unwrap_or_else(|| home_folder().join(".local/share")).join("tunewright/db")
    })
}

/// The database to predict from: the one that was named, or [`database_path`] when there is something.
pub fn database_of_records(global: &Global, settings: &Settings) -> Option<PathBuf> {
    let path = database_path(global, settings);
    (global.db.is_some() || path.is_dir()).then_some(path)
}

/// The user's folder, or the root where there is none.
pub fn home_folder() -> PathBuf {
    PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flag_with_a_value_is_a_key_and_the_documented_ones_exist() {
        let names: Vec<&str> = keys().iter().map(|key| key.name.as_str()).collect();
        for name in TUNE.iter().map(|(name, _)| *name).chain(["db", "color", "log", "run.rtol", "bench.duration", "query.format"])
        {
            assert!(names.contains(&name), "{name} is missing among {names:?}");
        }
        assert!(!names.contains(&"config"), "a settings file names no other");
    }

    #[test]
    fn a_setting_is_a_default_that_the_flag_overrules() {
        let entry = |name: &str, value: &str| (name.to_owned(), value.to_owned(), "here".to_owned());
        let settings =
            Settings { entries: vec![entry("run.rtol", "1e-2"), entry("query.columns", "model,share")], warnings: vec![] };
        let rtol = |words: &[&str]| {
            let words = ["tunewright", "run", "x", "--input", "y"].iter().chain(words);
            let matches = settings.filled_into(super::super::command()).try_get_matches_from(words).unwrap();
            *matches.subcommand_matches("run").unwrap().get_one::<f64>("rtol").unwrap()
        };
        assert_eq!((rtol(&[]), rtol(&["--rtol", "0.5"])), (1e-2, 0.5));
        let query = settings.filled_into(super::super::command()).try_get_matches_from(["tunewright", "db", "query"]).unwrap();
        let query = query.subcommand_matches("db").unwrap().subcommand_matches("query").unwrap();
        assert_eq!(query.get_many::<String>("columns").unwrap().collect::<Vec<_>>(), ["model", "share"]);
    }
}
