//! The soak: one publishing process, many reading ones of every habit, for as long as one likes, and every message
//! accounted for. `docs/soak.md` says what is checked and how to run it.
//!
//! This program is all of them. Its own process conducts: it starts the others, stops, continues and kills some of
//! them, lays one ring after another, and adds up what they report.

mod account;
mod audit;
mod class;
mod conductor;
mod member;
mod payload;
mod publisher;
mod reader;
mod sabotage;
mod score;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use lapwing::cli;

use sabotage::Sabotage;

/// The name of the server, each time it is started anew.
const SERVER: &str = "soak";

/// Soaks a server and its readers, and exits with 1 if anything is torn, lost without notice, or left behind.
#[derive(Debug, Parser)]
#[command(name = "soak", args_conflicts_with_subcommands = true)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// Reading processes; by default one of every class.
    #[arg(long, default_value_t = class::CLASSES.len())]
    readers: usize,
    /// How long to go on.
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = cli::duration)]
    time: Duration,
    /// How long each ring is used before the server is started anew with the next.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = cli::duration)]
    round: Duration,
    /// Bytes of the rings, in turn.
    #[arg(long, value_name = "SIZES", default_value = "4K,64M,64K,1M", value_delimiter = ',', value_parser = cli::size)]
    ring_size: Vec<u64>,
    /// Messages a second on average. They come in bursts, as fast as they can be published.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(10..))]
    rate: u64,
    /// How long anything may take that must happen.
    #[arg(long, value_name = "TIME", default_value = "150s", value_parser = cli::duration)]
    patience: Duration,
    /// Spoils one thing deliberately: the soak must notice.
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
}

/// What a process is, if it does not conduct.
#[derive(Debug, Subcommand)]
enum Role {
    /// Publishes until its input ends.
    #[command(hide = true)]
    Publish {
        directory: PathBuf,
        ring_bytes: u64,
        rate: u64,
        /// How long readers may take for the rest of the stream.
        #[arg(value_parser = cli::duration)]
        patience: Duration,
        #[arg(long, value_enum)]
        sabotage: Option<Sabotage>,
    },
    /// Reads until its input ends.
    #[command(hide = true)]
    Read {
        directory: PathBuf,
        index: usize,
        rate: u64,
        #[arg(long, value_enum)]
        sabotage: Option<Sabotage>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.role {
        None => conductor::run(&args),
        Some(Role::Publish {
            directory,
            ring_bytes,
            rate,
            patience,
            sabotage,
        }) => publisher::run(directory, *ring_bytes, *rate, *patience, *sabotage),
        Some(Role::Read {
            directory,
            index,
            rate,
            sabotage,
        }) => reader::run(directory, *index, *rate, *sabotage),
    }
}
