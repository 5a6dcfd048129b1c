//! Clocks that step, and clocks of other time namespaces: no verdict on a server changes, and no time is absurd.
//!
//! The machine's own clock is left alone. A shim in C steps the wall clock of one process; `unshare --time` gives others
//! a clock that counts from another time.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use super::confined::{Process, Words, client, is_possible, run, server, skip, wait_until, within, world};

const DAY: i64 = 86_400;

/// A wall clock that can be stepped, for the processes that are started with it.
struct SteppedClock {
    shim: PathBuf,
    seconds: PathBuf,
}

impl SteppedClock {
    /// Builds it in `directory`, where there is a C compiler.
    fn new(directory: &Path, name: &str) -> Option<Self> {
        let shim = directory.join("stepped_clock.so");
        let seconds = directory.join(name);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/limits/stepped_clock.c");
        let compiler = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", source, "-o"])
            .arg(&shim)
            .output();
        match compiler {
            Ok(output) => assert!(output.status.success(), "{output:?}"),
            Err(error) => {
                skip(format_args!("no C compiler: {error}"));
                return None;
            }
        }
        File::create(&seconds).unwrap().write_all(&0_i64.to_ne_bytes()).unwrap();
        Some(Self { shim, seconds })
    }

    /// Steps it to so many seconds from the true time.
    fn step(&self, seconds: i64) {
        let file = File::options().write(true).open(&self.seconds).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }

    fn variables(&self) -> [(&str, &Path); 2] {
        [("LD_PRELOAD", &self.shim), ("STEPPED_CLOCK", &self.seconds)]
    }
}

/// Takes messages from a follower up to one whose time `is_so`; anything but messages, and a gap in them, is an error.
fn messages_until(follower: &Process, next: &mut u64, is_so: impl Fn(u64) -> bool) -> u64 {
    loop {
        let line = follower.json_but_for_pauses();
        assert_eq!(
            (&line["type"], line["sequence"].as_u64()),
            (&"message".into(), Some(*next)),
            "{line}"
        );
        *next += 1;
        let timestamp = line["timestamp_ns"].as_u64().unwrap();
        if is_so(timestamp) {
            return timestamp;
        }
    }
}

fn the_server(lines: &[Value]) -> &Value {
    lines.iter().find(|line| line["type"] == "server").unwrap()
}

#[test]
fn steps_of_the_servers_clock_change_no_verdict_and_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let info = directory.path().join("info");
    let Some(clock) = SteppedClock::new(directory.path(), "clock") else {
        return;
    };
    let command = server(&info, "good", "--message x --interval 1ms --ring-size 1M");
    let server = Process::announced_with(&command, &clock.variables());
    let follower = Process::start(&client(&info, "--follow --from 0 --format json"));
    follower.json_of("attached");
    let mut next = 0;
    let mut newest = messages_until(&follower, &mut next, |_| true);

    for (from, to) in [(0, DAY), (DAY, -DAY), (-DAY, 20_000 * -DAY), (20_000 * -DAY, 0)] {
        clock.step(to);
        // The stream goes on at the new time: the step was real.
        newest = messages_until(&follower, &mut next, |time| {
            let moved = i128::from(time) - i128::from(newest);
            moved.signum() == i128::from((to - from).signum()) && moved.abs() > 3_600_000_000_000 || time == 0
        });
        let lines = run(&client(&info, "--format json")).expect(0).json();
        let found = the_server(&lines);
        assert_eq!(
            (&found["state"], &found["category"]),
            (&"live".into(), &"host".into()),
            "{found}"
        );
        let table = run(&client(&info, "")).expect(0).output;
        for absurd in ["NaN", "inf", " -"] {
            assert!(!table[1].contains(absurd), "{absurd} in {table:#?}");
        }
    }
    server.kill();
    assert_eq!(follower.json_of("detached")["reason"], "the server died");
    let told = follower.stop().expect(0).told();
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn steps_of_the_clients_clock_change_no_verdict_and_end_no_wait() {
    let directory = tempfile::tempdir().unwrap();
    let info = directory.path().join("info");
    let Some(clock) = SteppedClock::new(directory.path(), "clock") else {
        return;
    };
    let server = Process::announced(&server(&info, "good", "--message x --interval 1ms --ring-size 1M"));
    let follow = client(&info, "--follow --from 0 --format json --timeout 1d --stats 20ms");
    let follower = Process::start_with(&follow, &clock.variables());
    follower.json_of("attached");
    let mut next = 0;
    for step in [3 * DAY, -3 * DAY, 20_000 * -DAY, 0] {
        clock.step(step);
        let told = next + 200;
        while next < told {
            messages_until(&follower, &mut next, |_| true);
        }
        let look = Process::start_with(&client(&info, "--format json"), &clock.variables());
        let lines = look.finish().expect(0).json();
        assert_eq!(the_server(&lines)["state"], "live", "{lines:?}");
    }

    server.signal(Signal::STOP);
    for step in [-DAY, DAY] {
        clock.step(step);
        let look = Process::start_with(&client(&info, "--format json --timeout 5s"), &clock.variables());
        let lines = look.finish().expect(0).json();
        assert_eq!(the_server(&lines)["state"], "hung", "{lines:?}");
    }
    server.signal(Signal::CONT);
    follower.json_of("message");
    let told = follower.stop().expect(0).told();
    assert!(!told.contains("panicked"), "{told}");
}

/// A world whose clocks since the start of the machine are a hundred days ahead.
fn ahead() -> Words {
    let days = 100 * DAY;
    world(&format!(
        "unshare --time --monotonic {days} --boottime {days} --fork --kill-child"
    ))
}

#[test]
fn other_time_namespace_changes_no_verdict() {
    if !is_possible(&ahead()) {
        return;
    }
    for server_is_ahead in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let info = directory.path().join("info");
        let (here, there) = if server_is_ahead {
            (ahead(), world(""))
        } else {
            (world(""), ahead())
        };
        let command = server(&info, "good", "--message x --interval 1ms");
        let server = Process::announced(&within(&here, command));
        let look = |timeout: &str| {
            let look = within(&there, client(&info, &format!("--format json --timeout {timeout}")));
            let lines = run(&look).expect(0).json();
            let found = the_server(&lines);
            (
                found["state"].as_str().unwrap().to_owned(),
                found["category"].as_str().unwrap().to_owned(),
                found["pid"].as_u64().unwrap(),
            )
        };
        let (state, category, pid) = look("100s");
        assert_eq!((&*state, &*category), ("live", "host"));
        let follow = within(&there, client(&info, "--follow -n 50 --format json"));
        assert_eq!(run(&follow).expect(0).json_of("message").len(), 50);

        let pid = rustix::process::Pid::from_raw(pid.try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
        wait_until("it is seen to hang", || look("5s").0 == "hung");
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
        wait_until("it is seen to be dead", || look("5s").0 == "dead");
        drop(server);
        assert_eq!(fs::read_dir(&info).unwrap().count(), 1, "the dead server's file");
    }
}

/// Negative control: the shim does step the wall clock, and nothing else.
#[test]
fn stepped_clock_is_seen_by_who_has_it() {
    let directory = tempfile::tempdir().unwrap();
    let Some(clock) = SteppedClock::new(directory.path(), "clock") else {
        return;
    };
    let year = || {
        let date = Process::start_with(&world("date +%s"), &clock.variables())
            .finish()
            .expect(0);
        date.output[0].parse::<i64>().unwrap()
    };
    let before = year();
    clock.step(1000 * DAY);
    assert!(year() - before >= 1000 * DAY);
}
