//! The `client` command: finds servers, tells how each can be reached, and shows or streams their messages.
//!
//! `client ./info` looks [`once`]; `client ./info --follow` [`follow`]s. What was found goes to standard output, in the
//! format asked for; everything else goes to standard error. A reader of the output that goes away is no error.

mod args;
mod clock;
mod identity;
mod live_first;
mod output;
mod stdout;

mod look;
mod once;

mod follow;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use lapwing::cli::{self, Failure, exit};

use crate::args::Args;
use crate::output::Style;

fn main() -> ExitCode {
    match run() {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            cli::print_error("client", &failure);
            ExitCode::from(exit::ERROR)
        }
    }
}

fn run() -> Result<u8, Failure> {
    let args = Args::read();
    cli::start_log("client", args.log_level);
    cli::raise_file_limit();
    cli::survive_file_size_limit().map_err(|error| Failure::caused("cannot catch signals", error))?;
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = Style {
        format: args.format,
        truncate: args.truncate(),
        colour: io::stdout().is_terminal() && !no_colour,
    };
    if args.follow {
        follow::run(&args, style)
    } else {
        once::run(&args, &style)
    }
}
