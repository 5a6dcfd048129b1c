//! Which processors the two sides run on, and how far apart those are just now.
//!
//! The virtual processors of a virtual machine move over the real ones while it runs. A cache line that goes from one to
//! the other and back takes 50 ns between two threads of a core and 500 ns between two sockets, and most figures follow
//! it. So every timed window lies between two probes that bounce such a line, and counts only if they agree.

use std::env;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::extent::is_whole;

/// Tells a second process which processors this one may use: it inherits only where its starter is pinned just then.
pub const PROCESSORS: &str = "LAPWING_BENCH_PROCESSORS";
/// Round trips that are timed at once: the clock costs as much as one.
const BATCH: u64 = 16;
/// Batches of which the median is taken, at least.
const FEWEST_BATCHES: usize = 64;
/// How much two probes may differ and still be of one placement.
const LARGEST_MOVE: f64 = 0.25;

/// The processors that this program may use. `taskset` chooses others.
pub fn processors() -> &'static [usize] {
    static ALL: OnceLock<Vec<usize>> = OnceLock::new();
    ALL.get_or_init(|| match env::var(PROCESSORS) {
        Ok(list) => list
            .split(' ')
            .map(|number| number.parse().expect("a processor"))
            .collect(),
        Err(_) => {
            let allowed = sched_getaffinity(None).expect("every thread has an affinity");
            (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).collect()
        }
    })
}

/// Keeps this thread on one processor until it is dropped.
#[must_use = "it ends at once if it is not kept"]
pub struct Pinned(CpuSet);

/// Pins this thread, and the threads that it starts from now on: 0 is the publisher's processor, and the higher ones go
/// over the others in turn. Where there is only one, all run there.
pub fn pin(index: usize) -> Pinned {
    let processors = processors();
    let cpu = match (index, processors.len()) {
        (0, _) | (_, 1) => processors[0],
        (index, count) => processors[1 + (index - 1) % (count - 1)],
    };
    let before = sched_getaffinity(None).expect("every thread has an affinity");
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("one of the processors that it may use");
    Pinned(before)
}

impl Drop for Pinned {
    fn drop(&mut self) {
        sched_setaffinity(None, &self.0).expect("where it was before");
    }
}

/// Sends `line` there and back as often as a batch has it; `round` counts on.
fn bounce(line: &AtomicU64, round: &mut u64) {
    for _ in 0..BATCH {
        line.store(*round + 1, Ordering::Release);
        while line.load(Ordering::Acquire) != *round + 2 {
            std::hint::spin_loop();
        }
        *round += 2;
    }
}

/// Nanoseconds that a cache line takes from the publisher's processor to the next one and back; 0 where there is but one.
fn probe() -> f64 {
    const END: u64 = u64::MAX;
    if processors().len() == 1 {
        return 0.0;
    }
    let time = Duration::from_micros(if is_whole() { 5000 } else { 200 });
    let line = CachePadded::new(AtomicU64::new(0));
    let mut batches = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let _pinned = pin(1);
            loop {
                match line.load(Ordering::Acquire) {
                    END => break,
                    asked if asked % 2 == 1 => line.store(asked + 1, Ordering::Release),
                    _ => std::hint::spin_loop(),
                }
            }
        });
        let _pinned = pin(0);
        let mut round = 0;
        // Not what starting the thread costs.
        bounce(&line, &mut round);
        let start = Instant::now();
        while start.elapsed() < time || batches.len() < FEWEST_BATCHES {
            let before = Instant::now();
            bounce(&line, &mut round);
            batches.push(before.elapsed().as_nanos() as f64 / BATCH as f64);
        }
        line.store(END, Ordering::Release);
    });
    batches.sort_unstable_by(f64::total_cmp);
    batches[batches.len() / 2]
}

/// The probes before, after and, if it is long, within a window.
pub struct Placement(Vec<f64>);

impl Placement {
    /// Probes once more. Nobody else of this bench may keep the processors busy.
    pub fn look(&mut self) {
        self.0.push(probe());
    }

    /// The lowest and the highest.
    fn range(&self) -> (f64, f64) {
        let lowest = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = self.0.iter().copied().fold(0.0, f64::max);
        (lowest, highest)
    }
}

/// What was seen of one case, in the windows in which the processors stayed where they were.
pub struct Windows<T> {
    kept: Vec<(T, f64)>,
    dropped: usize,
}

impl<T> Windows<T> {
    /// None yet.
    pub const fn new() -> Self {
        Self {
            kept: Vec::new(),
            dropped: 0,
        }
    }

    /// Adds what `window` sees, unless the processors move meanwhile.
    pub fn take(&mut self, window: impl FnOnce(&mut Placement) -> T) {
        let mut placement = Placement(Vec::new());
        placement.look();
        let seen = window(&mut placement);
        placement.look();
        let (lowest, highest) = placement.range();
        if highest > lowest * (1.0 + LARGEST_MOVE) {
            self.dropped += 1;
        } else {
            self.kept.push((seen, (lowest + highest) / 2.0));
        }
    }

    /// What was seen in the windows that count.
    #[allow(dead_code, reason = "for those whose windows are drawn")]
    pub fn kept(&self) -> impl Iterator<Item = &T> {
        self.kept.iter().map(|(seen, _)| seen)
    }

    /// Prints the window in the middle by `key`, as `line` says it, with its probe; and how many windows count.
    pub fn tell(&mut self, name: &str, key: impl Fn(&T) -> f64, line: impl FnOnce(&T, &Self) -> String) {
        let (kept, all) = (self.kept.len(), self.kept.len() + self.dropped);
        self.kept
            .sort_unstable_by(|(one, _), (other, _)| key(one).total_cmp(&key(other)));
        match self.kept.get(kept / 2) {
            Some((seen, probe)) => println!("{name} {}   {probe:4.0} ns {kept}/{all}", line(seen, self)),
            None => println!("{name} the processors moved in all of {all} windows"),
        }
    }

    /// The lowest, the median and the highest of `number` in all windows that count.
    #[allow(dead_code, reason = "a distribution has a spread of its own")]
    pub fn spread(&self, number: impl Fn(&T) -> f64) -> [f64; 3] {
        let mut numbers: Vec<f64> = self.kept.iter().map(|(seen, _)| number(seen)).collect();
        numbers.sort_unstable_by(f64::total_cmp);
        [0, numbers.len() / 2, numbers.len() - 1].map(|at| numbers[at])
    }
}
