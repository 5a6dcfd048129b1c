//! Peers that vanish without a word, behind a cable that is cut.

use std::sync::mpsc::channel;

use crate::attack::{Crowd, Kind};
use crate::network::{Network, ip};
use crate::stage::Stage;

/// Peers that vanish.
const GHOSTS: usize = 20;

#[test]
fn peers_that_vanish_without_a_word_are_dropped_after_the_silence() {
    let (Some(here), Some(there)) = (Network::new(), Network::new()) else {
        return;
    };
    here.enter();
    ip("ip link set lo up");
    there.connect("10.213.8.1/30", "10.213.8.2/30");
    let mut stage = Stage::on(&["127.0.0.1:0", "10.213.8.1:0"]);
    let address = stage.last_address();
    let (gathered, is_gathered) = channel();
    let ghosts = std::thread::spawn(move || {
        there.enter();
        let kinds = [(Kind::Idle, GHOSTS / 2), (Kind::Deaf, GHOSTS / 2)];
        let crowd = Crowd::gather(address, &kinds).unwrap();
        gathered.send(()).unwrap();
        crowd
    });
    is_gathered.recv().unwrap();
    stage.wait_for(|stats| stats["connections"] == 1 + GHOSTS as u64);

    ip("ip link set cable0 down");
    stage.wait_for(|stats| stats["dropped_silent"] == GHOSTS as u64);
    stage.wait_for(|stats| stats["connections"] == 1);

    let crowd = ghosts.join().unwrap();
    assert!(
        crowd.disperse().iter().all(|ghost| ghost.refusal.is_none()),
        "the cable is not cut"
    );
    let total = stage.finish();
    assert_eq!(total["dropped_stalled"], 0, "{total:?}");
}
