//! A server's announcement for as long as the server lives: its service thread looks after it, and the server ends it.
//!
//! Whoever cleans up by hand, or by a rule for old files, may remove the info file of a server that lives. Nobody would
//! find that server any more, and it would not know.

use super::Announcement;
use crate::causes::with_causes;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often to see whether the info file is still there.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);

/// An announcement that two threads have: `None` before it begins and once it has ended.
#[derive(Debug, Default)]
pub(crate) struct Presence(Mutex<Option<Announcement>>);

impl Presence {
    pub(crate) fn begin(&self, announcement: Announcement) {
        *self.announcement() = Some(announcement);
    }

    /// Removes the info file. It does not come back.
    pub(crate) fn end(&self) {
        drop(self.announcement().take());
    }

    /// What was looked at is valid whoever panicked meanwhile.
    fn announcement(&self) -> MutexGuard<'_, Option<Announcement>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who looks whether a server can be found.
#[derive(Debug)]
pub(crate) struct Watchman {
    next_look: Instant,
    /// How often the server was announced again.
    renewals: u64,
    /// Why the server could not be announced again, and at how many looks in a row.
    trouble: Option<(String, u64)>,
}

impl Watchman {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            next_look: now,
            renewals: 0,
            trouble: None,
        }
    }

    /// Announces the server again if its info file was removed. Costs a system call a second, and waits for nobody but
    /// the directory's file system, and that only to announce it again.
    pub(crate) fn look(&mut self, presence: &Presence, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + BETWEEN_LOOKS;
        let mut announcement = presence.announcement();
        let Some(announcement) = announcement.as_mut().filter(|announcement| announcement.is_lost()) else {
            return;
        };
        let path = announcement.path();
        match announcement.renew() {
            Ok(()) => {
                self.renewals += 1;
                // Who removes it again and again does not fill the log.
                if self.renewals.is_power_of_two() {
                    let count = self.renewals;
                    log::warn!("the info file {path:?} was removed: the server is announced again ({count} in all)");
                }
                self.trouble = None;
            }
            Err(error) => self.tell(&path, with_causes(&error)),
        }
    }

    /// Tells once what two looks in a row found. By then somebody who was just announcing a server of that name, or
    /// replacing the directory, has come to an end.
    fn tell(&mut self, path: &Path, why: String) {
        let before = self.trouble.take().filter(|(before, _)| *before == why);
        let looks = before.map_or(1, |(_, looks)| looks + 1);
        if looks == 2 {
            log::warn!(
                "the info file {path:?} was removed, so that nobody finds this server any more: {why}; it is announced \
                 again as soon as that is possible"
            );
        }
        self.trouble = Some((why, looks));
    }
}
