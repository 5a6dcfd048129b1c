//! What one turn of a connection sends, and in which order.

use rustix::event::{PollFd, PollFlags};

use super::*;
use crate::socket::chunk::Chunks;
use crate::socket::connection::{Connection, Deadlines, Hub};

#[test]
fn heartbeat_that_is_due_does_not_overtake_the_start() {
    let geometry = Geometry::new(2, 64, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::random().unwrap(), "prices", 0, 1);
    let second = Duration::from_secs(1);
    let mut hub = Hub {
        segment: Owned::private(header, geometry).unwrap().share(),
        gate: Arc::new(Gate::new(&geometry, None)),
        leased: 0,
        deadlines: Deadlines {
            subscribe: 9 * second,
            heartbeat: second,
            silence: 9 * second,
            stall: 9 * second,
            linger: 9 * second,
        },
        chunks: Chunks::default(),
        counters: Arc::default(),
        now: Instant::now(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    let arrived = stream.try_clone().unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut connection = Connection::new(mio::net::TcpStream::from_std(stream), 1, &mut hub);
    connection.send(&mut hub).unwrap();
    let mut subscribe = Vec::new();
    ClientFrame::Subscribe {
        incarnation: Incarnation::NIL,
        join: Join::New,
    }
    .append_to(&mut subscribe);
    client.write_all(&subscribe).unwrap();
    let mut fds = [PollFd::new(&arrived, PollFlags::IN)];
    rustix::event::poll(&mut fds, Some(&PATIENCE.try_into().unwrap())).unwrap();

    connection.receive(&mut hub).unwrap();
    hub.now += 2 * second;
    connection.tick(&mut hub).unwrap();

    let mut decoder = Decoder::of_server(0);
    let mut kinds = Vec::new();
    while kinds.len() < 2 {
        let count = client.read(decoder.space()).unwrap();
        decoder.received(count);
        while let Some(kind) = decoder.front().unwrap() {
            decoder.server_frame().unwrap();
            kinds.push(kind);
        }
    }
    assert_eq!(kinds, [Kind::Hello, Kind::Start]);
}
