//! crossbeam-channel: threads of one process, any number on either side.

use anyhow::Result;
use crossbeam_channel as channel;

use super::boxed;
use crate::message::{Reading, Seen, look};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

/// For messages of so many words: they are moved by value.
struct Crossbeam<const WORDS: usize>;

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![boxed(Crossbeam::<8>), boxed(Crossbeam::<128>)]
}

const CAPACITY: usize = 4096;

impl<const WORDS: usize> Peer for Crossbeam<WORDS> {
    type Sender = Tx<WORDS>;
    type Receiver = Rx<WORDS>;

    fn about(&self) -> About {
        About {
            name: "crossbeam-channel".into(),
            version: version_of("crossbeam-channel"),
            by: By::Threads,
            is_lossless: true,
            settings:
                "A bounded channel of 4,096 messages by value, `try_send` and `try_recv`; asleep `send` and `recv`."
                    .into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        work.len() == WORDS * size_of::<u64>() && work.readers() == 1
    }

    fn sender(&self, link: &Link) -> Result<Tx<WORDS>> {
        let (sender, receiver) = channel::bounded::<[u64; WORDS]>(CAPACITY);
        link.leave(receiver);
        Ok(Tx(sender))
    }

    fn receiver(&self, link: &Link) -> Result<Rx<WORDS>> {
        Ok(Rx {
            receiver: link.take()?,
            is_asleep: link.work.is_asleep(),
        })
    }
}

pub struct Tx<const WORDS: usize>(channel::Sender<[u64; WORDS]>);

impl<const WORDS: usize> Sender for Tx<WORDS> {
    fn send(&mut self, sequence: u64, _len: usize, made: impl FnOnce()) {
        let mut message = [sequence; WORDS];
        made();
        loop {
            match self.0.try_send(message) {
                Ok(()) => return,
                Err(channel::TrySendError::Full(back)) => message = back,
                Err(channel::TrySendError::Disconnected(_)) => panic!("the receiver is gone"),
            }
            std::hint::spin_loop();
        }
    }
}

pub struct Rx<const WORDS: usize> {
    receiver: channel::Receiver<[u64; WORDS]>,
    is_asleep: bool,
}

impl<const WORDS: usize> Receiver for Rx<WORDS> {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        let found = if self.is_asleep {
            self.receiver.recv().ok()
        } else {
            self.receiver.try_recv().ok()
        };
        if let Some(message) = found {
            each(look(message.iter().copied(), reading));
        }
    }
}
