//! The subscriber over TCP: orders to a server that says anything. The library says what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|orders: &[u8]| lapwing::socket::fuzzing::subscribe(orders));
