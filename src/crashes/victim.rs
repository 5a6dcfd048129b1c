//! A process that is there to be killed: a fork of this one, which runs freely, or an instruction at a time.
//!
//! Between two instructions lies every point of every protocol, in the code as it was compiled. A victim that stands
//! before its next instruction and is killed there never carries it out.

use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::ptrace;
use nix::sys::signal::{SigEvent, SigevNotify, Signal, kill, raise};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::time::ClockId;
use nix::unistd::{ForkResult, Pid, fork, pause};

use super::crew;
use super::stepper::Stepper;

/// How a victim is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can.
    Free,
    /// An instruction at a time, once it has stood still for the first time.
    Stepped,
}

/// A process that was forked and is killed at the latest when this is dropped.
#[derive(Debug)]
pub struct Victim {
    pid: Pid,
    pace: Pace,
    is_gone: bool,
    stepper: Option<Stepper>,
}

/// What a victim calls to stand still until its parent lets it go on.
pub fn stand_still() {
    raise(Signal::SIGSTOP).unwrap();
}

/// What a victim calls to do nothing more.
pub fn wait_to_be_killed() -> ! {
    loop {
        pause();
    }
}

/// What a victim calls to be killed when `left` has passed, by the timer of its own processor: between whichever two
/// instructions that finds it, however busy the machine is.
pub fn be_killed_in(left: Duration) {
    let signal = Signal::SIGKILL;
    let event = SigEvent::new(SigevNotify::SigevSignal { signal, si_value: 0 });
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, event).unwrap();
    timer
        .set(Expiration::OneShot(left.into()), TimerSetTimeFlags::empty())
        .unwrap();
    // To drop it were to live on.
    forget(timer);
}

impl Victim {
    /// Forks a process that leads `life`, and waits until it stands still. After its life it keeps what that returned,
    /// and waits to be killed.
    ///
    /// To be called where other threads do nothing but wait: locks that they held would stay locked in the fork.
    pub fn start<R>(pace: Pace, life: impl FnOnce() -> R) -> Self {
        crew::go_on();
        // SAFETY: no other thread of this process is in the middle of anything, so all is as usual in the fork.
        let fork = unsafe { fork() }.unwrap();
        let ForkResult::Parent { child: pid } = fork else {
            // A panic must not unwind into the test harness, which is there twice now.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                set_pdeathsig(Signal::SIGKILL).unwrap();
                if pace == Pace::Stepped {
                    ptrace::traceme().unwrap();
                }
                let _kept = life();
                wait_to_be_killed();
            }));
            std::process::abort();
        };
        let mut victim = Self {
            pid,
            pace,
            is_gone: false,
            stepper: None,
        };
        victim.expect_stop();
        if pace == Pace::Stepped {
            ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL).unwrap();
            victim.stepper = Some(Stepper::of(pid));
        }
        victim
    }

    /// Lets it run on. A stepped victim runs until it stands still again.
    pub fn go_on(&mut self) {
        match self.pace {
            Pace::Free => kill(self.pid, Signal::SIGCONT).unwrap(),
            Pace::Stepped => {
                ptrace::cont(self.pid, None).unwrap();
                self.expect_stop();
            }
        }
    }

    /// Lets it carry out one instruction, see [`Stepper`]. Returns whether there is another before it stands still.
    pub fn step(&mut self) -> bool {
        let status = self.stepper().step();
        self.is_under_way(status)
    }

    /// Lets it run to where it enters or leaves a system call. Returns whether it did before it stands still.
    pub fn run_to_call(&mut self) -> bool {
        ptrace::syscall(self.pid, None).unwrap();
        let status = self.stepper().look();
        self.is_under_way(status)
    }

    const fn stepper(&mut self) -> &mut Stepper {
        self.stepper.as_mut().expect("a stepped victim")
    }

    fn is_under_way(&mut self, status: WaitStatus) -> bool {
        match status {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => true,
            _ => {
                self.expect(status, Signal::SIGSTOP);
                false
            }
        }
    }

    /// Makes it stand still.
    pub fn pause(&mut self) {
        kill(self.pid, Signal::SIGSTOP).unwrap();
        self.expect_stop();
    }

    /// Waits until it stands still.
    pub fn expect_stop(&mut self) {
        let status = waitpid(self.pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        self.expect(status, Signal::SIGSTOP);
    }

    fn expect(&mut self, status: WaitStatus, signal: Signal) {
        if status != WaitStatus::Stopped(self.pid, signal) {
            self.is_gone = matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..));
            panic!("a victim that should stop by {signal}: {status:?}");
        }
    }

    /// Whether it sleeps in the system call `number`.
    pub fn is_in_call(&self, number: i64) -> bool {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", self.pid)).unwrap_or_default();
        call.split(' ').next() == Some(&number.to_string())
    }

    /// `kill -9`, wherever it is. Returns once it is gone.
    pub fn kill(mut self) {
        self.bury().unwrap();
    }

    /// Waits until it was killed by [`be_killed_in`].
    pub fn outlive(mut self) {
        self.is_gone = true;
        self.expect_killed().unwrap();
    }

    fn bury(&mut self) -> Result<(), String> {
        if std::mem::replace(&mut self.is_gone, true) {
            return Ok(());
        }
        kill(self.pid, Signal::SIGKILL).map_err(|errno| errno.to_string())?;
        self.expect_killed()
    }

    fn expect_killed(&self) -> Result<(), String> {
        match waitpid(self.pid, None) {
            Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)) => Ok(()),
            other => Err(format!("a victim that was killed: {other:?}")),
        }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.bury();
    }
}

/// Whether processes can be run an instruction at a time here: containers and hardened kernels forbid it.
pub fn stepping_works() -> bool {
    let victim = Victim::start(Pace::Free, || {
        // If this is forbidden, so is the step below.
        let _ = ptrace::traceme();
        stand_still();
    });
    ptrace::step(victim.pid, None).is_ok()
        && waitpid(victim.pid, None) == Ok(WaitStatus::Stopped(victim.pid, Signal::SIGTRAP))
}
