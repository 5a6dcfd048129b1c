//! Servers, as whole processes, killed with SIGKILL: before and behind every system call from the making of the segment
//! to the announcement, and at random moments of their lives. What they leave is dealt with by whoever comes next.

mod traced;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lapwing::discovery::{Entry, Trust, list};
use lapwing::{Join, Poll, Server, ServerOptions, ServerState, Subscriber};

use traced::{Traced, tracing_works};

/// Longer than anything takes here; a test that needs it has failed.
const WATCHDOG: Duration = Duration::from_secs(60);
const NAME: &str = "victim";
/// How many servers are killed side by side: a death is noticed by waiting.
const LANES: usize = 8;
/// How often the last states of a start are tried once more, if none of the kills met them.
const MOST_TIMES_AGAIN: usize = 20;

/// How many servers are killed at random moments: one for so many kills of `LAPWING_KILLS`.
fn random_kills() -> u64 {
    let kills =
        std::env::var("LAPWING_KILLS").map_or(1_000, |text| text.parse::<u64>().expect("LAPWING_KILLS is a number"));
    (kills / 100).max(LANES as u64)
}

fn server_command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_server"));
    command
        .args(["--name", NAME, "--info-dir"])
        .arg(directory)
        .args(["--generate", "--rate", "max"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Starts a server in this process.
fn start(directory: &Path, name: &str) -> Server {
    let mut options = ServerOptions::new(name.parse().unwrap());
    options.info_dir = directory.to_owned();
    options.listen = Vec::new();
    Server::start(options).unwrap_or_else(|error| panic!("the name {name} is not free: {error}"))
}

/// Held by each test: any server that starts clears what killed ones left, before it is counted.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The segments that process `pid` made and that are there still.
fn segments_of(pid: u32) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
    let made_by = |line: &&str| line.split_ascii_whitespace().nth(4) == Some(&pid.to_string());
    all.lines().filter(made_by).map(str::to_owned).collect()
}

fn file_names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// What a killed server may leave, and what readers make of it. Returns whether it had announced itself.
fn check_leavings(directory: &Path) -> Result<bool, String> {
    for name in file_names(directory) {
        if ![".victim.lock", ".victim.new", "victim.toml"].contains(&name.as_str()) {
            return Err(format!("{name} is left behind"));
        }
    }
    let entries = list(directory, &Trust::default()).unwrap();
    for entry in &entries {
        match entry {
            Entry::Server(found) if !found.lock.is_held().unwrap() => {}
            Entry::Server(_) => return Err("a dead server holds its lock".to_owned()),
            Entry::Problem { reason, .. } => return Err(format!("readers find a problem: {reason}")),
        }
    }
    Ok(!entries.is_empty())
}

/// Whoever comes next takes away what process `pid` left, and gets its name at once.
fn check_successors(directory: &Path, pid: u32) -> Result<(), String> {
    let other = start(directory, "other");
    let hidden: Vec<_> = file_names(directory)
        .into_iter()
        .filter(|name| name.starts_with('.'))
        .collect();
    if !hidden.is_empty() {
        return Err(format!("{hidden:?} are left behind"));
    }
    let segments = segments_of(pid);
    if !segments.is_empty() {
        return Err(format!("segments are left behind: {segments:?}"));
    }
    drop(start(directory, NAME));
    drop(other);
    let names = file_names(directory);
    if names.is_empty() {
        Ok(())
    } else {
        Err(format!("{names:?} are left behind"))
    }
}

fn state_that_the_client_shows(directory: &Path) -> String {
    let mut client = Command::new(env!("CARGO_BIN_EXE_client"));
    let output = client
        .arg(directory)
        .args(["--format", "json", "--no-messages"])
        .output()
        .unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let states: Vec<_> = lines
        .filter_map(|line| line["state"].as_str().map(str::to_owned))
        .collect();
    states.join(" and ")
}

#[test]
fn server_killed_at_any_system_call_of_its_start_leaves_nothing_that_the_next_does_not_clear() {
    let _alone = alone();
    if !tracing_works() {
        println!("SKIPPED: ptrace is forbidden here");
        return;
    }
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let (mut announced, mut with_draft, mut with_lock, mut with_segment) = (0, 0, 0, 0);
    let (mut points, mut again) = (0, 0);
    loop {
        let mut server = Traced::start(&server_command(directory));
        let stop = server.run_to_stop(points, directory);
        let pid = server.kill();
        let Some(call) = stop else {
            // A start takes a few calls more or fewer than the one before: the last states may have been jumped over.
            if announced > 0 || again == MOST_TIMES_AGAIN {
                break;
            }
            check_successors(directory, pid).unwrap();
            again += 1;
            points -= 2;
            continue;
        };
        let context = |error: String| panic!("killed at {call}, stop {points}: {error}");
        let names = file_names(directory);
        with_draft += usize::from(names.iter().any(|name| name == ".victim.new"));
        with_lock += usize::from(names.iter().any(|name| name == ".victim.lock"));
        with_segment += usize::from(!segments_of(pid).is_empty());
        announced += usize::from(check_leavings(directory).unwrap_or_else(context));
        check_successors(directory, pid).unwrap_or_else(|error| panic!("killed at {call}, stop {points}: {error}"));
        points += 1;
    }
    println!(
        "{points} servers killed: {with_segment} left a segment, {with_lock} a lock file, {with_draft} a draft, {announced} an info file"
    );
    // Every state was reached.
    assert!(with_segment > 0 && with_lock > 0 && with_draft > 0 && announced > 0);
}

#[test]
fn server_killed_at_a_random_moment_is_known_to_be_dead_and_followed_by_the_next() {
    let _alone = alone();
    let kills = random_kills();
    let (mut slowest, mut messages) = (Duration::ZERO, 0);
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|lane| scope.spawn(move || kill_at_random_moments((lane as u64..kills).step_by(LANES))))
            .collect();
        for lane in lanes {
            let (lane_slowest, lane_messages) = lane.join().unwrap();
            slowest = slowest.max(lane_slowest);
            messages += lane_messages;
        }
    });
    println!("{kills} servers killed, {messages} messages read, death noticed after {slowest:?} at the latest");
}

