//! A message as a reader sees it in the ring, before the ring has looked whether it still stands.

use bytemuck::AnyBitPattern;

use super::Values;
use crate::words::Words;

/// One message in place, in the ring.
///
/// The publisher may overwrite it while it is looked at. The ring re-checks afterwards and throws away what was made
/// of an overwritten message, so the words here may be of two messages at once: treat them as any foreign input, and
/// let nothing leave the closure but its result.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub(super) sequence: u64,
    pub(super) timestamp_ns: u64,
    pub(super) tag: u64,
    pub(super) len: usize,
    pub(super) words: Words<'a>,
}

impl<'a> View<'a> {
    /// The message's place in the stream.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When it was published, in nanoseconds since 1970 on the server's clock.
    #[must_use]
    pub const fn timestamp_ns(&self) -> u64 {
        self.timestamp_ns
    }

    /// The publisher's 64 bits to sort messages by.
    #[must_use]
    pub const fn tag(&self) -> u64 {
        self.tag
    }

    /// Bytes of the payload.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether the payload is empty.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The payload as words, the bytes behind its end unspecified.
    #[must_use]
    pub const fn words(&self) -> Words<'a> {
        self.words
    }

    /// Copies the first `out.len()` bytes of the payload.
    ///
    /// # Panics
    /// If the payload is shorter.
    #[inline]
    pub fn copy_to(&self, out: &mut [u8]) {
        assert!(
            out.len() <= self.len,
            "a payload of {} bytes was asked for {}",
            self.len,
            out.len()
        );
        self.words.copy_to(out);
    }

    /// Copies `out.len()` bytes of the payload from byte `offset` on.
    ///
    /// # Panics
    /// If they do not all lie inside.
    #[inline]
    pub fn copy_range_to(&self, offset: usize, out: &mut [u8]) {
        assert!(
            offset.checked_add(out.len()).is_some_and(|end| end <= self.len),
            "a payload of {} bytes was asked for {} from {offset} on",
            self.len,
            out.len()
        );
        self.words.copy_range_to(offset, out);
    }

    /// The payload, copied.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append_to(&mut bytes);
        bytes
    }

    /// Appends the payload to `out`.
    #[inline]
    pub fn append_to(&self, out: &mut Vec<u8>) {
        self.words.append_to(self.len, out);
    }

    /// Reads a `T` at byte `offset` of the payload; `None` if it does not lie inside. Costs a copy of the `T` alone.
    #[inline]
    #[must_use]
    pub fn read<T: AnyBitPattern>(&self, offset: usize) -> Option<T> {
        let end = offset.checked_add(size_of::<T>())?;
        (end <= self.len).then(|| self.words.read(offset))
    }

    /// The `T`s that lie one behind the other from byte `offset` to the end of the payload, each loaded when it is asked
    /// for: a slice that is read in place. What is left over behind the last whole one is no part of it. Quickest if
    /// `T` divides a word and `offset` is a multiple of its size.
    ///
    /// # Panics
    /// If `T` has no size.
    #[inline]
    #[must_use]
    pub fn values<T: AnyBitPattern>(&self, offset: usize) -> Values<'a, T> {
        Values::new(*self, offset)
    }
}
