//! The `server` command as a process: what its sources publish, and every way in and out.
//!
//! Each test has a directory of its own; nothing here waits without a time limit, and a process that a failing test
//! leaves running is killed by the handle that started it.

mod running;

mod sources;

mod pushers;

mod names;

mod ways_out;

mod lost;

mod service_death;
