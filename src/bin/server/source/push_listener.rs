//! Where pushers connect: a TCP address or a unix socket.
//!
//! Whoever reaches it can publish. So TCP is kept to this machine unless somebody says otherwise, and a unix socket
//! belongs to the server's user until `--publish-mode` opens it. Its file is removed when the server stops; one that a
//! killed server left behind, where nobody listens any more, is replaced. Of servers that start together at one path one
//! gets it.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as std_unix;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use lapwing::cli::Failure;
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};

use super::path_lock::PathLock;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 128;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushAddress {
    /// A TCP address; port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// A unix socket at this path.
    Unix(PathBuf),
}

impl FromStr for PushAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.strip_prefix("unix:") {
            Some("") => Err("write a path behind unix:".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text
                .parse()
                .map(Self::Tcp)
                .map_err(|_| "write an address like 127.0.0.1:4000, [::1]:0 or unix:./push.sock".to_owned()),
        }
    }
}

impl fmt::Display for PushAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Who may connect to a unix socket.
#[derive(Debug, Clone, Copy)]
pub struct PushAccess {
    /// Permission bits; to connect takes the right to write.
    pub mode: u32,
    /// The group that the socket is given to; the server's if `None`.
    pub group: Option<u32>,
}

/// A listener of either kind.
#[derive(Debug)]
pub enum PushListener {
    /// Over TCP.
    Tcp(TcpListener),
    /// Over a unix socket. The file outlives the listener until it is removed, so it is dropped first.
    Unix(SocketFile, UnixListener),
}

impl PushListener {
    /// Listens at `address`.
    pub fn bind(address: &PushAddress, access: PushAccess) -> Result<Self, Failure> {
        let bound = match address {
            PushAddress::Tcp(address) => TcpListener::bind(*address).map(Self::Tcp),
            PushAddress::Unix(path) => bind_unix(path, access),
        };
        bound.map_err(|error| Failure::caused(format!("cannot listen for pushers on {address}"), error))
    }

    /// The address as it came to be.
    pub fn address(&self) -> String {
        match self {
            Self::Tcp(listener) => listener
                .local_addr()
                .map_or_else(|_| "?".to_owned(), |address| address.to_string()),
            Self::Unix(file, _) => format!("unix:{}", file.path.display()),
        }
    }

    /// Takes the next connection, if one waits.
    pub fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener) => Ok(Connection::Tcp(listener.accept()?.0)),
            Self::Unix(_, listener) => Ok(Connection::Unix(listener.accept()?.0)),
        }
    }

    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(listener) => listener,
            Self::Unix(_, listener) => listener,
        }
    }
}

/// The file of a unix socket, removed on drop if it is still the one that was made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_some_and(|identity| identity == self.identity) {
            // Whoever removed it first did what we want.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The device and inode of the socket at `path`.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = path.symlink_metadata().ok()?;
    metadata
        .file_type()
        .is_socket()
        .then_some((metadata.dev(), metadata.ino()))
}

fn bind_unix(path: &Path, access: PushAccess) -> io::Result<PushListener> {
    let address = SocketAddrUnix::new(path).map_err(|_| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            "the path is too long for a socket, use a shorter one",
        )
    })?;
    // Until it listens: before that, others take it for one that a killed server left.
    let _alone = PathLock::take(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let bound = bind(&socket, &address);
    if bound == Err(rustix::io::Errno::ADDRINUSE) {
        remove_stale(path)?;
        bind(&socket, &address)?;
    } else {
        bound?;
    }
    let identity = identity(path).ok_or_else(|| io::Error::other("the new socket was taken away"))?;
    let file = SocketFile {
        path: path.to_owned(),
        identity,
    };
    // Nobody can connect before it listens, whatever mode it was made with.
    if access.group.is_some() {
        std::os::unix::fs::chown(path, None, access.group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(access.mode))?;
    listen(&socket, BACKLOG)?;
    Ok(PushListener::Unix(file, UnixListener::from_std(socket.into())))
}

/// Removes the socket at `path` if nobody listens there.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_the_way = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what.to_owned()));
    let Some(found) = identity(path) else {
        return in_the_way("something that is no socket has that path; move it away or choose another");
    };
    match std_unix::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
        Err(error) => return Err(error),
        Ok(_) => return in_the_way("another program listens there; stop it or choose another path"),
    }
    if identity(path) == Some(found) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// The connection of a pusher. Only ever read from.
#[derive(Debug)]
pub enum Connection {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a unix socket.
    Unix(UnixStream),
}

impl Connection {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

macro_rules! delegate_source {
    ($type:ty) => {
        impl Source for $type {
            fn register(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
                self.source().register(registry, token, interests)
            }

            fn reregister(&mut self, registry: &Registry, token: Token, interests: Interest) -> io::Result<()> {
                self.source().reregister(registry, token, interests)
            }

            fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
                self.source().deregister(registry)
            }
        }
    };
}

delegate_source!(PushListener);
delegate_source!(Connection);

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER_ONLY: PushAccess = PushAccess {
        mode: 0o600,
        group: None,
    };

    fn bind_at(path: &Path) -> Result<PushListener, Failure> {
        PushListener::bind(&PushAddress::Unix(path.to_owned()), OWNER_ONLY)
    }

    #[test]
    fn addresses_are_tcp_or_unix() {
        assert_eq!("127.0.0.1:0".parse(), Ok(PushAddress::Tcp(([127, 0, 0, 1], 0).into())));
        assert_eq!("unix:a/b".parse(), Ok(PushAddress::Unix("a/b".into())));
        for wrong in ["", "unix:", "a/b", "localhost", ":4000"] {
            assert!(wrong.parse::<PushAddress>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_socket_where_nobody_listens_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("push");
        // Dropping a listener of the standard library leaves its file, as a kill does.
        drop(std_unix::UnixListener::bind(&path).unwrap());

        let listener = bind_at(&path).unwrap();

        assert!(bind_at(&path).is_err());
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("push");
        fs::write(&path, "mine").unwrap();

        assert!(bind_at(&path).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"mine");
    }

    #[test]
    fn a_successors_socket_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("push");
        let first = bind_at(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let second = bind_at(&path).unwrap();

        drop(first);

        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
