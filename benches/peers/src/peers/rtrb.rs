//! rtrb: one thread to one other, wait-free.

use std::ops::Range;

use ::rtrb::{Consumer, Producer, RingBuffer};
use anyhow::Result;

use super::boxed;
use crate::message::{Reading, Seen, look};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

/// For messages of so many words: they are moved by value.
struct Rtrb<const WORDS: usize>;

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![boxed(Rtrb::<8>), boxed(Rtrb::<128>)]
}

const CAPACITY: usize = 4096;

impl<const WORDS: usize> Peer for Rtrb<WORDS> {
    type Sender = Tx<WORDS>;
    type Receiver = Rx<WORDS>;

    fn about(&self) -> About {
        About {
            name: "rtrb".into(),
            version: version_of("rtrb"),
            by: By::Threads,
            is_lossless: true,
            settings:
                "4,096 messages; in streams `write_chunk_uninit` of 64 KiB and `read_chunk` of all that is there."
                    .into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        work.len() == WORDS * size_of::<u64>() && work.readers() == 1 && !work.is_asleep()
    }

    fn sender(&self, link: &Link) -> Result<Tx<WORDS>> {
        let (producer, consumer) = RingBuffer::<[u64; WORDS]>::new(CAPACITY);
        link.leave(consumer);
        Ok(Tx(producer))
    }

    fn receiver(&self, link: &Link) -> Result<Rx<WORDS>> {
        Ok(Rx(link.take()?))
    }
}

pub struct Tx<const WORDS: usize>(Producer<[u64; WORDS]>);

impl<const WORDS: usize> Sender for Tx<WORDS> {
    fn send(&mut self, sequence: u64, _len: usize, made: impl FnOnce()) {
        let message = [sequence; WORDS];
        made();
        while self.0.push(message).is_err() {
            std::hint::spin_loop();
        }
    }

    fn send_many(&mut self, sequences: Range<u64>, _len: usize) {
        let count = (sequences.end - sequences.start) as usize;
        loop {
            if let Ok(chunk) = self.0.write_chunk_uninit(count) {
                chunk.fill_from_iter(sequences.map(|sequence| [sequence; WORDS]));
                return;
            }
            std::hint::spin_loop();
        }
    }
}

pub struct Rx<const WORDS: usize>(Consumer<[u64; WORDS]>);

impl<const WORDS: usize> Receiver for Rx<WORDS> {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        let count = self.0.slots();
        if count == 0 {
            return;
        }
        let chunk = self.0.read_chunk(count).expect("as many as there are");
        let (head, tail) = chunk.as_slices();
        for message in head.iter().chain(tail) {
            each(look(message.iter().copied(), reading));
        }
        chunk.commit_all();
    }
}
