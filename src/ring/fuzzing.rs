//! The ring under a fuzzer: a publisher and a reader that take their orders from bytes, and a vandal who overwrites any
//! word at any time, also while a message is being looked at.
//!
//! Until the vandal comes, every message must be whole and every loss counted. After that there is only what a hostile
//! publisher must not achieve: a panic, a look outside of the ring, or a cursor that goes back.

use super::*;
use crate::sync::AtomicU64;
use crate::words::{WORD_BYTES, words_for};

/// Orders, to be taken byte by byte. Zeros follow the last.
#[derive(Debug)]
pub struct Orders<'a>(&'a [u8]);

impl<'a> Orders<'a> {
    /// Orders that nothing was taken of.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether all were taken.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next so many bytes, or as many as there are.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        first
    }

    /// The next two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }
}

/// The publisher and the vandal, who share the memory.
struct Writers<'m> {
    memory: &'m [AtomicU64],
    writer: Writer,
    /// The length of every message, by sequence.
    lens: Vec<usize>,
    /// One more than the newest message that was begun.
    opened: u64,
    has_ended: bool,
    /// The vandal was here.
    is_spoilt: bool,
}

/// The payload of message `sequence`.
pub(crate) fn payload(sequence: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (sequence as usize * 31 + i) as u8).collect()
}

impl Writers<'_> {
    fn carry_out(&mut self, order: u8, orders: &mut Orders<'_>) {
        let longest = self.writer.geometry().max_message_bytes();
        match order % 8 {
            0 | 1 => self.publish(usize::from(orders.byte()) % (longest + 1)),
            2 => self.publish(usize::from(orders.u16()) % (longest + 1)),
            3 => (0..orders.byte() % 32).for_each(|_| self.publish(8.min(longest))),
            4 if !self.has_ended => {
                // Begun and given up.
                self.opened = self.writer.next() + 1;
                self.writer
                    .begin(self.memory, usize::from(orders.u16()) % (longest + 1));
            }
            5 | 6 => self.vandalise(orders),
            7 if order > 240 => self.end(),
            _ => {}
        }
    }

    fn publish(&mut self, len: usize) {
        if !self.has_ended {
            let sequence = self.writer.next();
            self.opened = sequence + 1;
            self.lens.push(len);
            self.writer
                .publish(self.memory, &payload(sequence, len), || sequence, !sequence);
        }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.has_ended, true) {
            // The end takes the slot of the message that will never come.
            self.opened = self.writer.next() + 1;
            self.writer.close(self.memory);
        }
    }

    /// Overwrites a word: most often one that means something, with a value that nearly does.
    fn vandalise(&mut self, orders: &mut Orders<'_>) {
        self.is_spoilt = true;
        let slot = self.writer.geometry().slot_at(u64::from(orders.byte()));
        let word = match orders.byte() % 8 {
            word @ 0..=4 => slot + usize::from(word),
            5 => HEAD_WORD,
            6 => FLOOR_WORD,
            _ => usize::from(orders.u16()) % self.memory.len(),
        };
        let near = u64::from(orders.byte());
        let value = match orders.byte() % 6 {
            0 => orders.u64(),
            1 => self.writer.next().wrapping_add(near) << 2 | u64::from(orders.byte() & 3),
            2 => LARGE | (near * 64),
            3 => near,
            4 => u64::MAX - near,
            _ => self.memory[word].load(Ordering::Relaxed) ^ 1 << (near % 64),
        };
        self.memory[word].store(value, Ordering::Relaxed);
    }
}

