//! How much a bench does: all of it, or each thing once and briefly to see that it works.

use std::env;

/// Whether figures are wanted. As with criterion, whatever is not `cargo bench` only wants to see that it works.
pub fn is_whole() -> bool {
    let has = |wanted| env::args().any(|argument| argument == wanted);
    has("--bench") && !has("--test")
}

/// The number behind `flag` on the command line.
pub fn number(flag: &str) -> Option<usize> {
    let mut arguments = env::args().skip_while(|argument| argument != flag);
    arguments.next()?;
    let number = arguments.next().and_then(|number| number.parse().ok());
    Some(number.unwrap_or_else(|| panic!("{flag} takes a number")))
}

/// How many windows each case gets: `--rounds`, or else `usual`.
pub fn rounds(usual: usize) -> usize {
    if is_whole() {
        number("--rounds").unwrap_or(usual)
    } else {
        1
    }
}
