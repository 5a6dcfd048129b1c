//! Which kernel, and which IPC namespace on it: together they say whether a shared-memory id can mean the same thing.
//!
//! Both are hints. A reader that finds them different knows why shared memory will not work; one that finds them equal
//! still has to attach the segment and compare the incarnation.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::str::FromStr;

/// One boot of one kernel: the 128 random bits of `/proc/sys/kernel/random/boot_id`, printed as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(u128);

impl BootId {
    /// The boot id of the running kernel.
    ///
    /// # Errors
    /// Those of reading `/proc/sys/kernel/random/boot_id`, `InvalidData` if it holds anything but a UUID.
    pub fn current() -> io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        text.trim_end()
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = format!("{:032x}", self.0);
        let (a, b, c, d, e) = (
            &digits[..8],
            &digits[8..12],
            &digits[12..16],
            &digits[16..20],
            &digits[20..],
        );
        write!(f, "{a}-{b}-{c}-{d}-{e}")
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

/// A text that is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseBootIdError;

impl fmt::Display for ParseBootIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a boot id is 32 hexadecimal digits in groups of 8-4-4-4-12")
    }
}

impl std::error::Error for ParseBootIdError {}

impl FromStr for BootId {
    type Err = ParseBootIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lengths_fit = text.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
        if !lengths_fit || !text.bytes().all(|byte| byte == b'-' || byte.is_ascii_hexdigit()) {
            return Err(ParseBootIdError);
        }
        u128::from_str_radix(&text.replace('-', ""), 16)
            .map(Self)
            .map_err(|_| ParseBootIdError)
    }
}

/// The inode number of this process's IPC namespace, which names it for one boot of one kernel.
///
/// # Errors
/// Those of `stat` on `/proc/self/ns/ipc`.
pub fn current_ipc_namespace() -> io::Result<u64> {
    fs::metadata("/proc/self/ns/ipc").map(|metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn boot_id_of_this_kernel_prints_as_the_kernel_prints_it() {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();

        assert_eq!(BootId::current().unwrap().to_string(), text.trim_end());
    }

    #[test]
    fn anything_but_a_uuid_is_refused() {
        for text in [
            "",
            "----",
            "0123456789abcdef0123456789abcdef",
            "0123456-89ab-cdef-0123-456789abcdef0",
            "+1234567-89ab-cdef-0123-456789abcdef",
            "0123456g-89ab-cdef-0123-456789abcdef",
        ] {
            assert_eq!(text.parse::<BootId>(), Err(ParseBootIdError), "{text}");
        }
    }
}