/// Polls once, with the next order carried out while a message is looked at.
fn poll(course: &mut Course<'_, '_>, writers: &mut Writers<'_>, orders: &mut Orders<'_>) {
    let wanted = course.cursor();
    let outcome = course.poll(|view| {
        let before = view.to_vec();
        let offset = usize::from(orders.byte());
        assert_eq!(view.read::<[u8; 11]>(offset).is_some(), offset + 11 <= view.len());
        assert_eq!((before.len(), view.words().len()), (view.len(), words_for(view.len())));
        let order = orders.byte();
        writers.carry_out(order, orders);
        [before, view.to_vec()]
    });
    let moved_to = match &outcome {
        Poll::Message(received) => {
            assert_eq!((received.sequence, received.len), (wanted, received.value[0].len()));
            wanted + 1
        }
        Poll::Lapped { first, missed } => {
            assert!(*first == wanted && *missed > 0);
            wanted + missed
        }
        _ => wanted,
    };
    assert_eq!(course.cursor(), moved_to);
    if !writers.is_spoilt {
        check_unspoilt(wanted, &outcome, writers);
    }
}

/// Checks what only an honest publisher's stream promises.
fn check_unspoilt(wanted: u64, outcome: &Poll<[Vec<u8>; 2]>, writers: &Writers<'_>) {
    let head = writers.writer.next();
    match outcome {
        Poll::Message(received) => {
            assert!(wanted < head);
            assert_eq!((received.timestamp_ns, received.tag), (wanted, !wanted));
            // Also what was read after others had their turn.
            let payload = payload(wanted, writers.lens[wanted as usize]);
            assert!(received.value.iter().all(|bytes| *bytes == payload));
        }
        Poll::Lapped { missed, .. } => {
            assert!(wanted + missed <= head.max(wanted + 1));
            // It is gone: its slot was opened again, or the arena was used by a newer one.
            let is_inline = writers.lens[wanted as usize] <= writers.writer.geometry().inline_bytes();
            let last = wanted
                + if is_inline {
                    writers.writer.geometry().slot_count()
                } else {
                    1
                };
            assert!(
                writers.opened > last,
                "{wanted} is not gone: {} were begun",
                writers.opened
            );
        }
        Poll::Empty => assert!(wanted >= head),
        Poll::Ended => assert!(writers.has_ended && wanted == head),
        Poll::Dead | Poll::Corrupt { .. } => panic!("{outcome:?} of an honest publisher"),
    }
}

/// Carries `orders` out on a new ring, and panics if anything comes of it that must not.
pub fn obey(orders: &[u8]) {
    let mut orders = Orders::new(orders);
    let shape = orders.byte();
    let (slot_count, arena_bytes) = (2 << (shape & 3), 4096 << (shape >> 4 & 1));
    let slot_bytes = if shape >> 2 & 1 == 0 { 64 } else { 96 };
    let longest = match shape >> 5 {
        0..=4 => (shape & 8 != 0).then_some(arena_bytes),
        // Any length, down to one byte.
        _ => Some(1 + u64::from(orders.u16()) % arena_bytes),
    };
    let geometry = Geometry::new(slot_count, slot_bytes, arena_bytes, longest).expect("sizes that a ring may have");
    let words = geometry.segment_bytes() / WORD_BYTES;
    let memory: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
    let mut writers = Writers {
        memory: &memory,
        writer: Writer::new(geometry),
        lens: Vec::new(),
        opened: 0,
        has_ended: false,
        is_spoilt: false,
    };
    let mut reader = Reader::new(geometry, 0);
    while !orders.is_empty() {
        let order = orders.byte();
        match order & 3 {
            0 => writers.carry_out(order.rotate_right(2), &mut orders),
            1 => poll(&mut reader.glance(Words::new(&memory)), &mut writers, &mut orders),
            2 => {
                let mut course = reader.course(Words::new(&memory));
                (0..order >> 2 & 7).for_each(|_| poll(&mut course, &mut writers, &mut orders));
            }
            _ if order & 4 == 0 => {
                let start = oldest(&geometry, Words::new(&memory), 0);
                assert!(writers.is_spoilt || start <= writers.writer.next());
                reader.seek(start);
            }
            _ => {
                let on_lap = if order & 8 == 0 { OnLap::Retained } else { OnLap::Newest };
                reader = reader.clone().on_lap(on_lap);
                reader.seek(orders.u64() >> (order >> 4 << 2));
            }
        }
    }
}
