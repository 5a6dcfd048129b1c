//! More clients than there may be, or than there are descriptors for.

use super::*;

#[test]
fn one_connection_too_many_is_turned_away_until_there_is_room() {
    let host = Host::new(|options| options.max_connections = 2);
    let first = host.join(Join::New);
    let _second = host.join(Join::New);

    let third = RemoteSubscriber::connect(&[host.address], Incarnation::NIL, Join::New, PATIENCE).unwrap_err();
    drop(first);
    host.wait_for(|stats| stats.connections == 1);
    let fourth = host.join(Join::New);

    assert!(
        matches!(
            third,
            RemoteError::Rejected {
                code: RejectCode::TooManyConnections,
                ..
            }
        ),
        "{third:?}"
    );
    assert_eq!(fourth.hello().connections, 2);
    assert_eq!(host.service.stats().rejected_full, 1);
}

/// Says to the copy of this test that it is the server with few descriptors.
const FEW_DESCRIPTORS: &str = "LAPWING_TEST_FEW_DESCRIPTORS";

/// The copy, which is not left behind.
struct Copy(std::process::Child);

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn clients_are_turned_away_while_descriptors_are_short_and_served_again_afterwards() {
    if std::env::var_os(FEW_DESCRIPTORS).is_some() {
        return serve_with_few_descriptors();
    }
    let name = "clients_are_turned_away_while_descriptors_are_short_and_served_again_afterwards";
    let copy = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            &format!("socket::tests::crowds::{name}"),
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FEW_DESCRIPTORS, "1")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut copy = Copy(copy.unwrap());
    let mut lines = std::io::BufReader::new(copy.0.stdout.take().unwrap()).lines();
    let address = lines.find_map(|line| Some(line.unwrap().split_once("address=")?.1.parse().unwrap()));
    let connect = || RemoteSubscriber::connect(&[address.unwrap()], Incarnation::NIL, Join::Oldest, PATIENCE);

    let mut joined = Vec::new();
    let refused = loop {
        match connect() {
            Ok(subscriber) => joined.push(subscriber),
            Err(error) => break error,
        }
        assert!(joined.len() < 64, "descriptors do not run out");
    };
    let refused_again = connect().unwrap_err();
    joined.truncate(joined.len() / 2);
    let deadline = Instant::now() + PATIENCE;
    let mut late = loop {
        match connect() {
            Ok(subscriber) => break subscriber,
            Err(_) => assert!(Instant::now() < deadline, "nobody is served any more"),
        }
    };

    for error in [refused, refused_again] {
        assert!(
            matches!(
                error,
                RemoteError::Rejected {
                    code: RejectCode::TooManyConnections,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    expect(&mut late, 0, b"still served");
    for subscriber in &mut joined {
        expect(subscriber, 0, b"still served");
    }
}

/// A server in a process of its own, since the limit holds for all of it. Serves until its input ends.
fn serve_with_few_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut host = Host::new(|_| {});
    host.publish(b"still served");
    let limit = Rlimit {
        current: Some(32),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();

    println!("address={}", host.address);

    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}
