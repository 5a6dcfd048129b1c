//! A server under attack, while a follower over shared memory and one over TCP take its whole stream and check every
//! byte of it. Behind each attack the attackers have been dealt with as `docs/protocol.md` says and were counted, the
//! server has what it had before, serves whoever comes, and stops with 0.
//!
//! `LAPWING_FLOOD=full` makes the attacks as large as `.ci/floods` wants them; otherwise they are a tenth of that.

mod attack;
mod healthy;
mod network;
#[path = "../server_command/running.rs"]
#[allow(dead_code, reason = "the tests of the command need more of it")]
mod running;
mod stage;

mod crowds;
mod everything;
mod half_open;
mod shortage;

use attack::Fate;

/// `count` of whatever it is, or a tenth of that.
fn scaled(count: usize) -> usize {
    if is_full() { count } else { count / 10 }
}

fn is_full() -> bool {
    std::env::var_os("LAPWING_FLOOD").is_some_and(|value| value == "full")
}

/// Checks that everybody was told what its kind is to be told.
fn assert_answered(fates: &[Fate]) {
    for Fate { kind, refusal } in fates {
        assert_eq!(*refusal, kind.answer(), "{kind:?}");
    }
}
