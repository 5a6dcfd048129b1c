//! The command line of the server, an argument a line: any gives arguments that a server can be started with, or an error
//! that tells what is wrong. What is taken is printed and read back as the same.
#![no_main]

#[path = "../../src/bin/server/args.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod args;
#[path = "../../src/bin/server/feed.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod feed;
#[path = "../../src/bin/server/group.rs"]
mod group;
#[path = "../../src/bin/server/hold_up.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod hold_up;
#[path = "../../src/bin/server/name.rs"]
mod name;
#[path = "../../src/bin/server/refused.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod refused;
#[path = "../../src/bin/server/source/mod.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod source;
#[path = "../../src/bin/server/stats.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod stats;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use args::Args;
use clap::Parser;
use lapwing::discovery::ServerName;
use lapwing::layout::{Geometry, MAX_ARENA_BYTES, MIN_ARENA_BYTES};
use lapwing::{Cpus, HugePages, Pages};
use libfuzzer_sys::fuzz_target;
use source::pace::Rate;
use source::push_listener::PushAddress;

/// What is taken for a rate, for an address to push to, for a set of CPUs, and for a server's name after a file.
fn check_values(text: &str) {
    if let Ok(rate) = text.parse::<Rate>() {
        assert_eq!(rate.to_string().parse(), Ok(rate));
    }
    if let Ok(address) = text.parse::<PushAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
    if let Ok(cpus) = text.parse::<Cpus>() {
        assert_eq!(cpus.to_string().parse(), Ok(cpus));
    }
    for name in name::candidates(Some(Path::new(text))).take(2) {
        assert_eq!(name.as_str().parse(), Ok(name));
    }
}

/// What follows from arguments that were taken.
fn check(args: Args) {
    let name: ServerName = args.name.clone().unwrap_or_else(|| "n".parse().expect("a name"));
    let options = args.options(name.clone());
    assert_eq!(options.name, name);
    assert!(args.stats.is_none_or(|time| !time.is_zero()));
    assert!((MIN_ARENA_BYTES..=MAX_ARENA_BYTES).contains(&options.ring_bytes));
    let slots = options.slots.unwrap_or(1024);
    let geometry = Geometry::new(slots, options.slot_bytes, options.ring_bytes, options.max_message_bytes);
    let geometry = geometry.expect("a ring that can be");
    assert!(
        options
            .max_message_bytes
            .is_none_or(|longest| longest == geometry.max_message_bytes() as u64)
    );
    // Its owner can read it, and nobody can execute it.
    assert_eq!(options.access.mode & !0o666, 0);
    assert_eq!(options.access.mode & 0o400, 0o400);
    assert!(options.advertise.iter().all(|address| address.port() != 0));
    assert!(options.max_connections > 0);
    assert!(
        [args.cpu, args.service_cpu]
            .iter()
            .flatten()
            .all(|cpus| cpus.iter().count() > 0)
    );
    // What has no segment is not told of what one is made of.
    assert!(options.shared_memory || options.pages == Pages::default());
    assert!(options.pages.huge_bytes.is_none() || matches!(options.pages.huge, HugePages::Try | HugePages::Require));
    assert!(!options.service_spin || !options.listen.is_empty());
    assert!(
        options.shared_memory || !options.listen.is_empty(),
        "a server that nobody reaches"
    );
}

fuzz_target!(|input: &[u8]| {
    // What a shell cannot hand on.
    if input.contains(&0) {
        return;
    }
    let arguments: Vec<&OsStr> = input.split(|&byte| byte == b'\n').map(OsStr::from_bytes).collect();
    for text in arguments.iter().filter_map(|argument| argument.to_str()) {
        check_values(text);
    }
    match Args::try_parse_from([OsStr::new("server")].iter().chain(&arguments)).and_then(Args::check) {
        Ok(args) => check(args),
        Err(error) => {
            let told = error.render().to_string();
            assert!(!told.trim().is_empty() && matches!(error.exit_code(), 0 | 2), "{told}");
        }
    }
});
