//! The same work on Lapwing and on its peers, side by side. `benches/peers/run` builds and runs all of it and writes
//! `docs/peers.md`.
//!
//! ```text
//!   peers measure ---- for each round, work and peer ----> driver ---> part 0 (a process)   sends first
//!        |                                                       ---> part 1, 2 ...        answer, or receive
//!        v
//!   raw.jsonl: a record a line ----> peers report ----> peers.md, peers.svg
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use part::Run;

mod clock;
mod cpus;
mod driver;
mod measure;
mod message;
mod others;
mod part;
mod peer;
mod peers;
mod pipeline;
mod pipelines;
mod probe;
mod record;
mod report;
mod shared;
mod stage;
mod version;
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
    Measure(measure::Options),
    /// Makes the page and the plot of what was recorded
    Report {
        /// Records of one or several measurements
        #[arg(long, required = true)]
        raw: Vec<PathBuf>,
        /// Where they go
        #[arg(long, default_value = ".")]
        docs: PathBuf,
        /// Their name, without .md and .svg
        #[arg(long, default_value = "peers")]
        page: String,
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
    /// Runs Aeron's media driver until it is killed: told by the driver
    #[cfg(feature = "aeron")]
    #[command(hide = true)]
    AeronDriver { directory: PathBuf },
}

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
        Task::Measure(options) => measure::measure(&options),
        Task::Report { raw, docs, page } => report::write(&record::read(&raw)?, &docs, &page),
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
        #[cfg(feature = "aeron")]
        Task::AeronDriver { directory } => peers::aeron::drive(&directory),
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
