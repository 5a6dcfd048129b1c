//! Rows of words, made and looked at in place, at every length, and values of a type: as programs have them, with the blocks
//! that unit tests do without.

use std::ops::Range;

use lapwing::{Join, Poll, Server, ServerOptions, Subscriber, discovery};

/// Up to more than three blocks of eight, which fit in a slot or lie in the arena.
const LENGTHS: Range<usize> = 1..30;

fn both_ends() -> (tempfile::TempDir, Server, Subscriber) {
    let directory = tempfile::tempdir().unwrap();
    let mut options = ServerOptions::new("rows".parse().unwrap());
    options.info_dir = directory.path().to_owned();
    options.listen = Vec::new();
    let server = Server::start(options).unwrap();
    let found = discovery::read(server.info_path(), &Default::default()).unwrap();
    let subscriber = Subscriber::open(&found, Join::New).unwrap();
    (directory, server, subscriber)
}

/// No two bytes of a row are the same by chance.
fn word(index: usize) -> u64 {
    (index as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn row(range: Range<usize>) -> Vec<u64> {
    range.map(word).collect()
}

/// The next message, by a loop, and by `fold` from its first word and from its second on.
fn look(subscriber: &mut Subscriber) -> [Vec<u64>; 3] {
    let collect = |mut all: Vec<u64>, word| {
        all.push(word);
        all
    };
    let polled = subscriber.poll(|view| {
        let words = view.words();
        let mut one_by_one = Vec::new();
        for word in words.iter() {
            one_by_one.push(word);
        }
        let mut rest = words.iter();
        let first = rest.next();
        [
            one_by_one,
            words.iter().fold(Vec::new(), collect),
            rest.fold(Vec::from_iter(first), collect),
        ]
    });
    match polled {
        Poll::Message(message) => message.value,
        other => panic!("{other:?}"),
    }
}

#[test]
fn words_come_out_as_they_were_put_in() {
    let (_directory, mut server, mut subscriber) = both_ends();
    for len in LENGTHS {
        for cut in [0, 1, len / 2] {
            let mut loan = server.publisher().loan(len * 8).unwrap();
            loan.push_words(row(0..cut).into_iter()).unwrap();
            loan.push_words((cut..len).map(word)).unwrap();
            loan.commit();

            let expected = row(0..len);
            assert_eq!(
                look(&mut subscriber),
                [(); 3].map(|()| expected.clone()),
                "{len} words, cut at {cut}"
            );
        }
    }
}

/// Says that it has more words than it has.
struct Short(Range<usize>);

impl Iterator for Short {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0.next().map(word)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (32, Some(32))
    }
}

impl ExactSizeIterator for Short {}

#[test]
fn words_that_do_not_come_are_no_part_of_the_message() {
    let (_directory, mut server, mut subscriber) = both_ends();
    for has in LENGTHS {
        let mut loan = server.publisher().loan(32 * 8).unwrap();
        loan.push_words(Short(0..has)).unwrap();
        loan.commit();

        assert_eq!(look(&mut subscriber)[0], row(0..has));
    }
}

/// Pushes and reads a value of `N` words, behind bytes of other kinds.
fn check_value<const N: usize>(server: &mut Server, subscriber: &mut Subscriber)
where
    [u64; N]: bytemuck::Pod,
{
    let value: [u64; N] = std::array::from_fn(word);
    for before in [0, 3, 8, 72] {
        let mut loan = server.publisher().loan(before + N * 8 + 7).unwrap();
        loan.push(&vec![0xff; before]).unwrap();
        loan.push_typed(&value).unwrap();
        loan.push_typed(&value).unwrap_err();
        assert_eq!(loan.remaining(), 7);
        loan.push(b"end").unwrap();
        loan.commit();

        let read = subscriber.poll(|view| {
            let len = view.len();
            (
                view.read::<[u64; N]>(before),
                view.read::<[u8; 3]>(len - 3),
                view.to_vec(),
            )
        });
        let Poll::Message(message) = read else {
            panic!("{read:?}")
        };
        let bytes = [&vec![0xff; before], bytemuck::bytes_of(&value), b"end"].concat();
        assert_eq!(
            message.value,
            (Some(value), Some(*b"end"), bytes),
            "{N} words behind {before} bytes"
        );
    }

    let mut batch = server.publisher().batch();
    batch.push_typed(7, &value).unwrap();
    drop(batch);

    let read = subscriber.poll_typed::<[u64; N]>();
    let Poll::Message(message) = read else {
        panic!("{read:?}")
    };
    assert_eq!((message.tag, message.len, message.value), (7, N * 8, Some(value)));
}

#[test]
fn values_come_out_as_they_were_put_in() {
    let (_directory, mut server, mut subscriber) = both_ends();
    let (server, subscriber) = (&mut server, &mut subscriber);
    check_value::<1>(server, subscriber);
    check_value::<2>(server, subscriber);
    check_value::<7>(server, subscriber);
    check_value::<8>(server, subscriber);
    check_value::<9>(server, subscriber);
    check_value::<16>(server, subscriber);
    check_value::<31>(server, subscriber);
    // Up to this one they pass through registers.
    check_value::<32>(server, subscriber);
    check_value::<64>(server, subscriber);
}
