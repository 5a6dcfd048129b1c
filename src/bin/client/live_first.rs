//! In which order servers are taken: those that live before those that seem dead.
//!
//! What dead servers left behind is never removed by clients, and may name addresses that do not answer. However much of
//! it there is, it takes no thread and no time from those that live.

use lapwing::discovery::{Entry, Found};

/// Whether a server holds the lock on its info file, or that cannot be told.
pub(crate) fn lives(found: &Found) -> bool {
    found.lock.is_held().unwrap_or(true)
}

/// The same entries, those of servers that live first.
pub(crate) fn live_first(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_cached_key(|entry| !matches!(entry, Entry::Server(found) if lives(found)));
    entries
}
