//! The service: orders to a publisher, two connections and their clients. The library says what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|orders: &[u8]| lapwing::socket::fuzzing::serve(orders));
