//! What the processes that are conducted have in common: they end when their input does or the conductor dies, and say
//! what they have to say as lines of JSON.

use std::fs;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::account::Report;

/// Tells when the conductor wants this process to end.
#[derive(Debug, Clone)]
pub struct Curtain(Arc<AtomicBool>);

impl Curtain {
    /// Waits for it in a thread of its own. A conductor that is killed takes this process along, also a stopped one.
    pub fn new() -> Self {
        set_parent_process_death_signal(Some(Signal::KILL)).expect("a process may choose how it dies");
        let curtain = Self(Arc::new(AtomicBool::new(false)));
        let fallen = curtain.clone();
        std::thread::spawn(move || {
            // Nothing comes but the end.
            let _ = io::stdin().read_to_end(&mut Vec::new());
            fallen.0.store(true, Ordering::Relaxed);
        });
        curtain
    }

    pub fn has_fallen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Says one line to the conductor.
pub fn say(report: &Report) {
    let mut line = serde_json::to_vec(report).expect("plain numbers and text");
    line.push(b'\n');
    // A conductor that does not listen any more has died.
    let _ = io::stdout().lock().write_all(&line);
}

/// Ends this process, with its fault if it had one.
pub fn leave(outcome: Result<(), String>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            say(&Report::Fault(fault));
            ExitCode::FAILURE
        }
    }
}

/// How many descriptors this process has open.
pub fn descriptors() -> u64 {
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64)
}

/// How much memory this process has for itself, in bytes.
pub fn private_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    kibibytes.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10
}
