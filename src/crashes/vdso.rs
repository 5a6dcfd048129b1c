//! The kernel's code in user space, which tells the time without a system call (vdso(7)).
//!
//! It begins again whenever the kernel wrote meanwhile what it reads, which is with each tick. A process that is carried
//! out an instruction at a time may be at it for minutes, so it is let run through.

use std::ffi::c_long;
use std::ops::Range;

use nix::sys::ptrace::{self, AddressType};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// `int3`
const BREAKPOINT: c_long = 0xcc;

/// Where it lies, in a process as in its forks.
#[derive(Debug)]
pub struct Vdso(Range<u64>);

impl Vdso {
    /// Of this process; empty where the kernel gives none.
    pub fn here() -> Self {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let range = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            Some(address(start)..address(end))
        });
        Self(range.unwrap_or_default())
    }

    /// Whether its next instruction is one of `victim`, which stands still.
    pub fn is_in(&self, victim: Pid) -> bool {
        self.0.contains(&ptrace::getregs(victim).unwrap().rip)
    }

    /// Lets `victim`, which stands before the first instruction of a function, run until that has returned.
    pub fn run_through(victim: Pid) {
        let stack = ptrace::getregs(victim).unwrap().rsp;
        let behind = ptrace::read(victim, stack as AddressType).unwrap() as AddressType;
        let code = ptrace::read(victim, behind).unwrap();
        ptrace::write(victim, behind, code & !0xff | BREAKPOINT).unwrap();
        ptrace::cont(victim, None).unwrap();
        let status = waitpid(victim, None).unwrap();
        assert_eq!(
            status,
            WaitStatus::Stopped(victim, Signal::SIGTRAP),
            "at the breakpoint"
        );
        ptrace::write(victim, behind, code).unwrap();
        let mut registers = ptrace::getregs(victim).unwrap();
        registers.rip = behind as u64;
        ptrace::setregs(victim, registers).unwrap();
    }
}
