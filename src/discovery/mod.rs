//! How clients find servers: one small text file per server in a directory that both can see.

mod boot_id;
mod info;
mod name;

pub use boot_id::{BootId, ParseBootIdError, current_ipc_namespace};
pub use info::{Info, InfoError, SharedMemory, Socket};
pub use name::{ParseServerNameError, ServerName};
