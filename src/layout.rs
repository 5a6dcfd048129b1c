//! The layout of a segment: what lies where, and the header that says so.
//!
//! ```text
//!        0  header      256 bytes, written once before the server announces itself: magic, versions, geometry,
//!                       incarnation, name, checksum
//!     1024  head        next sequence << 1 | closed       live words, each alone on 128 bytes so that
//!     1152  floor       first arena position still valid  neither the one line nor its neighbour, which
//!     1280  heartbeat   counts up while the server lives  processors fetch in pairs, is shared
//!     4096  slots       slot_count x slot_bytes
//!      ...  arena       arena_bytes, on the next page boundary
//! ```
//!
//! The header is a claim by a stranger. [`Header::parse`] believes it only after every check; from then on the
//! [`Geometry`] lives in private memory and nothing of it is read from the segment again.

use std::fmt;
use std::mem::offset_of;

use bytemuck::{Pod, Zeroable};

use crate::incarnation::Incarnation;
use crate::words::WORD_BYTES;

/// The first eight bytes of every segment.
pub const MAGIC: [u8; 8] = *b"LAPWING\0";
/// The version of this layout. It changes whenever an old reader would misread a new segment.
pub const LAYOUT_VERSION: u32 = 1;
/// Written as a word: a reader of the other byte order finds it reversed.
const BYTE_ORDER: u32 = 0x0102_0304;
/// Longest server name, in bytes.
pub const MAX_NAME_BYTES: usize = 64;

const PAGE_BYTES: u64 = if cfg!(loom) { 64 } else { 4096 };
pub(crate) const HEADER_BYTES: usize = size_of::<Header>();
// A model has its words side by side: the fewer there are, the sooner loom has gone through all interleavings.
pub(crate) const HEAD_WORD: usize = if cfg!(loom) { 0 } else { 1024 / WORD_BYTES };
pub(crate) const FLOOR_WORD: usize = if cfg!(loom) { 1 } else { 1152 / WORD_BYTES };
pub(crate) const HEARTBEAT_WORD: usize = if cfg!(loom) { 2 } else { 1280 / WORD_BYTES };
/// Where the slots begin.
const SLOTS_AT: u64 = PAGE_BYTES;
/// Words of a slot before its body: stamp, length, timestamp, tag.
pub(crate) const SLOT_HEADER_WORDS: usize = 4;
const SLOT_HEADER_BYTES: u64 = (SLOT_HEADER_WORDS * WORD_BYTES) as u64;

const MIN_SLOT_BYTES: u64 = 64;
const MAX_SLOT_BYTES: u64 = 64 << 10;
/// Slots have a multiple of so many bytes, as many as come before a payload: so every payload is aligned to them.
pub(crate) const SLOT_STEP_BYTES: u64 = SLOT_HEADER_BYTES;
const MIN_SLOT_COUNT: u64 = 2;
pub(crate) const MAX_SLOT_COUNT: u64 = 1 << 32;
/// Smallest arena. One page, so that every arena begins and ends on a page boundary.
pub const MIN_ARENA_BYTES: u64 = PAGE_BYTES;
/// Longest payload that any ring takes, in bytes: what a reader may be made to copy at once.
pub const MAX_MESSAGE_BYTES: u64 = 1 << 30;
/// Largest arena: 1 TiB.
pub const MAX_ARENA_BYTES: u64 = 1 << 40;

/// The first 256 bytes of a segment, as they lie in memory.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Header {
    magic: [u8; 8],
    layout_version: u32,
    byte_order: u32,
    slot_bytes: u64,
    slot_count: u64,
    arena_bytes: u64,
    max_message_bytes: u64,
    segment_bytes: u64,
    created_unix_ns: u64,
    heartbeat_interval_ns: u64,
    reserved: u64,
    incarnation: [u8; 16],
    name: [u8; MAX_NAME_BYTES],
    reserved_too: [u64; 11],
    name_bytes: u32,
    /// CRC-32C of all bytes before it.
    checksum: u32,
}

