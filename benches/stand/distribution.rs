//! How long something took, as a distribution: one figure hides what a bus is judged by.

use hdrhistogram::Histogram;

/// Shares of all samples: p50, p90, p99, p99.9 and the longest.
const SHARES: [f64; 5] = [0.5, 0.9, 0.99, 0.999, 1.0];
/// What stands above [`Quantiles::describe`].
pub const TITLE: &str = "     p50      p90      p99    p99.9       max";

/// The times below which those shares lie, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Quantiles(pub [u64; SHARES.len()]);

/// For times of up to a minute in nanoseconds, to three digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds in order")
}

impl Quantiles {
    /// Those of `histogram`.
    pub fn of(histogram: &Histogram<u64>) -> Self {
        Self(SHARES.map(|share| histogram.value_at_quantile(share)))
    }

    /// In microseconds.
    pub fn describe(&self) -> String {
        let [p50, p90, p99, p999, longest] = self.0.map(|ns| ns as f64 / 1000.0);
        format!("{p50:8.2} {p90:8.2} {p99:8.2} {p999:8.2} {longest:9.1}")
    }
}
