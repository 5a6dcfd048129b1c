//! One life of a server, named by 128 random bits.
//!
//! A shared-memory id is no identity (ids restart at 0 in every IPC namespace) and neither is a name or a pid. The
//! incarnation is: the info file, the segment's header and the socket's hello all carry it, and a subscriber
//! believes a transport only when the three agree. A position in a stream is an incarnation and a sequence.

use std::fmt;
use std::io;
use std::str::FromStr;

/// One life of a server: 128 random bits, printed as 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Incarnation([u8; 16]);

impl Incarnation {
    /// No incarnation: what a subscriber that was never attached asks for.
    pub const NIL: Self = Self([0; 16]);

    /// Draws a new incarnation from the kernel (`getrandom`).
    ///
    /// # Errors
    /// Whatever `getrandom` fails with.
    pub fn random() -> io::Result<Self> {
        let mut bytes = [0; 16];
        while bytes == [0; 16] {
            let mut filled = 0;
            while filled < bytes.len() {
                filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
            }
        }
        Ok(Self(bytes))
    }

    /// The incarnation with these bytes, in the order in which they are printed.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Its bytes, in the order in which they are printed.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incarnation({self})")
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseIncarnationError;

impl fmt::Display for ParseIncarnationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an incarnation is 32 hexadecimal digits")
    }
}

impl std::error::Error for ParseIncarnationError {}

impl FromStr for Incarnation {
    type Err = ParseIncarnationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // from_str_radix alone would also take a sign.
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseIncarnationError);
        }
        let bits = u128::from_str_radix(text, 16).map_err(|_| ParseIncarnationError)?;
        Ok(Self(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_incarnation_parses_to_itself() {
        let incarnation = Incarnation::random().unwrap();

        let text = incarnation.to_string();

        assert_eq!(text.len(), 32);
        assert_eq!(text.parse(), Ok(incarnation));
    }

    #[test]
    fn anything_but_32_hexadecimal_digits_is_refused() {
        for text in [
            "",
            "12",
            "+2345678901234567890123456789012",
            "0123456789abcdef0123456789abcdeg",
        ] {
            assert_eq!(text.parse::<Incarnation>(), Err(ParseIncarnationError), "{text}");
        }
    }
}
