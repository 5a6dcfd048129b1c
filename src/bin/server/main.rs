//! The `server` command: publishes its input until that ends and it is told to stop.
//!
//! ```text
//!   arguments -> source opened -> server started and announced -> source runs -> serving | finishing -> all undone
//! ```
//!
//! Every way out but SIGKILL goes through the drop of the server, which removes the info file: the end of the input,
//! an error, a signal, a panic.

mod args;
mod feed;
mod group;
mod hold_up;
mod name;
mod refused;
mod source;
mod stats;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;
use lapwing::cli::{self, Escaped, Failure, Signals, exit, print_error, say};
use lapwing::discovery::AnnounceError;
use lapwing::{Cpus, PinError, Server, StartError};
use log::{info, warn};

use args::Args;
use feed::{Feed, Interrupt};
use source::Source;

const COMMAND: &str = "server";

fn main() -> ExitCode {
    let args = Args::try_parse()
        .and_then(Args::check)
        .unwrap_or_else(|error| cli::leave_with(COMMAND, &error));
    cli::start_log(COMMAND, args.log_level);
    cli::raise_file_limit();
    exit_code(|| run(&args))
}

/// Runs `run` to its end, whichever that is.
fn exit_code(run: impl FnOnce() -> Result<(), Failure>) -> ExitCode {
    // Nothing that a panic may have left half done is looked at afterwards.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => exit::FINE.into(),
        Ok(Err(failure)) => {
            print_error(COMMAND, &failure);
            exit::ERROR.into()
        }
        // The panic was told when it happened.
        Err(_) => exit::ERROR.into(),
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    // First, so that there is no moment at which a signal would leave something behind.
    let signals = Signals::catch().map_err(|error| Failure::caused("cannot catch signals", error))?;
    cli::survive_file_size_limit().map_err(|error| Failure::caused("cannot catch signals", error))?;
    let mut source = args.source()?;
    let mut server = start(args, pin(args)?)?;
    introduce(args, &mut server, &source);
    let mut feed = Feed::new(server, signals, args.on_full(), args.stats);
    let outcome = publish(args, &mut source, &mut feed);
    if matches!(outcome, Err(Interrupt::Signal)) {
        // Nobody reads it any more: who writes to it is to know, and not to wait.
        source.close();
        feed.part(args.linger);
    }
    feed.conclude();
    match outcome {
        Ok(()) => {}
        Err(Interrupt::Signal) => info!("a signal asked to stop"),
        Err(Interrupt::Failed(failure)) => return Err(failure),
    }
    feed.flaw().map_or(Ok(()), Err)
}

/// Publishes the input, then does what is to be done behind it.
fn publish(args: &Args, source: &mut Source, feed: &mut Feed) -> Result<(), Interrupt> {
    if let Some(count) = args.wait_for() {
        info!("waiting for {count} lossless clients before the input begins");
        feed.wait_for_lossless(count)?;
    }
    source.run(feed)?;
    let Some(patience) = args.patience() else {
        info!("the input has ended: serving what the ring retains");
        return Err(feed.serve());
    };
    info!("the input has ended: waiting for clients to read it");
    feed.finish(patience)
}

/// Keeps this thread, which publishes, to its CPUs before it touches the memory of the ring, so that this is near them.
/// Returns the CPUs of the service thread, which does not share them for that.
fn pin(args: &Args) -> Result<Option<Cpus>, Failure> {
    let Some(cpus) = args.cpu else {
        return Ok(args.service_cpu);
    };
    let pin = || {
        let all = Cpus::of_this_thread()?;
        cpus.pin_this_thread()?;
        Ok(args.service_cpu.unwrap_or(all))
    };
    let failed = |error: PinError| Failure::caused(format!("cannot publish on --cpu {cpus}"), error);
    pin().map(Some).map_err(failed)
}

/// Starts the server under its name or, if it was given none, under the first that is free.
fn start(args: &Args, service_cpus: Option<Cpus>) -> Result<Server, Failure> {
    let failed = |error| Failure::caused("cannot start", error);
    let options = |name| {
        let mut options = args.options(name);
        options.service_cpus = service_cpus;
        options
    };
    if let Some(name) = &args.name {
        return Server::start(options(name.clone())).map_err(failed);
    }
    let mut taken = None;
    for name in name::candidates(args.namesake()) {
        match Server::start(options(name)) {
            Err(error @ StartError::Announce(AnnounceError::NameInUse { .. })) => taken = Some(error),
            started => return started.map_err(failed),
        }
    }
    Err(taken.map_or_else(|| Failure::new("no name was found; give one with --name"), failed))
}

/// Says on standard error what was started and where to find it.
fn introduce(args: &Args, server: &mut Server, source: &Source) {
    let mut ways = Vec::new();
    ways.extend(
        server
            .info()
            .shared_memory
            .as_ref()
            .map(|memory| format!("shared memory {}", memory.id)),
    );
    ways.extend(server.addresses().iter().map(ToString::to_string));
    let path = server.info_path().display().to_string();
    let (name, ways) = (server.info().name.clone(), ways.join(", "));
    let geometry = *server.publisher().geometry();
    say(&format!("server: {name} is announced in {}: {ways}", Escaped(&path)));
    say(&format!(
        "server: {} slots of {} bytes, a ring of {} bytes, messages of up to {} bytes",
        geometry.slot_count(),
        geometry.slot_bytes(),
        geometry.arena_bytes(),
        geometry.max_message_bytes()
    ));
    if server.info().socket.is_some() && server.addresses().is_empty() {
        warn!(
            "no network interface has an address to announce: only shared memory leads here; give an address with --listen \
             or --advertise"
        );
    }
    if let Some(mode) = args.mode.filter(|mode| mode & 0o004 == 0)
        && !server.addresses().is_empty()
    {
        warn!(
            "--mode {mode:04o} keeps other users from the shared memory, but a socket knows no users: whoever reaches one of the \
             addresses reads the stream; --no-socket keeps them out"
        );
    }
    if let Some(bytes) = server.huge_page_bytes() {
        say(&format!("server: huge pages of {bytes} bytes"));
    }
    if let Some(address) = source.push_address() {
        say(&format!("server: push messages to {}", Escaped(&address)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(code: ExitCode, expected: u8) -> bool {
        format!("{code:?}") == format!("{:?}", ExitCode::from(expected))
    }

    #[test]
    fn a_panic_undoes_everything_and_is_an_error() {
        struct Undone<'a>(&'a mut bool);
        impl Drop for Undone<'_> {
            fn drop(&mut self) {
                *self.0 = true;
            }
        }
        let mut undone = false;

        let code = exit_code(|| {
            let _undone = Undone(&mut undone);
            panic!("as planned")
        });

        assert!(undone);
        assert!(is(code, exit::ERROR));
        assert!(is(exit_code(|| Ok(())), exit::FINE));
        assert!(is(exit_code(|| Err(Failure::new("no"))), exit::ERROR));
    }
}
