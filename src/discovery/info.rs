//! What an info file says about a server, as text and as a value.
//!
//! ```toml
//! # lapwing info file: a running server, announced by itself. Format: docs/info-file.md
//! format = 1
//! name = "prices"
//! incarnation = "8f3a5f0e6d0c4b7f9a1d2c3b4a596877"
//! pid = 4242
//! started_unix_ns = 1790000000000000000
//! uid = 1000
//! gid = 1000
//! boot_id = "9a1ce1bd-0f52-4ac8-a7a0-1b2f0e3d4c5b"
//! ipc_namespace = 4026531839
//!
//! [shared_memory]
//! id = 7
//! bytes = 2166784
//! layout = 1
//!
//! [socket]
//! protocol = 1
//! addresses = ["127.0.0.1:40123", "[::1]:40123"]
//! ```
//!
//! All of it is a claim. Whoever attaches or connects compares the incarnation found there with the one given here.

use super::{BootId, ParseBootIdError, ParseServerNameError, ServerName, current_ipc_namespace};
use crate::{Incarnation, ParseIncarnationError};
use serde::Deserialize;
use std::fmt;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

/// The contents of one info file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Info {
    /// The server's name, which is also the stem of the file's name.
    pub name: ServerName,
    /// The life of the server that this file announces. Never [`Incarnation::NIL`] in a parsed file.
    pub incarnation: Incarnation,
    /// Its process id in its own PID namespace. For people to read: no proof of life.
    pub pid: u32,
    /// When it started, in nanoseconds since 1970 on its own clock. For people to read.
    pub started_unix_ns: u64,
    /// The effective user it runs as, in its own user namespace.
    pub uid: u32,
    /// The effective group it runs as, in its own user namespace.
    pub gid: u32,
    /// The kernel it runs on, if it could tell.
    pub boot_id: Option<BootId>,
    /// The inode number of its IPC namespace, if it could tell.
    pub ipc_namespace: Option<u64>,
    /// Where its stream lies in shared memory, unless it has none.
    pub shared_memory: Option<SharedMemory>,
    /// Where it serves its stream over TCP, unless it does not.
    pub socket: Option<Socket>,
}

/// The segment of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct SharedMemory {
    /// The SysV shared-memory id, which means something only within the server's IPC namespace. Never negative.
    pub id: i32,
    /// The bytes that the ring needs. The segment has at least as many: whole huge pages, if it has such.
    pub bytes: u64,
    /// The version of the memory layout.
    pub layout: u32,
}

/// The TCP service of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Socket {
    /// The version of the wire protocol.
    pub protocol: u32,
    /// Where it listens, in the order in which to try; at most [`Info::MAX_ADDRESSES`], none with port 0.
    pub addresses: Vec<SocketAddr>,
}

impl Info {
    /// The format that this version writes, and the newest that it reads.
    pub const FORMAT: u32 = 1;
    /// The most bytes that an info file may have.
    pub const MAX_BYTES: usize = 64 * 1024;
    /// The most addresses that a server may announce.
    pub const MAX_ADDRESSES: usize = 64;
    /// How every info file that this library writes begins.
    pub(super) const FIRST_WORDS: &str = "# lapwing info file";

