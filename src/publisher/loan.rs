//! Room in the ring for one message, to be filled in place.

use std::io;

use bytemuck::NoUninit;

use super::{PublishError, Publisher};
use crate::bell::Ringer;
use crate::clock::Clock;
use crate::copy;
use crate::ring::{Place, Writer};
use crate::sync::{AtomicU64, Ordering};
use crate::words::WORD_BYTES;

/// Room for one message in the ring, to be filled in place from its first byte to its last, with [`io::Write`],
/// [`Loan::push_typed`] or [`Loan::push_words`].
#[derive(Debug)]
#[must_use = "a loan publishes nothing until it is committed"]
pub struct Loan<'p> {
    memory: &'p [AtomicU64],
    writer: &'p mut Writer,
    /// Payload bytes that the publisher has published.
    published: &'p mut u64,
    time: Time<'p>,
    place: Place,
    /// Bytes that there is room for.
    len: usize,
    /// Bytes written so far.
    written: usize,
    /// The bytes of the word that is not full yet: the publisher never reads the segment.
    partial: u64,
}

/// Whose time a loan's message has, and who wakes its readers.
#[derive(Debug)]
enum Time<'p> {
    /// That of its batch.
    OfBatch(u64),
    /// Its own.
    Own(&'p mut Clock, &'p mut Ringer),
}

impl<'p> Loan<'p> {
    /// A message of up to `len` bytes that was admitted.
    #[inline(always)]
    pub(super) fn new(publisher: &'p mut Publisher, len: usize, batch_ns: Option<u64>) -> Self {
        let Publisher {
            segment,
            writer,
            ringer,
            clock,
            bytes,
            ..
        } = publisher;
        let memory = segment.memory();
        let place = writer.begin(memory, len);
        if batch_ns.is_none() {
            writer.expect_next_line(memory, &place);
        }
        Self {
            place,
            memory,
            writer,
            published: bytes,
            time: batch_ns.map_or(Time::Own(clock, ringer), Time::OfBatch),
            len,
            written: 0,
            partial: 0,
        }
    }
}

impl Loan<'_> {
    /// Bytes that there is room left for.
    #[must_use]
    pub const fn remaining(&self) -> usize {
        self.len - self.written
    }

    /// Appends the bytes of `value`. One of up to 256 bytes, in whole words, passes through registers alone: to make it up
    /// and push it is the quickest way to publish a small message.
    ///
    /// # Errors
    /// If there is no room left for them; nothing is appended then.
    #[inline(always)]
    pub fn push_typed<T: NoUninit>(&mut self, value: &T) -> Result<(), PublishError> {
        if !copy::is_few_words::<T>() {
            return self.push(bytemuck::bytes_of(value));
        }
        if self.written.is_multiple_of(WORD_BYTES) && size_of::<T>() <= self.remaining() {
            let start = self.place.start + self.written / WORD_BYTES;
            copy::store_value(&self.memory[start..start + size_of::<T>() / WORD_BYTES], value);
            self.written += size_of::<T>();
            return Ok(());
        }
        // A copy: were the value's own address given away, it would be stored to memory by words and loaded by two, which waits.
        let copy = *value;
        self.push(bytemuck::bytes_of(&copy))
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// If there is no room left for them; nothing is appended then.
    #[inline]
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        if bytes.len() > self.remaining() {
            return Err(PublishError::TooLong {
                len: self.written.saturating_add(bytes.len()),
                max: self.len,
            });
        }
        // Not by way of the loan, which is in registers for as long as nobody is given its address.
        self.partial = append(&self.memory[self.place.start..], self.written, self.partial, bytes);
        self.written += bytes.len();
        Ok(())
    }

    /// Appends `words` as they come, each as its bytes lie in memory: for who makes the message up as it is written, and
    /// needs no buffer to make it up in. Words that lie in memory already are better pushed as bytes. `words` may lie about
    /// how many they are: those that there is no room for are left out.
    ///
    /// A range with `map` is the quickest: the compiler sees that eight more come and makes them at once. Iterators that count
    /// down at each step, as `repeat_n` and `take` do, cost about twice as much.
    ///
    /// # Errors
    /// If there is no room left for as many as they say; nothing is appended then.
    #[inline(always)]
    pub fn push_words(&mut self, words: impl ExactSizeIterator<Item = u64>) -> Result<(), PublishError> {
        let room = self.remaining() / WORD_BYTES;
        if words.len() > room {
            return Err(PublishError::TooLong {
                len: self.written.saturating_add(words.len().saturating_mul(WORD_BYTES)),
                max: self.len,
            });
        }
        let filled = self.written % WORD_BYTES;
        if filled != 0 {
            return words.take(room).try_for_each(|word| self.push(&word.to_ne_bytes()));
        }
        let start = self.place.start + self.written / WORD_BYTES;
        let places = &self.memory[start..start + room];
        self.written += copy::store_each(places, words) * WORD_BYTES;
        Ok(())
    }

    /// Publishes what was written, with tag 0. Returns its sequence. A loan of a batch has the batch's time, and wakes nobody
    /// before that is dropped.
    #[inline(always)]
    pub fn commit(self) -> u64 {
        self.commit_tagged(0)
    }

    /// As [`Loan::commit`], with a tag.
    #[inline(always)]
    pub fn commit_tagged(self, tag: u64) -> u64 {
        *self.published += self.written as u64;
        let mut commit = |now_ns| self.writer.commit(self.memory, self.place, self.written, now_ns, tag);
        match self.time {
            Time::OfBatch(now_ns) => commit(now_ns),
            Time::Own(clock, ringer) => {
                let now_ns = clock.now_ns();
                let sequence = commit(now_ns);
                ringer.ring(|| now_ns);
                sequence
            }
        }
    }
}

/// Stores `bytes` behind the first `written` bytes of `words`; `partial` has those of the word that is not full yet. Returns
/// what it has then.
#[inline(never)]
fn append(words: &[AtomicU64], written: usize, mut partial: u64, bytes: &[u8]) -> u64 {
    let filled = written % WORD_BYTES;
    let (head, rest) = bytes.split_at(bytes.len().min((WORD_BYTES - filled) % WORD_BYTES));
    if !head.is_empty() {
        let mut word = partial.to_ne_bytes();
        word[filled..filled + head.len()].copy_from_slice(head);
        partial = u64::from_ne_bytes(word);
        words[written / WORD_BYTES].store(partial, Ordering::Relaxed);
    }
    if !rest.is_empty() {
        copy::store(&words[(written + head.len()) / WORD_BYTES..], rest);
        partial = copy::word_of(&rest[rest.len() - rest.len() % WORD_BYTES..]);
    }
    partial
}

impl io::Write for Loan<'_> {
    /// Appends what there is room for.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(self.remaining());
        self.push(&bytes[..count]).map_err(io::Error::other)?;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
