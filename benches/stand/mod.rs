//! What every bench stands on: a server of its own in a directory of its own.

use std::path::Path;

use lapwing::{Server, ServerOptions, StartError};
use tempfile::TempDir;

/// A server and its info directory, both gone when this is dropped.
pub struct Stand {
    /// First, so that it is dropped before its directory.
    pub server: Server,
    directory: TempDir,
}

impl Stand {
    /// Starts a server of that name with 1 MiB of arena, changed as `change` says.
    pub fn new(name: &str, change: impl FnOnce(&mut ServerOptions)) -> Self {
        Self::try_new(name, change).expect("a server starts")
    }

    /// The same, for options that the machine may refuse.
    pub fn try_new(name: &str, change: impl FnOnce(&mut ServerOptions)) -> Result<Self, StartError> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut options = ServerOptions::new(name.parse().expect("a server's name"));
        options.info_dir = directory.path().to_owned();
        options.ring_bytes = 1 << 20;
        change(&mut options);
        Ok(Self {
            server: Server::start(options)?,
            directory,
        })
    }

    /// Where the server announces itself, unless it was told another place.
    #[allow(dead_code, reason = "for those who start a second process")]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
