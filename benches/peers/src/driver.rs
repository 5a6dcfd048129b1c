//! Runs one work of one peer: starts the parts, waits for them, ends what hangs, and leaves nothing behind.

use std::env;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::TempDir;

use crate::part::{Figures, Report, Run};
use crate::peer::{By, Entry};
use crate::probe::Probes;
use crate::work::Work;

/// What a run may take beside its time: opening, closing, two probes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that is killed when this is dropped.
pub struct Guarded {
    child: Child,
    /// Readable once it has ended.
    ended: OwnedFd,
}

impl Guarded {
    pub fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(ended) => Ok(Self { child, ended }),
            Err(error) => {
                child.kill()?;
                child.wait()?;
                Err(error).context("cannot watch a program")
            }
        }
    }

    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Waits until it has ended, and says whether well.
    pub fn succeeds(mut self) -> Result<bool> {
        Ok(self.child.wait()?.success())
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // Most often it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lets signals that end a program only end the run that is under way, so that nothing is left behind. Returns whether one
/// has come.
pub fn catch_signals() -> Result<Arc<AtomicBool>> {
    let has_come = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, has_come.clone()).context("cannot catch signals")?;
    }
    Ok(has_come)
}

/// Makes this process die when the one that started it does, however that comes about.
pub fn die_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie this process to the one that started it")
}

/// Becomes another program that dies with the one that started this.
pub fn become_program(command: &[String]) -> Result<()> {
    die_with_parent()?;
    let (program, arguments) = command.split_first().context("no program was named")?;
    Err(Command::new(program).args(arguments).exec()).with_context(|| format!("cannot start {program}"))
}

/// This program once more.
pub fn myself() -> Result<Command> {
    Ok(Command::new(env::current_exe().context("cannot find this program")?))
}

/// What a run came to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Outcome {
    pub probes: Probes,
    pub figures: Figures,
}

/// Runs `work` with `peer` once.
///
/// # Errors
/// What any part of it failed with, or that it hung.
pub fn run(peer: &dyn Entry, work: Work, cpus: &[usize], seconds: f64) -> Result<Outcome> {
    let directory = Room::new()?;
    let run = Run {
        peer: peer.about().name.into_owned(),
        work,
        cpus: cpus.to_owned(),
        seconds,
        directory: directory.path().to_owned(),
    };
    let _clearance = Clearance(peer);
    let broker = peer.broker(directory.path());
    let _broker = broker
        .map(|broker| start_broker(&broker, directory.path()))
        .transpose()?;
    let parts = if peer.about().by == By::Threads {
        vec!["all".to_owned()]
    } else {
        (0..run.parts()).map(|part| part.to_string()).collect()
    };
    let mut children = Vec::new();
    for part in parts {
        let mut command = myself()?;
        command.args(["part", &part, &serde_json::to_string(&run)?]);
        children.push((start(&mut command, directory.path(), &part)?, part));
    }
    wait(
        children,
        directory.path(),
        PATIENCE + Duration::from_secs_f64(2.0 * seconds),
    )?;
    outcome(&run)
}

/// Clears up after a peer when this is dropped.
struct Clearance<'p>(&'p dyn Entry);

impl Drop for Clearance<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// The directory of a run, gone when this is dropped, and with it what killed parts have left beside it.
pub struct Room(TempDir);

impl Room {
    /// An empty one, in memory if there is such a thing.
    pub fn new() -> Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            env::temp_dir()
        };
        let directory = tempfile::Builder::new().prefix("lapwing-peers-").tempdir_in(parent);
        Ok(Self(directory.context("cannot make a directory for a run")?))
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let (Some(parent), Some(name)) = (self.path().parent(), self.path().file_name()) else {
            return;
        };
        let prefix = format!("{}-", name.display());
        for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                // Whose it was has ended.
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Starts a program whose words go to a file of `directory`.
fn start(command: &mut Command, directory: &Path, name: &str) -> Result<Guarded> {
    let errors = File::create(directory.join(format!("errors-{name}")))?;
    let output = errors.try_clone()?;
    Guarded::start(command.stdin(Stdio::null()).stdout(output).stderr(errors))
}

fn start_broker(broker: &Command, directory: &Path) -> Result<Guarded> {
    let mut command = myself()?;
    command.arg("become").arg(broker.get_program()).args(broker.get_args());
    start(&mut command, directory, "broker")
}

/// Waits until all parts have ended well.
fn wait(mut children: Vec<(Guarded, String)>, directory: &Path, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !children.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "hung: killed after {} s", patience.as_secs());
        let mut ends: Vec<_> = children
            .iter()
            .map(|(child, _)| PollFd::new(&child.ended, PollFlags::IN))
            .collect();
        poll(&mut ends, Some(&Timespec::try_from(left)?)).context("waiting for a program was cut short")?;
        let mut running = Vec::new();
        for (mut child, part) in children {
            match child.child.try_wait()? {
                None => running.push((child, part)),
                Some(status) if status.success() => {}
                Some(status) => return Err(last_words(directory, &part).unwrap_or_else(|| anyhow!("{status}"))),
            }
        }
        children = running;
    }
    Ok(())
}

/// The last line that a part wrote.
pub fn last_words(directory: &Path, part: &str) -> Option<anyhow::Error> {
    let text = fs::read(directory.join(format!("errors-{part}"))).ok()?;
    let text = String::from_utf8_lossy(&text);
    let is_word = |line: &&str| !line.trim().is_empty() && !line.starts_with("note: ");
    text.lines().rfind(is_word).map(|line| anyhow!(line.trim().to_owned()))
}

/// Puts together what the parts have left.
fn outcome(run: &Run) -> Result<Outcome> {
    let mut probes = None;
    let mut figures: Vec<Figures> = Vec::new();
    for part in 0..run.parts() {
        let report: Report = serde_json::from_slice(&fs::read(run.report_path(part))?)?;
        probes = probes.or(report.probes);
        figures.extend(report.figures);
    }
    let (Some(probes), Some(figures)) = (probes, Figures::of_each(&figures)) else {
        bail!("a part has measured nothing");
    };
    Ok(Outcome { probes, figures })
}
