//! The ring: orders to a publisher, a reader and a vandal. The library says what must hold.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|orders: &[u8]| lapwing::ring::fuzzing::obey(orders));
