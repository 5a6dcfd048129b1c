//! What must not be left behind.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// How much a reader's memory may move from one life of the server to another: what the allocator keeps for itself.
const MEMORY_SLACK: u64 = 4 << 20;

/// The segments that process `creator` made and that still exist.
pub fn segments_of(creator: u32) -> usize {
    let table = fs::read_to_string("/proc/sysvipc/shm").expect("the kernel lists its segments");
    let creator = creator.to_string();
    table
        .lines()
        .filter(|line| line.split_ascii_whitespace().nth(4) == Some(&creator))
        .count()
}

/// Fails if anything is left in the info directory.
pub fn is_empty(directory: &Path) -> Result<(), String> {
    let left: Vec<_> = fs::read_dir(directory)
        .map_err(|error| format!("the info directory cannot be listed: {error}"))?
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect();
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("leak: the info directory still has {left:?}"))
    }
}

/// What each reader holds between two lives of the server. It must not grow, once it has read from every ring.
#[derive(Debug)]
pub struct Holdings {
    /// Lives after which a reader has what it needs.
    warm_up: usize,
    /// For each process: lives so far, and descriptors and memory after the last one of the warm-up.
    of: HashMap<u32, (usize, u64, u64)>,
}

impl Holdings {
    pub fn new(warm_up: usize) -> Self {
        Self {
            warm_up,
            of: HashMap::new(),
        }
    }

    /// Takes note of what `process` holds.
    pub fn note(&mut self, process: u32, descriptors: u64, memory: u64) -> Result<(), String> {
        let (lives, base_descriptors, base_memory) = self.of.entry(process).or_default();
        *lives += 1;
        if *lives <= self.warm_up {
            (*base_descriptors, *base_memory) = (descriptors, memory);
            return Ok(());
        }
        if descriptors > *base_descriptors {
            return Err(format!(
                "leak: {descriptors} descriptors after {lives} servers, {base_descriptors} after {}",
                self.warm_up
            ));
        }
        if memory > *base_memory + MEMORY_SLACK {
            return Err(format!(
                "leak: {memory} bytes after {lives} servers, {base_memory} after {}",
                self.warm_up
            ));
        }
        Ok(())
    }
}
