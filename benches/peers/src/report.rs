//! The page and the plot, made of records alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::part::Figures;
use crate::peer::{About, By};
use crate::pipeline::Passed;
use crate::pipelines;
use crate::probe::{Class, Probes};
use crate::record::{LeftOut, Machine, Piped, Record, Timed};
use crate::work::Work;

mod page;
mod plot;

/// Writes both into `docs`, as `name`.md and `name`.svg, and the tables to the standard output.
///
/// # Errors
/// If there is nothing to tell, or it cannot be written.
pub fn write(records: &[Record], docs: &Path, name: &str) -> Result<()> {
    let findings = Findings::of(records)?;
    fs::create_dir_all(docs)?;
    let (path, plot) = (docs.join(format!("{name}.md")), docs.join(format!("{name}.svg")));
    fs::write(&path, page::page(&findings, name)).with_context(|| format!("cannot write {}", path.display()))?;
    plot::draw(&findings, &plot).with_context(|| format!("cannot draw {}", plot.display()))?;
    print!("{}", page::tables(&findings));
    Ok(())
}

/// A run that counts.
struct Kept {
    round: u32,
    figures: Figures,
    probes: Probes,
}

/// What came of a peer at one work, in one class.
struct Row<'r> {
    about: &'r About,
    class: Class,
    kept: Vec<Kept>,
    /// How often Lapwing is as quick, in the rounds in which both were of this class.
    ratios: Vec<f64>,
}

/// What came of one work.
struct Table<'r> {
    work: Work,
    /// By class, the best first.
    rows: Vec<Row<'r>>,
    /// Peers of which no run counts, and why.
    failed: Vec<(&'r str, String)>,
}

/// What came of a pipeline.
struct Line<'r> {
    /// One of its runs, for its name and settings.
    about: &'r Piped,
    /// The runs that count.
    kept: Vec<Passed>,
    /// How many times as quick Lapwing is, round by round.
    ratios: Vec<f64>,
    /// Why no run counts.
    failure: Option<String>,
}

/// Everything that the page tells.
struct Findings<'r> {
    machine: &'r Machine,
    peers: Vec<&'r About>,
    left_out: Vec<&'r LeftOut>,
    tables: Vec<Table<'r>>,
    /// The quickest first.
    lines: Vec<Line<'r>>,
    /// How many runs there were, how many of them were dropped, and how many failed.
    runs: (usize, usize, usize),
}

/// The one that a peer is compared with: Lapwing as it does that work best under the same promise.
fn reference(work: Work, about: &About) -> &'static str {
    let is_remote = about.by == By::Network;
    match work {
        Work::RoundTrip { asleep: true } => "Lapwing, asleep",
        Work::RoundTrip { asleep: false } if is_remote => "Lapwing over TCP",
        Work::RoundTrip { asleep: false } => "Lapwing, polled",
        Work::Stream { readers: 1, .. } if is_remote && about.is_lossless => "Lapwing over TCP, lossless",
        Work::Stream { readers: 1, .. } if is_remote => "Lapwing over TCP",
        Work::Stream { .. } if about.is_lossless => "Lapwing, lossless",
        Work::Stream { .. } => "Lapwing, in place",
        Work::Large { .. } => "Lapwing, in place",
    }
}

/// The middle one, the mean of the two middle ones if they are even.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let (upper, lower) = (values.len() / 2, values.len().saturating_sub(1) / 2);
    Some(f64::midpoint(*values.get(lower)?, *values.get(upper)?))
}

/// The figure that a row is about: nanoseconds, or messages a second.
const fn headline(figures: &Figures) -> f64 {
    match *figures {
        Figures::Times { p50, .. } => p50,
        Figures::Rate { per_second, .. } => per_second,
    }
}

impl Row<'_> {
    fn headlines(&self) -> impl Iterator<Item = f64> {
        self.kept.iter().map(|kept| headline(&kept.figures))
    }

    /// The median; every row has a run.
    fn median(&self) -> f64 {
        median(self.headlines()).unwrap_or(f64::NAN)
    }

    /// The least and the most.
    fn range(&self) -> (f64, f64) {
        self.headlines().fold((f64::MAX, 0.0), |(least, most), value| {
            (value.min(least), value.max(most))
        })
    }
}

impl<'r> Table<'r> {
    fn of(work: Work, timed: &[&'r Timed], peers: &[&'r About]) -> Self {
        let mut kept: BTreeMap<(usize, Class), Vec<Kept>> = BTreeMap::new();
        let mut failed: BTreeMap<usize, String> = BTreeMap::new();
        for run in timed.iter().filter(|run| run.work == work) {
            let Some(peer) = peers.iter().position(|about| about.name == run.peer) else {
                continue;
            };
            match &run.outcome {
                Ok(outcome) if run.is_kept => {
                    kept.entry((peer, outcome.probes.class())).or_default().push(Kept {
                        round: run.round,
                        figures: outcome.figures,
                        probes: outcome.probes,
                    });
                }
                Ok(_) => {
                    failed
                        .entry(peer)
                        .or_insert_with(|| "the processors moved, or others took them, during every run".into());
                }
                Err(error) => {
                    failed.insert(peer, error.clone());
                }
            }
        }
        let is_told = |peer: &usize| kept.keys().any(|(told, _)| told == peer);
        failed.retain(|peer, _| !is_told(peer));
        let mut rows: Vec<Row<'r>> = Vec::new();
        for (&(peer, class), runs) in &kept {
            let reference = reference(work, peers[peer]);
            let reference = peers.iter().position(|about| about.name == reference);
            let theirs = reference.and_then(|reference| kept.get(&(reference, class)));
            rows.push(Row {
                about: peers[peer],
                class,
                ratios: theirs.map_or_else(Vec::new, |theirs| ratios(runs, theirs)),
                kept: Vec::new(),
            });
        }
        for (row, runs) in rows.iter_mut().zip(kept.into_values()) {
            row.kept = runs;
        }
        // More messages a second are better, more time is worse.
        let merit = |row: &Row<'_>| if work.is_stream() { -row.median() } else { row.median() };
        rows.sort_by(|one, other| one.class.cmp(&other.class).then(merit(one).total_cmp(&merit(other))));
        let failed = failed.into_iter().map(|(peer, error)| (&*peers[peer].name, error));
        Self {
            work,
            failed: failed.collect(),
            rows,
        }
    }
}

