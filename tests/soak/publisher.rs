//! The publishing process: bursts of messages in every way that there is to publish, until the curtain falls.

use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use lapwing::{LosslessOffer, LosslessPolicy, PublishError, Publisher, Server, ServerOptions};

use crate::SERVER;
use crate::account::Report;
use crate::member::{self, Curtain, say};
use crate::payload::{LONGEST, Stream, mix};
use crate::sabotage::Sabotage;

/// More lossless readers than there can be on a machine.
const MOST_LOSSLESS: usize = 10_000;

pub fn run(directory: &Path, ring_bytes: u64, rate: u64, patience: Duration, sabotage: Option<Sabotage>) -> ExitCode {
    let curtain = Curtain::new();
    member::leave(publish(&curtain, directory, ring_bytes, rate, patience, sabotage))
}

fn publish(
    curtain: &Curtain,
    directory: &Path,
    ring_bytes: u64,
    rate: u64,
    patience: Duration,
    sabotage: Option<Sabotage>,
) -> Result<(), String> {
    let mut options = ServerOptions::new(SERVER.parse().expect("a server's name"));
    options.info_dir = directory.to_owned();
    options.ring_bytes = ring_bytes;
    options.max_message_bytes = Some(ring_bytes.min(LONGEST as u64));
    options.lossless = Some(LosslessOffer {
        policy: match sabotage {
            Some(Sabotage::Evict) => LosslessPolicy::Evict(Duration::ZERO),
            _ => LosslessPolicy::Block,
        },
        max_subscribers: MOST_LOSSLESS,
    });
    let before = member::descriptors();
    let mut server = Server::start(options).map_err(|error| format!("start: {error}"))?;
    let incarnation = server.info().incarnation;
    say(&Report::Announced(incarnation.to_string()));

    let mut press = Press {
        stream: Stream::new(incarnation),
        corrupts: sabotage == Some(Sabotage::Corrupt),
        payload: Vec::new(),
    };
    let start = Instant::now();
    let mut dice = mix(ring_bytes);
    while !curtain.has_fallen() {
        dice = mix(dice);
        let burst = 1 + dice % (rate / 5);
        press.burst(server.publisher(), burst, dice >> 32)?;
        let due = start + Duration::from_nanos(server.publisher().next_sequence() * 1_000_000_000 / rate);
        thread::sleep(
            due.saturating_duration_since(Instant::now())
                .min(Duration::from_secs(1)),
        );
        server.check().map_err(|error| format!("server: {error}"))?;
    }
    let (messages, bytes) = (
        server.publisher().next_sequence() + u64::from(sabotage == Some(Sabotage::Claim)),
        server.publisher().bytes_published(),
    );
    let drained = server.finish(patience);
    if member::descriptors() > before {
        return Err("leak: the server left descriptors open".to_owned());
    }
    say(&Report::Published {
        messages,
        bytes,
        drained,
    });
    Ok(())
}

/// Makes messages and publishes them.
struct Press {
    stream: Stream,
    corrupts: bool,
    payload: Vec<u8>,
}

impl Press {
    /// Publishes `count` messages, in a way that `dice` chooses.
    fn burst(&mut self, publisher: &mut Publisher, count: u64, dice: u64) -> Result<(), String> {
        let max = publisher.max_message_bytes();
        let first = publisher.next_sequence();
        if dice.is_multiple_of(3) {
            let mut batch = publisher.batch();
            for sequence in first..first + count {
                let tag = self.compose(sequence, max);
                is_published_as(sequence, batch.push(tag, &self.payload))?;
            }
            return Ok(());
        }
        for sequence in first..first + count {
            let tag = self.compose(sequence, max);
            let published = if dice % 3 == 1 {
                // In two pieces, the second of which begins anywhere.
                let (head, tail) = self.payload.split_at(self.payload.len() / 3);
                publisher.loan(self.payload.len()).and_then(|mut loan| {
                    loan.push(head)?;
                    loan.push(tail)?;
                    Ok(loan.commit_tagged(tag))
                })
            } else {
                publisher.publish_tagged(tag, &self.payload)
            };
            is_published_as(sequence, published)?;
        }
        Ok(())
    }

    /// Makes the payload of message `sequence`. Returns its tag.
    fn compose(&mut self, sequence: u64, max: usize) -> u64 {
        let len = self.stream.len_of(sequence, max);
        self.stream.fill(sequence, len, &mut self.payload);
        if self.corrupts
            && sequence % 1000 == 999
            && let Some(byte) = self.payload.get_mut(len / 2)
        {
            *byte ^= 1;
        }
        self.stream.tag_of(sequence, len)
    }
}

fn is_published_as(expected: u64, published: Result<u64, PublishError>) -> Result<(), String> {
    match published {
        Ok(sequence) if sequence == expected => Ok(()),
        Ok(sequence) => Err(format!("order: message {expected} was published as {sequence}")),
        Err(error) => Err(format!("publish: {error}")),
    }
}
