//! The time for timestamps, at a third of what the system's clock costs.
//!
//! The system's clock is the processor's counter, read behind a barrier, scaled, and added to what the kernel keeps up to
//! date: 25 to 60 ns. A publisher that is busy reads the counter alone, and goes on from what the system's clock said a
//! short while ago:
//!
//! ```text
//!       anchor                     now           anchor + lease
//!         |-------------------------|--------------|------------> counter
//!       system's clock    ns = anchor + ticks x scale    system's clock again
//! ```
//!
//! The scale comes from the two last anchors, so it is that of the clock as it runs now, slewed or not. It is taken only
//! while it agrees with the one before: a clock that was set, a machine that was suspended or moved cost a few looks at
//! the system's clock more, and a time that is off for no longer than a lease. Only a counter that the kernel itself trusts is
//! used (clocksource `tsc`: the same on all processors, and never stopped).

use std::sync::OnceLock;

use crate::publisher::now_ns;

/// How long a look at the system's clock is good for.
const LEASE_NS: u64 = 1_000_000;
/// The least time between two anchors that a scale is taken from.
const LEAST_NS: u64 = LEASE_NS / 2;
/// The scale is counted in 2^-32 ns a tick.
const SCALE_BITS: u32 = 32;
/// Two scales agree if they differ by less than one in so many: that is 1 us a lease.
const AGREEMENT: u64 = 1000;

/// What tells the time.
pub(crate) trait Source {
    /// The processor's counter, if it is to be trusted.
    fn ticks(&self) -> Option<u64>;
    /// The system's clock, in nanoseconds since 1970.
    fn system_ns(&self) -> u64;
}

/// The counter and the clock of this machine.
#[derive(Debug)]
pub(crate) struct Machine {
    has_counter: bool,
}

impl Machine {
    pub(crate) fn new() -> Self {
        static HAS_COUNTER: OnceLock<bool> = OnceLock::new();
        let has_counter = *HAS_COUNTER.get_or_init(|| {
            let source = std::fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource");
            cfg!(all(target_arch = "x86_64", not(any(miri, portable))))
                && source.is_ok_and(|source| source.trim() == "tsc")
        });
        Self { has_counter }
    }
}

impl Source for Machine {
    #[inline]
    fn ticks(&self) -> Option<u64> {
        self.has_counter.then(counter)
    }

    fn system_ns(&self) -> u64 {
        now_ns()
    }
}

#[cfg(all(target_arch = "x86_64", not(portable)))]
#[inline]
pub(crate) fn counter() -> u64 {
    // SAFETY: every x86-64 processor has it, and a kernel whose clock it is lets programs read it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

#[cfg(not(all(target_arch = "x86_64", not(portable))))]
pub(crate) const fn counter() -> u64 {
    0
}

/// A clock that goes on by itself from time to time.
#[derive(Debug)]
pub(crate) struct Clock<S = Machine> {
    source: S,
    anchor: Anchor,
    /// For how many ticks from the anchor on the scale is good: 0 while there is none.
    lease: u64,
    scale: u64,
}

/// What both clocks said at one moment.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    ticks: u64,
    ns: u64,
}

impl<S: Source> Clock<S> {
    pub(crate) fn new(source: S) -> Self {
        let anchor = Anchor {
            ticks: source.ticks().unwrap_or_default(),
            ns: source.system_ns(),
        };
        Self {
            source,
            anchor,
            lease: 0,
            scale: 0,
        }
    }

    /// The time now, in nanoseconds since 1970 on the system's clock (CLOCK_REALTIME).
    #[inline]
    pub(crate) fn now_ns(&mut self) -> u64 {
        let Some(ticks) = self.source.ticks() else {
            return self.source.system_ns();
        };
        let passed = ticks.wrapping_sub(self.anchor.ticks);
        if passed < self.lease {
            return self.anchor.ns + ((passed * self.scale) >> SCALE_BITS);
        }
        self.look(ticks)
    }

