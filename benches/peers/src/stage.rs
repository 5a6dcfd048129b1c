//! The page that all parts of one run share beside what they time: where they wait for each other, where the sender says
//! what it has done, and the line that is bounced.
//!
//! ```text
//!   line  0          1            2            3            4
//!         arrived    ball         sent         sent at      read
//!         (barrier)  (the probe)  (messages)   (ticks)      (messages)
//! ```

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::shared::{LINE, Shared};

const LINES: usize = 5;
/// Longer than opening anything takes.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Stage {
    shared: Shared,
    /// How many parts there are.
    parts: usize,
    /// Barriers that this part has passed.
    passed: u64,
}

impl Stage {
    pub fn open(directory: &Path, parts: usize) -> Result<Self> {
        Ok(Self {
            shared: Shared::open(&directory.join("stage"), LINES * LINE)?,
            parts,
            passed: 0,
        })
    }

    fn line(&self, line: usize) -> &AtomicU64 {
        &self.shared.words()[line * LINE]
    }

    /// Waits until all parts are here. Sleeps meanwhile: they may share a processor.
    pub fn meet(&mut self) -> Result<()> {
        let arrived = self.line(0);
        arrived.fetch_add(1, Ordering::AcqRel);
        let all = (self.passed + 1) * self.parts as u64;
        let start = Instant::now();
        while arrived.load(Ordering::Acquire) < all {
            ensure!(start.elapsed() < PATIENCE, "the other side did not come");
            thread::sleep(Duration::from_micros(50));
        }
        self.passed += 1;
        Ok(())
    }

    /// The line that the probe bounces.
    pub fn ball(&self) -> &AtomicU64 {
        self.line(1)
    }

    /// How many messages were sent, once the sender has sent all: one more than that, 0 before.
    pub fn sent(&self) -> &AtomicU64 {
        self.line(2)
    }

    /// When the sender began to send, or had made, the newest message.
    pub fn sent_at(&self) -> &AtomicU64 {
        self.line(3)
    }

    /// How many messages were read.
    pub fn read(&self) -> &AtomicU64 {
        self.line(4)
    }
}
