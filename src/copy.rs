//! Copies between shared words and private bytes, and rows of shared words.
//!
//! Words are loaded and stored one by one, Relaxed. Compilers keep accesses to atomics apart, which makes long rows half
//! to a quarter as fast as the machine allows, so on x86-64 assembly blocks move 64 bytes at a time instead: between memory and
//! memory, or, for who makes a message or looks at it in place, registers. They stand for the same loads and stores:
//!
//! - the compiler does not look into them and keeps them between the fences that surround them;
//! - the processor keeps loads in the order of loads and stores in the order of stores, vectors included, so the
//!   stamps before and behind are seen as they are with single words;
//! - every pattern of bits is a word. Should one be of two messages, it is thrown away with the message: that is what
//!   the second look at the stamp is for.
//!
//! `--cfg portable` turns the blocks off, as on other processors, for tools that cannot look into them.

#[cfg(all(target_arch = "x86_64", not(any(loom, miri, portable))))]
use std::arch::x86_64::{__cpuid, __cpuid_count};
use std::mem::MaybeUninit;
use std::slice;
#[cfg(all(target_arch = "x86_64", not(any(loom, miri, portable))))]
use std::sync::LazyLock;

use bytemuck::{AnyBitPattern, NoUninit};

use crate::sync::{AtomicU64, Ordering};
use crate::words::{LINE_WORDS, WORD_BYTES, look, words_for};

mod blocks;

use blocks::{BLOCK_BYTES, BLOCK_WORDS, Block, fetch_blocks, move_blocks, move_fresh_blocks};
#[cfg(target_arch = "x86_64")]
use blocks::{load_block, put_block};

/// How far ahead of a store the publisher asks for cache lines. Those behind a long message are those of the next one. Readers
/// on other processors have had them since the last round, and to take them back takes as long as several messages.
pub(crate) const STORE_AHEAD_BYTES: usize = 1024;

/// How far ahead of a load a reader asks for cache lines. Processors do so on their own, but some of them not far enough, and
/// they stop at the end of a page.
pub(crate) const LOAD_AHEAD_BYTES: usize = 2048;

/// The most that may have been written so recently that it has not reached the cache: a processor keeps back some 60 stores.
const FRESH_BYTES: usize = 512;

/// The most that a value may have to be moved in registers alone.
const FEW_BYTES: usize = 256;

/// Whether this build has the blocks. Unit tests watch single loads, and models know only atomics.
const HAS_BLOCKS: bool = cfg!(all(target_arch = "x86_64", not(any(test, loom, miri, portable))));

/// Asks for the cache line `AHEAD` bytes behind `word`, to be looked at soon. Wherever that is, to ask touches nothing. Costs
/// an instruction and waits for nothing.
#[inline]
pub(crate) fn prefetch_to_load<const AHEAD: usize>(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri, portable))))]
    // SAFETY: a hint, which touches no memory as far as programs can tell.
    unsafe {
        // Not by the intrinsic: the compiler adds AHEAD by an instruction of its own.
        std::arch::asm!(
            "prefetcht0 [{word} + {ahead}]",
            word = in(reg) word,
            ahead = const AHEAD,
            options(nostack, preserves_flags, readonly),
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, portable)))))]
    let _ = word;
}

/// As [`prefetch_to_load`], to be stored to soon: its readers lose it.
#[inline]
pub(crate) fn prefetch_to_store<const AHEAD: usize>(word: &AtomicU64) {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri, portable))))]
    // SAFETY: a hint, which touches no memory as far as programs can tell. Processors that lack it do nothing.
    unsafe {
        std::arch::asm!(
            "prefetchw [{word} + {ahead}]",
            word = in(reg) word,
            ahead = const AHEAD,
            options(nostack, preserves_flags, readonly),
        );
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, portable)))))]
    let _ = word;
}

/// Whether [`flush`] does anything: the processor has CLFLUSHOPT. Asks it once, which takes a virtual one microseconds.
pub(crate) fn can_flush() -> bool {
    #[cfg(all(target_arch = "x86_64", not(any(loom, miri, portable))))]
    {
        static HAS_CLFLUSHOPT: LazyLock<bool> = LazyLock::new(|| {
            const LEAF: u32 = 7;
            const CLFLUSHOPT: u32 = 1 << 23;
            // SAFETY: every x86-64 processor has this instruction. (Newer compilers know that.)
            #[allow(unused_unsafe)]
            let leaves = unsafe { __cpuid(0) }.eax;
            // SAFETY: as above.
            #[allow(unused_unsafe)]
            let features = unsafe { __cpuid_count(LEAF, 0) }.ebx;
            leaves >= LEAF && features & CLFLUSHOPT != 0
        });
        *HAS_CLFLUSHOPT
    }
    #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, portable)))))]
    false
}

