//! Alive, dead, and who comes next.

use super::child::Role;
use super::{Watchdog, info, names, publish, servers};
use lapwing::discovery::{AnnounceError, Announcement, Trust, read};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::sync::Barrier;

#[test]
fn lock_is_seen_from_another_process_and_freed_by_kill_9() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut server = Role::start("hold", temporary.path());
    assert_eq!(server.hear().unwrap(), "published");
    let found = servers(temporary.path()).remove(0);
    assert_eq!(found.info.pid, server.pid());
    assert!(found.lock.is_held().unwrap());

    server.kill();

    assert!(!found.lock.is_held().unwrap());
    assert!(!servers(temporary.path())[0].lock.is_held().unwrap());
}

#[test]
fn name_of_a_killed_server_is_taken_over() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut server = Role::start("hold", temporary.path());
    server.hear().unwrap();
    let old = servers(temporary.path()).remove(0);
    server.kill();

    let _announcement = publish(temporary.path(), "held");

    let new = servers(temporary.path()).remove(0);
    assert_ne!(new.info.incarnation, old.info.incarnation);
    assert!(new.lock.is_held().unwrap());
    assert!(!old.lock.is_held().unwrap());
    assert_eq!(names(temporary.path()), ["held.toml"]);
}

#[test]
fn stopped_server_keeps_its_name() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut server = Role::start("hold", temporary.path());
    server.hear().unwrap();
    let pid = Pid::from_raw(i32::try_from(server.pid()).unwrap()).unwrap();
    kill_process(pid, Signal::STOP).unwrap();

    let error = Announcement::publish(temporary.path(), &info("held"), 0o644).unwrap_err();

    assert!(
        matches!(error, AnnounceError::NameInUse { pid: Some(pid), .. } if pid == server.pid()),
        "{error:?}"
    );
}

#[test]
fn program_started_by_a_server_does_not_keep_it_looking_alive() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut server = Role::start("hold and run a program", temporary.path());
    server.hear().unwrap();
    let program = server.hear().unwrap();
    let found = servers(temporary.path()).remove(0);
    assert!(found.lock.is_held().unwrap());

    server.kill();

    assert!(
        fs::exists(format!("/proc/{program}")).unwrap(),
        "the program ended too early"
    );
    assert!(!found.lock.is_held().unwrap());
}

#[test]
fn reader_that_squats_on_the_lock_neither_fakes_life_nor_blocks_a_restart() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let mut server = Role::start("hold", temporary.path());
    server.hear().unwrap();
    server.kill();
    let mut squatter = Role::start("squat", &temporary.path().join("held.toml"));
    assert_eq!(squatter.hear().unwrap(), "locked");

    assert!(!servers(temporary.path())[0].lock.is_held().unwrap());

    let announcement = publish(temporary.path(), "held");
    assert!(
        read(&announcement.path(), &Trust::default())
            .unwrap()
            .lock
            .is_held()
            .unwrap()
    );
}

/// How a race ended for one of those who took part.
fn won(result: &Result<Announcement, AnnounceError>) -> bool {
    match result {
        Ok(_) => true,
        Err(AnnounceError::NameInUse { .. }) => false,
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn of_many_threads_that_race_for_a_dead_name_exactly_one_wins() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    const RACERS: usize = 6;
    for round in 0..200 {
        // Every other round there is no file at all to begin with.
        if round % 2 == 0 {
            fs::write(directory.join("wanted.toml"), info("wanted").to_toml()).unwrap();
        }
        let start = Barrier::new(RACERS);

        let results: Vec<_> = std::thread::scope(|scope| {
            let race = || {
                start.wait();
                Announcement::publish(directory, &info("wanted"), 0o644)
            };
            let racers: Vec<_> = (0..RACERS).map(|_| scope.spawn(race)).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });

        assert_eq!(results.iter().filter(|&result| won(result)).count(), 1, "round {round}");
        assert_eq!(names(directory), ["wanted.toml"], "round {round}");
        assert!(servers(directory)[0].lock.is_held().unwrap(), "round {round}");
        drop(results);
        assert!(names(directory).is_empty(), "round {round}");
    }
}

#[test]
fn of_many_processes_that_race_for_a_dead_name_exactly_one_wins() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    for _ in 0..10 {
        fs::write(directory.join("wanted.toml"), info("wanted").to_toml()).unwrap();
        let mut racers: Vec<Role> = (0..5).map(|_| Role::start("race", directory)).collect();
        racers
            .iter_mut()
            .for_each(|racer| assert_eq!(racer.hear().unwrap(), "ready"));

        racers.iter_mut().for_each(|racer| racer.tell("go"));

        let said: Vec<String> = racers.iter_mut().map(|racer| racer.hear().unwrap()).collect();
        let winner: Vec<u32> = (0..5)
            .filter(|&n| said[n] == "published")
            .map(|n| racers[n].pid())
            .collect();
        let losers = said.iter().filter(|said| said.starts_with("NameInUse")).count();
        assert_eq!((winner.len(), losers), (1, 4), "{said:?}");
        let found = servers(directory).remove(0);
        assert_eq!(found.info.pid, winner[0]);
        assert!(found.lock.is_held().unwrap());
        // All are killed here; the next round finds what they leave.
    }
}

#[test]
fn server_killed_anywhere_while_it_comes_and_goes_leaves_nothing_that_lasts() {
    let _watchdog = Watchdog::start();
    let temporary = tempfile::tempdir().unwrap();
    let directory = temporary.path();
    for round in 0..100 {
        let mut server = Role::start("come and go", directory);
        for _ in 0..=round % 7 {
            assert_eq!(server.hear().unwrap(), "published");
        }
        server.kill();

        let _announcement = publish(directory, "restless");

        assert_eq!(names(directory), ["restless.toml"], "round {round}");
        let found = servers(directory).remove(0);
        assert_eq!(found.info.pid, std::process::id());
        assert!(found.lock.is_held().unwrap());
    }
}