/// How many times as quick Lapwing is, round by round.
fn ratios(peer: &[Kept], lapwing: &[Kept]) -> Vec<f64> {
    let mut ratios = Vec::new();
    for run in peer {
        for reference in lapwing.iter().filter(|reference| reference.round == run.round) {
            let (theirs, ours) = (headline(&run.figures), headline(&reference.figures));
            ratios.push(match run.figures {
                Figures::Times { .. } => theirs / ours,
                Figures::Rate { .. } => ours / theirs,
            });
        }
    }
    ratios
}

impl<'r> Line<'r> {
    /// What came of all pipelines.
    fn all(piped: &[&'r Piped]) -> Vec<Self> {
        let mut lines: Vec<Self> = Vec::new();
        for &run in piped {
            if lines.iter().all(|line| line.about.pipeline != run.pipeline) {
                lines.push(Self::of(run, piped));
            }
        }
        let merit = |line: &Self| median(line.kept.iter().map(Passed::per_second)).unwrap_or(0.0);
        lines.sort_by(|one, other| merit(other).total_cmp(&merit(one)));
        lines
    }

    fn of(about: &'r Piped, piped: &[&'r Piped]) -> Self {
        let kept = |name: &'r str| {
            let runs = piped.iter().filter(move |run| run.is_kept && run.pipeline == name);
            runs.filter_map(|run| Some((run.round, *run.outcome.as_ref().ok()?)))
        };
        let ours: BTreeMap<_, _> = kept(pipelines::REFERENCE).collect();
        let runs: Vec<_> = kept(&about.pipeline).collect();
        let ratio = |(round, run): &(u32, Passed)| Some(ours.get(round)?.per_second() / run.per_second());
        let failures = piped.iter().filter(|run| run.pipeline == about.pipeline);
        let failure = failures.filter_map(|run| run.outcome.clone().err()).next_back();
        Self {
            about,
            kept: runs.iter().map(|&(_, run)| run).collect(),
            ratios: runs.iter().filter_map(ratio).collect(),
            failure: runs
                .is_empty()
                .then(|| failure.unwrap_or_else(|| "others took the processors during every run".into())),
        }
    }
}

impl<'r> Findings<'r> {
    fn of(records: &'r [Record]) -> Result<Self> {
        let mut machine = None;
        let (mut peers, mut left_out): (Vec<&About>, Vec<&LeftOut>) = Default::default();
        let (mut timed, mut piped): (Vec<&Timed>, Vec<&Piped>) = Default::default();
        for record in records {
            match record {
                Record::Machine(found) => machine = Some(found),
                Record::LeftOut(found) => left_out.push(found),
                // A peer has an entry for each size of message that it is built for.
                Record::About(found) if peers.iter().any(|about| about.name == found.name) => {}
                Record::About(found) => peers.push(found),
                Record::Timed(found) => timed.push(found),
                Record::Piped(found) => piped.push(found),
            }
        }
        left_out.sort_by(|one, other| one.peer.cmp(&other.peer));
        left_out.dedup_by(|one, other| one.peer == other.peer);
        let works = Work::all();
        let tables = works.into_iter().map(|work| Table::of(work, &timed, &peers));
        let tables: Vec<_> = tables
            .filter(|table| !table.rows.is_empty() || !table.failed.is_empty())
            .collect();
        let lines = Line::all(&piped);
        ensure!(!tables.is_empty() || !lines.is_empty(), "the records tell of no run");
        let dropped = |run: &&&Timed| run.outcome.is_ok() && !run.is_kept;
        Ok(Self {
            machine: machine.context("the records do not say on which machine they were made")?,
            runs: (
                timed.len(),
                timed.iter().filter(dropped).count(),
                timed.iter().filter(|run| run.outcome.is_err()).count(),
            ),
            peers,
            left_out,
            tables,
            lines,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(round: u32, p50: f64) -> Kept {
        Kept {
            round,
            figures: Figures::Times {
                p50,
                p99: p50,
                p999: p50,
                count: 1,
            },
            probes: Probes {
                before_ns: 60.0,
                after_ns: 60.0,
            },
        }
    }

    #[test]
    fn ratios_are_of_runs_of_one_round() {
        let peer = [kept(0, 300.0), kept(1, 400.0), kept(3, 9.0)];
        let lapwing = [kept(0, 100.0), kept(1, 200.0), kept(2, 9.0)];

        assert_eq!(ratios(&peer, &lapwing), [3.0, 2.0]);
    }

    #[test]
    fn median_is_the_middle_or_between_the_two() {
        assert_eq!(median([3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median([]), None);
    }
}