/// Takes the cache lines of `words` out of all caches, those of other processors included, and waits for nothing. The words
/// stay what they are. Only if [`can_flush`] says so.
#[inline]
pub(crate) fn flush(words: &[AtomicU64]) {
    for line in words.chunks(LINE_WORDS) {
        #[cfg(all(target_arch = "x86_64", not(any(loom, miri, portable))))]
        // SAFETY: the line that is flushed is mapped, since these words are; programs cannot tell that it was.
        unsafe {
            std::arch::asm!(
                "clflushopt [{word}]",
                word = in(reg) line.as_ptr(),
                options(nostack, preserves_flags, readonly),
            );
        }
        #[cfg(not(all(target_arch = "x86_64", not(any(loom, miri, portable)))))]
        let _ = line;
    }
}

/// Copies `out.len()` bytes, from byte `offset` of `words` on.
///
/// # Panics
/// If they do not all lie inside.
#[inline]
pub(crate) fn load(words: &[AtomicU64], offset: usize, out: &mut [u8]) {
    // SAFETY: `fill` writes bytes and takes none away.
    let out = unsafe { slice::from_raw_parts_mut(out.as_mut_ptr().cast(), out.len()) };
    fill(words, offset, out);
}

/// Appends the first `len` bytes of `words` to `out`: whole words at first, which takes less time than a copy to the byte.
///
/// # Panics
/// If there are fewer bytes than that.
#[inline]
pub(crate) fn append(words: &[AtomicU64], len: usize, out: &mut Vec<u8>) {
    let words = &words[..words_for(len)];
    let whole = words.len() * WORD_BYTES;
    out.reserve(whole);
    fill(words, 0, &mut out.spare_capacity_mut()[..whole]);
    // SAFETY: as many bytes more were written just now, and up to a word behind them.
    unsafe { out.set_len(out.len() + len) };
}

/// Reads a `T` from byte `offset` of `words` on.
///
/// # Panics
/// If it does not lie inside.
#[inline(always)]
pub(crate) fn read<T: AnyBitPattern>(words: &[AtomicU64], offset: usize) -> T {
    if !is_few_words::<T>() {
        // SAFETY: `fill` writes every byte.
        return unsafe { filled(|bytes| fill(words, offset, bytes)) };
    }
    if !offset.is_multiple_of(WORD_BYTES) {
        return read_between_words(words, offset);
    }
    let words = &words[offset / WORD_BYTES..][..size_of::<T>() / WORD_BYTES];
    // SAFETY: `fill_with_words` writes every byte.
    unsafe { filled(|bytes| fill_with_words(words, bytes)) }
}

/// As [`read`], for what hardly anybody does. Not inlined: who reads value after value has registers for these.
#[inline(never)]
fn read_between_words<T: AnyBitPattern>(words: &[AtomicU64], offset: usize) -> T {
    // SAFETY: `fill` writes every byte.
    unsafe { filled(|bytes| fill(words, offset, bytes)) }
}

/// The `T` whose bytes `write` writes.
///
/// # Safety
/// `write` must write every byte that it is given.
#[inline(always)]
unsafe fn filled<T: AnyBitPattern>(write: impl FnOnce(&mut [MaybeUninit<u8>])) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: these are all bytes of `value`.
    write(unsafe { slice::from_raw_parts_mut(value.as_mut_ptr().cast(), size_of::<T>()) });
    // SAFETY: every byte of it was written, as the caller promises, and any bytes are a `T`.
    unsafe { value.assume_init() }
}

