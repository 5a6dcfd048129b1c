//! What a crew has done, by name.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    counts: BTreeMap<String, u64>,
    longest_us: BTreeMap<String, u64>,
}

impl Tally {
    pub fn count(&mut self, what: impl fmt::Display, many: u64) {
        *self.counts.entry(what.to_string()).or_default() += many;
    }

    pub fn took(&mut self, what: impl fmt::Display, time: std::time::Duration) {
        let longest = self.longest_us.entry(what.to_string()).or_default();
        *longest = (*longest).max(time.as_micros() as u64);
    }

    pub fn of(&self, what: impl fmt::Display) -> u64 {
        self.counts.get(&what.to_string()).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: Self) {
        other.counts.into_iter().for_each(|(what, many)| self.count(what, many));
        for (what, time) in other.longest_us {
            self.took(what, std::time::Duration::from_micros(time));
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts
            .iter()
            .try_for_each(|(what, many)| writeln!(f, "  {many:>10}  {what}"))?;
        self.longest_us
            .iter()
            .try_for_each(|(what, time)| writeln!(f, "  {time:>7} us  {what}, at the longest"))
    }
}
