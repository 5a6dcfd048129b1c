//! The pages that a segment is made of.
//!
//! A processor remembers a few thousand translations of addresses. With pages of 4 KiB they reach over some MiB, and a
//! ring beyond that costs a walk through the page tables every few messages; a huge page needs one translation for all
//! of its 2 MiB or 1 GiB. There are two kinds. Explicit ones (hugetlb) are set aside by the administrator, are had for
//! certain or not at all, and are never swapped. Transparent ones the kernel makes of the memory that it finds in one
//! piece, as far as it does.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::limits::LimitError;

/// How the memory of a segment is had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pages {
    /// Whether it consists of huge pages.
    pub huge: HugePages,
    /// Bytes of an explicit huge page; the kernel's default if `None`. Transparent ones have one size.
    pub huge_bytes: Option<u64>,
    /// Whether it is kept from being swapped out (shmctl(2), SHM_LOCK).
    pub locked: bool,
}

/// Whether the memory of a segment consists of huge pages. The segment is then a whole number of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HugePages {
    /// Pages of the usual size.
    #[default]
    Off,
    /// Explicit huge pages if they are to be had, within all limits; else those of the usual size, and a warning in the log
    /// says why.
    Try,
    /// Explicit huge pages, or none at all: a server that does not get them does not start.
    Require,
    /// Transparent huge pages, as many as the kernel makes. A kernel that is set to make none is an error.
    Transparent,
}

const HUGETLB: &str = "/sys/kernel/mm/hugepages";
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage";

/// Pages whose size is known.
#[derive(Debug, Clone, Copy)]
pub(super) enum SizedPages {
    Usual,
    Explicit { page_bytes: u64 },
    Transparent { page_bytes: u64 },
}

impl Pages {
    /// Finds out the size, and whether the kernel has such pages at all.
    pub(super) fn sized(self) -> Result<SizedPages, CreateError> {
        match self.huge {
            HugePages::Off => Ok(SizedPages::Usual),
            HugePages::Try | HugePages::Require => {
                let page_bytes = self.huge_bytes.or_else(default_page_bytes).unwrap_or(0);
                let sized = SizedPages::Explicit { page_bytes };
                if page_bytes.is_power_of_two() {
                    Ok(sized)
                } else {
                    Err(sized.refuse(0, sizes_there_are(), None))
                }
            }
            HugePages::Transparent => {
                let page_bytes = limits::read_number(PathBuf::from(TRANSPARENT).join("hpage_pmd_size"));
                let sized = SizedPages::Transparent {
                    page_bytes: page_bytes.unwrap_or(2 << 20),
                };
                let setting = fs::read_to_string(PathBuf::from(TRANSPARENT).join("shmem_enabled"));
                match selected(&setting.unwrap_or_default()) {
                    Some("always" | "within_size" | "advise" | "force") => Ok(sized),
                    setting => Err(sized.refuse(0, transparent_off(setting), None)),
                }
            }
        }
    }
}

impl SizedPages {
    /// Bytes of a huge page, if these are.
    pub(super) const fn huge_page_bytes(self) -> Option<u64> {
        match self {
            Self::Usual => None,
            Self::Explicit { page_bytes } | Self::Transparent { page_bytes } => Some(page_bytes),
        }
    }

    /// The size of a segment that has room for `bytes`.
    pub(super) fn round_up(self, bytes: usize) -> usize {
        self.huge_page_bytes()
            .and_then(|page_bytes| bytes.checked_next_multiple_of(page_bytes as usize))
            .unwrap_or(bytes)
    }

    /// Compares a segment of `bytes` bytes with every limit that is known. What is set aside for huge pages the kernel
    /// knows best.
    pub(super) fn check_limits(self, bytes: usize) -> Result<(), LimitError> {
        match self {
            Self::Explicit { .. } => limits::check_segment(bytes as u64).and_then(|()| limits::check_memory(0)),
            _ => limits::check_shared_memory(bytes as u64),
        }
    }

    /// What shmget(2) is told.
    pub(super) fn flags(self) -> i32 {
        match self {
            Self::Explicit { page_bytes } => libc::SHM_HUGETLB | (page_bytes.ilog2() << libc::MAP_HUGE_SHIFT) as i32,
            _ => 0,
        }
    }