/// Writes every byte of `out`, which has as many words as there are: as many as the compiler can count.
#[inline(always)]
fn fill_with_words(words: &[AtomicU64], out: &mut [MaybeUninit<u8>]) {
    assert!(out.len() == words.len() * WORD_BYTES, "another size");
    let (blocks, rest) = words.as_chunks();
    let (whole, tail) = out.split_at_mut(blocks.len() * BLOCK_BYTES);
    for (out, block) in whole.as_chunks_mut::<BLOCK_BYTES>().0.iter_mut().zip(blocks) {
        for (out, word) in out.as_chunks_mut().0.iter_mut().zip(look_at_block(block)) {
            *out = bytes_of(word);
        }
    }
    for (out, word) in tail.as_chunks_mut().0.iter_mut().zip(rest) {
        *out = bytes_of(look(word));
    }
}

/// Writes every byte of `out`: those from byte `offset` of `words` on.
#[inline]
fn fill(words: &[AtomicU64], offset: usize, mut out: &mut [MaybeUninit<u8>]) {
    let skip = offset % WORD_BYTES;
    let mut words = &words[offset / WORD_BYTES..][..words_for(skip + out.len())];
    if let (Some((first, rest)), 1..) = (words.split_first(), skip) {
        let head = out.len().min(WORD_BYTES - skip);
        let bytes = bytes_of(look(first));
        out[..head].copy_from_slice(&bytes[skip..skip + head]);
        out = &mut out[head..];
        words = rest;
    }
    let (whole, tail) = out.as_chunks_mut::<WORD_BYTES>();
    let mut done = 0;
    if HAS_BLOCKS && whole.len() >= BLOCK_WORDS {
        done = whole.len() - whole.len() % BLOCK_WORDS;
        let (from, to, blocks) = (words.as_ptr().cast(), whole.as_mut_ptr().cast(), done / BLOCK_WORDS);
        // A single one is in its slot: who goes from slot to slot asks for those.
        if blocks == 1 {
            // SAFETY: `done` is a multiple of a block and not 0, and neither side has fewer words.
            unsafe { move_blocks::<0>(from, to, blocks) };
        } else {
            // SAFETY: as above.
            unsafe { fetch_blocks(from, to, blocks) };
        }
    }
    for (out, word) in whole[done..].iter_mut().zip(&words[done..]) {
        *out = bytes_of(look(word));
    }
    if let (Some(word), false) = (words.last(), tail.is_empty()) {
        let bytes = bytes_of(look(word));
        tail.copy_from_slice(&bytes[..tail.len()]);
    }
}

/// The bytes of a word, as they are written to what may be uninitialized. One by one: `map` takes unoptimized builds, and
/// Miri more so, ten times as long.
#[inline]
fn bytes_of(word: u64) -> [MaybeUninit<u8>; WORD_BYTES] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    let new = MaybeUninit::new;
    [new(a), new(b), new(c), new(d), new(e), new(f), new(g), new(h)]
}

/// Stores `bytes` into `words` from the first on; the rest of the last word becomes zero.
///
/// # Panics
/// If the words are too few.
#[inline]
pub(crate) fn store(words: &[AtomicU64], bytes: &[u8]) {
    let words = &words[..words_for(bytes.len())];
    if HAS_BLOCKS && bytes.len() >= BLOCK_BYTES {
        let whole = bytes.len() - bytes.len() % BLOCK_BYTES;
        if whole <= FRESH_BYTES {
            store_blocks(words, &bytes[..whole], move_fresh_blocks::<STORE_AHEAD_BYTES>);
        } else {
            store_blocks(words, &bytes[..whole], move_blocks::<STORE_AHEAD_BYTES>);
        }
        if whole != bytes.len() {
            store_words(&words[whole / WORD_BYTES..], &bytes[whole..]);
        }
        return;
    }
    store_words(words, bytes);
}

/// Whether [`store_whole`] stores so many bytes.
#[inline]
pub(crate) const fn is_whole(len: usize) -> bool {
    HAS_BLOCKS && len != 0 && len <= FRESH_BYTES && len.is_multiple_of(BLOCK_BYTES)
}

/// As [`store`], for a few blocks and no more, see [`is_whole`]: calls nothing, and asks for no lines.
///
/// # Panics
/// If the words are too few, or the length is another one.
#[inline]
pub(crate) fn store_whole(words: &[AtomicU64], bytes: &[u8]) {
    assert!(is_whole(bytes.len()), "no whole blocks");
    store_blocks(words, bytes, move_fresh_blocks::<0>);
}

