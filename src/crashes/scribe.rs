//! A writer of its own, which keeps to the ring's protocol or breaks it in one place: the checks must notice each fault,
//! and nothing when there is none.

use super::stream::{Arena, Message};
use crate::copy;
use crate::layout::{FLOOR_WORD, Geometry, HEAD_WORD, HEARTBEAT_WORD, SLOT_HEADER_WORDS};
use crate::sync::{AtomicU64, Ordering, fence};

/// What it does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    StampBeforePayload,
    StampBeforeLength,
    PayloadBeforeStamp,
    HeadBeforeStamp,
    FloorForgotten,
    FloorAfterPayload,
    ReturnsTooSoon,
    MessageSkipped,
    EndsTheStream,
}

impl Fault {
    pub const ALL: [Self; 9] = [
        Self::StampBeforePayload,
        Self::StampBeforeLength,
        Self::PayloadBeforeStamp,
        Self::HeadBeforeStamp,
        Self::FloorForgotten,
        Self::FloorAfterPayload,
        Self::ReturnsTooSoon,
        Self::MessageSkipped,
        Self::EndsTheStream,
    ];
}

/// The steps of a message, in the order of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Writing,
    Floor,
    Payload,
    Length,
    Ready,
    Head,
    Returned,
}

#[derive(Debug)]
pub struct Scribe {
    fault: Fault,
    arena: Arena,
    steps: Vec<Step>,
}

impl Scribe {
    pub fn new(fault: Fault, position: u64) -> Self {
        use Step::{Floor, Head, Length, Payload, Ready, Returned, Writing};
        let steps = match fault {
            Fault::StampBeforePayload => vec![Writing, Floor, Ready, Payload, Length, Head],
            Fault::StampBeforeLength => vec![Writing, Floor, Payload, Ready, Length, Head],
            Fault::PayloadBeforeStamp => vec![Payload, Writing, Floor, Length, Ready, Head],
            Fault::HeadBeforeStamp => vec![Writing, Floor, Payload, Length, Head, Ready],
            Fault::FloorForgotten => vec![Writing, Payload, Length, Ready, Head],
            Fault::FloorAfterPayload => vec![Writing, Payload, Floor, Length, Ready, Head],
            Fault::ReturnsTooSoon => vec![Writing, Floor, Returned, Payload, Length, Ready, Head],
            Fault::MessageSkipped => vec![Head],
            Fault::None | Fault::EndsTheStream => vec![Writing, Floor, Payload, Length, Ready, Head],
        };
        Self {
            fault,
            arena: Arena::new(position),
            steps,
        }
    }

    pub fn publish(&mut self, memory: &[AtomicU64], geometry: &Geometry, message: &Message, payload: &[u8]) {
        let (slot, sequence) = (geometry.slot_at(message.sequence), message.sequence);
        let position = self.arena.publish(message);
        let start = position.map_or(slot + SLOT_HEADER_WORDS, |position| {
            geometry.arena_at() + (position % geometry.arena_words()) as usize
        });
        let store = |index: usize, value| memory[index].store(value, Ordering::Relaxed);
        for step in &self.steps {
            // Each step is to be seen behind the one before it, also by the compiler.
            fence(Ordering::SeqCst);
            match step {
                Step::Writing => store(slot, sequence * 4 + 1),
                Step::Floor => store(FLOOR_WORD, self.arena.floor),
                Step::Payload => copy::store(&memory[start..], payload),
                Step::Length => {
                    store(slot + 1, message.len as u64 | u64::from(position.is_some()) << 63);
                    store(slot + 2, 1);
                    store(slot + 3, message.tag());
                    if let Some(position) = position {
                        store(slot + SLOT_HEADER_WORDS, position);
                    }
                }
                Step::Ready => store(slot, sequence * 4 + 2),
                Step::Head => store(
                    HEAD_WORD,
                    (sequence + 1) * 2 + u64::from(self.fault == Fault::EndsTheStream),
                ),
                Step::Returned => store(HEARTBEAT_WORD, sequence + 1),
            }
        }
    }
}
