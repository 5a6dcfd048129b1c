//! Lossless subscriptions between real processes: a server that waits, and readers that are slow, stopped, killed, refused
//! or many. What a test waits for is an event; what it checks is that nothing is missing, and who is told what.

mod child;

mod cut;

mod ends;

mod full;

mod slow;

mod stage;

mod streams;

mod worlds;