/// Stores what there is of whole blocks in `bytes`, with one of the functions below.
///
/// # Panics
/// If there are none, or the words are too few.
#[inline]
fn store_blocks(words: &[AtomicU64], bytes: &[u8], move_them: unsafe fn(*const u8, *mut u8, usize)) {
    let blocks = bytes.len() / BLOCK_BYTES;
    assert!(blocks != 0, "less than a block");
    let words = &words[..blocks * BLOCK_WORDS];
    // SAFETY: there are blocks, and neither side has fewer bytes; `words` may be stored to through a shared reference, as
    // they are atomics.
    unsafe { move_them(bytes.as_ptr(), words.as_ptr().cast_mut().cast(), blocks) };
}

/// The same, a word at a time. Not inlined: it would take the registers of those who call it.
#[inline(never)]
fn store_words(words: &[AtomicU64], bytes: &[u8]) {
    let (whole, tail) = bytes.as_chunks::<WORD_BYTES>();
    for (word, chunk) in words.iter().zip(whole) {
        word.store(u64::from_ne_bytes(*chunk), Ordering::Relaxed);
    }
    if let (Some(word), false) = (words.last(), tail.is_empty()) {
        // The last eight bytes, shifted: one load, where copying a few bytes to a buffer and loading that as a word
        // stalls for longer than all the rest takes.
        let value = bytes.last_chunk().map_or_else(
            || word_of(tail),
            |last| (u64::from_le_bytes(*last) >> (8 * (WORD_BYTES - tail.len()))).to_le(),
        );
        word.store(value, Ordering::Relaxed);
    }
}

/// The word whose first bytes are `bytes` (at most 8), the others zero.
#[inline]
pub(crate) fn word_of(bytes: &[u8]) -> u64 {
    let len = bytes.len();
    // Two loads that may overlap: no loop, and no copy through a buffer.
    let value = if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        u64::from(u32::from_le_bytes(*first)) | u64::from(u32::from_le_bytes(*last)) << (8 * (len - 4))
    } else if let (Some(first), Some(last)) = (bytes.first_chunk(), bytes.last_chunk()) {
        u64::from(u16::from_le_bytes(*first)) | u64::from(u16::from_le_bytes(*last)) << (8 * (len - 2))
    } else {
        bytes.first().map_or(0, |&byte| byte.into())
    };
    value.to_le()
}

/// Looks at the words of a block: in four loads of two words, where there are blocks.
#[inline(always)]
pub(crate) fn look_at_block(words: &[AtomicU64; BLOCK_WORDS]) -> Block {
    #[cfg(target_arch = "x86_64")]
    if HAS_BLOCKS {
        // SAFETY: there are as many words to read.
        return unsafe { load_block(words.as_ptr().cast()) };
    }
    words.each_ref().map(look)
}

/// Stores a block: in four stores of two words, where there are blocks.
#[inline(always)]
pub(crate) fn store_block(words: &[AtomicU64; BLOCK_WORDS], block: Block) {
    #[cfg(target_arch = "x86_64")]
    if HAS_BLOCKS {
        // SAFETY: there are as many words, which may be stored to through a shared reference, as they are atomics.
        return unsafe { put_block(words.as_ptr().cast_mut().cast(), block) };
    }
    for (place, word) in words.iter().zip(block) {
        place.store(word, Ordering::Relaxed);
    }
}

/// Whether values of type `T` are whole words, and so few that the compiler can have them all in registers.
pub(crate) const fn is_few_words<T>() -> bool {
    size_of::<T>().is_multiple_of(WORD_BYTES) && size_of::<T>() <= FEW_BYTES
}

/// Stores a value of a few words (see [`is_few_words`]), by way of registers where the compiler has it there.
///
/// # Panics
/// If the words are another number, or it is no such type.
#[inline(always)]
pub(crate) fn store_value<T: NoUninit>(places: &[AtomicU64], value: &T) {
    let (words, []) = bytemuck::bytes_of(value).as_chunks::<WORD_BYTES>() else {
        unreachable!("a value of whole words");
    };
    assert!(is_few_words::<T>() && places.len() == words.len(), "another size");
    let ((place_blocks, place_rest), (blocks, rest)) = (places.as_chunks(), words.as_chunks());
    for (place, block) in place_blocks.iter().zip(blocks) {
        store_block(place, block.map(u64::from_ne_bytes));
    }
    for (place, word) in place_rest.iter().zip(rest) {
        place.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
    }
}

