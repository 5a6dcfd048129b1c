//! A clock that is quick to look at and the same for all processes: the processor's own counter on x86-64, the system's
//! elsewhere. A look at the system's clock costs a fifth of what a short round trip takes.

use std::time::Instant;

/// The time now, in ticks of unknown length. They are the same in all processes.
#[cfg(target_arch = "x86_64")]
#[inline]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has this instruction, and it changes nothing.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// The time now, in nanoseconds. They are the same in all processes.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub fn ticks() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Whether ticks have one length, whatever the processor does.
pub fn is_steady() -> bool {
    !cfg!(target_arch = "x86_64")
        || std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains(" nonstop_tsc"))
}

/// How long a tick is, from two looks at both clocks.
pub struct Scale {
    start: (Instant, u64),
}

impl Scale {
    pub fn start() -> Self {
        Self {
            start: (Instant::now(), ticks()),
        }
    }

    /// Nanoseconds of a tick. The longer ago the start, the better: after a millisecond it is good to a thousandth.
    pub fn ns_per_tick(&self) -> f64 {
        let passed = ticks() - self.start.1;
        self.start.0.elapsed().as_nanos() as f64 / passed.max(1) as f64
    }
}
