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
    /// Whether its next instruction is one of those.
    is_inside: bool,
}

impl Stepper {
    pub fn of(pid: Pid) -> Self {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let vdso = maps.lines().find(|line| line.ends_with("[vdso]")).and_then(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let address = |digits| u64::from_str_radix(digits, 16).unwrap();
            Some(address(start)..address(end))
        });
        let mut stepper = Self {
            pid,
            vdso: vdso.unwrap_or_default(),
            is_inside: false,
        };
        stepper.is_inside = stepper.is_in_vdso();
        stepper
    }

    /// Lets it carry out one instruction. Returns how it stands still then, by SIGTRAP if nothing else happened.
    pub fn step(&mut self) -> WaitStatus {
        let was_inside = self.is_inside;
        ptrace::step(self.pid, None).unwrap();
        let status = self.look();
        if self.is_inside && !was_inside && self.stop_at_return(true) {
            ptrace::cont(self.pid, None).unwrap();
            let status = self.look();
            self.stop_at_return(false);
            return status;
        }
        status
    }

    /// Waits until it stands still, whatever let it go on. Returns how.
    pub fn look(&mut self) -> WaitStatus {
        let status = waitpid(self.pid, None).unwrap();
        let has_ended = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
        self.is_inside = !has_ended && self.is_in_vdso();
        status
    }

    #[cfg(target_arch = "x86_64")]
    fn is_in_vdso(&self) -> bool {
        self.vdso.contains(&ptrace::getregs(self.pid).unwrap().rip)
    }

    /// Before the first instruction of a function: has a debug register stop this thread, and no other, behind the call, or
    /// nowhere any more. Returns whether there is such a register.
    #[cfg(target_arch = "x86_64")]
    fn stop_at_return(&self, is_wanted: bool) -> bool {
        let set = |register: usize, value| {
            let offset = offset_of!(user, u_debugreg) + register * size_of::<u64>();
            ptrace::write_user(self.pid, offset as AddressType, value).is_ok()
        };
        if !is_wanted {
            return set(7, 0);
        }
        let stack = ptrace::getregs(self.pid).unwrap().rsp;
        let behind = ptrace::read(self.pid, stack as AddressType).unwrap();
        // The last bit of the eighth register puts the first to use, against carrying out what is there.
        set(0, behind) && set(7, 1)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_in_vdso(&self) -> bool {
        false
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn stop_at_return(&self, _: bool) -> bool {
        unreachable!("it is never in the vDSO of {:?}", self.vdso)
    }
}
