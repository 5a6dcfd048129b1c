//! What is timed.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::message::Reading;

/// The same work for every peer that can do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    /// A message of 64 bytes there and one back, one after the other.
    RoundTrip {
        /// Whoever waits sleeps, and nothing is sent before everybody has had the time to fall asleep.
        asleep: bool,
    },
    /// Messages as fast as they go, one way.
    Stream {
        /// Bytes of a message.
        len: usize,
        /// How many read all of them.
        readers: usize,
    },
    /// One large message after the other, each only when the one before was read.
    Large {
        /// Bytes of a message.
        len: usize,
        /// `Whole`: the time from before it is made until all of it is read. `First`: from when it is made until its
        /// first word is read.
        reading: Reading,
    },
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

impl Work {
    /// All there is, in the order of the page.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::RoundTrip { asleep: false }, Self::RoundTrip { asleep: true }];
        all.extend([64, KIB, 64 * KIB].map(|len| Self::Stream { len, readers: 1 }));
        all.push(Self::Stream { len: 64, readers: 4 });
        for reading in [Reading::Whole, Reading::First] {
            all.extend([64 * KIB, MIB, 4 * MIB].map(|len| Self::Large { len, reading }));
        }
        all
    }

    /// Bytes of its messages.
    pub const fn len(self) -> usize {
        match self {
            Self::RoundTrip { .. } => 64,
            Self::Stream { len, .. } | Self::Large { len, .. } => len,
        }
    }

    /// How many processes receive, the one that sends first not counted.
    pub const fn readers(self) -> usize {
        match self {
            Self::Stream { readers, .. } => readers,
            Self::RoundTrip { .. } | Self::Large { .. } => 1,
        }
    }

    pub const fn is_stream(self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    /// Whoever waits sleeps.
    pub const fn is_asleep(self) -> bool {
        matches!(self, Self::RoundTrip { asleep: true })
    }

    /// How much of a message is read.
    pub const fn reading(self) -> Reading {
        match self {
            Self::Large { reading, .. } => reading,
            Self::RoundTrip { .. } | Self::Stream { .. } => Reading::Whole,
        }
    }

    /// What the figure of a row is given in, and by what a time in nanoseconds or a rate a second is divided for that.
    pub const fn unit(self) -> (&'static str, f64) {
        match self {
            Self::RoundTrip { asleep: false } => ("ns", 1.0),
            Self::RoundTrip { asleep: true } | Self::Large { .. } => ("us", 1e3),
            Self::Stream { len, .. } if len >= 64 * KIB => ("GB/s", 1e9 / len as f64),
            Self::Stream { .. } => ("million/s", 1e6),
        }
    }
}

/// Bytes as people write them.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes >= MIB => write!(f, "{} MiB", bytes / MIB),
            bytes if bytes >= KIB => write!(f, "{} KiB", bytes / KIB),
            bytes => write!(f, "{bytes} B"),
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = Bytes(self.len());
        match self {
            Self::RoundTrip { asleep: false } => write!(f, "Round trip, {len}, both sides awake"),
            Self::RoundTrip { asleep: true } => write!(f, "Round trip, {len}, both sides asleep"),
            Self::Stream { readers: 1, .. } => write!(f, "Stream, {len}, one reader"),
            Self::Stream { readers, .. } => write!(f, "Stream, {len}, {readers} readers, each of them"),
            Self::Large {
                reading: Reading::Whole,
                ..
            } => write!(f, "One way, {len}, every byte written and read"),
            Self::Large {
                reading: Reading::First,
                ..
            } => write!(f, "One way, {len}, made already, first word read"),
        }
    }
}
