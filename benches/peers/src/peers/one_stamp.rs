//! One stamp a slot and no second look: the design of MengRao/SPMC_Queue, written anew. It is the quickest that we know
//! between processes, because it leaves out what a correct ring cannot: a mark that a slot is being written, and a second
//! look at the stamp after reading. A reader that is overtaken while it reads hands out parts of two messages.
//!
//! ```text
//!   slot:  | stamp | payload ...                    | stamp | payload ...
//!          stored last, with Release;               loaded first, with Acquire; nothing is looked at afterwards
//! ```

use std::convert;
use std::hint;
use std::mem::MaybeUninit;
use std::slice;
use std::sync::atomic::Ordering;

use anyhow::Result;

use super::boxed;
use crate::message::{Reading, Seen, look_in, make_in};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender};
use crate::shared::{LINE, Shared};
use crate::work::Work;

struct OneStamp {
    name: &'static str,
    settings: &'static str,
    slots: usize,
    /// Pauses of a reader that has caught up.
    pauses: u32,
}

/// Most bytes of a ring.
const RING_BYTES: usize = 64 << 20;

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![
        boxed(OneStamp {
            name: "one stamp, small ring",
            settings: "One stamp a slot and no second look (the design of MengRao/SPMC_Queue): made and read in place in 4,096 slots, \
                       at most 64 MiB; overtaken readers get torn messages.",
            slots: 4096,
            pauses: 1,
        }),
        boxed(OneStamp {
            name: "one stamp, large ring",
            settings: "The same with 65,536 slots, and a reader that waits about 5 us when it has caught up.",
            slots: 65_536,
            pauses: 250,
        }),
    ]
}

impl Peer for OneStamp {
    type Sender = Ring;
    type Receiver = Ring;

    fn about(&self) -> About {
        About {
            name: self.name.into(),
            version: "".into(),
            by: By::Memory,
            is_lossless: false,
            settings: self.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        // A pause is of use in a stream, and there must be room for the slots.
        match work {
            Work::Stream { len, .. } => self.pauses == 1 || len <= 1024,
            _ => self.pauses == 1 && !work.is_asleep(),
        }
    }

    fn sender(&self, link: &Link) -> Result<Ring> {
        let len = link.work.len();
        let stride = (1 + len / size_of::<u64>()).next_multiple_of(LINE);
        let fitting = (RING_BYTES / (stride * size_of::<u64>())).max(2);
        let slots = self.slots.min(1 << fitting.ilog2());
        Ok(Ring {
            shared: Shared::open(&link.path("ring"), slots * stride)?,
            slots: slots as u64,
            stride,
            len,
            next: 1,
            pauses: self.pauses,
        })
    }

    fn receiver(&self, link: &Link) -> Result<Ring> {
        self.sender(link)
    }
}

pub struct Ring {
    shared: Shared,
    slots: u64,
    /// Words from one slot to the next.
    stride: usize,
    len: usize,
    /// The stamp written, or wanted, next.
    next: u64,
    pauses: u32,
}

impl Ring {
    fn slot_of(&self, stamp: u64) -> usize {
        (stamp & (self.slots - 1)) as usize * self.stride
    }

    fn payload(&self, slot: usize) -> *mut u64 {
        // SAFETY: every slot has a payload behind its stamp.
        unsafe { self.shared.start().add(slot + 1) }
    }
}

impl Sender for Ring {
    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let slot = self.slot_of(self.next);
        // SAFETY: `len` bytes from here on are mapped and aligned. That a reader may be looking at them is what this
        // design takes into account.
        let place = unsafe { slice::from_raw_parts_mut(self.payload(slot).cast::<MaybeUninit<u64>>(), len / 8) };
        make_in(place, sequence);
        made();
        self.shared.words()[slot].store(self.next, Ordering::Release);
        self.next += 1;
    }
}

impl Receiver for Ring {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        let slot = self.slot_of(self.next);
        let stamp = self.shared.words()[slot].load(Ordering::Acquire);
        if stamp < self.next {
            return;
        }
        // A newer stamp: this reader was overtaken, and goes on there.
        self.next = stamp + 1;
        // SAFETY: `len` bytes from here on are mapped and aligned. That the sender may be writing to them is what this
        // design takes into account.
        let words = unsafe { slice::from_raw_parts(self.payload(slot), self.len / size_of::<u64>()) };
        each(look_in(words, convert::identity, reading));
    }

    fn idle(&mut self) {
        (0..self.pauses).for_each(|_| hint::spin_loop());
    }
}
