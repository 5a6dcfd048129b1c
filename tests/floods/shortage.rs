//! Fewer descriptors than clients.

use lapwing::socket::RemoteError;
use lapwing::socket::frame::RejectCode;
use lapwing::{Incarnation, Join, RemoteSubscriber};

use crate::running::WATCHDOG;
use crate::stage::Stage;

/// Descriptors that the server may have.
const FEW: usize = 64;

#[test]
fn clients_are_refused_politely_while_descriptors_are_short_and_served_again_afterwards() {
    let mut stage = Stage::with_descriptors(FEW);
    let address = stage.address();
    let connect = || RemoteSubscriber::connect(&[address], Incarnation::NIL, Join::New, WATCHDOG);

    let (mut served, mut refused) = (Vec::new(), 0);
    while refused < FEW {
        match connect() {
            Ok(subscriber) => served.push(subscriber),
            Err(RemoteError::Rejected { code, .. }) => {
                assert_eq!(code, RejectCode::TooManyConnections);
                refused += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
        assert!(served.len() < FEW, "descriptors do not run out");
    }
    stage.go_on(1_000);
    served.clear();
    stage.wait_for(|stats| stats["connections"] == 1);

    let total = stage.finish();
    assert_eq!(total["dropped_full"], FEW as u64, "{total:?}");
    assert_eq!(total["dropped_accept"], FEW as u64, "{total:?}");
}
