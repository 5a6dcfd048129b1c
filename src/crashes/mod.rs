//! Crashes: publishers and readers are killed with SIGKILL, again and again, and nothing may come of it.
//!
//! ```text
//!     publishers   before each of their next instructions: every point of the protocol, in the code as it was compiled
//!                  and at random moments, at full speed
//!                  from sequence 0, where the low half of the head wraps, and up to the last sequence that there is
//!     readers      attaching, reading, asleep on the futex word
//!     and lossless ones, joining, reading, holding messages, held up for, leaving
//! ```
//!
//! What each message must be is known from its sequence, and where it must lie from an oracle that shares no code with
//! the ring. A few crews do the killing side by side, each a process of its own, because it forks.
//! `LAPWING_KILLS` says how many kills there are to be.

mod autopsy;

mod crew;

mod lossless;

mod publishers;

mod readers;

mod scribe;

mod stepper;

mod stream;

mod tally;

#[expect(unsafe_code, reason = "fork has no safe wrapper")]
mod victim;

use self::autopsy::State;
use self::crew::{Trade, kills, send, send_all};
use self::readers::Habit;
use self::scribe::Fault;

const DEFAULT_KILLS: u64 = if cfg!(debug_assertions) { 200 } else { 20_000 };

#[test]
fn killed_publisher_harms_nothing_whatever_it_was_about_to_do() {
    let kills = kills(DEFAULT_KILLS);

    let tally = send_all(Trade::Publishers, kills);

    println!("{kills} kills of publishers:\n{tally}");
    if tally.of("crews that cannot step") > 0 {
        println!("SKIPPED: ptrace is forbidden here; all kills were at random moments");
        return;
    }
    for state in State::ALL {
        assert!(tally.of(format_args!("states: {state:?}")) > 0, "never seen: {state:?}");
    }
}

#[test]
fn killed_reader_is_noticed_by_nobody() {
    let kills = (kills(DEFAULT_KILLS) / 10).max(10 * Habit::ALL.len() as u64);

    let tally = send_all(Trade::Readers, kills);

    println!("{kills} kills of readers:\n{tally}");
    for habit in Habit::ALL {
        let killed = tally.of(format_args!("readers killed: {habit:?}"));
        assert!(killed > 0 || habit == Habit::Stepped, "never killed: {habit:?}");
    }
    assert!(tally.of("readers killed attached") > 0 && tally.of("readers killed detached") > 0);
}

#[test]
fn killed_lossless_reader_holds_up_nobody_and_costs_nobody_a_message() {
    let habits = lossless::Habit::ALL;
    let kills = (kills(DEFAULT_KILLS) / 50).max(4 * habits.len() as u64);

    let tally = send_all(Trade::LosslessReaders, kills);

    println!("{kills} kills of lossless readers:\n{tally}");
    for habit in habits {
        let killed = tally.of(format_args!("lossless readers killed: {habit:?}"));
        assert!(
            killed > 0 || habit == lossless::Habit::Visits,
            "never killed: {habit:?}"
        );
    }
}

#[test]
fn publisher_that_breaks_the_protocol_is_noticed() {
    let tally = send(Trade::Controls, 0);

    if tally.of("crews that cannot step") > 0 {
        println!("SKIPPED: ptrace is forbidden here");
        return;
    }
    for fault in Fault::ALL {
        assert_eq!(tally.of(format_args!("noticed: {fault:?}")), 1, "{tally}");
    }
    assert_eq!(tally.of("noticed: what is left"), 4, "{tally}");
    assert_eq!(tally.of("noticed: readers"), 2, "{tally}");
    assert_eq!(tally.of("noticed: lossless readers"), 4, "{tally}");
}