/// Stores the words that come, as far as there are places for them. Returns how many. Asks for lines ahead, as [`store`]
/// does.
#[inline(always)]
pub(crate) fn store_each(places: &[AtomicU64], mut words: impl ExactSizeIterator<Item = u64>) -> usize {
    let coming = &places[..words.len().min(places.len())];
    let blocks = if HAS_BLOCKS { coming.as_chunks().0 } else { &[] };
    for (done, place) in blocks.iter().enumerate() {
        // They may be fewer than they said. Having asked, the compiler makes eight at once, without a look whether each comes.
        if words.len() < BLOCK_WORDS {
            return done * BLOCK_WORDS + store_one_by_one(place, words);
        }
        let mut block = [0; BLOCK_WORDS];
        let made = fill_block(&mut block, &mut words);
        if made < BLOCK_WORDS {
            return done * BLOCK_WORDS + store_one_by_one(place, block.into_iter().take(made));
        }
        store_block(place, block);
    }
    let done = blocks.as_flattened().len();
    done + store_one_by_one(&places[done..], words)
}

/// Returns how many words came.
#[inline(always)]
fn fill_block(block: &mut Block, words: impl Iterator<Item = u64>) -> usize {
    block.iter_mut().zip(words).map(|(place, word)| *place = word).count()
}

/// Returns how many words came.
#[inline]
fn store_one_by_one(places: &[AtomicU64], words: impl Iterator<Item = u64>) -> usize {
    let pairs = places.iter().zip(words);
    pairs.map(|(place, word)| place.store(word, Ordering::Relaxed)).count()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const MOST: usize = 200;
    /// From one length or offset to the next. Miri has time for a few; those still begin and end at every place in a word.
    const STEP: usize = if cfg!(miri) { 23 } else { 1 };

    fn words_of(bytes: &[u8]) -> Vec<AtomicU64> {
        let words: Vec<AtomicU64> = (0..words_for(MOST)).map(|_| AtomicU64::new(u64::MAX)).collect();
        store(&words, bytes);
        words
    }

    fn counting(len: usize) -> Vec<u8> {
        (1..=len).map(|byte| byte as u8).collect()
    }

    #[test]
    fn stored_bytes_come_back_at_every_length() {
        for len in (0..=MOST).step_by(STEP) {
            let bytes = counting(len);
            let words = words_of(&bytes);
            let mut out = vec![0; len];

            load(&words, 0, &mut out);

            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn appended_bytes_stand_behind_what_was_there() {
        for len in (0..=MOST).step_by(STEP) {
            let bytes = counting(len);
            let mut out = vec![7; 3];

            append(&words_of(&bytes), len, &mut out);

            assert_eq!(out[..3], [7; 3]);
            assert_eq!(out[3..], bytes);
        }
    }

    #[test]
    fn bytes_are_copied_from_anywhere() {
        let bytes = counting(MOST);
        let words = words_of(&bytes);
        for offset in (0..MOST).step_by(STEP) {
            for len in [0, 1, 3, 8, 30, 64, 131] {
                let len = len.min(MOST - offset);
                let mut out = vec![0; len];

                load(&words, offset, &mut out);

                assert_eq!(out, bytes[offset..offset + len]);
            }
        }
    }

    #[test]
    fn values_are_read_from_anywhere() {
        let bytes = counting(MOST);
        let words = words_of(&bytes);
        for offset in 0..20 {
            assert_eq!(read::<[u8; 3]>(&words, offset)[..], bytes[offset..offset + 3]);
            assert_eq!(read::<[u8; 17]>(&words, offset)[..], bytes[offset..offset + 17]);
            assert_eq!(read::<[u8; 128]>(&words, offset)[..], bytes[offset..offset + 128]);
        }
    }

    #[test]
    #[should_panic(expected = "out of range")]
    fn more_than_there_is_cannot_be_read() {
        read::<[u8; 8]>(&words_of(&counting(MOST)), MOST - 7);
    }

    #[test]
    fn rest_of_the_last_word_is_zero() {
        for len in (1..=MOST).step_by(STEP) {
            let bytes = counting(len);
            let mut expected = vec![0; words_for(len) * WORD_BYTES];
            expected[..len].copy_from_slice(&bytes);
            let mut stored = vec![0; expected.len()];

            load(&words_of(&bytes), 0, &mut stored);

            assert_eq!(stored, expected, "{len}");
        }
    }
}