// The layout is an interface between programs: any change of it is a new LAYOUT_VERSION.
const _: () = {
    assert!(size_of::<Header>() == 256 && (cfg!(loom) || size_of::<Header>() <= HEAD_WORD * WORD_BYTES));
    assert!(offset_of!(Header, magic) == 0);
    assert!(offset_of!(Header, layout_version) == 8);
    assert!(offset_of!(Header, byte_order) == 12);
    assert!(offset_of!(Header, slot_bytes) == 16);
    assert!(offset_of!(Header, slot_count) == 24);
    assert!(offset_of!(Header, arena_bytes) == 32);
    assert!(offset_of!(Header, max_message_bytes) == 40);
    assert!(offset_of!(Header, segment_bytes) == 48);
    assert!(offset_of!(Header, created_unix_ns) == 56);
    assert!(offset_of!(Header, heartbeat_interval_ns) == 64);
    assert!(offset_of!(Header, reserved) == 72);
    assert!(offset_of!(Header, incarnation) == 80);
    assert!(offset_of!(Header, name) == 96);
    assert!(offset_of!(Header, reserved_too) == 160);
    assert!(offset_of!(Header, name_bytes) == 248);
    assert!(offset_of!(Header, checksum) == CHECKSUM_AT);
};
const CHECKSUM_AT: usize = 252;

impl Header {
    /// The header of a new segment.
    pub(crate) fn new(
        geometry: &Geometry,
        incarnation: Incarnation,
        name: &str,
        created_unix_ns: u64,
        heartbeat_interval_ns: u64,
    ) -> Self {
        let mut header = Self {
            magic: MAGIC,
            layout_version: LAYOUT_VERSION,
            byte_order: BYTE_ORDER,
            slot_bytes: geometry.slot_bytes() as u64,
            slot_count: geometry.slot_count(),
            arena_bytes: geometry.arena_bytes,
            max_message_bytes: geometry.max_message_bytes,
            segment_bytes: geometry.segment_bytes,
            created_unix_ns,
            heartbeat_interval_ns,
            incarnation: incarnation.to_bytes(),
            ..Self::zeroed()
        };
        let len = name.len().min(MAX_NAME_BYTES);
        header.name[..len].copy_from_slice(&name.as_bytes()[..len]);
        header.name_bytes = len as u32;
        header.checksum = header.computed_checksum();
        header
    }

    fn computed_checksum(&self) -> u32 {
        crc32c::crc32c(&bytemuck::bytes_of(self)[..CHECKSUM_AT])
    }

    /// Copies a header out of `bytes` and checks all of it but whether the segment is as long as it says.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn read(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = bytes.get(..HEADER_BYTES) else {
            return Err(HeaderError::Short { found: bytes.len() });
        };
        let header: Self = bytemuck::pod_read_unaligned(bytes);
        if header.magic != MAGIC {
            return Err(HeaderError::Magic);
        }
        if header.byte_order == BYTE_ORDER.swap_bytes() {
            return Err(HeaderError::ByteOrder);
        }
        if header.layout_version != LAYOUT_VERSION {
            return Err(HeaderError::Version {
                found: header.layout_version,
            });
        }
        if header.byte_order != BYTE_ORDER || header.checksum != header.computed_checksum() {
            return Err(HeaderError::Checksum);
        }
        let name = header.name.get(..header.name_bytes as usize).map(std::str::from_utf8);
        if !matches!(name, Some(Ok(_))) {
            return Err(HeaderError::Name);
        }
        let geometry = header.checked_geometry()?;
        if geometry.segment_bytes != header.segment_bytes {
            return Err(HeaderError::SegmentBytes {
                needed: geometry.segment_bytes,
                stated: header.segment_bytes,
            });
        }
        Ok(header)
    }

    /// Reads the geometry out of the first bytes of a segment. Total: any bytes give a geometry or an error.
    ///
    /// # Errors
    /// The first thing that is wrong with the header.
    pub fn parse(bytes: &[u8]) -> Result<Geometry, HeaderError> {
        Self::read(bytes)?.checked_geometry()
    }

    fn checked_geometry(&self) -> Result<Geometry, HeaderError> {
        Geometry::new(
            self.slot_count,
            self.slot_bytes,
            self.arena_bytes,
            Some(self.max_message_bytes),
        )
        .map_err(HeaderError::Geometry)
    }

    /// The life of the server that laid this segment.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        Incarnation::from_bytes(self.incarnation)
    }

    /// The server's name; empty if the header was not checked by [`Header::read`] and its name is no text.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name
            .get(..self.name_bytes as usize)
            .and_then(|name| std::str::from_utf8(name).ok())
            .unwrap_or_default()
    }

    /// When the segment was laid, in nanoseconds since 1970 on the server's clock.
    #[must_use]
    pub const fn created_unix_ns(&self) -> u64 {
        self.created_unix_ns
    }

    /// How often a live server moves its heartbeat.
    #[must_use]
    pub const fn heartbeat_interval(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.heartbeat_interval_ns)
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header")
            .field("name", &self.name())
            .field("incarnation", &self.incarnation())
            .field("slot_count", &self.slot_count)
            .field("slot_bytes", &self.slot_bytes)
            .field("arena_bytes", &self.arena_bytes)
            .field("max_message_bytes", &self.max_message_bytes)
            .finish_non_exhaustive()
    }
}

