//! Both ends of a connection under a fuzzer, each on one end of a pair of sockets, in one thread: what arrives, how much of
//! it, and who has a turn, is told by bytes.
//!
//! ```text
//!   serve:      orders -> ring -> Connection <==> a client that checks every frame, and may say anything
//!   subscribe:  orders -> frames, right and wrong ==> RemoteSubscriber -> the same as a model of the protocol says
//! ```

mod serve;
mod subscribe;

use std::io::{ErrorKind, Write};
use std::net::TcpStream;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

pub use serve::serve;
pub use subscribe::subscribe;

use crate::Incarnation;

/// The life of the server that is spoken to.
const OURS: Incarnation = Incarnation::from_bytes(*b"0123456789abcdef");
const OTHERS: Incarnation = Incarnation::from_bytes(*b"fedcba9876543210");

/// Two connected sockets that do not block.
fn pair() -> (TcpStream, TcpStream) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (one, other) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).expect("two descriptors are left");
    (one.into(), other.into())
}

/// Writes what the socket takes; how much that was.
fn write_some(mut stream: &TcpStream, bytes: &[u8]) -> usize {
    match stream.write(bytes) {
        Ok(count) => count,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        // The other side is gone and wants none of it.
        Err(_) => bytes.len(),
    }
}
