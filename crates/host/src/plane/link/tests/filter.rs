//! Receive filters on real interfaces: what the kernel says of them after each step, and after a kill.

use super::*;
use crate::plane::link::filter::{ADDRESSES_MAX, Applied, InterfaceFilter, Wanted};
use std::io::{BufRead, BufReader};

const GROUP: [u8; 6] = [1, 0, 0x5e, 1, 2, 3];
/// Has this test binary hold a filter until it is killed; the value is the interface.
const HOLD: &str = "RINGWAY_TEST_HOLD_FILTER";

/// What `bridge` and `ip` say of `near`: its promiscuity, and which of our addresses are in its filter.
fn kernel_says() -> (u32, Vec<String>) {
    let link = run("ip -d link show near");
    let mut words = link.split_whitespace();
    words.find(|&word| word == "promiscuity").unwrap();
    let promiscuity = words.next().unwrap().parse().unwrap();
    let table = run("bridge fdb show dev near");
    let ours =
        |line: &&str| line.contains(" self ") && (line.starts_with("02:") || line.starts_with("01:00:5e:01"));
    let mut listed: Vec<String> = table.lines().filter(ours).map(|line| line[..17].to_owned()).collect();
    listed.sort();
    (promiscuity, listed)
}

fn stations(numbers: &[u8]) -> Wanted {
    let unicast = numbers.iter().map(|&number| [2, 0, 0, 0, 0, number]).collect();
    Wanted { unicast, multicast: Some([GROUP].into()), promiscuous: None }
}

fn names(numbers: &[u8]) -> Vec<String> {
    let group = std::iter::once("01:00:5e:01:02:03".to_owned());
    group.chain(numbers.iter().map(|number| format!("02:00:00:00:00:{number:02x}"))).collect()
}

#[test]
fn the_kernel_shows_each_step() {
    in_namespace(|| {
        wire();
        run("ip link set near address 02:00:00:00:00:aa");
        let mut filter = InterfaceFilter::open("near").unwrap();
        assert_eq!(kernel_says(), (0, vec![]));
        let applied = filter.apply(&Wanted::everything("port vm3 learns"));
        let expected = Applied {
            exact: false,
            mode: "promiscuous",
            reason: "port vm3 learns".into(),
            unicast: 0,
            multicast: None,
            operations: 1,
        };
        assert_eq!(applied, expected);
        assert_eq!(kernel_says(), (1, vec![]));

        // Ours goes, and the veth's own comes: it cannot filter. Its own address is not programmed.
        let applied = filter.apply(&stations(&[1, 2, 0xaa]));
        let expected = Applied {
            exact: false,
            mode: "promiscuous",
            reason: "near cannot filter".into(),
            unicast: 2,
            multicast: Some(1),
            operations: 5,
        };
        assert_eq!(applied, expected);
        assert_eq!(kernel_says(), (1, names(&[1, 2])));
        assert_eq!(filter.observe(), expected);

        // Only the difference: nothing, then one in and one out.
        assert_eq!(filter.apply(&stations(&[1, 2])).operations, 5);
        assert_eq!(filter.apply(&stations(&[2, 3])).operations, 7);
        assert_eq!(kernel_says(), (1, names(&[2, 3])));

        // A port that learns again: addresses that are still wanted stay.
        let again = Wanted { promiscuous: Some("port vm3 learns".into()), ..stations(&[3]) };
        assert_eq!(filter.apply(&again).operations, 9);
        assert_eq!(kernel_says(), (2, names(&[3])));

        // Without a station of ours there is nothing that it could not filter.
        let applied = filter.apply(&stations(&[0xaa]));
        assert_eq!((applied.exact, applied.reason.as_str()), (true, "only known addresses are taken"));
        assert_eq!(kernel_says(), (0, names(&[])));
        let applied = filter.apply(&Wanted { multicast: None, ..stations(&[]) });
        assert_eq!((applied.exact, applied.multicast), (true, None));
        assert!(run("ip -d link show near").contains("allmulti 1"));
        assert_eq!(kernel_says(), (0, vec![]));

        filter.apply(&stations(&[1, 2]));
        drop(filter);
        until(|| kernel_says() == (0, vec![]));
        assert!(run("ip -d link show near").contains("allmulti 0"));
    });
}

