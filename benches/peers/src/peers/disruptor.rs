//! disruptor: threads of one process, all of which read all.

use std::ops::Range;

use ::disruptor::{
    BusySpin, EventPoller, MultiConsumerBarrier, Producer, SingleConsumerBarrier, SingleProducer,
    SingleProducerBarrier, build_single_producer,
};
use anyhow::Result;

use super::boxed;
use crate::message::{Reading, Seen, look};
use crate::peer::{About, By, Entry, Link, Peer, Receiver, Sender, version_of};
use crate::work::Work;

/// For messages of so many words: they lie in the ring by value.
struct Disruptor<const WORDS: usize>;

pub fn peers() -> Vec<Box<dyn Entry>> {
    vec![boxed(Disruptor::<8>), boxed(Disruptor::<128>)]
}

const CAPACITY: usize = 4096;

type Message<const WORDS: usize> = [u64; WORDS];

impl<const WORDS: usize> Peer for Disruptor<WORDS> {
    type Sender = Tx<WORDS>;
    type Receiver = Rx<WORDS>;

    fn about(&self) -> About {
        About {
            name: "disruptor".into(),
            version: version_of("disruptor"),
            by: By::Threads,
            is_lossless: true,
            settings: "One producer, 4,096 messages, event pollers; in streams `batch_publish` of 64 KiB.".into(),
        }
    }

    fn fits(&self, work: Work) -> bool {
        work.len() == WORDS * size_of::<u64>() && matches!(work.readers(), 1 | 4) && !work.is_asleep()
    }

    fn sender(&self, link: &Link) -> Result<Tx<WORDS>> {
        let builder = build_single_producer(CAPACITY, || [0; WORDS], BusySpin);
        let (poller, builder) = builder.new_event_poller();
        link.leave(poller);
        if link.work.readers() == 1 {
            return Ok(Tx::One(builder.build()));
        }
        let (poller, builder) = builder.new_event_poller();
        link.leave(poller);
        let (poller, builder) = builder.new_event_poller();
        link.leave(poller);
        let (poller, builder) = builder.new_event_poller();
        link.leave(poller);
        Ok(Tx::Four(builder.build()))
    }

    fn receiver(&self, link: &Link) -> Result<Rx<WORDS>> {
        Ok(Rx(link.take()?))
    }
}

/// For one reader, or four.
pub enum Tx<const WORDS: usize> {
    One(SingleProducer<Message<WORDS>, SingleConsumerBarrier>),
    Four(SingleProducer<Message<WORDS>, MultiConsumerBarrier>),
}

impl<const WORDS: usize> Sender for Tx<WORDS> {
    fn send(&mut self, sequence: u64, _len: usize, made: impl FnOnce()) {
        let make = |message: &mut Message<WORDS>| {
            *message = [sequence; WORDS];
            made();
        };
        match self {
            Self::One(producer) => producer.publish(make),
            Self::Four(producer) => producer.publish(make),
        }
    }

    fn send_many(&mut self, sequences: Range<u64>, _len: usize) {
        match self {
            Self::One(producer) => publish_batch(producer, sequences),
            Self::Four(producer) => publish_batch(producer, sequences),
        }
    }
}

fn publish_batch<const WORDS: usize>(producer: &mut impl Producer<Message<WORDS>>, sequences: Range<u64>) {
    let count = (sequences.end - sequences.start) as usize;
    producer.batch_publish(count, |messages| {
        for (message, sequence) in messages.zip(sequences) {
            *message = [sequence; WORDS];
        }
    });
}

pub struct Rx<const WORDS: usize>(EventPoller<Message<WORDS>, SingleProducerBarrier>);

impl<const WORDS: usize> Receiver for Rx<WORDS> {
    fn poll(&mut self, reading: Reading, mut each: impl FnMut(Seen)) {
        if let Ok(mut messages) = self.0.poll() {
            for message in &mut messages {
                each(look(message.iter().copied(), reading));
            }
        }
    }
}
