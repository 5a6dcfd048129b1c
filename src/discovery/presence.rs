//! A server's announcement for as long as the server lives: its service thread looks after it, and the server ends it.
//!
//! Whoever cleans up by hand, or by a rule for old files, may remove the info file of a server that lives. Nobody would
//! find that server any more, and it would not know.

use super::Announcement;
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
    /// Why the server could not be announced again, as it was told.
    told: Option<String>,
}

impl Watchman {
    pub(crate) const fn new(now: Instant) -> Self {
        Self {
            next_look: now,
            told: None,
        }
    }

    /// Announces the server again if its info file was removed. Costs a system call a second, and never waits for
    /// anybody.
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
            Ok(true) => {
                log::warn!("the info file {path:?} was removed: the server is announced again");
                self.told = None;
            }
            // Somebody is announcing a server of that name at this moment.
            Ok(false) => {}
            Err(error) => {
                let why = error.to_string();
                if self.told.as_ref() != Some(&why) {
                    log::warn!(
                        "the info file {path:?} was removed, so that nobody finds this server any more: {why}; it is announced \
                         again as soon as that is possible"
                    );
                    self.told = Some(why);
                }
            }
        }
    }
}
