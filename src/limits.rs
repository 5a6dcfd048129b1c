//! What the system lets a server have, asked before memory is taken.
//!
//! shmget(2) succeeds where the memory is not there, and the first touch then ends in a kill by the kernel's
//! out-of-memory killer. So the size is compared first with the limits of shared memory (proc(5), kernel.shm*), with
//! the memory that is free, and with that of every memory cgroup this process is in; a server takes a little more than
//! its ring. Other processes may take memory in between: the check makes the usual mistake an error message, it cannot
//! exclude the kill.

use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// A limit that a ring would go beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitError {
    /// What the limit is called, and where it is set.
    pub limit: String,
    /// What is wanted, in the limit's unit.
    pub wanted: u64,
    /// What there is left, in the same unit.
    pub available: u64,
    /// That unit.
    pub unit: &'static str,
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            limit,
            wanted,
            available,
            unit,
        } = self;
        write!(f, "the ring needs {wanted} {unit} but {limit} leaves {available}: ")?;
        // A ring takes one id, whatever its size.
        f.write_str(if *unit == SEGMENT_IDS {
            "raise it with sysctl, or see with `ipcs -m` who has the segments"
        } else {
            "raise it or ask for a smaller ring"
        })
    }
}

impl std::error::Error for LimitError {}

const PAGE_BYTES: u64 = 4096;
/// What kernel.shmmni counts.
const SEGMENT_IDS: &str = "more segment ids";
/// What memory is measured in.
const MEMORY: &str = "bytes of memory, what its server takes besides included,";
/// What a server takes besides its ring and the page tables for it: its stacks and heap, and the kernel's share of its
/// sockets and files.
const SERVER_BYTES: u64 = 2 << 20;
/// Bytes that one byte of page tables maps.
const PAGE_TABLE_REACH: u64 = PAGE_BYTES / 8;

/// Compares a new segment of `bytes` bytes with every limit that is known.
pub(crate) fn check_shared_memory(bytes: u64) -> Result<(), LimitError> {
    check_segment(bytes)?;
    check_memory(bytes)
}

/// Compares a new segment of `bytes` bytes with the limits of segments. Its memory is had elsewhere.
pub(crate) fn check_segment(bytes: u64) -> Result<(), LimitError> {
    let kernel = |name: &str| read_number(Path::new("/proc/sys/kernel").join(name));
    let (ids, pages) = segments_in_use();
    let checks = [
        (kernel("shmmax"), bytes, 0, "kernel.shmmax", "bytes"),
        (kernel("shmmni"), 1, ids, "kernel.shmmni", SEGMENT_IDS),
        (
            kernel("shmall"),
            bytes.div_ceil(PAGE_BYTES),
            pages,
            "kernel.shmall",
            "pages",
        ),
    ];
    for (limit, wanted, used, name, unit) in checks {
        let available = limit.map_or(u64::MAX, |limit| limit.saturating_sub(used));
        if wanted > available {
            return Err(LimitError {
                limit: name.to_owned(),
                wanted,
                available,
                unit,
            });
        }
    }
    Ok(())
}

/// Compares the memory of a server with a ring of `bytes` bytes with what the machine and this process's memory cgroups
/// have left.
pub(crate) fn check_memory(bytes: u64) -> Result<(), LimitError> {
    let wanted = bytes
        .saturating_add(bytes / PAGE_TABLE_REACH)
        .saturating_add(SERVER_BYTES);
    let machine = memory_available().map(|available| ("the machine's free memory".to_owned(), available));
    for (limit, available) in machine.into_iter().chain(cgroups()) {
        if wanted > available {
            return Err(LimitError {
                limit,
                wanted,
                available,
                unit: MEMORY,
            });
        }
    }
    Ok(())
}

pub(crate) fn read_number(path: impl AsRef<Path>) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Segments of this IPC namespace and the pages that they take, from /proc/sysvipc/shm (proc(5)).
fn segments_in_use() -> (u64, u64) {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    let sizes = table
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
    sizes.fold((0, 0), |(ids, pages), size| {
        (ids + 1, pages + size.div_ceil(PAGE_BYTES))
    })
}

fn memory_available() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

/// The memory cgroups that this process is in, with the bytes that each has left, of either version (cgroups(7)).
fn cgroups() -> Vec<(String, u64)> {
    let membership = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    membership.lines().flat_map(cgroups_of_line).collect()
}

/// A line is `id:controllers:path`. Version 2 has no controllers; a limit may stand at every level of the path.
fn cgroups_of_line(line: &str) -> Vec<(String, u64)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
        return Vec::new();
    };
    let version2 = controllers.is_empty();
    if !version2 && !controllers.split(',').any(|controller| controller == "memory") {
        return Vec::new();
    }
    let root = PathBuf::from(if version2 {
        "/sys/fs/cgroup"
    } else {
        "/sys/fs/cgroup/memory"
    });
    let (max, usage) = if version2 {
        ("memory.max", "memory.current")
    } else {
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
    };
    // In a container the path may be one of the host's that is not mounted here; its root then is our own cgroup.
    let own = Path::new(path.trim_start_matches('/'));
    let left = |group: &Path| {
        let limit = read_number(group.join(max))?;
        let used = read_number(group.join(usage))?.saturating_sub(reclaimable(group));
        Some((group.join(max).display().to_string(), limit.saturating_sub(used)))
    };
    own.ancestors()
        .map(|group| root.join(group))
        .filter_map(|group| left(&group))
        .collect()
}

/// Bytes of a cgroup's usage that the kernel takes back when it needs them: its page cache.
fn reclaimable(group: &Path) -> u64 {
    let table = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let of = |name: &str| {
        let line = table
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<u64>().ok()).unwrap_or(0)
    };
    of("active_file") + of("inactive_file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_larger_than_the_machine_is_refused_with_both_sizes() {
        let error = check_memory(1 << 60).unwrap_err();

        assert!(error.wanted > 1 << 60 && error.available > 0, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(&error.wanted.to_string()) && text.contains(&error.available.to_string()),
            "{text}"
        );
    }

    #[test]
    fn small_ring_fits() {
        assert_eq!(check_shared_memory(64 << 10), Ok(()));
    }
}
