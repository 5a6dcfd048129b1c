//! The header of a segment: any bytes give a header that holds together, or an error.
#![no_main]

use lapwing::layout::{Header, MAX_MESSAGE_BYTES, MAX_NAME_BYTES};
use libfuzzer_sys::fuzz_target;

const CHECKSUM_AT: usize = 252;

fn check(bytes: &[u8]) {
    let (header, geometry) = match (Header::read(bytes), Header::parse(bytes)) {
        (Ok(header), Ok(geometry)) => (header, geometry),
        (Err(read), Err(parse)) => return assert_eq!(read.to_string(), parse.to_string()),
        other => panic!("{other:?}"),
    };
    let (slots, slot_bytes, arena) = (
        geometry.slot_count(),
        geometry.slot_bytes() as u64,
        geometry.arena_bytes() as u64,
    );
    assert!(slots.is_power_of_two() && slot_bytes.is_multiple_of(32) && arena.is_power_of_two());
    assert!((64..=65_536).contains(&slot_bytes));
    // Header page, slots and arena lie behind one another and end where the segment does.
    let slots_bytes = slots.checked_mul(slot_bytes).expect("slots that can be addressed");
    let arena_at = slots_bytes
        .checked_next_multiple_of(4096)
        .and_then(|bytes| bytes.checked_add(4096));
    let end = arena_at.and_then(|at| at.checked_add(arena));
    assert_eq!(end, Some(geometry.segment_bytes() as u64));
    let stated = bytes[48..56].try_into().map(u64::from_ne_bytes);
    assert_eq!(stated.ok(), end, "docs/memory-layout.md has the segment's bytes there");
    let longest = geometry.max_message_bytes();
    assert!(longest > 0 && longest as u64 <= MAX_MESSAGE_BYTES);
    assert!(longest <= geometry.arena_bytes().max(geometry.inline_bytes()));
    assert_eq!(geometry.inline_bytes() + 32, geometry.slot_bytes());
    assert!(header.name().len() <= MAX_NAME_BYTES);
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // The same with a checksum that fits, or nothing would ever get past it.
    let mut bytes = bytes.to_vec();
    if let Some((covered, checksum)) = bytes.split_at_mut_checked(CHECKSUM_AT)
        && let Some(checksum) = checksum.get_mut(..4)
    {
        checksum.copy_from_slice(&crc32c::crc32c(covered).to_ne_bytes());
        check(&bytes);
    }
});
