//! One server, as the main thread keeps it: there, or gone.
//!
//! ```text
//!                           its stream is over and its info file gone: its thread ends
//!   there, with a thread ------------------------------------------------------------> gone --> forgotten
//!                        <------------------------------------------------------------
//!                                     its info file is there again
//! ```

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use lapwing::Incarnation;
use lapwing::discovery::Found;

use super::stream::{Followed, Phase};
use super::tally::{Mark, Sums};

/// A followed server.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) followed: Arc<Followed>,
    /// As its info file said when its thread was started.
    pub(super) incarnation: Incarnation,
    /// The last look that found its info file.
    pub(super) seen_at: u64,
    /// Whether it held the lock on its info file at the last look.
    pub(super) lives: bool,
    /// Whether it did at any look.
    pub(super) has_lived: bool,
    /// When the last interim line was printed.
    pub(super) mark: Option<Mark>,
}

impl Server {
    pub(super) fn new(name: String, incarnation: Incarnation) -> Self {
        Self {
            followed: Arc::new(Followed::new(name)),
            incarnation,
            seen_at: 0,
            lives: false,
            has_lived: false,
            mark: None,
        }
    }

    pub(super) fn is_unwanted(&self) -> bool {
        self.followed.phase() == Phase::Unwanted
    }

    /// Whether it is told of, in statistics and in the summary.
    pub(super) fn counts(&self) -> bool {
        !self.is_unwanted() || self.followed.tally().was_attached()
    }

    /// Whether neither its thread is there nor, at the look with that number, its info file was.
    pub(super) fn is_gone(&self, look: u64) -> bool {
        self.seen_at < look && self.followed.has_left()
    }

    /// Whether another thread is to follow what its info file says now.
    pub(super) fn is_back(&self, found: &Found) -> bool {
        // Another life of a server may be of another category.
        self.followed.has_left() && !(self.is_unwanted() && self.incarnation == found.info.incarnation)
    }
}

/// Forgets the servers that went first of those that are gone, so that `most` of these are left, and adds what they
/// brought to `sums`.
pub(super) fn forget(servers: &mut HashMap<PathBuf, Server>, look: u64, most: usize, sums: &mut Sums) {
    let is_gone = |server: &Server| server.is_gone(look);
    let excess = servers
        .values()
        .filter(|server| is_gone(server))
        .count()
        .saturating_sub(most);
    if excess == 0 {
        return;
    }
    let gone = servers.iter().filter(|(_, server)| is_gone(server));
    let mut gone: Vec<_> = gone.map(|(key, server)| (server.seen_at, key.clone())).collect();
    gone.sort_unstable();
    for (_, key) in &gone[..excess] {
        let server = servers.remove(key).filter(Server::counts);
        server.iter().for_each(|server| sums.add(&server.followed.tally()));
    }
}

/// Those that are followed, in the order of their names.
pub(super) fn sorted(servers: &mut HashMap<PathBuf, Server>) -> Vec<&mut Server> {
    let mut servers: Vec<_> = servers.values_mut().filter(|server| server.counts()).collect();
    servers.sort_by(|one, other| one.followed.name.cmp(&other.followed.name));
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, seen_at: u64, has_left: bool) -> (PathBuf, Server) {
        let mut server = Server::new(name.to_owned(), Incarnation::from_bytes([7; 16]));
        server.seen_at = seen_at;
        if has_left {
            server.followed.leave();
        }
        (PathBuf::from(name), server)
    }

    #[test]
    fn servers_that_went_first_are_forgotten_and_none_that_is_there() {
        let mut servers: HashMap<_, _> = [
            server("ends", 1, false),
            server("first", 2, true),
            server("second", 3, true),
            server("third", 3, true),
            server("unwanted", 9, true),
        ]
        .into();
        let mut sums = Sums::default();

        forget(&mut servers, 9, 3, &mut sums);
        assert_eq!((servers.len(), sums.servers), (5, 0));
        forget(&mut servers, 9, 1, &mut sums);

        let mut left: Vec<_> = servers.values().map(|server| server.followed.name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["ends", "third", "unwanted"]);
        assert_eq!(sums.servers, 2);
    }
}
