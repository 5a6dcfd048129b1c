//! spoilt FAULT: does what the sanitizers are there to report, so that `.ci/sanitizers` knows that they would.

use std::cell::UnsafeCell;
use std::hint::black_box;
use std::process::ExitCode;
use std::thread;

/// A word that is shared without care.
struct Bare(UnsafeCell<u64>);

// SAFETY: it is not safe: two threads store to it at once. That is the point.
unsafe impl Sync for Bare {}

static BARE: Bare = Bare(UnsafeCell::new(0));

fn store(value: u64) {
    // SAFETY: the address is valid; that nobody else stores to it is what does not hold.
    unsafe { BARE.0.get().write(value) };
}

fn race() {
    let other = thread::spawn(|| (0..1000).for_each(store));
    (0..1000).for_each(store);
    other.join().expect("it only stores");
}

fn overflow() {
    let bytes = vec![0_u8; 24];
    // SAFETY: none: this is one byte behind the end of the allocation.
    let byte = unsafe { black_box(bytes.as_ptr()).add(black_box(24)).read() };
    black_box(byte);
}

fn use_after_free() {
    let word = Box::new(7_u64);
    let address: *const u64 = black_box(&raw const *word);
    drop(word);
    // SAFETY: none: the allocation is gone.
    black_box(unsafe { address.read() });
}

fn leak() {
    for _ in 0..100 {
        std::mem::forget(black_box(vec![1_u8; 1000]));
    }
}

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("race") => race(),
        Some("overflow") => overflow(),
        Some("use-after-free") => use_after_free(),
        Some("leak") => leak(),
        Some("nothing") => {}
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}
