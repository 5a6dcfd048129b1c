//! More clients than there may be.

use super::*;

#[test]
fn one_connection_too_many_is_turned_away_until_there_is_room() {
    let host = Host::new(|options| options.max_connections = 2);
    let first = host.join(Join::New);
    let _second = host.join(Join::New);

    let third = RemoteSubscriber::connect(&[host.address], Incarnation::NIL, Join::New, PATIENCE).unwrap_err();
    drop(first);
    host.wait_for(|stats| stats.connections == 1);
    let fourth = host.join(Join::New);

    assert!(
        matches!(
            third,
            RemoteError::Rejected {
                code: RejectCode::TooManyConnections,
                ..
            }
        ),
        "{third:?}"
    );
    assert_eq!(fourth.hello().connections, 2);
    assert_eq!(host.service.stats().rejected_full, 1);
}
