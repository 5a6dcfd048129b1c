//! All attacks at once.

use crate::attack::{Churn, Crowd, Kind, Wrong};
use crate::stage::{Stage, allow_descriptors};
use crate::{assert_answered, is_full, scaled};

#[test]
fn every_attack_at_once_is_dealt_with_and_costs_the_others_nothing() {
    allow_descriptors();
    let (loris, mute, wrong) = (scaled(500), scaled(500), scaled(100));
    // Those who take time to be told from the slow are left to the full attack.
    let (deaf, silent) = if is_full() { (100, 100) } else { (10, 0) };
    let mut kinds = vec![
        (Kind::Idle, scaled(5_000)),
        (Kind::Reader, scaled(20)),
        (Kind::SlowLoris, loris),
        (Kind::Mute, mute),
        (Kind::Deaf, deaf),
        (Kind::Silent, silent),
        (Kind::Vandal, scaled(100)),
        (Kind::HalfClosed, scaled(100)),
        (Kind::Chatterer, 4),
        (Kind::Torrent, 4),
    ];
    kinds.extend(Wrong::ALL.map(|kind| (Kind::Wrong(kind), wrong)));
    let count: usize = kinds.iter().map(|(_, count)| count).sum();
    let mut stage = Stage::new();

    let crowd = Crowd::gather(stage.address(), &kinds).unwrap();
    let churn = Churn::start(stage.address(), scaled(10_000), 1_000.0);
    stage.go_on(1_000);
    stage.serves_a_newcomer();
    while !churn.is_over() {
        stage.go_on(1_000);
    }
    churn.finish();
    if is_full() {
        stage.wait_for(|stats| stats["dropped_stalled"] == deaf as u64);
    }
    let fates = crowd.disperse();

    assert_eq!(fates.len(), count);
    assert_answered(&fates);
    let total = stage.finish();
    let refused = |reason: &str| total[&format!("dropped_{reason}")] as usize;
    assert_eq!(refused("late"), loris + mute, "{total:?}");
    assert_eq!(refused("version"), wrong, "{total:?}");
    assert_eq!(refused("protocol"), (Wrong::ALL.len() - 1) * wrong + 4, "{total:?}");
    assert_eq!(refused("silent"), silent, "{total:?}");
    if is_full() {
        assert_eq!(refused("stalled"), deaf, "{total:?}");
    }
    for never in ["full", "corrupt", "accept"] {
        assert_eq!(refused(never), 0, "{total:?}");
    }
}
