use super::*;

/// From one byte that is damaged to the next, and from one value to the next: Miri has time for a few.
const STEP: usize = if cfg!(miri) { 41 } else { 1 };
const VALUE_STEP: usize = if cfg!(miri) { 255 } else { 1 };

fn header() -> Header {
    let geometry = Geometry::new(1024, 128, 64 << 10, None).unwrap();
    Header::new(&geometry, Incarnation::from_bytes([7; 16]), "prices", 5, 1_000)
}

/// The header with `change` made to it and its checksum made to fit again.
fn changed(change: impl FnOnce(&mut Header)) -> Vec<u8> {
    let mut header = header();
    change(&mut header);
    header.checksum = header.computed_checksum();
    bytemuck::bytes_of(&header).to_vec()
}

#[test]
fn written_header_reads_back() {
    let bytes = changed(|_| {});

    let header = Header::read(&bytes).unwrap();

    assert_eq!(header.name(), "prices");
    assert_eq!(header.incarnation(), Incarnation::from_bytes([7; 16]));
    assert_eq!(header.heartbeat_interval().as_nanos(), 1_000);
    assert_eq!(
        Header::parse(&bytes).unwrap(),
        Geometry::new(1024, 128, 64 << 10, None).unwrap()
    );
}

#[test]
fn every_changed_byte_is_noticed() {
    let bytes = changed(|_| {});
    for at in (0..bytes.len()).step_by(STEP) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x40;
        assert!(Header::parse(&bytes).is_err(), "byte {at}");
    }
}

#[test]
fn every_other_value_of_every_byte_is_noticed() {
    let mut bytes = changed(|_| {});
    for at in (0..bytes.len()).step_by(STEP) {
        let right = bytes[at];
        for value in (0..=255).step_by(VALUE_STEP).filter(|&value| value != right) {
            bytes[at] = value;
            assert!(Header::parse(&bytes).is_err(), "{value} in byte {at}");
        }
        bytes[at] = right;
    }
}

/// A stranger can compute a checksum, too.
#[test]
fn any_header_whose_checksum_fits_is_refused_or_means_what_its_sizes_say() {
    let original = changed(|_| {});
    let (mut tried, mut taken) = (0, 0);
    for at in (0..CHECKSUM_AT).step_by(STEP) {
        for value in (0..=255).step_by(VALUE_STEP) {
            tried += 1;
            let mut bytes = original.clone();
            bytes[at] = value;
            let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
            bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_ne_bytes());

            let Ok(header) = Header::read(&bytes) else { continue };

            let sizes = (header.slot_count, header.slot_bytes, header.arena_bytes);
            let meant = Geometry::new(sizes.0, sizes.1, sizes.2, Some(header.max_message_bytes));
            assert_eq!(Header::parse(&bytes).map_err(drop), meant.map_err(drop));
            assert_eq!(
                header.segment_bytes as usize,
                Header::parse(&bytes).unwrap().segment_bytes()
            );
            assert!(header.name().len() <= MAX_NAME_BYTES);
            taken += 1;
        }
    }
    // Bytes of the name, the incarnation, the times and the reserved words may be anything, sizes hardly ever.
    assert!((tried / 6..tried).contains(&taken), "{taken} of {tried} were taken");
}

#[test]
fn every_missing_byte_is_noticed() {
    let bytes = changed(|_| {});
    for len in 0..bytes.len() {
        assert_eq!(Header::parse(&bytes[..len]), Err(HeaderError::Short { found: len }));
    }
}

#[test]
fn sizes_that_overflow_or_are_not_of_their_kind_are_refused() {
    for bytes in [
        changed(|header| header.slot_count = 0),
        changed(|header| header.slot_count = 3),
        changed(|header| header.slot_count = 1 << 63),
        changed(|header| header.slot_bytes = 0),
        changed(|header| header.slot_bytes = 32),
        changed(|header| header.slot_bytes = 100),
        changed(|header| header.slot_bytes = (64 << 10) + 32),
        changed(|header| header.slot_bytes = 1 << 40),
        changed(|header| header.arena_bytes = 0),
        changed(|header| header.arena_bytes = u64::MAX),
        changed(|header| header.max_message_bytes = 0),
        changed(|header| header.max_message_bytes = (64 << 10) + 1),
    ] {
        assert!(matches!(Header::parse(&bytes), Err(HeaderError::Geometry(_))));
    }
}

#[test]
fn stated_segment_length_must_be_the_sum_of_the_parts() {
    let bytes = changed(|header| header.segment_bytes += 1);

    assert!(matches!(Header::parse(&bytes), Err(HeaderError::SegmentBytes { .. })));
}

#[test]
fn other_byte_order_and_other_version_are_told_apart_from_damage() {
    let swapped = changed(|header| header.byte_order = header.byte_order.swap_bytes());
    let newer = changed(|header| header.layout_version = 2);

    assert_eq!(Header::parse(&swapped), Err(HeaderError::ByteOrder));
    assert_eq!(Header::parse(&newer), Err(HeaderError::Version { found: 2 }));
}

#[test]
fn default_longest_message_is_a_quarter_of_the_ring_and_at_least_a_slot() {
    assert_eq!(
        Geometry::new(1024, 128, 64 << 10, None).unwrap().max_message_bytes(),
        16 << 10
    );
    assert_eq!(
        Geometry::new(1024, 64 << 10, 4096, None).unwrap().max_message_bytes(),
        (64 << 10) - 32
    );
}

#[test]
fn slots_and_arena_lie_one_behind_the_other_inside_the_segment() {
    for (slot_count, slot_bytes) in [(2, 64), (64, 64), (64, 96), (1024, 128), (2, 4064), (4, 4096)] {
        let geometry = Geometry::new(slot_count, slot_bytes, 4096, None).unwrap();
        let last_slot_end = geometry.slot_at(slot_count - 1) + geometry.slot_words();
        assert!(last_slot_end <= geometry.arena_at());
        assert_eq!(
            geometry.arena_at() + geometry.arena_words() as usize,
            geometry.segment_bytes() / WORD_BYTES
        );
    }
}
