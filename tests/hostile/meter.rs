//! An allocator that knows how much there is, how much there was at most, and the most that was asked for at once.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

pub struct Meter {
    now: AtomicUsize,
    peak: AtomicUsize,
    largest: AtomicUsize,
}

impl Meter {
    pub const fn new() -> Self {
        Self {
            now: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            largest: AtomicUsize::new(0),
        }
    }

    /// Panics if this program ever held more than 64 MiB, or asked for more than 16 MiB at once.
    pub fn check(&self) {
        let (peak, largest) = (self.peak.load(Ordering::Relaxed), self.largest.load(Ordering::Relaxed));
        assert!(peak < 64 << 20, "{peak} bytes were held at once");
        assert!(largest < 16 << 20, "{largest} bytes were asked for at once");
    }
}

// SAFETY: it is the system's allocator; what is added touches no memory that is lent.
unsafe impl GlobalAlloc for Meter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = self.now.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        self.peak.fetch_max(now, Ordering::Relaxed);
        self.largest.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller promises for `layout` what the system's allocator asks.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.now.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller promises that `pointer` came from `alloc` with this `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}
