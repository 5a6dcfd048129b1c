//! Carries a process out, an instruction at a time.
//!
//! What the kernel's code in user space does is one instruction with the call to it (vdso(7)). It tells the time, and
//! begins again whenever the kernel meanwhile wrote what it reads, with each tick: an instruction at a time that may take
//! minutes, and is never the same twice.

use std::ops::Range;

use nix::sys::ptrace;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// A process that stands still, traced by this one.
#[derive(Debug)]
pub struct Stepper {
    pid: Pid,
    /// Where the kernel's code lies; nowhere if there is none.
    vdso: Range<u64>,
}

impl Stepper {
    pub fn of(pid: Pid) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let address = |digits| u64::from_str_radix(digits, 16).unwrap();
            Some(address(start)..address(end))
        });
        let vdso = vdso.unwrap_or_default();
        Self { pid, vdso }
    }

    /// Lets it carry out one instruction. Returns how it stands still then, by SIGTRAP if nothing else happened.
    pub fn step(&self) -> WaitStatus {
        let was_there = self.is_in_vdso();
        ptrace::step(self.pid, None).unwrap();
        let status = self.status();
        if matches!(status, WaitStatus::Stopped(..)) && !was_there && self.is_in_vdso() {
            return self.run_to_return();
        }
        status
    }

    fn status(&self) -> WaitStatus {
        waitpid(self.pid, None).unwrap()
    }

    #[cfg(target_arch = "x86_64")]
    fn is_in_vdso(&self) -> bool {
        self.vdso.contains(&ptrace::getregs(self.pid).unwrap().rip)
    }

    /// Lets it run from the first instruction of a function to the one behind the call.
    #[cfg(target_arch = "x86_64")]
    fn run_to_return(&self) -> WaitStatus {
        /// `int3`
        const BREAKPOINT: i64 = 0xcc;
        let stack = ptrace::getregs(self.pid).unwrap().rsp;
        let behind = ptrace::read(self.pid, stack as ptrace::AddressType).unwrap() as ptrace::AddressType;
        let code = ptrace::read(self.pid, behind).unwrap();
        ptrace::write(self.pid, behind, code & !0xff | BREAKPOINT).unwrap();
        ptrace::cont(self.pid, None).unwrap();
        let status = self.status();
        if matches!(status, WaitStatus::Stopped(..)) {
            ptrace::write(self.pid, behind, code).unwrap();
            let mut registers = ptrace::getregs(self.pid).unwrap();
            registers.rip = behind as u64;
            ptrace::setregs(self.pid, registers).unwrap();
        }
        status
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_in_vdso(&self) -> bool {
        false
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn run_to_return(&self) -> WaitStatus {
        unreachable!("it is never in the vDSO of {:?}", self.vdso)
    }
}
