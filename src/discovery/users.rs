//! Which users this process can tell apart.
//!
//! A user namespace maps ranges of user ids (user_namespaces(7)). All users whom it does not map, the outsiders, have one
//! id in it, the overflow uid: as owners of files, of directories and of segments. Whether two of them are the same user
//! nobody in there can say.

use std::fs;

use crate::limits;

/// The overflow uid, unless it was set to another.
const USUAL_OVERFLOW_UID: u64 = 65_534;
/// How many user ids there are: the largest number is none.
const ALL_UIDS: u64 = u32::MAX as u64;

/// The uid of all outsiders; `None` if this user namespace has none. One whose map cannot be read may have some.
pub(super) fn uid_of_outsiders() -> Option<u32> {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if maps_everybody(&map) {
        return None;
    }
    let uid = limits::read_number("/proc/sys/kernel/overflowuid").unwrap_or(USUAL_OVERFLOW_UID);
    u32::try_from(uid).ok()
}

/// Says whether a map leaves nobody out. Each line is a range: its first uid inside, its first outside, how many.
fn maps_everybody(map: &str) -> bool {
    let counts = map
        .lines()
        .filter_map(|line| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok());
    // Ranges do not overlap.
    counts.sum::<u64>() >= ALL_UIDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn map_of_all_uids_leaves_nobody_out_in_one_range_or_several() {
        assert!(maps_everybody("         0          0 4294967295\n"));
        assert!(maps_everybody("0 1000 1\n1 0 1000\n1001 1001 4294966294\n"));
    }

    #[test]
    fn map_of_some_uids_leaves_out_the_others() {
        for map in [
            "         0       1000          1\n",
            "0 1000 1\n1 100000 65536\n",
            "0 0 4294967294\n",
            "",
            "no map\n",
        ] {
            assert!(!maps_everybody(map), "{map:?}");
        }
    }
}