    /// Describes this process under that name, started now, with neither shared memory nor a socket.
    ///
    /// Kernel and IPC namespace stay unknown where `/proc` is not mounted.
    #[must_use]
    pub fn of_this_process(name: ServerName, incarnation: Incarnation) -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            name,
            incarnation,
            pid: std::process::id(),
            started_unix_ns: u64::try_from(since_1970.as_nanos()).unwrap_or_default(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            boot_id: BootId::current().ok(),
            ipc_namespace: current_ipc_namespace().ok(),
            shared_memory: None,
            socket: None,
        }
    }

    /// Reads the text of an info file. Total: any text gives an `Info` or an error, in time and memory bounded by
    /// [`Info::MAX_BYTES`]. Keys that it does not know are passed over.
    ///
    /// # Errors
    /// See [`InfoError`].
    pub fn parse(text: &str) -> Result<Self, InfoError> {
        if text.len() > Self::MAX_BYTES {
            return Err(InfoError::TooLarge { bytes: text.len() });
        }
        // The format comes first: another format may give the other keys another meaning.
        let Versioned { format } = deserialize(text)?;
        if format != i64::from(Self::FORMAT) {
            return Err(InfoError::Format { format });
        }
        let raw: Raw = deserialize(text)?;
        raw.check()
    }

    /// The text of the info file, for [`Info::parse`] and for people.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let first_words = Self::FIRST_WORDS;
        let mut lines = vec![
            format!("{first_words}: a running server, announced by itself. Format: docs/info-file.md"),
            format!("format = {}", Self::FORMAT),
            format!("name = \"{}\"", self.name),
            format!("incarnation = \"{}\"", self.incarnation),
            format!("pid = {}", self.pid),
            format!("started_unix_ns = {}", self.started_unix_ns),
            format!("uid = {}", self.uid),
            format!("gid = {}", self.gid),
        ];
        lines.extend(self.boot_id.map(|boot_id| format!("boot_id = \"{boot_id}\"")));
        lines.extend(self.ipc_namespace.map(|inode| format!("ipc_namespace = {inode}")));
        if let Some(SharedMemory { id, bytes, layout }) = self.shared_memory {
            lines.push(format!(
                "\n[shared_memory]\nid = {id}\nbytes = {bytes}\nlayout = {layout}"
            ));
        }
        if let Some(Socket { protocol, addresses }) = &self.socket {
            let addresses: Vec<String> = addresses.iter().map(|address| format!("\"{address}\"")).collect();
            lines.push(format!(
                "\n[socket]\nprotocol = {protocol}\naddresses = [{}]",
                addresses.join(", ")
            ));
        }
        lines.join("\n") + "\n"
    }

    /// Says whether this process and the server share an IPC namespace, so that the segment's id can mean the same to
    /// both. `None` when either side cannot tell.
    #[must_use]
    pub fn shares_ipc_namespace(&self) -> Option<bool> {
        let same_kernel = self.boot_id? == BootId::current().ok()?;
        Some(same_kernel && self.ipc_namespace? == current_ipc_namespace().ok()?)
    }
}

/// The one key whose meaning never changes.
#[derive(Deserialize)]
struct Versioned {
    format: i64,
}

/// Format 1 with the types of TOML, before the bounds.
#[derive(Deserialize)]
struct Raw {
    name: String,
    incarnation: String,
    pid: u32,
    started_unix_ns: u64,
    uid: u32,
    gid: u32,
    boot_id: Option<String>,
    ipc_namespace: Option<u64>,
    shared_memory: Option<SharedMemory>,
    socket: Option<RawSocket>,
}

#[derive(Deserialize)]
struct RawSocket {
    protocol: u32,
    addresses: Vec<String>,
}

impl Raw {
    fn check(self) -> Result<Info, InfoError> {
        let incarnation: Incarnation = self.incarnation.parse().map_err(InfoError::Incarnation)?;
        if incarnation == Incarnation::NIL {
            return Err(InfoError::NilIncarnation);
        }
        if let Some(SharedMemory { id, .. }) = self.shared_memory
            && id < 0
        {
            return Err(InfoError::SegmentId { id });
        }
        Ok(Info {
            name: self.name.parse().map_err(InfoError::Name)?,
            incarnation,
            pid: self.pid,
            started_unix_ns: self.started_unix_ns,
            uid: self.uid,
            gid: self.gid,
            boot_id: self
                .boot_id
                .map(|text| text.parse())
                .transpose()
                .map_err(InfoError::BootId)?,
            ipc_namespace: self.ipc_namespace,
            shared_memory: self.shared_memory,
            socket: self.socket.map(RawSocket::check).transpose()?,
        })
    }
}

