use super::*;

fn parse(arguments: &str) -> Result<Args, clap::Error> {
    Args::try_parse_from(std::iter::once("server").chain(arguments.split_whitespace()))?.check()
}

#[test]
fn clap_finds_no_fault_with_the_arguments() {
    Args::command().debug_assert();
}

#[test]
fn what_is_said_is_what_is_done() {
    let args = parse(
        "--ring-size 1M --slots 4096 --slot-size 256 --max-message 1K --mode 0600 --group 7 --max-connections 5 \
         --listen [::1]:0 --listen 127.0.0.1:4000 --advertise 10.0.0.1:4000 --info-dir /tmp/x",
    )
    .unwrap();

    let options = args.options("n".parse().unwrap());

    assert_eq!((options.ring_bytes, options.slots), (1 << 20, Some(4096)));
    assert_eq!((options.slot_bytes, options.max_message_bytes), (256, Some(1024)));
    assert_eq!(
        options.access,
        Access {
            mode: 0o600,
            group: Some(7)
        }
    );
    assert_eq!((options.listen.len(), options.advertise.len()), (2, 1));
    assert_eq!(options.max_connections, 5);
    assert_eq!(options.info_dir, PathBuf::from("/tmp/x"));
}

#[test]
fn tuning_that_is_said_is_what_is_done() {
    let args = parse("--cpu 0 --service-cpu 1,2 --spin --huge-pages try --huge-page-size 1G --lock-memory").unwrap();

    let options = args.options("n".parse().unwrap());

    assert_eq!(args.cpu, "0".parse().ok());
    assert_eq!(options.service_cpus, "1-2".parse().ok());
    assert!(options.service_spin);
    let pages = Pages {
        huge: HugePages::Try,
        huge_bytes: Some(1 << 30),
        locked: true,
    };
    assert_eq!(options.pages, pages);
}

#[test]
fn what_lossless_clients_are_offered_is_what_was_said() {
    let offer = |arguments: &str| {
        parse(arguments)
            .unwrap()
            .options("n".parse().unwrap())
            .lossless
            .unwrap()
    };

    assert_eq!(offer("--lossless block").max_subscribers, 64);
    assert_eq!(offer("--lossless block --max-lossless 3").max_subscribers, 3);
    assert_eq!(
        offer("--lossless evict:5s").policy,
        LosslessPolicy::Evict(Duration::from_secs(5))
    );
    assert_eq!(parse("--lossless block").unwrap().on_full(), OnFull::Wait);
    assert_eq!(
        parse("--lossless block --on-full drop").unwrap().on_full(),
        OnFull::Drop
    );
    let error = parse("--lossless block --no-socket").unwrap_err().to_string();
    assert!(error.contains("leave out --no-socket"), "{error}");
}

#[test]
fn without_arguments_the_librarys_defaults_hold() {
    let name: ServerName = "n".parse().unwrap();

    let options = parse("").unwrap().options(name.clone());

    assert_eq!(format!("{options:?}"), format!("{:?}", ServerOptions::new(name)));
}

#[test]
fn more_lossless_clients_than_there_may_be_are_not_waited_for() {
    for line in [
        "--wait-for 1",
        "--lossless block --wait-for 0",
        "--lossless block --wait-for 65",
    ] {
        assert!(parse(line).is_err(), "{line}");
    }
    assert!(parse("--lossless block --max-lossless 2 --wait-for 3").is_err());
    assert_eq!(parse("--lossless block --wait-for 64").unwrap().wait_for(), Some(64));
}

