//! A socket that does not block: what has arrived is read, and what has not is waited for until a deadline.

use std::io::{self, ErrorKind, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::decoder::Decoder;
use super::error::RemoteError;

/// Reads what has arrived; whether that was anything.
pub(super) fn read_into(mut stream: &TcpStream, decoder: &mut Decoder) -> Result<bool, RemoteError> {
    loop {
        match stream.read(decoder.space()) {
            Ok(0) => return Err(RemoteError::Closed),
            Ok(count) => {
                decoder.received(count);
                return Ok(true);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) if is_closed(&error) => return Err(RemoteError::Closed),
            Err(error) => return Err(RemoteError::Io(error)),
        }
    }
}

/// Whether the peer is gone, which is nothing that the system refuses.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe | ErrorKind::NotConnected
    )
}

/// Sleeps until `stream` is ready, or `deadline`, or a signal.
pub(super) fn wait_for(stream: &TcpStream, events: PollFlags, deadline: Instant) -> Result<(), RemoteError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    match rustix::event::poll(&mut [PollFd::new(stream, events)], Some(&left)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(RemoteError::Io(error.into())),
    }
}

/// The instant in `timeout` from now; a year is as good as for ever.
pub(super) fn deadline_after(timeout: Duration) -> Instant {
    Instant::now() + timeout.min(Duration::from_secs(365 * 86_400))
}