impl RawSocket {
    fn check(self) -> Result<Socket, InfoError> {
        if self.addresses.len() > Info::MAX_ADDRESSES {
            return Err(InfoError::TooManyAddresses {
                addresses: self.addresses.len(),
            });
        }
        let addresses = self
            .addresses
            .iter()
            .map(|text| address(text))
            .collect::<Result<_, _>>()?;
        Ok(Socket {
            protocol: self.protocol,
            addresses,
        })
    }
}

fn address(text: &str) -> Result<SocketAddr, InfoError> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => Err(InfoError::Address { text: printable(text) }),
    }
}

fn deserialize<'text, T: Deserialize<'text>>(text: &'text str) -> Result<T, InfoError> {
    toml::from_str(text).map_err(|error| InfoError::Syntax {
        line: error
            .span()
            .map(|span| 1 + text.bytes().take(span.start).filter(|&byte| byte == b'\n').count()),
        message: printable(error.message()),
    })
}

/// A stranger's text made fit for a terminal: no control characters, and not longer than a line or two.
fn printable(text: &str) -> String {
    const MOST_CHARACTERS: usize = 160;
    text.chars()
        .take(MOST_CHARACTERS)
        .flat_map(char::escape_debug)
        .collect::<String>()
        .replace("\\\"", "\"")
}

/// Why a text is not an info file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum InfoError {
    /// It has more than [`Info::MAX_BYTES`].
    TooLarge {
        /// How many it has.
        bytes: usize,
    },
    /// It is not TOML, or a key is missing or has the wrong type.
    Syntax {
        /// The line, from 1, if the trouble has a place.
        line: Option<usize>,
        /// What is wrong there.
        message: String,
    },
    /// It has another format than [`Info::FORMAT`].
    Format {
        /// The format it has.
        format: i64,
    },
    /// `name` is no server name.
    Name(ParseServerNameError),
    /// `incarnation` is no incarnation.
    Incarnation(ParseIncarnationError),
    /// `incarnation` is all zeros, which means "none".
    NilIncarnation,
    /// `boot_id` is no UUID.
    BootId(ParseBootIdError),
    /// `shared_memory.id` is negative.
    SegmentId {
        /// The id.
        id: i32,
    },
    /// `socket.addresses` has more than [`Info::MAX_ADDRESSES`].
    TooManyAddresses {
        /// How many it has.
        addresses: usize,
    },
    /// One of `socket.addresses` is not an IP address with a port other than 0.
    Address {
        /// The text, without control characters.
        text: String,
    },
}

impl fmt::Display for InfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = Info::FORMAT;
        match self {
            Self::TooLarge { bytes } => {
                write!(f, "it has {bytes} bytes, an info file has {} at most", Info::MAX_BYTES)
            }
            Self::Syntax {
                line: Some(line),
                message,
            } => write!(f, "line {line}: {message}"),
            Self::Syntax { line: None, message } => f.write_str(message),
            Self::Format { format } if *format > i64::from(newest) => {
                write!(
                    f,
                    "made by a newer lapwing: its format is {format}, this one reads {newest}; update this program"
                )
            }
            Self::Format { format } => write!(f, "there is no format {format}, only {newest}"),
            Self::Name(_) => f.write_str("`name` is no server name"),
            Self::Incarnation(_) => f.write_str("`incarnation` is unusable"),
            Self::NilIncarnation => f.write_str("`incarnation` is all zeros, which means none"),
            Self::BootId(_) => f.write_str("`boot_id` is unusable"),
            Self::SegmentId { id } => write!(f, "`shared_memory.id` is {id}, an id is never negative"),
            Self::TooManyAddresses { addresses } => {
                write!(
                    f,
                    "`socket.addresses` has {addresses} entries, {} are allowed",
                    Info::MAX_ADDRESSES
                )
            }
            Self::Address { text } => {
                write!(
                    f,
                    "`socket.addresses`: \"{text}\" is not an IP address with a port, like 127.0.0.1:4000"
                )
            }
        }
    }
}

impl std::error::Error for InfoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Name(error) => Some(error),
            Self::Incarnation(error) => Some(error),
            Self::BootId(error) => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "info_tests.rs"]
mod tests;
