//! What is sent: messages that are made anew each time and whose every word is the message's sequence, so that a reader
//! of all of it sees whether it is whole, and none can send what it has sent before.

use std::mem::MaybeUninit;

use serde::{Deserialize, Serialize};

/// The sequence of the message that ends a stream.
pub const END: u64 = u64::MAX;

/// How much of a message a reader looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// Every byte.
    Whole,
    /// The first word: enough for who only passes a pointer on.
    First,
}

/// What a reader saw of a message.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    /// The first word.
    pub sequence: u64,
    /// All words that were looked at are the same. If not, they are of two messages.
    pub is_whole: bool,
}

/// A message that lies in a sender's own memory before it is sent.
pub struct Draft {
    words: Vec<u64>,
}

impl Draft {
    /// Room for messages of up to `len` bytes.
    pub fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(size_of::<u64>())],
        }
    }

    /// Makes message `sequence` of `len` bytes.
    #[inline(always)]
    pub fn make(&mut self, sequence: u64, len: usize) -> &[u8] {
        let words = &mut self.words[..len / size_of::<u64>()];
        words.fill(sequence);
        bytemuck::cast_slice(words)
    }
}

/// A message of 64 bytes, whose length programs know when they are compiled.
pub type Small = [u64; SMALL_WORDS];
const SMALL_WORDS: usize = 8;

/// Makes message `sequence` where it is to lie.
#[inline(always)]
pub fn make_in(place: &mut [MaybeUninit<u64>], sequence: u64) {
    match <&mut [_; SMALL_WORDS]>::try_from(&mut *place) {
        Ok(small) => small.fill(MaybeUninit::new(sequence)),
        Err(_) => place.fill(MaybeUninit::new(sequence)),
    }
}

/// Looks at the words of a message.
///
/// # Panics
/// If there are none.
#[inline(always)]
pub fn look(words: impl Iterator<Item = u64> + Clone, reading: Reading) -> Seen {
    let sequence = words.clone().next().expect("no message is empty");
    let is_whole = match reading {
        Reading::Whole => words.fold(0, |odd, word| odd | (word ^ sequence)) == 0,
        Reading::First => true,
    };
    Seen { sequence, is_whole }
}

/// Looks at a message where it lies, as words or their bytes, of which `word` makes words.
///
/// # Panics
/// If there are none.
#[inline(always)]
pub fn look_in<T: Copy>(place: &[T], word: impl Fn(T) -> u64 + Clone, reading: Reading) -> Seen {
    match <&[T; SMALL_WORDS]>::try_from(place) {
        Ok(small) => look(small.iter().map(|&part| word(part)), reading),
        Err(_) => look(place.iter().map(|&part| word(part)), reading),
    }
}

/// Looks at the bytes of a message.
///
/// # Panics
/// If they are no whole words.
#[inline(always)]
pub fn look_at_bytes(bytes: &[u8], reading: Reading) -> Seen {
    let (words, rest) = bytes.as_chunks();
    assert!(rest.is_empty(), "a message of {} bytes", bytes.len());
    look_in(words, u64::from_ne_bytes, reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_of_two_is_told_from_a_whole_one_wherever_they_meet() {
        let mut draft = Draft::new(64);
        let new = draft.make(2, 64).to_vec();
        let old = draft.make(1, 64);

        assert!(look_at_bytes(old, Reading::Whole).is_whole);
        for border in (8..64).step_by(8) {
            let torn = [&new[..border], &old[border..]].concat();
            assert!(!look_at_bytes(&torn, Reading::Whole).is_whole, "at byte {border}");
        }
    }
}
