//! The name of a server: what a person types, and the stem of its info file.

use std::fmt;
use std::str::FromStr;

/// The name of a server: 1 to 64 of the characters `A-Z a-z 0-9 . _ -`, not starting with `.` or `-`.
///
/// So it is always a plain file name: it holds no separator, is never hidden, and never looks like an option.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerName(String);

impl ServerName {
    /// The most bytes that a name may have.
    pub const MAX_BYTES: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the info file that announces a server of this name: `NAME.toml`.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{self}.toml")
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerName({})", self.0)
    }
}

impl AsRef<str> for ServerName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Why a text is not the name of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseServerNameError {
    /// It has no characters.
    Empty,
    /// It has this many bytes, more than [`ServerName::MAX_BYTES`].
    TooLong(usize),
    /// It starts with `.` or `-`.
    Start(char),
    /// It contains this character.
    Character(char),
}

impl fmt::Display for ParseServerNameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("a server name needs at least one character"),
            Self::TooLong(bytes) => {
                write!(
                    f,
                    "a server name may have {} bytes at most, this one has {bytes}",
                    ServerName::MAX_BYTES
                )
            }
            Self::Start(start) => write!(
                f,
                "a server name may not start with {start:?}; start with a letter or digit"
            ),
            Self::Character(character) => {
                write!(f, "a server name may not contain {character:?}; use A-Z a-z 0-9 . _ -")
            }
        }
    }
}

impl std::error::Error for ParseServerNameError {}

impl FromStr for ServerName {
    type Err = ParseServerNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(first) = text.chars().next() else {
            return Err(ParseServerNameError::Empty);
        };
        if text.len() > Self::MAX_BYTES {
            return Err(ParseServerNameError::TooLong(text.len()));
        }
        if matches!(first, '.' | '-') {
            return Err(ParseServerNameError::Start(first));
        }
        let allowed = |character: &char| character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-');
        match text.chars().find(|character| !allowed(character)) {
            Some(character) => Err(ParseServerNameError::Character(character)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_are_taken_as_they_are() {
        for text in ["a", "prices", "Prices-2.eu_west", "7", "_x", &"n".repeat(64)] {
            assert_eq!(text.parse::<ServerName>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn names_that_are_no_plain_file_name_are_refused() {
        use ParseServerNameError::*;
        for (text, error) in [
            ("", Empty),
            (".hidden", Start('.')),
            ("..", Start('.')),
            ("-rf", Start('-')),
            ("a/b", Character('/')),
            ("a b", Character(' ')),
            ("a\0", Character('\0')),
            ("pr\u{eb}ces", Character('\u{eb}')),
            ("a\u{1b}[2J", Character('\u{1b}')),
        ] {
            assert_eq!(text.parse::<ServerName>(), Err(error), "{text:?}");
        }
        assert_eq!("n".repeat(65).parse::<ServerName>(), Err(TooLong(65)));
    }

    #[test]
    fn errors_never_repeat_a_control_character() {
        let error = "a\u{1b}[2J".parse::<ServerName>().unwrap_err();

        assert!(!error.to_string().contains('\u{1b}'), "{error}");
    }
}
