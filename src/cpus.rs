//! Sets of CPUs, and threads that are kept to them.
//!
//! A thread that the scheduler moves leaves its caches behind, and one that shares its CPU waits its turn. The kernel
//! drops from a set without a word what a thread may not use, as long as something is left (sched_setaffinity(2)). So
//! what is in force is compared with what was asked for, and a part is not taken for the whole.

use std::fmt;
use std::str::FromStr;

use rustix::io::Errno;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// CPUs by their numbers, written as `taskset --cpu-list` takes them: `3`, `0,2`, `4-7`, `0-14:2`. Never empty.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cpus(CpuSet);

impl Cpus {
    /// CPUs are numbered below this.
    pub const LIMIT: usize = CpuSet::MAX_CPU;

    /// Those that the calling thread may run on now.
    ///
    /// # Errors
    /// Whatever sched_getaffinity(2) fails with.
    pub fn of_this_thread() -> Result<Self, PinError> {
        sched_getaffinity(None).map(Self).map_err(PinError::Kernel)
    }

    /// Keeps the calling thread to these CPUs, and the threads that it starts from now on.
    ///
    /// # Errors
    /// Which of them are not there or not allowed, and which are. The thread then runs where it did.
    pub fn pin_this_thread(&self) -> Result<(), PinError> {
        let before = Self::of_this_thread()?;
        let pinned = sched_setaffinity(None, &self.0).and_then(|()| sched_getaffinity(None));
        match pinned {
            Ok(now) if now == self.0 => return Ok(()),
            // Invalid: nothing is left of the set.
            Ok(_) | Err(Errno::INVAL) => {}
            Err(error) => return Err(PinError::Kernel(error)),
        }
        // All that there is to be had: more than that cannot be asked for.
        let usable = sched_setaffinity(None, &Self::all().0).and_then(|()| sched_getaffinity(None));
        sched_setaffinity(None, &before.0).map_err(PinError::Kernel)?;
        let usable = Self(usable.map_err(PinError::Kernel)?);
        Err(PinError::Unusable {
            refused: self.iter().filter(|&cpu| !usable.0.is_set(cpu)).collect(),
            usable: usable.iter().collect(),
        })
    }

    /// Checks that a thread can be kept to them, by keeping the calling one there for a moment.
    ///
    /// # Errors
    /// As [`Cpus::pin_this_thread`].
    pub fn check(&self) -> Result<(), PinError> {
        let before = Self::of_this_thread()?;
        self.pin_this_thread()?;
        before.pin_this_thread()
    }

    /// Their numbers, in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        (0..Self::LIMIT).filter(|&cpu| self.0.is_set(cpu))
    }

    /// The one of them whose turn it is: for threads that are to have one each, again from the first behind the last.
    #[must_use]
    pub fn in_turn(&self, turn: usize) -> Self {
        let mut single = CpuSet::new();
        single.set(
            self.iter()
                .nth(turn % self.0.count() as usize)
                .expect("it is never empty"),
        );
        Self(single)
    }

    fn all() -> Self {
        let mut set = CpuSet::new();
        (0..Self::LIMIT).for_each(|cpu| set.set(cpu));
        Self(set)
    }
}

impl FromStr for Cpus {
    type Err = ParseCpusError;

    fn from_str(text: &str) -> Result<Self, ParseCpusError> {
        let mut set = CpuSet::new();
        for part in text.split(',') {
            let (range, step) = part.split_once(':').unwrap_or((part, "1"));
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let [first, last, step] = [first, last, step].map(number);
            let (first, last, step) = (first?, last?, step?);
            if first > last || last >= Self::LIMIT || step == 0 {
                return Err(ParseCpusError);
            }
            (first..=last).step_by(step).for_each(|cpu| set.set(cpu));
        }
        Ok(Self(set))
    }
}

/// A number without a sign.
fn number(text: &str) -> Result<usize, ParseCpusError> {
    let digits = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(ParseCpusError)
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus: Vec<usize> = self.iter().collect();
        write_ranges(f, &cpus)
    }
}

impl fmt::Debug for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cpus({self})")
    }
}

/// Ascending numbers, `4-7` for neighbours.
fn write_ranges(f: &mut fmt::Formatter<'_>, numbers: &[usize]) -> fmt::Result {
    let mut separator = "";
    for range in numbers.chunk_by(|one, next| one + 1 == *next) {
        write!(f, "{separator}{}", range[0])?;
        if let [_, .., last] = range {
            write!(f, "-{last}")?;
        }
        separator = ",";
    }
    Ok(())
}

