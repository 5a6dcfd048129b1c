//! The files that have taken the place of the one that is read, in their order.
//!
//! A path may be replaced again before its first file was read to the end, as when a lossless client holds up the stream.
//! So the path is looked at meanwhile, too, and what it names is kept open until its turn comes, whatever becomes of
//! its name.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use lapwing::cli::{Failure, one_line};
use log::info;

use super::input::open;
use super::trouble::Trouble;

/// Files that may wait: each takes a descriptor, and room on its disk although it may be removed already.
const MOST_WAITING: usize = 64;

/// What a path names, in the course of time.
#[derive(Debug)]
pub struct Succession {
    path: PathBuf,
    /// The file that was found last. It is open, so that the kernel gives its identity to no other.
    newest: (u64, u64),
    waiting: VecDeque<File>,
    trouble: Trouble,
}

impl Succession {
    /// Begins with the file that `path` names, which must be a regular one. Returns it beside.
    pub fn begin(path: &Path) -> Result<(Self, File), Failure> {
        let (file, newest) = open_regular(path)?;
        let succession = Self {
            path: path.to_owned(),
            newest,
            waiting: VecDeque::new(),
            trouble: Trouble::default(),
        };
        Ok((succession, file))
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks at what the path names now.
    pub fn look(&mut self) {
        // Being replaced, or out of reach for now: a later look may find it.
        let reason = self.take_newer().err().map(|failure| one_line(&failure));
        self.trouble.tell(&self.path, reason, Instant::now());
    }

    fn take_newer(&mut self) -> Result<(), Failure> {
        let named = self.path.metadata();
        let named = named.map_err(|error| Failure::caused(format!("cannot look at {:?}", self.path), error))?;
        if identity(&named) == self.newest {
            return Ok(());
        }
        if self.waiting.len() == MOST_WAITING {
            return Err(Failure::new(format!(
                "{:?} was replaced {MOST_WAITING} times by files that are not read yet, and again",
                self.path
            )));
        }
        let (file, newest) = open_regular(&self.path)?;
        info!(
            "{:?} was replaced: the new file comes when the old one was read",
            self.path
        );
        self.waiting.push_back(file);
        self.newest = newest;
        Ok(())
    }

    /// The next file, to be read once the one before was.
    pub fn next(&mut self) -> Option<File> {
        self.waiting.pop_front()
    }
}

/// The device and the inode: two names with the same are one file.
fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

fn open_regular(path: &Path) -> Result<(File, (u64, u64)), Failure> {
    let file = open(path)?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok((file, identity(&metadata))),
        _ => Err(Failure::new(format!(
            "{path:?} is not a regular file; only those can be followed as they grow"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Read;

    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, path).unwrap();
    }

    #[test]
    fn files_that_were_seen_are_kept_in_their_order_though_their_names_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        fs::write(&path, "0").unwrap();
        let (mut succession, _first) = Succession::begin(&path).unwrap();
        succession.look();
        assert!(succession.next().is_none());

        for number in 1..=MOST_WAITING + 2 {
            replace(&path, &number.to_string());
            succession.look();
            succession.look();
        }

        for number in 1..=MOST_WAITING {
            let mut text = String::new();
            succession.next().unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, number.to_string());
        }
        assert!(succession.next().is_none());
        succession.look();
        let mut text = String::new();
        succession.next().unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, (MOST_WAITING + 2).to_string());
    }
}
