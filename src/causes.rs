//! Why something failed, in one line: a follower and a look tell it as a reason, the commands as an error.

use std::error::Error;
use std::io;

use rustix::io::Errno;

/// An error, what caused it, and what to do if a limit of this process stood in the way, in one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut advice = advice(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors repeat their cause already.
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        advice = advice.or(self::advice(error));
        cause = error.source();
    }
    match advice {
        Some(advice) => format!("{line}: {advice}"),
        None => line,
    }
}

/// What to do about a limit that any system call may run into, whatever it was for.
fn advice(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let errno = error.downcast_ref::<io::Error>()?.raw_os_error()?;
    match Errno::from_raw_os_error(errno) {
        Errno::MFILE => Some("raise the limit of open files (`ulimit -n`)"),
        Errno::NFILE => Some("the whole machine has too many files open: raise fs.file-max with sysctl"),
        Errno::FBIG => Some("raise the limit of file sizes (`ulimit -f`)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_that_stood_in_the_way_is_named_with_what_to_do() {
        let io = |errno: Errno| io::Error::from(errno);

        assert!(with_causes(&io(Errno::MFILE)).ends_with("os error 24): raise the limit of open files (`ulimit -n`)"));
        assert!(with_causes(&crate::StartError::Service(io(Errno::FBIG))).ends_with("(`ulimit -f`)"));
        assert!(with_causes(&io(Errno::ACCESS)).ends_with("(os error 13)"));
    }
}
