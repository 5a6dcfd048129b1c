//! Every limit made real, with the real commands: each gets a clear message that says what to do, the documented exit
//! code, and nothing is left behind. Each in a namespace, a cgroup or a process of its own, so that nobody else on the
//! machine feels it. Where the system allows none, a test says so and is skipped.

#[path = "../confined/mod.rs"]
#[allow(dead_code, reason = "shared with other tests, which need other parts")]
mod confined;

mod clocks;
mod descriptors;
mod disk;
mod memory;
mod refused;
mod shared_memory;
mod watches;
