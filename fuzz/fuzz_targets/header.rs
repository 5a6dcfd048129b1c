//! The header of a segment: any bytes give a header that holds together, or an error.
#![no_main]

use lapwing::layout::Header;
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
    assert!(slots.is_power_of_two() && slot_bytes.is_power_of_two() && arena.is_power_of_two());
    assert_eq!(
        geometry.segment_bytes() as u64,
        4096 + (slots * slot_bytes).next_multiple_of(4096) + arena
    );
    assert!(geometry.max_message_bytes() <= geometry.arena_bytes().max(geometry.inline_bytes()));
    assert!(geometry.max_message_bytes() > 0 && header.name().len() <= 64);
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
