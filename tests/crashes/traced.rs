//! A program that is stopped before and behind each of its system calls.

use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Where the kills begin: the first system call that makes anything that could be left behind.
const FIRST_CALL: i64 = nix::libc::SYS_shmget;

/// A program under ptrace, killed at the latest when this is dropped.
pub struct Traced {
    child: Child,
    pid: Pid,
    _input: ChildStdin,
}

impl Traced {
    /// Starts a program; it stands before its first instruction.
    pub fn start(program: &Command) -> Self {
        // The shell waits to be attached.
        let mut shell = Command::new("sh");
        shell
            .args(["-c", "read -r go; exec \"$@\"", "sh"])
            .arg(program.get_program())
            .args(program.get_args());
        let mut child = shell
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        let mut input = child.stdin.take().unwrap();
        ptrace::attach(pid).unwrap();
        // The shell's own exec may come first.
        while waitpid(pid, None) != Ok(WaitStatus::Stopped(pid, Signal::SIGSTOP)) {
            ptrace::cont(pid, None).unwrap();
        }
        let options = ptrace::Options::PTRACE_O_EXITKILL
            | ptrace::Options::PTRACE_O_TRACEEXEC
            | ptrace::Options::PTRACE_O_TRACESYSGOOD;
        ptrace::setoptions(pid, options).unwrap();
        writeln!(input, "go").unwrap();
        ptrace::cont(pid, None).unwrap();
        let status = waitpid(pid, None);
        assert!(
            matches!(status, Ok(WaitStatus::PtraceEvent(..))),
            "{status:?} and not an exec"
        );
        Self {
            child,
            pid,
            _input: input,
        }
    }

    /// Runs it to stop number `point`, counted from `FIRST_CALL` on. Returns the number of the system call that it is
    /// at; `None` if the server has announced itself in `directory` and has nothing left to do there.
    pub fn run_to_stop(&mut self, point: usize, directory: &Path) -> Option<i64> {
        let mut stops = None;
        loop {
            ptrace::syscall(self.pid, None).unwrap();
            assert_eq!(waitpid(self.pid, None), Ok(WaitStatus::PtraceSyscall(self.pid)));
            let call = self.call();
            if stops.is_none() && call != FIRST_CALL {
                continue;
            }
            let stop = *stops.get_or_insert(0);
            if directory.join("victim.toml").exists() && !directory.join(".victim.lock").exists() {
                return None;
            }
            if stop == point {
                return Some(call);
            }
            stops = Some(stop + 1);
        }
    }

    /// The number of the system call that it is at.
    fn call(&self) -> i64 {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.pid)).unwrap();
        call.split(' ').next().unwrap().parse().unwrap()
    }

    /// `kill -9`, where it is. Returns its process id.
    pub fn kill(mut self) -> u32 {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child.id()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether programs may be traced here: containers and hardened kernels forbid it.
pub fn tracing_works() -> bool {
    let mut child = Command::new("cat")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let works = ptrace::attach(pid).is_ok();
    child.kill().unwrap();
    child.wait().unwrap();
    works
}
