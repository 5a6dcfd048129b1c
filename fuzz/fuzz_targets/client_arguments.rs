//! The command line of the client, an argument a line: any gives arguments that hold together, or an error that tells what
//! is wrong, fit for a terminal. What is taken is printed and read back as the same.
#![no_main]

#[path = "../../src/bin/client/args.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod args;
#[path = "../../src/bin/client/identity.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod identity;
#[path = "../../src/bin/client/live_first.rs"]
mod live_first;
#[path = "../../src/bin/client/look.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod look;
#[path = "../../src/bin/client/once.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod once;
#[path = "../../src/bin/client/output/mod.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod output;
#[path = "../../src/bin/client/stdout.rs"]
#[allow(dead_code, reason = "only a part is under test")]
mod stdout;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use args::{Args, Trusted};
use lapwing::discovery::ServerName;
use lapwing::{Join, WaitStrategy, cli};
use libfuzzer_sys::fuzz_target;

fn parse(arguments: &[&OsStr]) -> Result<Args, clap::Error> {
    Args::of([OsStr::new("client")].iter().chain(arguments))
}

/// What is taken for a size and for a time, without an option around it.
fn check_values(text: &str) {
    let size = cli::size(text).ok();
    if let Some(bytes) = size {
        assert_eq!(cli::size(&bytes.to_string()), Ok(bytes));
    }
    // Digits alone are that many bytes.
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        assert_eq!(size, text.parse::<u64>().ok(), "{text:?}");
    }
    if let Ok(time) = cli::duration(text) {
        assert_eq!(cli::duration(&humantime::format_duration(time).to_string()), Ok(time));
    }
    if let Ok(name) = text.parse::<ServerName>() {
        assert!(name.as_str() == text && text.len() <= ServerName::MAX_BYTES);
        assert_eq!(
            name.file_name().parse::<ServerName>().is_ok(),
            text.len() <= ServerName::MAX_BYTES - 5
        );
    }
}

/// What follows from arguments that were taken.
fn check(args: &Args) {
    let (once, stream) = (&args.once, &args.stream);
    assert!(!args.paths.is_empty());
    assert!(!(args.follow && (once.last.is_some() || once.no_messages || once.explain)));
    assert!(!(stream.spin && stream.block) && !(once.no_messages && once.last.is_some()));
    assert!(args.follow || (stream.from.is_none() && stream.count.is_none() && stream.stats.is_none()));
    assert!(args.follow || (stream.cpu.is_none() && !stream.prefault));
    assert!(stream.count.is_none_or(|count| count > 0));
    assert!(stream.stats.is_none_or(|time| time >= Duration::from_millis(10)));
    assert_eq!(args.truncate().map(|bytes| bytes as u64), args.truncate);
    assert_eq!(args.strategy() == WaitStrategy::Spin, stream.spin);
    let _ = args.trust();
    let pattern = args.name.as_ref().map_or("*", |pattern| pattern.as_str());
    if !pattern.contains(['*', '?', '[']) {
        assert!(args.wants_name(pattern));
    }
    if let Some(from) = stream.from {
        let text = match from {
            Join::New => "new".to_owned(),
            Join::Oldest => "oldest".to_owned(),
            Join::Latest(count) => format!("latest:{count}"),
            Join::Sequence(sequence) => sequence.to_string(),
        };
        let again = parse(&["i", "--follow", "--from", &text].map(OsStr::new)).expect("it was taken before");
        assert_eq!(again.stream.from, Some(from));
    }
    if let Some(cpus) = stream.cpu {
        let again = parse(&["i", "--follow", "--cpu", &cpus.to_string()].map(OsStr::new)).expect("it was taken before");
        assert_eq!(again.stream.cpu, Some(cpus));
    }
    for &who in &args.trust_uid {
        let text = match who {
            Trusted::Anyone => "any".to_owned(),
            Trusted::User(uid) => uid.to_string(),
        };
        let again = parse(&["i", "--trust-uid", &text].map(OsStr::new)).expect("it was taken before");
        assert_eq!(again.trust_uid, [who]);
    }
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
    match parse(&arguments) {
        Ok(args) => check(&args),
        Err(error) => {
            let told = error.render().to_string();
            assert!(!told.trim().is_empty() && matches!(error.exit_code(), 0 | 2), "{told}");
        }
    }
});