#[test]
fn numbers_of_messages_may_have_a_unit() {
    let args = parse("--generate --count 1M --slots 4K").unwrap();

    assert_eq!((args.count, args.slots), (Some(1 << 20), Some(4096)));
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    for arguments in [
        "--no-socket --no-shm",
        "--no-socket --listen 127.0.0.1:0",
        "--no-shm --mode 0600",
        "--no-shm --group 7",
        "--exit-at-end --generate",
        "--exit-at-end --message a",
        "--file a --generate",
        "--message a --framed",
        "--generate --size 15",
        "--generate --rate 0/s",
        "--slots 1000",
        "--slots 1024.3",
        "--generate --count 1.9",
        "--ring-size 100K",
        "--slot-size 32",
        "--max-message 128K",
        "--max-message 0",
        "--max-message 2G --ring-size 4G",
        "--max-connections 0",
        "--mode 0999",
        "--mode 1777",
        "--group no-such-group-anywhere",
        "--lossless",
        "--lossless evict",
        "--lossless evict:0s",
        "--lossless block --no-socket",
        "--lossless block --max-lossless 0",
        "--lossless block --on-full panic",
        "--max-lossless 5",
        "--on-full drop",
        "--name a/b",
        "--listen nowhere",
        "--advertise 10.0.0.1:0",
        "--advertise 0.0.0.0:5",
        "--advertise [::]:5",
        "--exit-at-end --publish-listen 127.0.0.1:0",
        "--exit-at-end --file a --follow-file",
        "--publish-listen 0.0.0.0:4000",
        "--publish-listen unix:p --publish-mode 0400",
        "--stats 0s",
        "--stats 1ns",
        "--stats 9ms",
        "--log-level loud",
        "--cpu x",
        "--cpu 1024",
        "--service-cpu 3-1",
        "--spin --no-socket",
        "--huge-pages maybe",
        "--huge-pages require --no-shm",
        "--huge-page-size 2M",
        "--huge-page-size 2M --no-shm",
        "--huge-pages transparent --huge-page-size 2M",
        "--lock-memory --no-shm",
        "leftover",
    ] {
        let error = parse(arguments).expect_err(arguments);

        assert_eq!(error.exit_code(), 2, "{arguments}");
    }
}

#[test]
fn option_of_another_source_is_refused_with_the_one_that_it_needs() {
    const SOURCES: [&str; 8] = [
        "",
        "--file f",
        "--file f --exit-at-end",
        "--message x",
        "--generate",
        "--framed",
        "--publish-listen 127.0.0.1:0",
        "--publish-listen unix:p",
    ];
    let options: [(&str, &str, &[usize]); 7] = [
        ("--follow-file", "--file", &[1]),
        ("--interval 1s", "--message", &[3]),
        ("--size 100", "--generate", &[4]),
        ("--rate 1/s", "--generate", &[4]),
        ("--count 5", "--message or --generate", &[3, 4]),
        ("--publish-remote", "a TCP address in --publish-listen", &[6]),
        ("--publish-mode 0600", "--publish-listen unix:PATH", &[7]),
    ];

    for (option, needed, taken_by) in options {
        let name = option.split(' ').next().unwrap();
        for (index, source) in SOURCES.iter().enumerate() {
            let arguments = format!("{source} {option}");
            if taken_by.contains(&index) {
                assert!(parse(&arguments).is_ok(), "{arguments}");
            } else if arguments != "--file f --exit-at-end --follow-file" {
                let error = parse(&arguments).expect_err(&arguments);
                assert_eq!(error.exit_code(), 2, "{arguments}");
                assert!(
                    error.to_string().contains(&format!("{name} needs {needed}\n")),
                    "{arguments}: {error}"
                );
            }
        }
    }

    let mut command = Args::command();
    command.build();
    let sources = command.get_groups().find(|group| group.get_id() == "source").unwrap();
    for argument in command.get_arguments() {
        let name = format!("--{}", argument.get_long().unwrap_or_default());
        let is_known = sources.get_args().any(|id| id == argument.get_id())
            || options
                .iter()
                .any(|(option, ..)| option.split(' ').next() == Some(&name));
        assert!(
            argument.get_help_heading() != Some("Source, one of") || is_known,
            "{name} is not in the table"
        );
    }
}

#[test]
fn a_size_that_cannot_be_is_answered_with_one_that_can() {
    for (arguments, better) in [
        ("--slots 1000", "1024 is"),
        ("--slot-size 100", "128 is"),
        ("--slot-size 1", "64 is"),
        ("--slot-size 65537", "65536 is"),
    ] {
        let error = parse(arguments).unwrap_err().to_string();

        assert!(error.contains(better), "{error}");
    }
    assert!(parse("--slot-size 96").is_ok());
}

#[test]
fn the_risk_of_remote_pushers_can_be_taken() {
    assert!(parse("--publish-listen 0.0.0.0:0 --publish-remote").is_ok());
    assert!(parse("--publish-listen [::1]:0").is_ok());
}
