//! Ctrl-C: the first asks the tuning to finish its trial and save, the second ends the program at once.

use crate::cli::failure::Failure;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether and by what the tuning was asked to stop.
pub struct Interrupt {
    asked: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
    /// Ends the thread that answers the first signal.
    answer: Handle,
}

/// Watches for SIGINT and SIGTERM from now on. Unless `quiet`, the first is answered at once, on stderr.
///
/// # Errors
/// When the operating system takes no handler.
pub fn watch(quiet: bool) -> Result<Interrupt, Failure> {
    let failed = |error| Failure::new("machine.signals", "cannot watch for Ctrl-C", error);
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(failed)?;
    let (asked, signal, answer) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), signals.handle());
    let interrupt = Interrupt { asked, signal, answer };
    for signal in [SIGINT, SIGTERM] {
        // In this order: the second signal finds the flag set and exits with the code of a signal.
        let second = flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&interrupt.asked));
        let number = flag::register_usize(signal, Arc::clone(&interrupt.signal), signal as usize);
        let first = flag::register(signal, Arc::clone(&interrupt.asked));
        second.and(number).and(first).map_err(failed)?;
    }
    std::thread::spawn(move || {
        if signals.forever().next().is_some() && !quiet {
            eprintln!("\nfinishing this trial, then saving; Ctrl-C again stops now");
        }
    });
    Ok(interrupt)
}

impl Interrupt {
    /// Set by the first signal.
    pub fn flag(&self) -> &AtomicBool {
        &self.asked
    }

    /// Which signal it was.
    pub fn signal(&self) -> Option<u8> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            number => u8::try_from(number).ok(),
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.answer.close();
    }
}
