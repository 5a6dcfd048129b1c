//! Whose info files are believed, and how far.

use crate::segment::USUAL_ATTACH_LIMIT;
use rustix::process::geteuid;

/// Whose info files are believed: those of root, of the caller's effective user, and of the owner of the directory
/// they lie in (who could put any file there anyway), and of users added here, unless others may write them.
///
/// In a user namespace that does not map every user, those outside it appear as one, commonly 65534, and cannot be told
/// apart. None of them counts as the caller or the directory's owner: they are believed if that id was added, and then
/// all of them.
///
/// A believed info file can send a client to any address and any segment. It can do no worse: both are checked for
/// the incarnation and read as a stranger's bytes, and no ring is attached that is larger than the client can pay for
/// ([`Trust::with_rings_up_to`]).
#[derive(Debug, Clone)]
pub struct Trust {
    anyone: bool,
    writable: bool,
    also: Vec<u32>,
    attach_limit: u64,
}

impl Default for Trust {
    fn default() -> Self {
        Self {
            anyone: false,
            writable: false,
            also: Vec::new(),
            attach_limit: USUAL_ATTACH_LIMIT,
        }
    }
}

impl Trust {
    /// Believes every user. For directories where several users' servers meet, as `/tmp` is one.
    #[must_use]
    pub fn anyone() -> Self {
        Self {
            anyone: true,
            ..Self::default()
        }
    }

    /// Believes the user with this id too; everybody who has it in this user namespace.
    #[must_use]
    pub fn also(mut self, uid: u32) -> Self {
        self.also.push(uid);
        self
    }

    /// Attaches rings of up to `bytes` bytes, all parts of the segment together, in place of
    /// [`USUAL_ATTACH_LIMIT`]. A server can lay a segment that nothing lies behind, and make its readers pay for all of
    /// it.
    #[must_use]
    pub const fn with_rings_up_to(mut self, bytes: u64) -> Self {
        self.attach_limit = bytes;
        self
    }

    pub(super) const fn attach_limit(&self) -> u64 {
        self.attach_limit
    }

    /// Believes info files that others than their owner may write, and passes over directories in which others may
    /// rename and remove files. For where all of those others are trusted, as in the volume that a pod shares.
    #[must_use]
    pub const fn writable(mut self) -> Self {
        self.writable = true;
        self
    }

    /// Says whether what others may write is believed.
    pub(super) const fn believes_writable(&self) -> bool {
        self.writable
    }

    /// Says whether a file of `owner` in a directory of `directory_owner` is believed. Several users may share the uid
    /// `outsiders`, so it is not enough that it is the same.
    pub(super) fn believes(&self, owner: u32, directory_owner: u32, outsiders: Option<u32>) -> bool {
        let own = geteuid().as_raw();
        let is_one_user = outsiders != Some(owner);
        self.anyone || self.also.contains(&owner) || is_one_user && [0, own, directory_owner].contains(&owner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: u32 = 4_000_000_001;
    const OTHER: u32 = 4_000_000_002;

    #[test]
    fn strangers_are_believed_only_on_request_or_in_their_own_directory() {
        assert!(!Trust::default().believes(STRANGER, 0, None));
        assert!(Trust::default().believes(STRANGER, STRANGER, None));
        assert!(Trust::default().also(STRANGER).believes(STRANGER, 0, None));
        assert!(!Trust::default().also(OTHER).believes(STRANGER, 0, None));
        assert!(Trust::anyone().believes(STRANGER, 0, None));
    }

    #[test]
    fn root_and_the_caller_are_always_believed() {
        assert!(Trust::default().believes(0, STRANGER, None));
        assert!(Trust::default().believes(geteuid().as_raw(), STRANGER, Some(OTHER)));
    }

    #[test]
    fn users_who_cannot_be_told_apart_are_believed_only_on_request() {
        let own = geteuid().as_raw();
        for outsiders in [STRANGER, own, 0] {
            assert!(!Trust::default().believes(outsiders, outsiders, Some(outsiders)));
            assert!(
                !Trust::default()
                    .also(OTHER)
                    .believes(outsiders, outsiders, Some(outsiders))
            );
            assert!(
                Trust::default()
                    .also(outsiders)
                    .believes(outsiders, OTHER, Some(outsiders))
            );
            assert!(Trust::anyone().believes(outsiders, OTHER, Some(outsiders)));
        }
        assert!(Trust::default().believes(STRANGER, STRANGER, Some(OTHER)));
    }
}
