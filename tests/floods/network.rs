//! Networks of a test's own: a namespace that is there as long as a child process keeps it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace, gone with this.
pub struct Network {
    keeper: Child,
}

impl Network {
    /// A new one, without any link that is up; `None`, visibly, where the system allows none.
    pub fn new() -> Option<Self> {
        let mut keeper = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo ready; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let mut said = String::new();
        let output = keeper.stdout.as_mut().unwrap();
        BufReader::new(output).read_line(&mut said).unwrap();
        let network = Self { keeper };
        if said == "ready\n" {
            return Some(network);
        }
        eprintln!("SKIPPED: `unshare --net` is not possible here");
        None
    }

    /// Moves the calling thread into it, and with it what that starts from here on.
    pub fn enter(&self) {
        let namespace = File::open(format!("/proc/{}/ns/net", self.keeper.id())).unwrap();
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Lays a cable from the network of the calling thread, which has `here` at its end, to this one, which has `there`.
    pub fn connect(&self, here: &str, there: &str) {
        let keeper = self.keeper.id();
        let script = format!(
            "set -e
            ip link add cable0 type veth peer name cable1 netns {keeper}
            ip addr add {here} dev cable0
            ip link set cable0 up
            nsenter --net=/proc/{keeper}/ns/net ip addr add {there} dev cable1
            nsenter --net=/proc/{keeper}/ns/net ip link set cable1 up"
        );
        ip(&script);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// Runs a shell script in the network of the calling thread.
pub fn ip(script: &str) {
    let status = Command::new("sh").args(["-c", script]).status().unwrap();
    assert!(status.success(), "{script}");
}
