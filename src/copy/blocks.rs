//! The assembly blocks that copies are made of on x86-64. See the module above for why they stand for loads and stores of
//! words.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m128i;

#[cfg(target_arch = "x86_64")]
use super::{LOAD_AHEAD_BYTES, STORE_AHEAD_BYTES};
use crate::words::WORD_BYTES;

/// What a block moves at a time.
pub(super) const BLOCK_WORDS: usize = 8;
pub(super) const BLOCK_BYTES: usize = BLOCK_WORDS * WORD_BYTES;

/// As many words as a block moves, in registers.
pub(super) type Block = [u64; BLOCK_WORDS];

/// The loop that moves blocks: `load` asks for the line `{ahead}` bytes behind one of the two places, and brings a block from
/// `{from}` into the registers `{a}` to `{d}`; after a `hint` alone, by loads of two words. Wherever that line is, to ask for it
/// touches nothing.
#[cfg(target_arch = "x86_64")]
macro_rules! move_in_turns {
    ($from:ident, $to:ident, $blocks:ident, $ahead:ident, $hint:literal $(,)?) => {
        move_in_turns!(
            $from,
            $to,
            $blocks,
            $ahead,
            $hint,
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
        )
    };
    ($from:ident, $to:ident, $blocks:ident, $ahead:ident, $($load:literal),+ $(,)?) => {
        std::arch::asm!(
            "2:",
            $($load,)+
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "dec {blocks}",
            "jnz 2b",
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            from = inout(reg) $from => _,
            to = inout(reg) $to => _,
            blocks = inout(reg) $blocks => _,
            ahead = const $ahead,
            options(nostack),
        )
    };
}

/// Moves `blocks` times 64 bytes. Before each block it asks for the line `AHEAD` bytes behind the place that it goes to, to
/// be stored to soon.
///
/// # Safety
/// `from` must be valid for reads and `to` for writes of so many bytes; `blocks` must not be 0. What others write or
/// read there meanwhile, they access as atomic words.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) unsafe fn move_blocks<const AHEAD: usize>(from: *const u8, to: *mut u8, blocks: usize) {
    // SAFETY: it reads and writes what it may, and touches no flag or register that it does not name.
    unsafe {
        move_in_turns!(from, to, blocks, AHEAD, "prefetchw [{to} + {ahead}]",);
    }
}

/// As [`move_blocks`], from the ring: what is asked for is the line [`LOAD_AHEAD_BYTES`] behind the place that a block comes
/// from.
///
/// # Safety
/// As [`move_blocks`].
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) unsafe fn fetch_blocks(from: *const u8, to: *mut u8, blocks: usize) {
    // SAFETY: it reads and writes what it may, and touches no flag or register that it does not name.
    unsafe {
        move_in_turns!(from, to, blocks, LOAD_AHEAD_BYTES, "prefetcht0 [{from} + {ahead}]",);
    }
}

/// As [`move_blocks`], for bytes that were written just now, field by field: a load of two words waits until both stores
/// have reached the cache, behind all that were made before, where loads of one are given what is stored.
///
/// # Safety
/// As [`move_blocks`].
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) unsafe fn move_fresh_blocks<const AHEAD: usize>(from: *const u8, to: *mut u8, blocks: usize) {
    // SAFETY: it reads and writes what it may, and touches no flag or register that it does not name.
    unsafe {
        move_in_turns!(
            from,
            to,
            blocks,
            AHEAD,
            "prefetchw [{to} + {ahead}]",
            "movq {a}, [{from}]",
            "movhps {a}, [{from} + 8]",
            "movq {b}, [{from} + 16]",
            "movhps {b}, [{from} + 24]",
            "movq {c}, [{from} + 32]",
            "movhps {c}, [{from} + 40]",
            "movq {d}, [{from} + 48]",
            "movhps {d}, [{from} + 56]",
        );
    }
}

/// There are no blocks here, so nobody has any moved.
///
/// # Safety
/// Need not be called.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn move_blocks<const AHEAD: usize>(_: *const u8, _: *mut u8, _: usize) {
    unreachable!("no blocks");
}

