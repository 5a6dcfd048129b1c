//! Which info file a path means, so that a server named twice is shown once, and what to call a server so that two are
//! told apart.

use std::path::{Path, PathBuf};

use lapwing::cli::Escaped;

/// What to call a server where there is another of its name: by the directory of its info file as well.
pub(crate) fn full_name(name: &str, info_path: &Path) -> String {
    Escaped(&directory_of(info_path).join(name).to_string_lossy()).to_string()
}

/// The same path for every way to write that of an info file. The file itself is never a link.
pub(crate) fn identity(path: &Path) -> PathBuf {
    match (directory_of(path).canonicalize(), path.file_name()) {
        (Ok(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent().filter(|parent| *parent != Path::new(""));
    parent.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_name_tells_servers_of_one_name_apart_and_steers_no_terminal() {
        assert_eq!(full_name("prices", Path::new("./a/prices.toml")), "./a/prices");
        assert_eq!(full_name("prices", Path::new("prices.toml")), "./prices");
        assert_eq!(full_name("prices", Path::new("/prices.toml")), "/prices");
        assert_eq!(full_name("prices", Path::new("a\u{1b}/prices.toml")), "a\\u{1b}/prices");
    }

    #[test]
    fn every_way_to_write_a_path_means_the_same_file() {
        let directory = tempfile::tempdir().unwrap();
        let plain = directory.path().join("a.toml");

        assert_eq!(identity(&plain), identity(&directory.path().join("./a.toml")));
        assert_ne!(identity(&plain), identity(&directory.path().join("b.toml")));
        assert!(identity(Path::new("a.toml")).is_absolute());
    }
}
