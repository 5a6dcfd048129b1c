//! What a reader made of one life of the server, to the message.

use lapwing::Incarnation;
use serde::{Deserialize, Serialize};

/// A reader's account of one life of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Which life.
    pub incarnation: String,
    /// The sequence at which it joined.
    pub first: u64,
    /// The sequence that it wants next.
    pub next: u64,
    pub received: u64,
    pub bytes: u64,
    /// Of those received: not what was published.
    pub torn: u64,
    pub missed: u64,
    /// How many times it was told of a loss.
    pub gaps: u64,
    /// How many times it attached or connected.
    pub attached: u64,
    /// Whether it read on to the end of the stream.
    pub has_ended: bool,
}

impl Account {
    pub fn open(incarnation: Incarnation, cursor: u64) -> Self {
        Self {
            incarnation: incarnation.to_string(),
            first: cursor,
            next: cursor,
            received: 0,
            bytes: 0,
            torn: 0,
            missed: 0,
            gaps: 0,
            attached: 1,
            has_ended: false,
        }
    }

    /// Goes on after the connection was lost.
    pub fn resume(&mut self, cursor: u64) -> Result<(), String> {
        self.attached += 1;
        self.expect(cursor, "attached again")
    }

    /// Moves on by a message that was received.
    pub fn step(&mut self, sequence: u64) -> Result<(), String> {
        self.expect(sequence, "a message came")?;
        self.next += 1;
        Ok(())
    }

    /// Counts a message that was received.
    pub const fn count(&mut self, len: usize) {
        self.received += 1;
        self.bytes += len as u64;
    }

    /// Moves on by messages that were missed.
    pub fn miss(&mut self, first: u64, missed: u64) -> Result<(), String> {
        self.expect(first, "a gap was told")?;
        if missed == 0 {
            return Err(format!("order: a gap of nothing was told at {first}"));
        }
        self.next += missed;
        self.missed += missed;
        self.gaps += 1;
        Ok(())
    }

    fn expect(&self, sequence: u64, what: &str) -> Result<(), String> {
        if sequence == self.next {
            Ok(())
        } else {
            Err(format!("order: {what} at {sequence} where {} was next", self.next))
        }
    }

    /// Whether all that went by was either received or told to be missed.
    pub const fn adds_up(&self) -> bool {
        self.received + self.missed == self.next - self.first
    }
}

/// A line that a process says to the one that conducts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The publisher is announced as this life.
    Announced(String),
    /// A reader looks for the server, and why it has not found it.
    Searching(String),
    /// How far a reader is, now and then and at the end of each life of the server.
    Account(Account),
    /// What a reader holds once it has left a server that ended its stream.
    Holds {
        descriptors: u64,
        /// Private memory in bytes.
        memory: u64,
    },
    /// The publisher is done, and all readers had read everything (or had not).
    Published { messages: u64, bytes: u64, drained: bool },
    /// Something that must not happen, and after which there is no going on.
    Fault(String),
}
