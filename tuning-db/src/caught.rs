//! Panics of the index' engine: answers like others, and silent.
//!
//! The engine panics on some damaged folders; what follows is a rebuild and one line about it. A stack of "thread panicked" lines
//! before that line would only frighten, so the panic hook keeps silent on a thread while it runs such work, and nowhere else.

use crate::index::IndexError;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Once, mpsc};
use std::time::Duration;

thread_local! {
    static SILENT: Cell<u32> = const { Cell::new(0) };
}

/// Puts a hook before the one there that passes on all but what this module catches.
fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A thread whose locals are gone is past any such work.
            if SILENT.try_with(Cell::get).unwrap_or(0) == 0 {
                before(panic);
            }
        }));
    });
}

/// Runs `work`; a panic is an error, and prints nothing.
///
/// # Errors
/// [`IndexError::Corrupt`] after a panic, else what `work` returned.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    install_hook();
    SILENT.set(SILENT.get() + 1);
    let done = catch_unwind(AssertUnwindSafe(work));
    SILENT.set(SILENT.get() - 1);
    done.unwrap_or_else(|panic| Err(IndexError::Corrupt(panic_text(&*panic))))
}

/// Runs `work` on a thread of its own; a panic or a passed limit is an error. A thread that is late is left behind.
///
/// # Errors
/// [`IndexError::Corrupt`] after a panic or when the limit has passed, else what `work` returned.
pub(crate) fn guarded<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> Result<T, IndexError> + Send + 'static,
) -> Result<T, IndexError> {
    let (send, receive) = mpsc::channel();
    std::thread::Builder::new()
        .name("tuning-db guarded".to_owned())
        .spawn(move || {
            // The receiver is gone when the limit has passed; then nobody wants the answer.
            let _ = send.send(caught(work));
        })
        .map_err(|error| IndexError::Io(error.to_string()))?;
    match receive.recv_timeout(limit) {
        Ok(done) => done,
        Err(_) => Err(IndexError::Corrupt(format!("no answer within {limit:?}"))),
    }
}

/// What a panic said, in one short line.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message").chars().take(120).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = "TUNEWRIGHT_TEST_PANICS";

    #[test]
    fn a_panic_and_a_hang_are_errors() {
        let panicked = guarded(Duration::from_secs(60), || -> Result<(), IndexError> { panic!("duplicate segment LSN") });
        assert!(matches!(panicked, Err(IndexError::Corrupt(why)) if why == "panic: duplicate segment LSN"));
        let (_keep, never) = mpsc::channel::<()>();
        let late = guarded(Duration::from_millis(20), move || never.recv().map_err(|error| IndexError::Io(error.to_string())));
        assert!(matches!(late, Err(IndexError::Corrupt(why)) if why.starts_with("no answer within")));
    }

    /// As a test of its own it does nothing.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_some() {
            let silent: Result<(), _> = caught(|| panic!("this one is caught"));
            assert!(silent.is_err());
            let told = std::thread::spawn(|| panic!("this one is told")).join();
            assert!(told.is_err());
        }
    }

    #[test]
    fn only_what_is_caught_is_silent() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["caught::tests::child", "--exact", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success(), "{said}");
        assert!(said.contains("this one is told"), "{said}");
        assert!(!said.contains("this one is caught"), "{said}");
    }
}
