//! The same work on Lapwing and on its peers, side by side. `benches/peers/run` builds and runs all of it and writes
//! `docs/peers.md`.
//!
//! ```text
//!   peers measure ---- for each round, work and peer ----> driver ---> part 0 (a process)   sends first
//!        |                                                       ---> part 1, 2 ...        answer, or receive
//!        v
//!   raw.jsonl: a record a line ----> peers report ----> peers.md, peers.svg
//! ```

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};

use part::Run;
use peer::Entry;
use record::{LeftOut, Machine, Record, Timed};
use work::Work;

mod clock;
mod cpus;
mod driver;
mod message;
mod part;
mod peer;
mod peers;
mod probe;
mod record;
mod report;
mod shared;
mod stage;
mod work;

/// Times the same work on Lapwing and on its peers
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs everything, in turns, and writes a record of each run
    Measure(Measure),
    /// Makes the page and the plot of what was recorded
    Report {
        /// Records of one or several measurements
        #[arg(long, required = true)]
        raw: Vec<PathBuf>,
        /// Where peers.md and peers.svg go
        #[arg(long, default_value = ".")]
        docs: PathBuf,
    },
    /// Lists the peers that were built in
    List,
    /// Plays a part of a run: told by the driver
    #[command(hide = true)]
    Part { part: String, run: String },
    /// Becomes another program that dies with who started it: told by the driver
    #[command(hide = true)]
    Become {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[derive(clap::Args)]
struct Measure {
    /// How often everything is run
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// How long each run takes
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// Processors: of who sends first, then of the others [default: the first two allowed]
    #[arg(long, value_delimiter = ',')]
    cpus: Vec<usize>,
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

/// How often a run is tried whose processors moved.
const TRIES: u32 = 3;

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Measure(options) => measure(&options),
        Task::Report { raw, docs } => report::write(&record::read(&raw)?, &docs),
        Task::List => {
            for peer in peers::all() {
                println!("{}", peer.about().name);
            }
            Ok(())
        }
        Task::Part { part, run } => {
            driver::die_with_parent()?;
            play(&part, &serde_json::from_str(&run)?)
        }
        Task::Become { command } => driver::become_program(&command),
    }
}

fn play(part: &str, run: &Run) -> Result<()> {
    let peers = peers::all();
    let peer = peers
        .iter()
        .find(|peer| peer.about().name == run.peer && peer.fits(run.work))
        .with_context(|| format!("no peer \"{}\" can do that", run.peer))?;
    match part {
        "all" => run.play_all(&**peer),
        part => run.play(part.parse()?, &**peer),
    }
}

/// Whether `name` contains one of `wanted`, or nothing is wanted.
fn is_wanted(name: &str, wanted: &[String]) -> bool {
    wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()))
}

fn measure(options: &Measure) -> Result<()> {
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
    let mut raw = Raw::open(options)?;
    raw.write(&Record::Machine(Machine::this(&cpus, options.rounds, options.seconds)))?;
    for left_out in LeftOut::read(options.left_out.as_deref())? {
        raw.write(&Record::LeftOut(left_out))?;
    }
    for peer in &peers {
        raw.write(&Record::About(peer.about()))?;
    }
    for round in 0..options.rounds {
        for work in Work::all() {
            if is_wanted(&work.to_string(), &options.work) {
                for &peer in peers.iter().filter(|peer| peer.fits(work)) {
                    turn(&mut raw, round, work, peer, &cpus, options.seconds)?;
                }
            }
        }
    }
    Ok(())
}

/// One turn of a peer: a run, or several if the processors moved.
fn turn(raw: &mut Raw, round: u32, work: Work, peer: &dyn Entry, cpus: &[usize], seconds: f64) -> Result<()> {
    let name = peer.about().name;
    for _ in 0..TRIES {
        let outcome = driver::run(peer, work, cpus, seconds).map_err(|error| format!("{error:#}"));
        eprintln!("round {}: {work}: {name}: {}", round + 1, record::describe(&outcome));
        let is_over = outcome.as_ref().map_or(true, |outcome| outcome.probes.agree());
        raw.write(&Record::Timed(Timed {
            round,
            work,
            peer: name.to_string(),
            outcome,
        }))?;
        if is_over {
            break;
        }
    }
    Ok(())
}

/// The file of records.
struct Raw(std::fs::File);

impl Raw {
    fn open(options: &Measure) -> Result<Self> {
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
