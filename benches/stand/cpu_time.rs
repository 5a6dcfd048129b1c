//! Time that was really run: what else the machine does is not in it.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long this thread has run.
#[allow(dead_code, reason = "for those who look at their own work alone")]
pub fn of_thread() -> Duration {
    of(ClockId::ThreadCPUTime)
}

/// How long all threads of this process have run.
#[allow(dead_code, reason = "for those who look at the service thread, too")]
pub fn of_process() -> Duration {
    of(ClockId::ProcessCPUTime)
}

fn of(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