    /// Looks at the system's clock, and renews the lease if there is a scale to be had.
    #[cold]
    fn look(&mut self, before: u64) -> u64 {
        let ns = self.source.system_ns();
        let after = self.source.ticks().unwrap_or(before);
        let here = Anchor {
            ticks: before.wrapping_add(after.wrapping_sub(before) / 2),
            ns,
        };
        let ticks = here.ticks.wrapping_sub(self.anchor.ticks);
        let passed_ns = here.ns.wrapping_sub(self.anchor.ns);
        // Too soon for a scale, or held up between the clocks for too long.
        if passed_ns < LEAST_NS || after.wrapping_sub(before) > ticks / AGREEMENT {
            return ns;
        }
        let scale = (u128::from(passed_ns) << SCALE_BITS) / u128::from(ticks.max(1));
        let scale = u64::try_from(scale).unwrap_or(u64::MAX);
        let agrees = scale.abs_diff(self.scale) < scale / AGREEMENT;
        self.lease = if agrees { (LEASE_NS << SCALE_BITS) / scale } else { 0 };
        self.scale = scale;
        self.anchor = here;
        ns
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    /// A machine whose counter makes three ticks a nanosecond.
    #[derive(Clone, Default)]
    struct Fake {
        has_counter: bool,
        ticks: Rc<Cell<u64>>,
        ns: Rc<Cell<u64>>,
        looks: Rc<Cell<u32>>,
    }

    impl Source for Fake {
        fn ticks(&self) -> Option<u64> {
            self.has_counter.then(|| self.ticks.get())
        }

        fn system_ns(&self) -> u64 {
            self.looks.set(self.looks.get() + 1);
            self.ns.get()
        }
    }

    impl Fake {
        fn pass(&self, ns: u64) {
            self.ticks.set(self.ticks.get().wrapping_add(3 * ns));
            self.ns.set(self.ns.get() + ns);
        }

        /// How many looks at the system's clock the next thousand messages take, 100 ns apart, all with the right time.
        fn looks_of_a_thousand(&self, clock: &mut Clock<Self>) -> u32 {
            let before = self.looks.get();
            for _ in 0..1000 {
                self.pass(100);
                let told = clock.now_ns();
                assert!(told.abs_diff(self.ns.get()) <= 1, "{told} at {}", self.ns.get());
            }
            self.looks.get() - before
        }
    }

    /// One that has a lease.
    fn settled() -> (Fake, Clock<Fake>) {
        let fake = Fake {
            has_counter: true,
            ..Fake::default()
        };
        fake.ns.set(1_800_000_000_000_000_000);
        let mut clock = Clock::new(fake.clone());
        for _ in 0..3 {
            fake.pass(LEASE_NS);
            clock.now_ns();
        }
        assert!(fake.looks_of_a_thousand(&mut clock) <= 1);
        (fake, clock)
    }

    #[test]
    fn busy_clock_looks_at_the_system_once_a_lease() {
        let (fake, mut clock) = settled();

        let looks: u32 = (0..100).map(|_| fake.looks_of_a_thousand(&mut clock)).sum();

        // 10 ms.
        assert!((9..=11).contains(&looks), "{looks}");
    }

    #[test]
    fn clock_that_was_set_is_followed_within_a_lease() {
        for jump in [-3_600_000_000_000_i64, -5_000_000, 5_000_000, 3_600_000_000_000] {
            let (fake, mut clock) = settled();
            fake.ns.set(fake.ns.get().wrapping_add_signed(jump));
            fake.pass(LEASE_NS);

            for _ in 0..5 {
                assert_eq!(clock.now_ns(), fake.ns.get());
                fake.pass(LEASE_NS);
            }
            assert!(fake.looks_of_a_thousand(&mut clock) <= 2, "it has a scale again");
        }
    }

    #[test]
    fn counter_that_went_back_or_stood_still_is_not_believed() {
        for ticks in [0, 1_000_000, u64::MAX] {
            let (fake, mut clock) = settled();
            fake.ticks.set(ticks);
            fake.ns.set(fake.ns.get() + 7_000_000);

            assert_eq!(clock.now_ns(), fake.ns.get());
            fake.pass(LEASE_NS / 4);
            assert_eq!(clock.now_ns(), fake.ns.get());
        }
    }

    #[test]
    fn slewed_clock_is_followed() {
        let (fake, mut clock) = settled();
        for _ in 0..10_000 {
            fake.pass(1_000);
            // 500 millionths fast: the most that adjtimex(2) allows.
            fake.ns.set(fake.ns.get() + u64::from(fake.ns.get() % 2_000 < 1_000));
            assert!(clock.now_ns().abs_diff(fake.ns.get()) < 1_000);
        }
    }

    #[test]
    fn without_a_counter_the_system_is_asked_every_time() {
        let fake = Fake::default();
        let mut clock = Clock::new(fake.clone());

        assert_eq!(fake.looks_of_a_thousand(&mut clock), 1000);
    }

    #[test]
    fn machine_tells_the_time_of_the_system() {
        let mut clock = Clock::new(Machine::new());
        let end = now_ns() + 20 * LEASE_NS;
        loop {
            let before = now_ns();
            let told = clock.now_ns();
            let after = now_ns();
            // A clock that is set meanwhile is off for a lease.
            assert!(
                told + LEASE_NS >= before && told <= after + LEASE_NS,
                "{before} {told} {after}"
            );
            if after >= end {
                break;
            }
        }
    }
}
