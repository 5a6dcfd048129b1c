//! Memory that several processes map: a file in a directory that lies in memory, as rows of 64-bit atomic words.

use std::fs::OpenOptions;
use std::path::Path;
use std::slice;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use memmap2::{MmapOptions, MmapRaw};

/// Words of a cache line.
pub const LINE: usize = 8;

/// A mapped file. It stays mapped until this is dropped.
pub struct Shared {
    map: MmapRaw,
}

impl Shared {
    /// Maps the file at `path` with room for `words`, zeros where it is new. Every page is there when this returns.
    pub fn open(path: &Path, words: usize) -> Result<Self> {
        let open = || {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(path)?;
            file.set_len((words * size_of::<u64>()) as u64)?;
            MmapOptions::new().populate().map_raw(&file)
        };
        let map = open().with_context(|| format!("cannot map {}", path.display()))?;
        Ok(Self { map })
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY:
        // - the mapping is page aligned, as long as it says, and stays while `&self` does;
        // - any bits are a valid `AtomicU64`, and it may be written to by anybody through a shared reference.
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast(), self.map.len() / size_of::<u64>()) }
    }

    /// Where it begins, for those who copy without regard for others.
    pub fn start(&self) -> *mut u64 {
        self.map.as_mut_ptr().cast()
    }
}
