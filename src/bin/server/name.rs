//! What a server is called that was given no name: after what it publishes.

use std::path::Path;

use lapwing::discovery::ServerName;

/// The name of a server that has nothing to be called after.
const PLAIN: &str = "server";
/// Names that are tried before it is left to a person to find one.
const MOST_TRIES: u32 = 1000;
/// Leaves room for a number.
const LONGEST: usize = ServerName::MAX_BYTES - 5;

/// The names to try, the best first: `prices` for a source `/data/prices.csv`, then `prices-2` and so on.
pub fn candidates(source: Option<&Path>) -> impl Iterator<Item = ServerName> {
    let stem = source.and_then(Path::file_stem).unwrap_or_default().to_string_lossy();
    let stem = made_valid(&stem);
    (1..=MOST_TRIES).filter_map(move |number| {
        let name = match number {
            1 => stem.clone(),
            _ => format!("{stem}-{number}"),
        };
        name.parse().ok()
    })
}

fn made_valid(text: &str) -> String {
    let name: String = text
        .trim_start_matches(['.', '-'])
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') {
                c
            } else {
                '_'
            }
        })
        .take(LONGEST)
        .collect();
    if name.is_empty() { PLAIN.to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_called_after_its_file() {
        for (path, expected) in [
            ("/data/prices.csv", "prices"),
            ("prices", "prices"),
            ("/var/log/app.log.1", "app.log"),
            ("/tmp/.hidden", "hidden"),
            ("-rf.txt", "rf"),
            ("pr\u{eb}ces of today.txt", "pr_ces_of_today"),
            ("...", "server"),
            ("/", "server"),
        ] {
            let name = candidates(Some(Path::new(path))).next().unwrap();

            assert_eq!(name.as_str(), expected, "{path}");
        }
        assert_eq!(candidates(None).next().unwrap().as_str(), "server");
    }

    #[test]
    fn every_name_that_is_tried_is_valid_and_new() {
        let long = "x".repeat(300);
        let names: Vec<_> = candidates(Some(Path::new(&long))).collect();

        assert_eq!(names.len(), MOST_TRIES as usize);
        assert!(names[1].as_str().ends_with("x-2"));
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
