//! Versions of programs that are there.

use std::process::Command;

/// The version in what a program says when it is asked for it: the first word with a digit and a dot in it.
pub fn version_said(program: &str, question: &str) -> String {
    let output = Command::new(program).arg(question).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let text = text.unwrap_or_default();
    let is_version = |word: &&str| word.contains('.') && word.contains(|letter: char| letter.is_ascii_digit());
    let version = text.split([' ', '\n', '=']).find(is_version);
    version.unwrap_or("unknown").trim_start_matches('v').to_owned()
}
