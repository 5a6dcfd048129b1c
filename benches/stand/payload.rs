//! Messages that say themselves which one they are, so that a reader knows whether it has the right one, whole.

use bytemuck::cast_slice;

/// What lies between the two ends of a message.
const FILLING: u64 = 0x5a5a_5a5a_5a5a_5a5a;

/// A message of two words or more: its sequence at both ends, and filling in between.
pub struct Payload(Vec<u64>);

impl Payload {
    /// One of `size` bytes.
    pub fn new(size: usize) -> Self {
        assert!(size >= 16 && size.is_multiple_of(8), "whole words, and two ends");
        Self(vec![FILLING; size / 8])
    }

    /// Its bytes as message `sequence`.
    pub fn of(&mut self, sequence: u64) -> &[u8] {
        let last = self.0.len() - 1;
        (self.0[0], self.0[last]) = (sequence, sequence);
        cast_slice(&self.0)
    }
}

/// Looks at every word of a message. Returns which one it says it is, unless it is none, or spoilt.
pub fn claimed(mut words: impl ExactSizeIterator<Item = u64>) -> Option<u64> {
    let between = words.len().checked_sub(2)? as u64;
    let first = words.next()?;
    let rest = words.fold(0, u64::wrapping_add);
    (rest == FILLING.wrapping_mul(between).wrapping_add(first)).then_some(first)
}

/// As [`claimed`], of bytes.
#[allow(dead_code, reason = "who reads in place has words")]
pub fn claimed_in(bytes: &[u8]) -> Option<u64> {
    claimed(
        bytes
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes"))),
    )
}
