//! How long something took, as a distribution: one figure hides what a bus is judged by.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::plot::Pieces;

/// Shares of all samples: p50, p90, p99, p99.9 and the longest.
const SHARES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];
/// What stands above [`Distribution::describe`].
pub const TITLE: &str = "     p50      p90      p99    p99.9       max";

/// Times as they come.
pub struct Times {
    /// Nanoseconds, up to a minute, to three digits.
    histogram: Histogram<u64>,
    pieces: Pieces,
}

impl Times {
    /// None yet.
    pub fn new() -> Self {
        Self {
            histogram: Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds in order"),
            pieces: Pieces::default(),
        }
    }

    /// Adds one.
    pub fn note(&mut self, took: Duration) {
        self.histogram.saturating_record(took.as_nanos() as u64);
        self.pieces.note(1, took);
    }

    /// How they were distributed.
    pub fn distribution(self) -> Distribution {
        Distribution {
            quantiles: SHARES.map(|share| self.histogram.value_at_quantile(share)),
            pieces: self.pieces,
        }
    }
}

impl Extend<Duration> for Times {
    fn extend<I: IntoIterator<Item = Duration>>(&mut self, times: I) {
        times.into_iter().for_each(|took| self.note(took));
    }
}

/// How times were distributed, and how they came.
#[derive(Debug, Clone)]
pub struct Distribution {
    /// Nanoseconds below which those shares lie.
    quantiles: [u64; SHARES.len()],
    pub pieces: Pieces,
}

impl Distribution {
    /// Nanoseconds.
    pub fn median(&self) -> f64 {
        self.quantiles[0] as f64
    }

    /// In microseconds.
    pub fn describe(&self) -> String {
        let [p50, p90, p99, p999, longest] = self.quantiles.map(|ns| ns as f64 / 1000.0);
        format!("{p50:8.2} {p90:8.2} {p99:8.2} {p999:8.2} {longest:9.1}")
    }

    /// Understands what one said of itself.
    #[allow(dead_code, reason = "for those whom a second process tells")]
    pub fn parse(line: &str) -> Self {
        let (quantiles, pieces) = line.split_once(';').expect("two parts");
        let mut quantiles = quantiles.split(' ').map(|ns| ns.parse().expect("a number"));
        Self {
            quantiles: [(); SHARES.len()].map(|()| quantiles.next().expect("one more")),
            pieces: Pieces::parse(pieces),
        }
    }
}

impl fmt::Display for Distribution {
    /// Says it in a line that can be parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quantiles = self.quantiles.map(|ns| ns.to_string()).join(" ");
        write!(f, "{quantiles};{}", self.pieces)
    }
}
