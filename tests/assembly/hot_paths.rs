//! The hot paths, each in a function of its own, for `.ci/assembly` to look at the instructions that they become.
//! Nothing calls them.

use lapwing::{Batch, Poll, PublishError, Publisher, Subscriber};

/// A message that fits in its slot.
#[inline(never)]
pub fn publish_small(publisher: &mut Publisher, payload: &[u8; 64]) -> Result<u64, PublishError> {
    publisher.publish(payload)
}

/// A message that lies in the arena.
#[inline(never)]
pub fn publish_large(publisher: &mut Publisher, payload: &[u8; 4096]) -> Result<u64, PublishError> {
    publisher.publish(payload)
}

/// One message of a batch.
#[inline(never)]
pub fn push_small(batch: &mut Batch<'_>, payload: &[u8; 64]) -> Result<u64, PublishError> {
    batch.push(7, payload)
}

/// One message of a batch, made in place.
#[inline(never)]
pub fn lend_small(batch: &mut Batch<'_>, words: &[u64; 8]) -> Result<u64, PublishError> {
    let mut loan = batch.loan(64)?;
    loan.push_words(words.iter().copied())?;
    Ok(loan.commit())
}

/// One message of a batch, of a type.
#[inline(never)]
pub fn lend_typed(batch: &mut Batch<'_>, value: &[u64; 8]) -> Result<u64, PublishError> {
    batch.push_typed(7, value)
}

/// The next message, wherever it lies, in place.
#[inline(never)]
pub fn poll_in_place(subscriber: &mut Subscriber) -> Poll<u64> {
    subscriber.poll(|view| view.words().iter().sum())
}

/// The next message, copied.
#[inline(never)]
pub fn poll_copy(subscriber: &mut Subscriber, out: &mut [u8; 64]) -> Poll<()> {
    subscriber.poll(|view| {
        if view.len() == out.len() {
            view.copy_to(out);
        }
    })
}

/// The next message, of a type.
#[inline(never)]
pub fn poll_typed(subscriber: &mut Subscriber) -> Poll<Option<[u64; 8]>> {
    subscriber.poll_typed()
}
