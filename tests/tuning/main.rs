//! What a user may tune, with the real commands: that each option does in the kernel's eyes what it says, that the stream
//! is the same with it, and what is said where it cannot be had. Where the system allows none, a test says so and is
//! skipped.

#[path = "../confined/mod.rs"]
#[allow(dead_code, reason = "shared with other tests, which need other parts")]
mod confined;

mod cpus;
mod memory;
mod spin;
#[expect(unsafe_code, reason = "a segment as a stranger lays it")]
mod unbacked;

use std::fs;

/// The threads of a process: their directories in /proc, by name.
fn threads(process: u32) -> Vec<(String, std::path::PathBuf)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a live process");
    let name = |task: &std::path::Path| fs::read_to_string(task.join("comm")).expect("a live thread");
    tasks
        .map(|task| task.expect("a thread").path())
        .map(|task| (name(&task).trim_end().to_owned(), task))
        .collect()
}
