//! Carries a process out, an instruction at a time.
//!
//! What the kernel's code in user space does is one instruction with the call to it (vdso(7)). It tells the time, and
//! begins again whenever the kernel meanwhile wrote what it reads, with each tick: an instruction at a time that may take
//! minutes, and is never the same twice.

#[cfg(target_arch = "x86_64")]
use std::mem::offset_of;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use nix::libc::user;
use nix::sys::ptrace;
#[cfg(target_arch = "x86_64")]
use nix::sys::ptrace::AddressType;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// A thread that stands still, traced by this process.
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
            return self.run_to_return().unwrap_or(status);
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

    /// Lets it run from the first instruction of a function to the one behind the call, where a debug register stops this
    /// thread and no other. `None` if there are none to be had.
    #[cfg(target_arch = "x86_64")]
    fn run_to_return(&self) -> Option<WaitStatus> {
        /// The first register is an address that is not to be carried out.
        const FIRST_IS_USED: i64 = 1;
        let set = |register: usize, value| {
            let offset = offset_of!(user, u_debugreg) + register * size_of::<u64>();
            ptrace::write_user(self.pid, offset as AddressType, value)
        };
        let stack = ptrace::getregs(self.pid).unwrap().rsp;
        let behind = ptrace::read(self.pid, stack as AddressType).unwrap();
        set(0, behind).and_then(|()| set(7, FIRST_IS_USED)).ok()?;
        ptrace::cont(self.pid, None).unwrap();
        let status = self.status();
        if matches!(status, WaitStatus::Stopped(..)) {
            set(7, 0).unwrap();
        }
        Some(status)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_in_vdso(&self) -> bool {
        false
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn run_to_return(&self) -> Option<WaitStatus> {
        unreachable!("it is never in the vDSO of {:?}", self.vdso)
    }
}