/// Returns how long it took at the longest until a death was noticed, and how many messages were read.
fn kill_at_random_moments(turns: impl Iterator<Item = u64>) -> (Duration, u64) {
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let (mut slowest, mut messages) = (Duration::ZERO, 0);
    for turn in turns {
        let mut server = server_command(directory).spawn().unwrap();
        let found = loop {
            if let Ok(found) = lapwing::discovery::read(&directory.join("victim.toml"), &Trust::default())
                && found.info.pid == server.id()
            {
                break found;
            }
            assert!(server.try_wait().unwrap().is_none(), "the name is not free");
            std::thread::yield_now();
        };
        let mut reader = Subscriber::open(&found, Join::Oldest).unwrap();
        let start = reader.cursor();
        while reader.head().next == 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_micros(turn * 7919 % 5_000));

        server.kill().unwrap();
        server.wait().unwrap();
        let died = Instant::now();
        if turn % 2 == 0 {
            // One look is enough when three intervals have passed since the last beat was seen.
            let _ = reader.server_state();
            std::thread::sleep(3 * reader.segment().header().heartbeat_interval());
            assert_eq!(reader.server_state(), ServerState::Dead);
        }

        let (mut received, mut missed) = (0, 0);
        loop {
            match reader.receive(WATCHDOG, |_| ()) {
                Poll::Message(_) => received += 1,
                Poll::Lapped { missed: more, .. } => missed += more,
                Poll::Dead => break,
                other => panic!("{other:?} of a server that was killed"),
            }
        }
        slowest = slowest.max(died.elapsed());
        messages += received;
        assert_eq!(reader.server_state(), ServerState::Dead);
        assert_eq!(start + received + missed, reader.cursor());
        assert!([0, 1].contains(&(reader.cursor() - reader.head().next)));
        assert_eq!(reader.segment().status().unwrap().unwrap().attached, 1);
        drop(reader);
        assert_eq!(segments_of(found.info.pid), [""; 0]);
        assert!(check_leavings(directory).unwrap());
    }
    assert_eq!(state_that_the_client_shows(directory), "dead");
    (slowest, messages)
}

#[test]
fn what_must_not_be_left_is_noticed() {
    let _alone = alone();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    let leftover = directory.join(".victim.old");
    std::fs::write(&leftover, "").unwrap();
    assert!(check_leavings(directory).is_err());
    std::fs::remove_file(leftover).unwrap();

    // Half an info file, as a server would leave that wrote it in place.
    std::fs::write(directory.join("victim.toml"), "lapwing").unwrap();
    assert!(check_leavings(directory).is_err());
    std::fs::remove_file(directory.join("victim.toml")).unwrap();

    let alive = start(directory, NAME);
    assert_eq!(state_that_the_client_shows(directory), "live");
    assert!(check_leavings(directory).is_err());
    let id = alive.info().shared_memory.unwrap().id.to_string();
    let is_its = |line: &String| line.split_ascii_whitespace().nth(1) == Some(&id);
    assert!(segments_of(std::process::id()).iter().any(is_its));
    drop(alive);
    assert_eq!(check_leavings(directory), Ok(false));
}