/// Slots and sizes of a ring, validated: everything an index or a length is bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// How many slots there are, less one: a power of two from 2 to 2^32, less one.
    slot_mask: u64,
    /// Words of a slot: always a multiple of 4 from 8 to 8 Ki.
    slot_words: usize,
    /// Always a power of two from 4 Ki to 1 Ti.
    arena_bytes: u64,
    /// At least 1; fits a slot's body or the arena.
    max_message_bytes: u64,
    /// The sum of header page, slots and arena; always fits a `usize`.
    segment_bytes: u64,
}

impl Geometry {
    /// Checks the sizes of a ring. `max_message_bytes` defaults to a quarter of the arena, or what fits in a slot if
    /// that is more, so that at least the newest three messages of the largest size can be read at leisure.
    ///
    /// # Errors
    /// The size that is not allowed, with what is.
    pub fn new(
        slot_count: u64,
        slot_bytes: u64,
        arena_bytes: u64,
        max_message_bytes: Option<u64>,
    ) -> Result<Self, GeometryError> {
        let checks = [
            ("slot count", slot_count, MIN_SLOT_COUNT, MAX_SLOT_COUNT),
            ("ring size", arena_bytes, MIN_ARENA_BYTES, MAX_ARENA_BYTES),
        ];
        for (what, value, min, max) in checks {
            if !value.is_power_of_two() || !(min..=max).contains(&value) {
                return Err(GeometryError::PowerOfTwo { what, value, min, max });
            }
        }
        if !slot_bytes.is_multiple_of(SLOT_STEP_BYTES) || !(MIN_SLOT_BYTES..=MAX_SLOT_BYTES).contains(&slot_bytes) {
            return Err(GeometryError::Slot {
                value: slot_bytes,
                step: SLOT_STEP_BYTES,
                min: MIN_SLOT_BYTES,
                max: MAX_SLOT_BYTES,
            });
        }
        let inline = slot_bytes - SLOT_HEADER_BYTES;
        let limit = arena_bytes.max(inline).min(MAX_MESSAGE_BYTES);
        let max_message_bytes = max_message_bytes.unwrap_or((arena_bytes / 4).max(inline).min(limit));
        if !(1..=limit).contains(&max_message_bytes) {
            return Err(GeometryError::MaxMessage {
                value: max_message_bytes,
                limit,
            });
        }
        // At most 2^12 + 2^48 + 2^12 + 2^40: no overflow.
        let segment_bytes = arena_at(slot_count, slot_bytes) + arena_bytes;
        if usize::try_from(segment_bytes).is_err() {
            return Err(GeometryError::AddressSpace { segment_bytes });
        }
        Ok(Self {
            slot_mask: slot_count - 1,
            slot_words: slot_bytes as usize / WORD_BYTES,
            arena_bytes,
            max_message_bytes,
            segment_bytes,
        })
    }

    /// How many slots there are: how many messages the ring retains at most.
    #[must_use]
    pub const fn slot_count(&self) -> u64 {
        self.slot_mask + 1
    }

    /// Bytes of a slot, its 32 bytes of stamp, length, timestamp and tag included.
    #[must_use]
    pub const fn slot_bytes(&self) -> usize {
        self.slot_words * WORD_BYTES
    }

    /// Longest payload that lies in its slot; a longer one lies in the arena.
    #[must_use]
    pub const fn inline_bytes(&self) -> usize {
        (self.slot_words - SLOT_HEADER_WORDS) * WORD_BYTES
    }

    /// Bytes of the arena.
    #[must_use]
    pub const fn arena_bytes(&self) -> usize {
        self.arena_bytes as usize
    }

