//! What was measured between processes, for criterion to report and draw, beside the tables.
//!
//! Criterion times what it calls. Here processes are at work for a window at a time, which counts only if the processors
//! stayed where they were, and that is known afterwards. So who measures notes how long pieces of the work took; when all is
//! done, criterion calls something that answers with these pieces, one after the other, as if it had just timed them. How many
//! iterations it says that it makes means nothing then.

use std::fmt;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, SamplingMode};

use crate::extent::is_whole;
use crate::placement::Windows;

/// Shorter pieces are put together.
const SHORTEST: Duration = Duration::from_millis(1);

/// What criterion is told of, each the mean of a part of all that was done.
const SAMPLES: usize = 100;

/// How long pieces of some work took, one after the other.
#[derive(Debug, Default, Clone)]
pub struct Pieces(Vec<Piece>);

#[derive(Debug, Clone, Copy)]
struct Piece {
    /// How many messages, round trips or whatever it was.
    count: u64,
    took: Duration,
}

impl Pieces {
    /// Notes that the next `count` took so long.
    pub fn note(&mut self, count: u64, took: Duration) {
        match self.0.last_mut() {
            Some(last) if last.took < SHORTEST => {
                last.count += count;
                last.took += took;
            }
            _ => self.0.push(Piece { count, took }),
        }
    }

    /// Adds those of somebody else.
    #[allow(dead_code, reason = "for those who hear several")]
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Understands what they said of themselves.
    #[allow(dead_code, reason = "for those whom a second process tells")]
    pub fn parse(text: &str) -> Self {
        let piece = |piece: &str| {
            let (count, ns) = piece.split_once(':').expect("a count and a time");
            Piece {
                count: count.parse().expect("a number"),
                took: Duration::from_nanos(ns.parse().expect("a number")),
            }
        };
        Self(text.split_whitespace().map(piece).collect())
    }
}

impl fmt::Display for Pieces {
    /// Says it in a line that can be parsed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|piece| write!(f, "{}:{} ", piece.count, piece.took.as_nanos()))
    }
}

/// Looks at the clock now and then while something is counted up.
#[allow(dead_code, reason = "for those who time more than one at once")]
pub struct Pace {
    pieces: Pieces,
    /// How many there are from one look to the next.
    step: u64,
    /// What had been counted at the last look, and when that was; none before the first.
    last: Option<(u64, Instant)>,
}

#[allow(dead_code, reason = "for those who time more than one at once")]
impl Pace {
    /// Begins with what is counted first.
    pub fn new(step: u64) -> Self {
        Self {
            pieces: Pieces::default(),
            step,
            last: None,
        }
    }

    /// Notes that so many were counted by now.
    #[inline]
    pub fn note(&mut self, count: u64) {
        let (last, then) = *self.last.get_or_insert_with(|| (count, Instant::now()));
        if count - last >= self.step {
            let now = Instant::now();
            self.pieces.note(count - last, now - then);
            self.last = Some((count, now));
        }
    }

    /// What was noted.
    pub fn pieces(self) -> Pieces {
        self.pieces
    }
}

/// Nanoseconds for one in each of so many equal parts of all that was done.
fn parts(pieces: &[Piece], count: usize) -> Vec<f64> {
    let all: u64 = pieces.iter().map(|piece| piece.count).sum();
    let part = all as f64 / count as f64;
    let mut pieces = pieces.iter();
    let (mut left, mut each_ns) = (0.0, 0.0);
    let mut next = |_| {
        let (mut wanted, mut ns) = (part, 0.0);
        while wanted > left {
            wanted -= left;
            ns += left * each_ns;
            // Of the last one a little may be wanted that is not there, since the parts are rounded.
            let Some(piece) = pieces.next() else { break };
            left = piece.count as f64;
            each_ns = piece.took.as_nanos() as f64 / left;
        }
        left -= wanted;
        (ns + wanted * each_ns) / part
    };
    (0..count).map(&mut next).collect()
}

/// Has criterion report and draw what `tell` tells it; where no figures are wanted, report alone, and keep nothing.
pub fn draw(tell: impl FnOnce(&mut Criterion)) {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let mut criterion = Criterion::default().warm_up_time(Duration::from_nanos(1));
    criterion = if is_whole() {
        criterion.nresamples(10_000)
    } else {
        criterion
            .nresamples(2000)
            .without_plots()
            .output_directory(scratch.path())
    };
    tell(&mut criterion);
    criterion.final_summary();
}

/// Tells criterion the pieces of all windows that count.
pub fn plot<T>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    windows: &Windows<T>,
    pieces: impl Fn(&T) -> &Pieces,
) {
    let pieces: Vec<Piece> = windows.kept().flat_map(|seen| &pieces(seen).0).copied().collect();
    if pieces.is_empty() {
        return;
    }
    let took: Duration = pieces.iter().map(|piece| piece.took).sum();
    let parts = parts(&pieces, SAMPLES);
    let mean_ns = parts.iter().sum::<f64>() / SAMPLES as f64;
    let count: u64 = pieces.iter().map(|piece| piece.count).sum();
    let ratio = mean_ns * count as f64 / took.as_nanos() as f64;
    assert!((ratio - 1.0).abs() < 0.01, "{ratio} of the time is in the samples");
    let mut samples = parts.into_iter().cycle();
    group
        .sampling_mode(SamplingMode::Flat)
        .sample_size(SAMPLES)
        .measurement_time(took);
    group.bench_function(id, |bencher| {
        // It asks once more than there are samples, first, to warm up; and says how many it thinks there are in each of them.
        bencher.iter_custom(|count| {
            let each_ns = samples.next().expect("they go round");
            Duration::from_nanos((each_ns * count as f64) as u64)
        });
    });
}