#[test]
fn another_program_that_wants_everything_is_not_taken_for_the_interface() {
    in_namespace(|| {
        wire();
        let mut other = InterfaceFilter::open("near").unwrap();
        let mut filter = InterfaceFilter::open("near").unwrap();
        assert!(filter.apply(&stations(&[])).exact);
        other.apply(&Wanted::everything("curiosity"));
        let said = filter.observe();
        assert_eq!(said.reason, "near is promiscuous: it cannot filter, or another program wants it so");
        assert!(!said.exact);
        drop(other);
        until(|| filter.observe().exact);
    });
}

#[test]
fn more_addresses_than_are_programmed_make_it_promiscuous() {
    in_namespace(|| {
        wire();
        let mut filter = InterfaceFilter::open("near").unwrap();
        let many = |count: usize| Wanted {
            unicast: (0..count as u32).map(|n| [2, 1, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8]).collect(),
            ..Wanted::default()
        };
        let applied = filter.apply(&many(ADDRESSES_MAX + 1));
        assert_eq!((applied.exact, applied.unicast, applied.operations), (false, 0, 1));
        assert_eq!(applied.reason, format!("more than {ADDRESSES_MAX} addresses are behind the switch"));
        let applied = filter.apply(&many(ADDRESSES_MAX));
        assert_eq!((applied.unicast, applied.reason.as_str()), (ADDRESSES_MAX, "near cannot filter"));
        assert_eq!(
            filter.apply(&many(ADDRESSES_MAX + 1)).unicast,
            ADDRESSES_MAX,
            "nothing is removed that is wanted"
        );
        assert_eq!(filter.apply(&many(0)).unicast, 0);
        assert_eq!(kernel_says(), (0, vec![]));
    });
}

#[test]
fn the_filter_follows_an_interface_that_is_made_anew() {
    in_namespace(|| {
        wire();
        let mut filter = InterfaceFilter::open("near").unwrap();
        filter.apply(&stations(&[1]));
        run("ip link del near");
        filter.tend();
        let gone = filter.apply(&stations(&[1, 2]));
        assert_eq!(
            (gone.exact, gone.unicast, gone.reason.as_str()),
            (false, 0, "there is no interface near")
        );
        wire();
        filter.tend();
        assert_eq!(kernel_says().1, names(&[1, 2]));
        // Renamed, and another one takes its name: what was programmed moves.
        run("ip link set near down");
        run("ip link set near name old");
        run("ip link add near type veth peer name far2");
        run("ip link set near up");
        filter.tend();
        assert_eq!(kernel_says().1, names(&[1, 2]));
        assert!(!run("bridge fdb show dev old").contains("02:00:00:00:00:01"));
        // Another own address: the old one has to be programmed, the new one not.
        run("ip link set near address 02:00:00:00:00:01");
        filter.tend();
        assert_eq!(kernel_says().1, names(&[2]));
    });
}

#[test]
fn a_kill_leaves_nothing_behind() {
    if let Ok(interface) = std::env::var(HOLD) {
        let mut filter = InterfaceFilter::open(&interface).unwrap();
        filter.apply(&Wanted { promiscuous: Some("held".into()), ..stations(&[]) });
        let many = filter.apply(&stations(&[1, 2, 3]));
        println!("\nholding {}", many.unicast);
        loop {
            std::thread::park();
        }
    }
    in_namespace(|| {
        wire();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "plane::link::tests::filter::a_kill_leaves_nothing_behind"])
            .env(HOLD, "near")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "holding 3"));
        assert_eq!(kernel_says(), (1, names(&[1, 2, 3])));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(kernel_says(), (0, vec![]));
    });
}