    /// What madvise(2) is told of a new mapping.
    pub(super) const fn advice(self) -> Option<Advice> {
        match self {
            Self::Usual => None,
            Self::Explicit { .. } => Some(Advice::LinuxPopulateWrite),
            Self::Transparent { .. } => Some(Advice::LinuxHugepage),
        }
    }

    /// Why a segment of `bytes` bytes cannot be had, and what to do.
    pub(super) fn explain(self, bytes: usize, source: io::Error) -> CreateError {
        let Self::Explicit { page_bytes } = self else {
            return CreateError::of_shmget(bytes, source);
        };
        let pages = bytes as u64 / page_bytes;
        let hint = match source.raw_os_error() {
            Some(libc::ENOMEM) => too_few(page_bytes, pages),
            Some(libc::EPERM) => {
                "this user may not have any: give the process CAP_IPC_LOCK, or the number of one of its \
                                  groups to vm.hugetlb_shm_group with sysctl"
                    .to_owned()
            }
            Some(libc::EINVAL) => sizes_there_are(),
            // Where the first touch would end in SIGBUS.
            Some(libc::EFAULT) => format!(
                "its cgroup (hugetlb.{}B.max) or the memory nodes of its cpuset have too few left: raise that, or ask \
                 for a smaller ring",
                binary_size(page_bytes)
            ),
            _ => return CreateError::of_shmget(bytes, source),
        };
        self.refuse(pages, hint, Some(source))
    }

    fn refuse(self, pages: u64, hint: String, source: Option<io::Error>) -> CreateError {
        CreateError::HugePages {
            page_bytes: self.huge_page_bytes().unwrap_or(0),
            pages,
            hint,
            source,
        }
    }
}

/// How many are free, and how to have more.
fn too_few(page_bytes: u64, pages: u64) -> String {
    let pool = PathBuf::from(HUGETLB).join(format!("hugepages-{}kB", page_bytes >> 10));
    let count = |name: &str| limits::read_number(pool.join(name)).unwrap_or(0);
    let total = count("nr_hugepages");
    let free = count("free_hugepages").saturating_sub(count("resv_hugepages"));
    format!(
        "{free} of {total} are free: reserve more with `echo {} > {}`, as root and best when the machine has just \
         started, or ask for a smaller ring",
        total + pages.saturating_sub(free),
        pool.join("nr_hugepages").display()
    )
}

fn transparent_off(setting: Option<&str>) -> String {
    match setting {
        Some(setting) => format!(
            "shared memory gets no transparent ones ({setting}): allow them with `echo advise > \
             {TRANSPARENT}/shmem_enabled`, as root"
        ),
        None => "this kernel makes no transparent ones for shared memory (CONFIG_TRANSPARENT_HUGEPAGE)".to_owned(),
    }
}

/// What of a setting like `always [advise] never` is in force.
fn selected(setting: &str) -> Option<&str> {
    setting.split_once('[')?.1.split_once(']').map(|(selected, _)| selected)
}

/// The sizes that this kernel has, in words.
fn sizes_there_are() -> String {
    let entries = fs::read_dir(HUGETLB).into_iter().flatten().flatten();
    let kib = |name: &str| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok();
    let mut sizes: Vec<u64> = entries
        .filter_map(|entry| kib(entry.file_name().to_str()?))
        .map(|kib| kib << 10)
        .collect();
    sizes.sort_unstable();
    if sizes.is_empty() {
        return "this kernel has none (CONFIG_HUGETLBFS)".to_owned();
    }
    let sizes: Vec<_> = sizes.into_iter().map(binary_size).collect();
    format!(
        "this kernel has huge pages of {}: choose one of these sizes",
        sizes.join(", ")
    )
}

/// The size that the kernel takes if none is named, from /proc/meminfo (proc(5)).
fn default_page_bytes() -> Option<u64> {
    let table = fs::read_to_string("/proc/meminfo").ok()?;
    let line = table.lines().find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// A size in the largest unit that divides it: `2M`, `1G`, `1000`.
pub(super) fn binary_size(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let unit = units
        .iter()
        .find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    unit.map_or_else(
        || bytes.to_string(),
        |(shift, unit)| format!("{}{unit}", bytes >> shift),
    )
}

#[cfg(test)]
mod tests;
