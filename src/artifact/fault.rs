//! What happens when a mapped file is cut while it is in use: the system raises SIGBUS, and without us the program would be gone
//! without a word. The handler writes which file and which byte, and ends the program with the code of a damaged artifact.
//!
//! Ranges of maps are kept in a fixed table of atomics: a signal handler may not take a lock or allocate. A fault outside of them goes
//! to whoever handled SIGBUS before us.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

/// Maps that are named when they fault; further ones fault without their name. A process holds a few.
const MAPS_MAX: usize = 256;
/// The code of a damaged artifact (`cli::Failure`).
const EXIT_CODE: i32 = 6;

/// A map that is in use: its addresses, where it begins in the file, and the line's beginning that names the file.
struct Slot {
    /// 0: free. 1: being filled. Written last, so that whoever sees an address sees the rest.
    start: AtomicUsize,
    len: AtomicUsize,
    offset: AtomicU64,
    text: AtomicPtr<u8>,
    text_len: AtomicUsize,
}

static MAPS: [Slot; MAPS_MAX] = [const {
    Slot {
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        offset: AtomicU64::new(0),
        text: AtomicPtr::new(std::ptr::null_mut()),
        text_len: AtomicUsize::new(0),
    }
}; MAPS_MAX];

/// A map's entry in the table, taken out when it is dropped.
#[derive(Debug)]
pub(super) struct Registered(Option<usize>);

/// Names a map, so that a fault in it tells the file. `offset` is where it begins in the file.
pub(super) fn register(bytes: &[u8], offset: u64, path: &Path) -> Registered {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(install);
    let start = bytes.as_ptr() as usize;
    let taken = (0..MAPS_MAX).find(|&i| MAPS[i].start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok());
    if let Some(i) = taken {
        let slot = &MAPS[i];
        let name: String = path.display().to_string().chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let text: &'static mut [u8] =
            Vec::leak(format!("error[artifact.damaged]: {name}: was cut while it was in use, at byte ").into_bytes());
        // The text is leaked on purpose, a line per map: a handler that runs while the map is dropped may still read it.
        slot.text_len.store(text.len(), Ordering::Relaxed);
        slot.text.store(text.as_mut_ptr(), Ordering::Relaxed);
        slot.offset.store(offset, Ordering::Relaxed);
        slot.len.store(bytes.len(), Ordering::Relaxed);
        slot.start.store(start, Ordering::Release);
    }
    Registered(taken)
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(i) = self.0 {
            MAPS[i].start.store(0, Ordering::Release);
        }
    }
}

/// Who handled SIGBUS before us.
struct Before(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written once, by `install` under its `Once`, before the handler that reads it is in place.
unsafe impl Sync for Before {}

static BEFORE: Before = Before(UnsafeCell::new(MaybeUninit::zeroed()));

fn install() {
    // SAFETY: all zeros is a `sigaction` with the default handler, no flags and an empty mask. The pointers passed are valid for the
    // calls; `BEFORE` is written by nobody else, and the first call, which asks, fills it before the second puts the handler in place.
    unsafe {
        let before = (*BEFORE.0.get()).as_mut_ptr();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), before) != 0 {
            return;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    }
}

/// Only calls that are allowed in a signal handler: loads, `write`, `_exit`, `sigaction`.
extern "C" fn handle(_: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the system passes a valid `siginfo_t`, whose address field is set for SIGBUS.
    let at = unsafe { (*info).si_addr() } as usize;
    for slot in &MAPS {
        let start = slot.start.load(Ordering::Acquire);
        let inside = at.wrapping_sub(start);
        if start > 1 && inside < slot.len.load(Ordering::Relaxed) {
            let (text, len) = (slot.text.load(Ordering::Relaxed), slot.text_len.load(Ordering::Relaxed));
            let mut digits = [0; 20];
            let number = decimal(slot.offset.load(Ordering::Relaxed) + inside as u64, &mut digits);
            // SAFETY: `text` and `len` are of one leaked line, stored before `start` was; the others are slices in scope.
            unsafe {
                libc::write(2, text.cast(), len);
                write(number);
                write(b"; tune again, it takes seconds from the database, and replace artifacts by renaming only\n");
                libc::_exit(EXIT_CODE);
            }
        }
    }
    // SAFETY: `install` has filled BEFORE, or we would not run. The fault is raised again when we return, and is then theirs.
    unsafe {
        write(b"error[machine.io]: a page of a mapped file cannot be read: it was cut while it was in use, or its disk failed\n");
        libc::sigaction(libc::SIGBUS, (*BEFORE.0.get()).as_ptr(), std::ptr::null_mut());
    }
}

fn write(text: &[u8]) {
    // SAFETY: the slice is readable for its length. That it may be written in part only is nothing that could be mended here.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

/// `number` in decimal, at the end of `digits`.
fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_an_allocation() {
        for number in [0, 7, 10, 4096, u64::MAX] {
            assert_eq!(decimal(number, &mut [0; 20]), number.to_string().as_bytes());
        }
    }
}
