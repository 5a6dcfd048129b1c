//! How much of the processors others had while a run took place: other programs, and other machines on the same hardware.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// Ticks of the system's accounting in a second, as all of Linux tells them to programs.
const PER_SECOND: f64 = 100.0;

/// What was used up to some moment, in those ticks.
pub struct Usage {
    at: Instant,
    cpus: usize,
    /// By anybody, on the processors in question.
    all: i64,
    /// By this process and those that it started and that have ended.
    own: i64,
}

impl Usage {
    /// Up to now, on `cpus`.
    pub fn of(cpus: &[usize]) -> Result<Self> {
        let text = fs::read_to_string("/proc/stat")?;
        let mut all = 0;
        for cpu in cpus {
            let name = format!("cpu{cpu}");
            let line = text.lines().find(|line| line.split(' ').next() == Some(&name));
            let fields = numbers(line.with_context(|| format!("there is no processor {cpu}"))?);
            // user, nice, system and steal: what interrupts take is taken for the run itself, too.
            all += [0, 1, 2, 7].iter().filter_map(|&field| fields.get(field)).sum::<i64>();
        }
        let text = fs::read_to_string("/proc/self/stat")?;
        let (_, fields) = text.rsplit_once(')').context("cannot read /proc/self/stat")?;
        Ok(Self {
            at: Instant::now(),
            cpus: cpus.len(),
            all,
            // utime, stime and those of children.
            own: numbers(fields).iter().skip(10).take(4).sum(),
        })
    }

    /// The share of the processors that others had since then.
    pub fn share_of_others(&self, now: &Self) -> f64 {
        let others = (now.all - self.all - (now.own - self.own)).max(0);
        let there_was = (now.at - self.at).as_secs_f64() * PER_SECOND * self.cpus as f64;
        others as f64 / there_was.max(1.0)
    }
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<i64> {
    line.split_ascii_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect()
}
