//! Crews: this test program again as processes that do one thing each, with a share of the kills.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::alarm;
use serde::{Deserialize, Serialize};

use super::lossless;
use super::publishers::Killer;
use super::readers;
use super::tally::Tally;

const ORDER: &str = "LAPWING_CREW";
const KILLS: &str = "LAPWING_KILLS";
/// Before what a crew reports, to tell it from what the test harness says.
const MARK: &str = "crew reports: ";
/// A crew that starts no victim for so long is stuck, and ends by SIGALRM. How long all of them take is the machine's affair.
const LONGEST_SECONDS: u32 = 300;
/// They sleep a good deal: more of them than processors.
const CREWS: u64 = 8;

/// Which work.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Trade {
    Publishers,
    Readers,
    LosslessReaders,
    /// The checks on what they must notice.
    Controls,
}

/// What a crew is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub trade: Trade,
    /// Which crew this is.
    pub crew: u64,
    pub kills: u64,
    pub seed: u64,
    /// A directory of its own.
    pub directory: PathBuf,
}

/// How many kills there are to be: `default`, unless the environment says otherwise.
pub fn kills(default: u64) -> u64 {
    let Ok(text) = std::env::var(KILLS) else { return default };
    text.parse()
        .unwrap_or_else(|_| panic!("{KILLS}={text} is not a number"))
}

/// Has `kills` done by crews. Returns what they report.
pub fn send_all(trade: Trade, kills: u64) -> Tally {
    let directory = tempfile::tempdir().unwrap();
    let shares = (0..CREWS).map(|crew| kills * (crew + 1) / CREWS - kills * crew / CREWS);
    let crews: Vec<_> = (0..)
        .zip(shares)
        .map(|(crew, share)| start(trade, share, crew, directory.path()))
        .collect();
    let mut tally = Tally::default();
    crews.into_iter().for_each(|crew| tally.add(report(crew)));
    tally
}

/// Has the work done by one crew.
pub fn send(trade: Trade, kills: u64) -> Tally {
    let directory = tempfile::tempdir().unwrap();
    report(start(trade, kills, 0, directory.path()))
}

fn start(trade: Trade, kills: u64, crew: u64, directory: &Path) -> Child {
    let directory = directory.join(crew.to_string());
    std::fs::create_dir(&directory).unwrap();
    let order = Order {
        trade,
        crew,
        kills,
        seed: crew << 32,
        directory,
    };
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crashes::crew::work", "--nocapture", "--test-threads=1"])
        .env(ORDER, serde_json::to_string(&order).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn report(crew: Child) -> Tally {
    let output = crew.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "a crew ended with {}: {said}", output.status);
    let (_, report) = said.split_once(MARK).unwrap_or_else(|| panic!("no report: {said}"));
    serde_json::from_str(report.lines().next().unwrap()).unwrap()
}

/// Says that this process is not stuck, if it is a crew.
pub fn go_on() {
    if alarm::cancel().is_some() {
        alarm::set(LONGEST_SECONDS);
    }
}

/// Not a test of its own: what a crew does.
#[test]
fn work() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let order: Order = serde_json::from_str(&order).unwrap();
    set_pdeathsig(Signal::SIGKILL).unwrap();
    alarm::set(LONGEST_SECONDS);
    // Where that is allowed, nobody else's segments are here.
    let is_alone = unshare(CloneFlags::CLONE_NEWIPC).is_ok();
    let mut tally = Tally::default();
    match order.trade {
        Trade::Publishers => Killer::new(&order, &mut tally).work(),
        Trade::Readers => readers::work(&order, &mut tally),
        Trade::LosslessReaders => lossless::work(&order, &mut tally),
        Trade::Controls => Killer::new(&order, &mut tally)
            .control()
            .and_then(|()| readers::control(&order, &mut tally))
            .and_then(|()| lossless::control(&order, &mut tally)),
    }
    .unwrap();
    if is_alone {
        let segments = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        assert_eq!(segments.lines().count(), 1, "left behind: {segments}");
        tally.count("crews that left no segment in a namespace of their own", 1);
    }
    println!("\n{MARK}{}", serde_json::to_string(&tally).unwrap());
}
