//! The streams that victims publish: what each message is follows from its sequence alone, so that who reads it knows.

use std::io::Write;

use crate::layout::Geometry;
use crate::publisher::Publisher;

/// Small, so that slots and arena are used again and again.
pub const SLOTS: u64 = 32;
const SLOT_BYTES: u64 = 128;
/// What a slot takes beside its header.
pub const INLINE_BYTES: usize = 96;
/// The longest message takes all of it.
const ARENA_BYTES: u64 = 16 << 10;

pub fn geometry() -> Geometry {
    Geometry::new(SLOTS, SLOT_BYTES, ARENA_BYTES, Some(ARENA_BYTES)).unwrap()
}

/// Numbers that look random (the finaliser of SplitMix64).
pub const fn mix(number: u64) -> u64 {
    let mut z = number
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How a message is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    Whole,
    InBatch,
    /// In a loan of `room` bytes, piece by piece.
    Loan {
        room: usize,
    },
    /// After a loan of `room` bytes that was begun and given up.
    SecondTry {
        room: usize,
    },
}

/// A message as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    pub sequence: u64,
    pub len: usize,
    pub manner: Manner,
}

impl Message {
    pub const fn of(sequence: u64) -> Self {
        let random = mix(sequence);
        let len = len((random >> 32) as usize, (random >> 8) as usize);
        let other = len_of_other(random);
        let manner = match random % 8 {
            0..4 => Manner::Whole,
            4 => Manner::InBatch,
            5 => Manner::Loan {
                room: if other > len { other } else { len },
            },
            6 => Manner::Loan { room: len },
            _ => Manner::SecondTry { room: other },
        };
        Self { sequence, len, manner }
    }

    pub const fn tag(&self) -> u64 {
        mix(!self.sequence)
    }

    /// Word `index` of the payload, were it long enough.
    const fn word(&self, index: usize) -> u64 {
        mix(self.tag() ^ index as u64)
    }

    pub fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(self.len + 8);
        let mut index = 0;
        while payload.len() < self.len {
            payload.extend_from_slice(&self.word(index).to_ne_bytes());
            index += 1;
        }
        payload.truncate(self.len);
        payload
    }

    /// The payload as it lies in the ring: zeros behind it in its last word.
    pub fn words(&self) -> Vec<u64> {
        let mut payload = self.payload();
        payload.resize(self.len.next_multiple_of(8), 0);
        payload
            .as_chunks()
            .0
            .iter()
            .map(|&word| u64::from_ne_bytes(word))
            .collect()
    }

    /// Publishes it; `payload` is its own, made before.
    pub fn publish(&self, publisher: &mut Publisher, payload: &[u8]) {
        match self.manner {
            Manner::Whole => drop(publisher.publish_tagged(self.tag(), payload).unwrap()),
            Manner::InBatch => drop(publisher.batch().push(self.tag(), payload).unwrap()),
            Manner::Loan { room } => {
                let mut loan = publisher.loan(room).unwrap();
                for piece in payload.chunks(payload.len() / 3 + 1) {
                    loan.push(piece).unwrap();
                }
                loan.commit_tagged(self.tag());
            }
            Manner::SecondTry { room } => {
                let mut loan = publisher.loan(room).unwrap();
                let garbage = [0x5a; 64];
                loan.write_all(&garbage[..room.min(64)]).unwrap();
                drop(loan);
                publisher.publish_tagged(self.tag(), payload).unwrap();
            }
        }
    }
}

/// Most are inline, some lie in the arena, a few fill it.
const fn len(kind: usize, random: usize) -> usize {
    match kind % 16 {
        0..7 => random % 97,
        7..13 => 97 + random % 300,
        13 | 14 => 97 + random % 1500,
        _ => 2000 + random % (ARENA_BYTES as usize - 1999),
    }
}

const fn len_of_other(random: u64) -> usize {
    len((random >> 40) as usize, (random >> 16) as usize)
}

/// What the arena must look like, reckoned without the ring's code: an oracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arena {
    /// Where the next large payload is looked for, in words.
    position: u64,
    /// The lowest position that still stands.
    pub floor: u64,
}

const ARENA_WORDS: u64 = ARENA_BYTES / 8;

impl Arena {
    pub const fn new(position: u64) -> Self {
        Self { position, floor: 0 }
    }

    /// Makes room for `len` bytes. Returns where; `None` if they lie in the slot.
    fn begin(&mut self, len: usize) -> Option<u64> {
        if len <= INLINE_BYTES {
            return None;
        }
        let words = len.div_ceil(8) as u64;
        let left = ARENA_WORDS - self.position % ARENA_WORDS;
        let position = if words > left {
            self.position + left
        } else {
            self.position
        };
        let needed = (position + words).saturating_sub(ARENA_WORDS);
        if needed > self.floor {
            let is_short = words <= ARENA_WORDS / 64;
            self.floor = needed + if is_short { ARENA_WORDS / 16 } else { 0 };
        }
        // Also if it is given up: what is skipped for it stays skipped.
        self.position = position;
        Some(position)
    }

    /// The room of `message`, and the floors that are there while it is made.
    pub fn place(&mut self, message: &Message) -> (Option<u64>, [u64; 3]) {
        let mut floors = [self.floor; 3];
        let position = match message.manner {
            Manner::Whole | Manner::InBatch => self.begin(message.len),
            Manner::Loan { room } => self.begin(room),
            Manner::SecondTry { room } => {
                self.begin(room);
                floors[1] = self.floor;
                self.begin(message.len)
            }
        };
        floors[2] = self.floor;
        (position, floors)
    }

    /// Publishes `message`. Returns the position of its payload if that lies in the arena.
    pub fn publish(&mut self, message: &Message) -> Option<u64> {
        let (position, _) = self.place(message);
        if let Some(position) = position {
            self.position = (position + message.len.div_ceil(8) as u64).next_multiple_of(8);
        }
        position
    }
}
