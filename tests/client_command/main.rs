//! The `client` command as people and programs use it: real processes of both commands.

mod follow;
mod namesakes;
mod once;
mod stage;
