//! What a peer is: two ends, opened by two processes or threads, and what is said about it.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

use crate::message::{Reading, Seen};
use crate::part::{self, Part, Run};
use crate::work::Work;

/// What is said about a peer on the page.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// Its row.
    pub name: Cow<'static, str>,
    pub version: Cow<'static, str>,
    /// What carries the messages.
    pub by: By,
    /// Whether every message arrives.
    pub is_lossless: bool,
    /// What it is, and what was set: one sentence or two.
    pub settings: Cow<'static, str>,
}

/// The version of a crate that was built in.
pub fn version_of(name: &str) -> Cow<'static, str> {
    let wanted = format!("name = \"{name}\"");
    let mut lines = include_str!("../Cargo.lock").lines().skip_while(|line| *line != wanted);
    let version = lines.nth(1).and_then(|line| line.split('"').nth(1));
    Cow::Borrowed(version.unwrap_or(""))
}

/// What carries the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum By {
    /// Shared memory without any protocol: what the machine can do.
    Limit,
    /// Shared memory between processes.
    Memory,
    /// The kernel: a pipe or a local socket.
    Kernel,
    /// TCP on loopback, or a broker.
    Network,
    /// Memory of one process: its threads.
    Threads,
}

/// One way of carrying messages.
pub trait Peer: Sync {
    type Sender: Sender;
    type Receiver: Receiver;

    fn about(&self) -> About;

    /// Whether it can do that.
    fn fits(&self, work: Work) -> bool;

    /// Opens the end that sends. It is open before the other one is asked for.
    fn sender(&self, link: &Link) -> Result<Self::Sender>;

    /// Opens an end that receives.
    fn receiver(&self, link: &Link) -> Result<Self::Receiver>;

    /// A program that must run meanwhile, if there is one: what starts it, in an empty directory. It is killed after the run.
    fn broker(&self, _directory: &Path) -> Option<std::process::Command> {
        None
    }

    /// Removes what its parts leave behind outside of the directory. Called after the run, however that ended.
    fn clear(&self) {}
}

/// The end that sends.
pub trait Sender {
    /// Called once, when all receivers are open.
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    /// Makes message `sequence` of `len` bytes, where it is to lie if possible, calls `made`, and hands it over. Waits for
    /// room if nothing may be lost.
    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce());

    /// The same for many, in the way in which that is quickest.
    fn send_many(&mut self, sequences: Range<u64>, len: usize) {
        for sequence in sequences {
            self.send(sequence, len, || ());
        }
    }
}

/// The end that receives.
pub trait Receiver {
    /// Called once, when all receivers are open.
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    /// Looks for messages, and tells `each` of those that are there, or of some of them.
    fn poll(&mut self, reading: Reading, each: impl FnMut(Seen));

    /// What this receiver does before it looks again when there was nothing.
    fn idle(&mut self) {
        std::hint::spin_loop();
    }
}

/// One way between two parts of a run, a directory of its own for whatever it needs.
#[derive(Debug, Clone)]
pub struct Link {
    pub directory: PathBuf,
    pub work: Work,
}

/// Ends of any type, by the directory of their link.
type Ends = HashMap<PathBuf, Vec<Box<dyn Any + Send>>>;

/// What one part leaves for another one of the same process.
static LEFT: Mutex<Option<Ends>> = Mutex::new(None);

impl Link {
    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// A path in the directory of the whole run, where its broker leaves what is to be found.
    #[cfg_attr(
        not(any(feature = "aeron", feature = "nats", feature = "redis")),
        expect(dead_code, reason = "the others have no broker")
    )]
    pub fn path_of_broker(&self, name: &str) -> PathBuf {
        self.directory.with_file_name(name)
    }

    /// A name that no other link has. What is left in `/dev/shm` under such a name is removed after the run.
    #[cfg_attr(
        not(feature = "iceoryx2"),
        expect(dead_code, reason = "only iceoryx2 names things outside")
    )]
    pub fn unique(&self) -> String {
        let mut parts = self.directory.iter().rev().map(|part| part.to_string_lossy());
        let (link, run) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        format!("{run}-{link}-")
    }

    /// Leaves the end of a receiver for who asks next.
    pub fn leave(&self, end: impl Any + Send) {
        let mut left = LEFT.lock().expect("nobody panics with it");
        let ends = left.get_or_insert_default().entry(self.directory.clone()).or_default();
        ends.push(Box::new(end));
    }

    /// Takes what was left.
    pub fn take<T: 'static>(&self) -> Result<T> {
        let mut left = LEFT.lock().expect("nobody panics with it");
        let end = left.get_or_insert_default().get_mut(&self.directory).and_then(Vec::pop);
        let end = end.and_then(|end| end.downcast().ok());
        end.map(|end| *end)
            .ok_or_else(|| anyhow!("there is one receiver too many"))
    }
}

/// A peer of any type.
pub trait Entry: Sync {
    fn about(&self) -> About;
    fn fits(&self, work: Work) -> bool;
    fn broker(&self, directory: &Path) -> Option<std::process::Command>;
    fn clear(&self);
    /// Plays a part of a run.
    fn play(&self, part: Part, run: &Run) -> Result<part::Report>;
}

impl<P: Peer> Entry for P {
    fn about(&self) -> About {
        Peer::about(self)
    }

    fn fits(&self, work: Work) -> bool {
        Peer::fits(self, work)
    }

    fn broker(&self, directory: &Path) -> Option<std::process::Command> {
        Peer::broker(self, directory)
    }

    fn clear(&self) {
        Peer::clear(self);
    }

    fn play(&self, part: Part, run: &Run) -> Result<part::Report> {
        part::play(self, part, run)
    }
}