/// As above.
///
/// # Safety
/// Need not be called.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn fetch_blocks(_: *const u8, _: *mut u8, _: usize) {
    unreachable!("no blocks");
}

/// As above.
///
/// # Safety
/// Need not be called.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn move_fresh_blocks<const AHEAD: usize>(_: *const u8, _: *mut u8, _: usize) {
    unreachable!("no blocks");
}

/// Loads a block.
///
/// # Safety
/// `from` must be valid for reads of a block. What others write there meanwhile, they write as atomic words.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn load_block(from: *const u8) -> Block {
    let (a, b, c, d): (__m128i, __m128i, __m128i, __m128i);
    // SAFETY: it reads what it may, and touches no flag or register that it does not name.
    unsafe {
        std::arch::asm!(
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            a = out(xmm_reg) a,
            b = out(xmm_reg) b,
            c = out(xmm_reg) c,
            d = out(xmm_reg) d,
            from = in(reg) from,
            options(nostack, preserves_flags, readonly),
        );
    }
    bytemuck::cast([a, b, c, d])
}

/// Stores a block to `to`, and asks for the line ahead.
///
/// # Safety
/// `to` must be valid for writes of a block. What others read there meanwhile, they read as atomic words.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn put_block(to: *mut u8, block: Block) {
    let [a, b, c, d]: [__m128i; 4] = bytemuck::cast(block);
    // SAFETY: it writes what it may, and touches no flag or register that it does not name.
    unsafe {
        std::arch::asm!(
            "prefetchw [{to} + {ahead}]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            a = in(xmm_reg) a,
            b = in(xmm_reg) b,
            c = in(xmm_reg) c,
            d = in(xmm_reg) d,
            to = in(reg) to,
            ahead = const STORE_AHEAD_BYTES,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(all(test, target_arch = "x86_64", not(any(loom, miri))))]
mod tests {
    use super::*;
    use crate::sync::AtomicU64;
    use crate::words::look;

    #[test]
    fn blocks_are_moved_whole_and_alone() {
        let ways = [
            move_blocks::<0>,
            move_blocks::<STORE_AHEAD_BYTES>,
            move_fresh_blocks::<0>,
            fetch_blocks,
        ];
        for (blocks, move_them) in (1..=5).flat_map(|blocks| ways.map(|way| (blocks, way))) {
            for offset in [0, 1, 7, 8, 16, 31] {
                let from: Vec<u8> = (0..400).map(|byte| byte as u8).collect();
                let mut to = vec![0xee; 400];
                let range = offset..offset + blocks * BLOCK_WORDS * WORD_BYTES;

                // SAFETY: both have more bytes from `offset` on.
                unsafe { move_them(from[offset..].as_ptr(), to[offset..].as_mut_ptr(), blocks) };

                assert_eq!(to[range.clone()], from[range.clone()]);
                assert!(
                    to[..range.start]
                        .iter()
                        .chain(&to[range.end..])
                        .all(|&byte| byte == 0xee)
                );
            }
        }
    }

    #[test]
    fn block_in_registers_is_moved_whole_and_alone() {
        const BEFORE: usize = 3;
        let block = std::array::from_fn(|word| (word as u64 + 1) << 56 | 7);
        let words: [AtomicU64; BEFORE + BLOCK_WORDS + 1] =
            [const { AtomicU64::new(u64::MAX) }; BEFORE + BLOCK_WORDS + 1];
        let place = words[BEFORE..].as_ptr();

        // SAFETY: a block of them follows, and they are atomics.
        unsafe { put_block(place.cast_mut().cast(), block) };

        // SAFETY: as above.
        assert_eq!(unsafe { load_block(place.cast()) }, block);
        let stored: Vec<u64> = words.iter().map(look).collect();
        assert_eq!(stored, [&[u64::MAX; BEFORE][..], &block, &[u64::MAX]].concat());
    }
}
