//! Which info file a path means, so that a server named twice is shown once.

use std::path::{Path, PathBuf};

/// The same path for every way to write that of an info file. The file itself is never a link.
pub(crate) fn identity(path: &Path) -> PathBuf {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    match (parent.unwrap_or(Path::new(".")).canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_path_means_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("a.toml");

        assert_eq!(identity(&plain), identity(&directory.path().join("./a.toml")));
        assert_ne!(identity(&plain), identity(&directory.path().join("b.toml")));
        assert!(identity(Path::new("a.toml")).is_absolute());
    }
}
