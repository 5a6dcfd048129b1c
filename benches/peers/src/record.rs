//! What is written down of a measurement, a JSON object a line: all that the page is made of.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::driver::Outcome;
use crate::part::Figures;
use crate::peer::About;
use crate::pipeline::Passed;
use crate::work::Work;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Record {
    Machine(Machine),
    LeftOut(LeftOut),
    About(About),
    Timed(Timed),
    Piped(Piped),
}

/// Where it was measured, and how.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    pub kernel: String,
    pub rustc: String,
    pub cpus: Vec<usize>,
    pub rounds: u32,
    pub seconds: f64,
    /// The load of the last minute when it began.
    pub load: f64,
    pub date: String,
}

/// A peer that did not take part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeftOut {
    pub peer: String,
    pub reason: String,
}

/// One run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timed {
    pub round: u32,
    pub work: Work,
    pub peer: String,
    /// The share of the processors that others had.
    pub others: f64,
    /// The processors stayed where they were, and others had little of them.
    pub is_kept: bool,
    pub outcome: Result<Outcome, String>,
}

/// One run of lines through command lines.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Piped {
    pub round: u32,
    /// The row.
    pub pipeline: String,
    /// What was set.
    pub settings: String,
    pub is_lossless: bool,
    /// The share of the processors that others had.
    pub others: f64,
    /// They had little.
    pub is_kept: bool,
    pub outcome: Result<Passed, String>,
}

/// What a command prints, or that it prints nothing.
fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok()
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "unknown".into())
}

impl Machine {
    /// This one.
    pub fn this(cpus: &[usize], rounds: u32, seconds: f64) -> Self {
        let facts = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = facts.lines().find(|line| line.starts_with("model name"));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let uname = rustix::system::uname();
        Self {
            processor: model
                .and_then(|line| line.split(": ").nth(1))
                .unwrap_or(std::env::consts::ARCH)
                .to_owned(),
            processors: facts.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: uname.release().to_string_lossy().into_owned(),
            rustc: said("rustc", &["--version"]),
            cpus: cpus.to_owned(),
            rounds,
            seconds,
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            date: said("date", &["-u", "+%Y-%m-%d"]),
        }
    }
}

impl LeftOut {
    /// Those that a file names, each a line of a name, a tab and a reason.
    pub fn read(path: Option<&Path>) -> Result<Vec<Self>> {
        let Some(path) = path else {
            return Ok(Vec::new());
        };
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let pairs = text.lines().filter_map(|line| line.split_once('\t'));
        Ok(pairs
            .map(|(peer, reason)| Self {
                peer: peer.to_owned(),
                reason: reason.to_owned(),
            })
            .collect())
    }
}

/// All records of some files.
pub fn read(paths: &[PathBuf]) -> Result<Vec<Record>> {
    let mut records = Vec::new();
    for path in paths {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        for (index, line) in text.lines().enumerate() {
            let record = serde_json::from_str(line);
            records.push(record.with_context(|| format!("line {} of {} is no record", index + 1, path.display()))?);
        }
    }
    Ok(records)
}

/// In a line, for who watches.
impl fmt::Display for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { probes, figures } = match &self.outcome {
            Ok(outcome) => outcome,
            Err(error) => return write!(f, "failed: {error}"),
        };
        match figures {
            Figures::Times { p50, p99, count, .. } => write!(f, "p50 {p50:.0} ns, p99 {p99:.0} ns, {count}")?,
            Figures::Rate {
                per_second,
                lost,
                torn,
                received,
            } => write!(
                f,
                "{:.3} million/s, {received} received, {lost} lost, {torn} torn",
                per_second / 1e6
            )?,
        }
        write!(
            f,
            "; {}: a line {:.0} to {:.0} ns; others had {:.0} %{}",
            probes.class(),
            probes.before_ns,
            probes.after_ns,
            100.0 * self.others,
            if self.is_kept { "" } else { " (dropped)" },
        )
    }
}

impl fmt::Display for Piped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Err(error) => write!(f, "failed: {error}"),
            Ok(Passed { seconds, sent, arrived }) => write!(
                f,
                "{seconds:.2} s, {} of {sent} lines lost; others had {:.0} %{}",
                sent - arrived,
                100.0 * self.others,
                if self.is_kept { "" } else { " (dropped)" },
            ),
        }
    }
}