/// A text that names no CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParseCpusError;

impl fmt::Display for ParseCpusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "write CPU numbers below {} like 3, 0,2, 4-7 or 0-14:2; `lscpu -e` shows those that there are",
            Cpus::LIMIT
        )
    }
}

impl std::error::Error for ParseCpusError {}

/// Why a thread cannot be kept to some CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PinError {
    /// Some of them are not there, or not allowed to this process.
    Unusable {
        /// Those, in ascending order.
        refused: Vec<usize>,
        /// Those that it may be kept to, likewise.
        usable: Vec<usize>,
    },
    /// The kernel, or a filter of system calls, refuses altogether.
    Kernel(Errno),
}

impl fmt::Display for PinError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unusable { refused, usable } => {
                f.write_str(if refused.len() == 1 { "CPU " } else { "CPUs " })?;
                write_ranges(f, refused)?;
                write!(
                    f,
                    " cannot be used: not there, offline, or not in the cpuset of this process (cgroup, container); choose \
                     from "
                )?;
                write_ranges(f, usable)
            }
            Self::Kernel(_) => f.write_str("cannot choose the CPUs of a thread"),
        }
    }
}

impl std::error::Error for PinError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unusable { .. } => None,
            Self::Kernel(error) => Some(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(text: &str) -> Vec<usize> {
        text.parse::<Cpus>().unwrap().iter().collect()
    }

    #[test]
    fn lists_are_read_as_taskset_reads_them_and_shown_as_short_as_can_be() {
        for (text, cpus, shown) in [
            ("3", &[3][..], "3"),
            ("2,0", &[0, 2], "0,2"),
            ("4-7", &[4, 5, 6, 7], "4-7"),
            ("0-14:7,1", &[0, 1, 7, 14], "0-1,7,14"),
            ("5-5,5", &[5], "5"),
            ("1023", &[1023], "1023"),
        ] {
            assert_eq!(numbers(text), cpus, "{text}");
            assert_eq!(text.parse::<Cpus>().unwrap().to_string(), shown);
            assert_eq!(shown.parse::<Cpus>(), text.parse());
        }
    }

    #[test]
    fn text_that_names_no_cpus_is_refused_with_what_does() {
        for wrong in [
            "", ",", "a", "-1", "+1", "1-", "3-2", "1024", "0-1024", "0-4:0", "1,,2", "0 1", "1-2-3",
        ] {
            let error = wrong.parse::<Cpus>().expect_err(wrong);

            assert!(error.to_string().contains("like 3, 0,2, 4-7"), "{error}");
        }
    }

    #[test]
    fn each_comes_in_turn_again_and_again() {
        let cpus: Cpus = "1,5".parse().unwrap();

        let turns = [0, 1, 2].map(|turn| cpus.in_turn(turn).to_string());

        assert_eq!(turns, ["1", "5", "1"]);
    }

    #[test]
    fn pinned_thread_runs_there_and_so_do_those_that_it_starts() {
        std::thread::spawn(|| {
            let one = Cpus::of_this_thread().unwrap().in_turn(0);

            let before = Cpus::of_this_thread();
            one.check().unwrap();
            assert_eq!(Cpus::of_this_thread(), before);
            one.pin_this_thread().unwrap();

            assert_eq!(Cpus::of_this_thread(), Ok(one));
            assert_eq!(rustix::thread::sched_getcpu(), one.iter().next().unwrap());
            let child = std::thread::spawn(Cpus::of_this_thread).join().unwrap();
            assert_eq!(child, Ok(one));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn cpu_that_is_not_there_is_named_with_those_that_are_and_nothing_changes() {
        std::thread::spawn(|| {
            let before = Cpus::of_this_thread().unwrap();
            let first = before.iter().next().unwrap();
            // Alone, and beside one that the kernel would take.
            for asked in ["1023".to_owned(), format!("{first},1023")] {
                let error = asked.parse::<Cpus>().unwrap().pin_this_thread().unwrap_err();

                let PinError::Unusable { refused, usable } = &error else {
                    panic!("{error:?}")
                };
                assert_eq!(refused, &[1023]);
                assert!(before.iter().all(|cpu| usable.contains(&cpu)));
                let told = error.to_string();
                assert!(
                    told.starts_with("CPU 1023 cannot be used") && told.contains(&format!("choose from {}", usable[0])),
                    "{told}"
                );
                assert_eq!(Cpus::of_this_thread(), Ok(before));
            }
        })
        .join()
        .unwrap();
    }
}
