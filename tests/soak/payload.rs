//! The messages: length, tag and every byte follow from the server's life and the sequence, so that a reader can tell
//! a message that is not the one published, be it torn, stale or of another server, by any bit of it.

use lapwing::Incarnation;

/// Longest message, unless the ring takes less.
pub const LONGEST: usize = 1 << 20;

/// Spreads the bits of a number over all others (splitmix64).
pub const fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

/// What the messages of one life of the server have in common.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    seed: u64,
}

impl Stream {
    pub fn new(incarnation: Incarnation) -> Self {
        let checksum = crc32c::crc32c(incarnation.to_string().as_bytes());
        Self {
            seed: mix(checksum.into()),
        }
    }

    /// How long message `sequence` is in a ring that takes `max` bytes: most fit into a slot, some are empty, a few are
    /// as long as can be.
    pub fn len_of(self, sequence: u64, max: usize) -> usize {
        let dice = mix(self.seed ^ sequence);
        let size = (dice >> 32) as usize;
        let len = match dice % 1000 {
            0..100 => 0,
            100..700 => 1 + size % 96,
            700..985 => 97 + size % 2000,
            985..998 => size % (LONGEST >> 4),
            _ => LONGEST - size % 64,
        };
        len.min(max)
    }

    /// The tag of message `sequence` if it has `len` bytes.
    pub const fn tag_of(self, sequence: u64, len: usize) -> u64 {
        mix(self.seed ^ sequence) ^ len as u64
    }

    /// Writes the payload of message `sequence`, of `len` bytes, to `out`.
    pub fn fill(self, sequence: u64, len: usize, out: &mut Vec<u8>) {
        out.clear();
        out.reserve(len + 8);
        let first = mix(self.seed.rotate_left(32) ^ sequence);
        for word in 0..len.div_ceil(8) as u64 {
            let word = first.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.truncate(len);
    }

    /// Whether this is message `sequence` to the bit; if not, what is wrong. `spare` is room to work in.
    pub fn check(self, sequence: u64, tag: u64, payload: &[u8], spare: &mut Vec<u8>) -> Result<(), String> {
        if tag != self.tag_of(sequence, payload.len()) {
            return Err(format!(
                "message {sequence} of {} bytes has a foreign tag",
                payload.len()
            ));
        }
        self.fill(sequence, payload.len(), spare);
        match spare
            .iter()
            .zip(payload)
            .position(|(expected, found)| expected != found)
        {
            None => Ok(()),
            Some(at) => Err(format!(
                "message {sequence} of {} bytes differs at byte {at}",
                payload.len()
            )),
        }
    }
}
