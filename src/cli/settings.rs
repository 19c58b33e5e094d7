//! Settings: flag over `TUNEWRIGHT_<SECTION>_<KEY>` over `tunewright.toml` here or in the nearest parent over the user's file.

use super::Global;
use super::failure::{Failure, nearest};
use std::path::{Path, PathBuf};

/// The largest settings file that is read.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Every key a file or the environment may set. A key of a command is `section.key`.
pub static KEYS: &[&str] = &[
    "db",
    "color",
    "log",
    "tune.budget",
    "tune.share",
    "tune.batch",
    "tune.device",
    "tune.objective",
    "tune.strategy",
    "tune.parallel",
    "tune.numerics",
    "tune.max_error",
    "tune.seed",
    "run.rtol",
    "run.atol",
    "bench.duration",
    "bench.scenario",
];

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
        for key in KEYS {
            let name = format!("TUNEWRIGHT_{}", key.replace('.', "_").to_ascii_uppercase());
            if let Ok(value) = std::env::var(&name) {
                settings.entries.push((key.to_string(), value, name));
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
        self.entries.iter().find(|(name, ..)| name == key).map(|(_, value, _)| value.as_str())
    }

    /// Every setting that applies, with its origin.
    pub fn origins(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        KEYS.iter().filter_map(|key| {
            self.entries
                .iter()
                .find(|(name, ..)| name == key)
                .map(|(name, value, from)| (name.as_str(), value.as_str(), from.as_str()))
        })
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
            if KEYS.contains(&key.as_str()) {
                self.entries.push((key, text, path.display().to_string()));
            } else {
                let near = nearest(&key, KEYS.iter().copied()).map(|name| format!("; did you mean {name}?")).unwrap_or_default();
                self.warnings.push(format!("{}: unknown key {key}{near}", path.display()));
            }
        }
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
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/".into())).join(".local/share");
        data.unwrap_or_else(home).join("tunewright/db")
    })
}
