//! Runs everything in turns and writes down what came of it.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};

use crate::others::Usage;
use crate::peer::Entry;
use crate::pipeline::Pipeline;
use crate::record::{LeftOut, Machine, Piped, Record, Timed};
use crate::work::Work;
use crate::{clock, cpus, driver, peers, pipelines};

#[derive(clap::Args)]
#[command(args_override_self = true)]
pub struct Options {
    /// How often everything is run
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// How long each run takes
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Processors: of who sends first, then of the others [default: the first two allowed]
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
    /// Share of the processors that other programs may have during a run that counts
    #[arg(long, default_value_t = 0.1)]
    others: f64,
    /// Lines that go through each pipeline
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    lines: u64,
    /// Where the records go; what is there stays
    #[arg(long)]
    raw: PathBuf,
    /// Only peers whose name contains this
    #[arg(long)]
    peer: Vec<String>,
    /// Only works whose description contains this
    #[arg(long)]
    work: Vec<String>,
    /// Peers that were left out, each a line of a name, a tab and a reason
    #[arg(long)]
    left_out: Option<PathBuf>,
}

/// How often a run is tried that does not count.
const TRIES: u32 = 3;

/// Whether `name` contains one of `wanted`, or nothing is wanted.
fn is_wanted(name: &str, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()))
}

/// Measures as the options say.
///
/// # Errors
/// If nothing can be measured here, or it was interrupted. A run that fails is written down as such.
pub fn measure(options: &Options) -> Result<()> {
    let cpus = if options.cpus.is_empty() {
        cpus::allowed()?.into_iter().take(2).collect()
    } else {
        options.cpus.clone()
    };
    ensure!(cpus.len() >= 2, "two processors are needed: name them with --cpus");
    ensure!(
        clock::is_steady(),
        "the processor's counter does not run steadily, so nothing can be timed with it"
    );
    let peers: Vec<_> = peers::all();
    let peers: Vec<&dyn Entry> = peers
        .iter()
        .map(|peer| &**peer)
        .filter(|peer| is_wanted(&peer.about().name, &options.peer))
        .collect();
    let mut pipelines = pipelines::all()?;
    pipelines.retain(|pipeline| is_wanted(pipeline.name, &options.peer) && is_wanted(pipelines::WORK, &options.work));
    let mut measurement = Measurement {
        raw: Raw::open(options)?,
        cpus,
        seconds: options.seconds,
        others: options.others,
        is_interrupted: driver::catch_signals()?,
    };
    measurement.introduce(options, &peers)?;
    measurement.leave_out(&mut pipelines)?;
    for round in 0..options.rounds {
        for work in Work::all() {
            if is_wanted(&work.to_string(), &options.work) {
                for &peer in peers.iter().filter(|peer| peer.fits(work)) {
                    measurement.turn(round, work, peer)?;
                }
            }
        }
        for pipeline in &pipelines {
            measurement.pipe(round, pipeline, options.lines)?;
        }
    }
    Ok(())
}

struct Measurement {
    raw: Raw,
    cpus: Vec<usize>,
    seconds: f64,
    others: f64,
    is_interrupted: Arc<AtomicBool>,
}

impl Measurement {
    /// Writes down where and what is measured.
    fn introduce(&mut self, options: &Options, peers: &[&dyn Entry]) -> Result<()> {
        let machine = Machine::this(&self.cpus, options.rounds, options.seconds);
        self.raw.write(&Record::Machine(machine))?;
        for left_out in LeftOut::read(options.left_out.as_deref())? {
            self.raw.write(&Record::LeftOut(left_out))?;
        }
        for peer in peers {
            self.raw.write(&Record::About(peer.about()))?;
        }
        Ok(())
    }

    /// Leaves out those whose programs are not there.
    fn leave_out(&mut self, pipelines: &mut Vec<Pipeline>) -> Result<()> {
        for pipeline in pipelines.iter() {
            if let Some(program) = pipeline.lacks() {
                self.raw.write(&Record::LeftOut(LeftOut {
                    peer: pipeline.name.to_owned(),
                    reason: format!("needs the program {program}"),
                }))?;
            }
        }
        pipelines.retain(|pipeline| pipeline.lacks().is_none());
        Ok(())
    }

    /// One turn of a pipeline: a run, or several if they do not count.
    fn pipe(&mut self, round: u32, pipeline: &Pipeline, lines: u64) -> Result<()> {
        let cpus = cpus::allowed()?;
        for _ in 0..TRIES {
            let before = Usage::of(&cpus)?;
            let outcome = pipeline.run(lines).map_err(|error| format!("{error:#}"));
            let others = before.share_of_others(&Usage::of(&cpus)?);
            ensure!(!self.is_interrupted.load(Ordering::Relaxed), "interrupted");
            let is_kept = outcome.is_ok() && others <= self.others;
            let is_over = is_kept || outcome.is_err();
            let piped = Piped {
                round,
                pipeline: pipeline.name.to_owned(),
                settings: pipeline.settings.clone(),
                is_lossless: pipeline.is_lossless,
                others,
                is_kept,
                outcome,
            };
            eprintln!("round {}: {}: {}: {piped}", round + 1, pipelines::WORK, pipeline.name);
            self.raw.write(&Record::Piped(piped))?;
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// One turn of a peer: a run, or several if they do not count.
    fn turn(&mut self, round: u32, work: Work, peer: &dyn Entry) -> Result<()> {
        let name = peer.about().name;
        for _ in 0..TRIES {
            let before = Usage::of(&self.cpus)?;
            let outcome = driver::run(peer, work, &self.cpus, self.seconds).map_err(|error| format!("{error:#}"));
            let others = before.share_of_others(&Usage::of(&self.cpus)?);
            ensure!(!self.is_interrupted.load(Ordering::Relaxed), "interrupted");
            let is_kept = outcome.as_ref().is_ok_and(|outcome| outcome.probes.agree()) && others <= self.others;
            let is_over = is_kept || outcome.is_err();
            let timed = Timed {
                round,
                work,
                peer: name.to_string(),
                others,
                is_kept,
                outcome,
            };
            eprintln!("round {}: {work}: {name}: {timed}", round + 1);
            self.raw.write(&Record::Timed(timed))?;
            if is_over {
                break;
            }
        }
        Ok(())
    }
}

/// The file of records.
struct Raw(File);

impl Raw {
    fn open(options: &Options) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(&options.raw);
        Ok(Self(
            file.with_context(|| format!("cannot write {}", options.raw.display()))?,
        ))
    }

    fn write(&mut self, record: &Record) -> Result<()> {
        let mut line = serde_json::to_string(record)?;
        line.push('\n');
        self.0.write_all(line.as_bytes()).context("cannot write a record")
    }
}
