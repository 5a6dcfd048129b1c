//! What the machine can do: shared memory with one word that says that a message is there, and no protocol around it. There
//! is room for one message: the work itself waits until it was read.
//!
//! ```text
//!   | messages so far, a sequence, rest of the line | payload ...
//! ```

use std::convert;
use std::mem::MaybeUninit;
use std::slice;
use std::sync::atomic::Ordering;

use anyhow::Result;

use super::boxed;
use crate::message::{Draft, Reading, Seen, look, look_in, make_in};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender};
use crate::shared::{LINE, Shared};
use crate::work::Work;

/// What goes from one side to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Load {
    /// Nothing but the line that says so.
    Line,
    /// The payload, made where it is read.
    InPlace,
    /// The payload, made elsewhere and copied with memcpy.
    Copied,
}

struct Bare {
    load: Load,
    name: &'static str,
    settings: &'static str,
}

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![
        boxed(Bare {
            load: Load::Line,
            name: "limit: a bare line",
            settings: "One cache line there and one back, nothing else: no payload.",
        }),
        boxed(Bare {
            load: Load::InPlace,
            name: "limit: a bare message",
            settings: "Made in one buffer that both map, and read there. One word says that it is there, and nothing is checked. \
                       The same buffer each time, so it stays in the caches.",
        }),
        boxed(Bare {
            load: Load::Copied,
            name: "limit: a bare copy",
            settings: "As before, but made elsewhere and copied in with memcpy.",
        }),
    ]
}

/// The word that counts messages, and the one with a sequence for who sends nothing else.
const COUNT: usize = 0;
const SEQUENCE: usize = 1;
/// Where the payload begins.
const PAYLOAD: usize = LINE;

impl Peer for Bare {
    type Sender = BareEnd;
    type Receiver = BareEnd;

    fn about(&self) -> About {
        About {
            name: self.name.into(),
            version: "".into(),
            by: By::Limit,
            is_lossless: true,
            settings: self.settings.into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        match work {
            Work::RoundTrip { asleep } => !asleep,
            Work::Stream { .. } => false,
            Work::Large { .. } => self.load != Load::Line,
        }
    }

    fn sender(&self, link: &Link) -> Result<BareEnd> {
        let len = link.work.len();
        Ok(BareEnd {
            shared: Shared::open(&link.path("message"), PAYLOAD + len / size_of::<u64>())?,
            load: self.load,
            draft: Draft::new(len),
            count: 0,
            len,
        })
    }

    fn receiver(&self, link: &Link) -> Result<BareEnd> {
        self.sender(link)
    }
}

pub struct BareEnd {
    shared: Shared,
    load: Load,
    draft: Draft,
    /// Messages so far.
    count: u64,
    len: usize,
}

impl BareEnd {
    fn payload(&self) -> *mut u64 {
        // SAFETY: the file has room for a payload behind this line.
        unsafe { self.shared.start().add(PAYLOAD) }
    }
}

impl Sender for BareEnd {
    fn send(&mut self, sequence: u64, len: usize, made: impl FnOnce()) {
        let payload = self.payload();
        match self.load {
            Load::Line => self.shared.words()[SEQUENCE].store(sequence, Ordering::Relaxed),
            Load::InPlace => {
                // SAFETY: `len` bytes from here on are mapped and aligned, and the reader is done with the last message.
                let place = unsafe { slice::from_raw_parts_mut(payload.cast::<MaybeUninit<u64>>(), len / 8) };
                make_in(place, sequence);
                made();
            }
            Load::Copied => {
                let message = self.draft.make(sequence, len);
                made();
                // SAFETY: as above, and a draft lies elsewhere.
                unsafe { payload.cast::<u8>().copy_from_nonoverlapping(message.as_ptr(), len) };
            }
        }
        self.count += 1;
        self.shared.words()[COUNT].store(self.count, Ordering::Release);
    }
}

impl Receiver for BareEnd {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        if self.shared.words()[COUNT].load(Ordering::Acquire) == self.count {
            return;
        }
        self.count += 1;
        each(if self.load == Load::Line {
            let sequence = self.shared.words()[SEQUENCE].load(Ordering::Relaxed);
            look(std::iter::once(sequence), reading)
        } else {
            // SAFETY: `len` bytes from here on are mapped and aligned, and the sender leaves them alone until the work
            // says that this message was read.
            let words = unsafe { slice::from_raw_parts(self.payload(), self.len / size_of::<u64>()) };
            look_in(words, convert::identity, reading)
        });
    }
}