    /// Longest payload that may be published.
    #[must_use]
    pub const fn max_message_bytes(&self) -> usize {
        self.max_message_bytes as usize
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub const fn segment_bytes(&self) -> usize {
        self.segment_bytes as usize
    }

    /// First word of the slot of message `sequence`.
    #[inline]
    pub(crate) const fn slot_at(&self, sequence: u64) -> usize {
        SLOTS_AT as usize / WORD_BYTES + (sequence & self.slot_mask) as usize * self.slot_words
    }

    /// The word behind the last slot.
    #[inline]
    pub(crate) const fn slots_end(&self) -> usize {
        SLOTS_AT as usize / WORD_BYTES + self.slot_count() as usize * self.slot_words
    }

    pub(crate) const fn slot_words(&self) -> usize {
        self.slot_words
    }

    /// First word of the arena.
    #[inline]
    pub(crate) const fn arena_at(&self) -> usize {
        (self.segment_bytes - self.arena_bytes) as usize / WORD_BYTES
    }

    #[inline]
    pub(crate) const fn arena_words(&self) -> u64 {
        self.arena_bytes / WORD_BYTES as u64
    }
}

/// Where the arena begins: on the first page boundary after the slots.
const fn arena_at(slot_count: u64, slot_bytes: u64) -> u64 {
    (SLOTS_AT + slot_count * slot_bytes).next_multiple_of(PAGE_BYTES)
}

/// A ring of such sizes cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum GeometryError {
    /// Not a power of two, or out of its range.
    PowerOfTwo {
        /// Which size.
        what: &'static str,
        /// What was asked for.
        value: u64,
        /// The least that is allowed.
        min: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// Slots of this size cannot be.
    Slot {
        /// What was asked for, in bytes.
        value: u64,
        /// What it must be a multiple of.
        step: u64,
        /// The least that is allowed.
        min: u64,
        /// The most that is allowed.
        max: u64,
    },
    /// The longest message is longer than the ring, or zero.
    MaxMessage {
        /// What was asked for, in bytes.
        value: u64,
        /// The most that is allowed, in bytes.
        limit: u64,
    },
    /// The segment does not fit in this machine's address space.
    AddressSpace {
        /// What it would need.
        segment_bytes: u64,
    },
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOfTwo { what, value, min, max } => {
                write!(f, "{what} {value} is not a power of two from {min} to {max}")
            }
            Self::Slot { value, step, min, max } => {
                write!(f, "slot size {value} is not a multiple of {step} from {min} to {max}")
            }
            Self::MaxMessage { value, limit } => {
                write!(
                    f,
                    "a longest message of {value} bytes is not from 1 to the ring's {limit} bytes"
                )
            }
            Self::AddressSpace { segment_bytes } => {
                write!(
                    f,
                    "a segment of {segment_bytes} bytes does not fit in this machine's address space"
                )
            }
        }
    }
}

impl std::error::Error for GeometryError {}

/// What is wrong with a segment's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderError {
    /// Fewer bytes than a header has.
    Short {
        /// How many there are.
        found: usize,
    },
    /// Not a segment of this project at all.
    Magic,
    /// Written on a machine of the other byte order.
    ByteOrder,
    /// Another version of the layout.
    Version {
        /// The segment's version.
        found: u32,
    },
    /// The checksum does not fit the bytes.
    Checksum,
    /// The name is no text.
    Name,
    /// Sizes that no ring can have.
    Geometry(GeometryError),
    /// The parts do not add up to the stated whole.
    SegmentBytes {
        /// What the parts need.
        needed: u64,
        /// What the header states.
        stated: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short { found } => write!(f, "segment header has {HEADER_BYTES} bytes but only {found} are there"),
            Self::Magic => f.write_str("not a lapwing segment: the magic bytes are missing"),
            Self::ByteOrder => f.write_str("segment was laid by a machine of the other byte order"),
            Self::Version { found } => write!(
                f,
                "segment has layout version {found}, this program reads version {LAYOUT_VERSION}; use the same release on both sides"
            ),
            Self::Checksum => f.write_str("segment header is damaged: its checksum does not fit"),
            Self::Name => f.write_str("segment header is damaged: its name is no text"),
            Self::Geometry(error) => write!(f, "segment header is damaged: {error}"),
            Self::SegmentBytes { needed, stated } => {
                write!(
                    f,
                    "segment header is damaged: its parts need {needed} bytes, it states {stated}"
                )
            }
        }
    }
}

impl std::error::Error for HeaderError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Geometry(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
