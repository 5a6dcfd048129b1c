//! The service as its owner sees it.

use super::*;

#[test]
fn dropped_service_closes_its_connections_and_is_no_longer_running() {
    let host = Host::new(|_| {});
    let mut subscriber = host.join(Join::New);
    assert!(host.service.is_running());

    let Host {
        service,
        publisher: _publisher,
        ..
    } = host;
    drop(service);

    let error = subscriber.receive(PATIENCE, <[u8]>::len).unwrap_err();
    assert!(matches!(error, RemoteError::Closed), "{error:?}");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let geometry = Geometry::new(8, 128, 4096, None).unwrap();
    let header = Header::new(&geometry, Incarnation::random().unwrap(), "x", 0, 100_000_000);
    let segment = Owned::private(header, geometry).unwrap();
    let mut options = ServiceOptions::new(Vec::new());
    options.silence_deadline = options.heartbeat;

    let gate = Arc::new(Gate::new(segment.share().geometry(), None));
    let error = Service::spawn(segment.share(), Arc::new(Bell::new()), gate, options).unwrap_err();

    assert!(
        error.to_string().contains("must be longer than the heartbeat"),
        "{error}"
    );
}
