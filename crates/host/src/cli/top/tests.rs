//! Screens and keys of `top`, without a terminal or a server.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyModifiers};

use super::super::state::{Answer, Flow, Screen, State};
use super::{bits, count, draw, height};
use crate::api::view::*;

fn port(name: &str, frames: u64, drops: &[(&str, u64)]) -> PortView {
    PortView {
        name: name.into(),
        switch: "lan".into(),
        kind: "vhost-user".into(),
        socket: Some(format!("/run/ringway/{name}.sock")),
        socket_mode: Some("server".into()),
        interface: None,
        mac: Some("52:54:00:00:00:01".into()),
        mtu: None,
        state: PortState::Running,
        fault: None,
        queue_pairs: 1,
        features: FeaturesView::default(),
        counters: CountersView {
            from_guest: TrafficView { frames, bytes: frames * 1000 },
            to_guest: TrafficView { frames: frames / 2, bytes: frames * 500 },
            drops: drops.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect(),
            kicks: 7,
            misses: 0,
            calls: 5,
        },
        queues: vec![QueueView {
            index: 1,
            direction: "from-guest".into(),
            size: 256,
            layout: "split".into(),
            enabled: true,
            fault: None,
            traffic: TrafficView::default(),
            drops: BTreeMap::new(),
            kicks: 7,
            calls: 5,
        }],
        settings: SettingsView { profile: "guest".into(), locked: true, ..SettingsView::default() },
        shut: None,
        fdb_learned: 0,
        fdb_pinned: 1,
        fdb_evicted: 0,
        addresses: Vec::new(),
        receive_filter: None,
        uplink: None,
        zero_copy: None,
    }
}

fn answer(at: Instant, pid: u32, ports: Vec<PortView>) -> Answer {
    let status = Status {
        version: "0.1.0".into(),
        pid,
        uptime_s: 3700,
        workers: vec![WorkerView {
            name: "worker-0".into(),
            group: None,
            cpu: None,
            mode: "pool".into(),
            polling: "adaptive".into(),
            queues: 4,
            busy_ms: 0,
            moves: 0,
            sleeps: ports.first().map_or(0, |port| port.counters.from_guest.frames),
        }],
        switches: vec![SwitchView {
            name: "lan".into(),
            ports: ports.len(),
            fdb_entries: 3,
            fdb_entries_max: 16_384,
            ageing_ms: 300_000,
            vlan: "none".into(),
            snooping: false,
        }],
        ports_up: ports.len(),
        ports_total: ports.len(),
        disks_up: 0,
        disks_total: 0,
    };
    Answer { at, status, ports, disks: Vec::new(), fdb: None }
}

/// A disk that has served as many reads as writes, of 4 KiB each, in 50 µs each.
fn disk(name: &str, reads: u64) -> DiskView {
    let times =
        LatencyView { count: reads, sum_us: reads as f64 * 50.0, p99_us: 180.0, ..LatencyView::default() };
    DiskView {
        name: name.into(),
        kind: "vhost-user".into(),
        socket: format!("/run/ringway/{name}.sock"),
        socket_mode: "server".into(),
        image: ImageView {
            kind: "file".into(),
            path: Some(format!("/srv/{name}.img")),
            ..ImageView::default()
        },
        capacity: 1 << 30,
        block_size: 512,
        read_only: false,
        cache: "write-back".into(),
        serial: String::new(),
        state: PortState::Running,
        fault: None,
        features: FeaturesView::default(),
        workers: None,
        counters: DiskCountersView {
            reads,
            writes: reads,
            bytes_read: reads * 4096,
            bytes_written: reads * 4096,
            in_flight: 3,
            ..DiskCountersView::default()
        },
        latency: DiskLatencyView { read: times.clone(), write: times, flush: LatencyView::default() },
        queues: vec![DiskQueueView { index: 0, running: true, size: 256, ..DiskQueueView::default() }],
    }
}

/// As [`running`], with disks: `root` does 2000 requests a second, `swap` none, and errs.
fn with_disks(count: usize) -> State {
    let start = Instant::now();
    let mut state = State::default();
    for (seconds, reads, errors) in [(0, 5_000, 0), (2, 7_000, 30)] {
        let mut disks = vec![disk("root", reads), disk("swap", 9)];
        disks[1].counters.errors = errors;
        disks[1].counters.stuck = 2;
        disks.extend((2..count).map(|number| disk(&format!("disk{number}"), 0)));
        let mut answer =
            answer(start + Duration::from_secs(seconds), 7, vec![port("web", 1000, &[("locked", 1)])]);
        (answer.status.disks_up, answer.status.disks_total) = (disks.len(), disks.len());
        state.take(Ok(Answer { disks, ..answer }));
    }
    state
}

/// Two answers two seconds apart: `web` sends 1000 frames a second and `db` loses 250 for want of buffers.
fn running() -> State {
    let start = Instant::now();
    let mut state = State::default();
    state.take(Ok(answer(start, 7, vec![port("web", 1000, &[]), port("db", 0, &[("receiver-full", 10)])])));
    let later = vec![port("web", 3000, &[]), port("db", 0, &[("receiver-full", 510)])];
    state.take(Ok(answer(start + Duration::from_secs(2), 7, later)));
    state
}

fn screen(state: &State, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| draw(state, frame.area(), frame.buffer_mut())).expect("drawn");
    terminal.backend().to_string()
}

fn press(state: &mut State, keys: &[KeyCode]) {
    for key in keys {
        assert_eq!(state.key(*key, KeyModifiers::NONE), Flow::Go, "{key:?}");
    }
}

fn line<'a>(text: &'a str, with: &str) -> &'a str {
    text.lines().find(|line| line.contains(with)).unwrap_or_else(|| panic!("no {with:?} in\n{text}"))
}

#[test]
fn rates_are_the_difference_over_the_time() {
    let text = screen(&running(), 140, 24);
    assert!(line(&text, "ringway 0.1.0").contains("process 7, up 1h 1m  2 of 2 ports running"), "{text}");
    assert!(line(&text, "worker-0").contains("4 queues 1.00 k sleeps/s"), "{text}");
    let web = line(&text, "web");
    assert!(web.contains("8.00 Mb/s") && web.contains("1.00 k") && web.contains("4.00 Mb/s"), "{web}");
    assert!(line(&text, "db ").contains("receiver-full 250/s"), "{text}");
    assert!(line(&text, "in all").contains("250/s            510 in all"), "{text}");
    assert!(line(&text, "drops 250/s").contains("in 8.00 Mb/s 1.00 k frames/s"), "{text}");
}

#[test]
fn a_narrow_terminal_shows_names_and_rates_still() {
    let text = screen(&running(), 80, 24);
    assert!(line(&text, "web").contains("lan") && line(&text, "web").contains("8.00 Mb/s"), "{text}");
    assert!(!text.contains("FRAMES/S") && text.contains("drops 250/s"), "{text}");
    assert!(!screen(&State::default(), 80, 24).contains(" -0"));
}

#[test]
fn before_the_second_answer_there_are_no_rates() {
    let mut state = State::default();
    assert!(screen(&state, 80, 24).contains("waiting for the first answer"));
    state.take(Ok(answer(Instant::now(), 7, vec![port("web", 1000, &[])])));
    let text = screen(&state, 140, 24);
    assert!(line(&text, "web").contains("0 b/s") && !text.contains(" -0"), "{text}");
}

#[test]
fn a_silent_server_is_told_and_a_new_one_starts_from_zero() {
    let mut state = running();
    state.take(Err("connection refused".into()));
    state.tick(Instant::now() + Duration::from_secs(5));
    let text = screen(&state, 140, 24);
    assert!(text.contains("NO ANSWER for 5s") || text.contains("NO ANSWER for 4s"), "{text}");
    assert!(text.contains("connection refused") && text.contains("web"), "{text}");
    let later = Instant::now() + Duration::from_secs(9);
    state.take(Ok(answer(later, 8, vec![port("web", 10, &[])])));
    let text = screen(&state, 140, 24);
    assert!(!text.contains("NO ANSWER") && text.contains("restarted 1×"), "{text}");
    assert!(line(&text, "web").contains("0 b/s"), "{text}");
}

#[test]
fn a_port_that_counts_from_zero_again_has_no_huge_rate() {
    let start = Instant::now();
    let mut state = State::default();
    state.take(Ok(answer(start, 7, vec![port("web", 1_000_000, &[("locked", 9)])])));
    state.take(Ok(answer(start + Duration::from_secs(1), 7, vec![port("web", 5, &[("locked", 1)])])));
    assert_eq!(state.total().from_frames, 0.0);
    assert_eq!(state.total().dropped(), 0.0);
}

#[test]
fn ports_are_ordered_and_filtered_by_keys() {
    let mut state = running();
    let names = |state: &State| state.ports().iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&state), ["web", "db"]);
    press(&mut state, &[KeyCode::Char('n')]);
    assert_eq!(names(&state), ["db", "web"]);
    press(&mut state, &[KeyCode::Char('r')]);
    assert_eq!(names(&state), ["web", "db"]);
    press(&mut state, &[KeyCode::Char('r'), KeyCode::Char('i')]);
    assert_eq!(names(&state), ["web", "db"]);
    press(&mut state, &[KeyCode::Char('d')]);
    assert_eq!(names(&state), ["db", "web"]);
    press(&mut state, &[KeyCode::Down, KeyCode::Char('/'), KeyCode::Char('q'), KeyCode::Backspace]);
    press(&mut state, &[KeyCode::Char('W'), KeyCode::Char('e'), KeyCode::Enter]);
    assert_eq!((names(&state), state.cursor), (vec!["web".to_owned()], 0));
    assert!(screen(&state, 120, 20).contains("[filter: We]"));
    press(&mut state, &[KeyCode::Esc]);
    assert_eq!(names(&state).len(), 2);
}

#[test]
fn details_open_and_close_and_survive_the_ports_end() {
    let mut state = running();
    press(&mut state, &[KeyCode::Down, KeyCode::Enter]);
    assert_eq!(state.screen, Screen::Port("db".into()));
    let text = screen(&state, 140, 40);
    for words in
        ["db  running", "/run/ringway/db.sock", "profile       guest", "on            locked", "from-guest"]
    {
        assert!(text.contains(words), "{words:?} is not in\n{text}");
    }
    assert!(line(&text, "drops  ").contains("receiver-full              250/s"), "{text}");
    state.take(Ok(answer(Instant::now(), 7, vec![port("web", 1, &[])])));
    assert!(screen(&state, 100, 20).contains("port db is gone"));
    press(&mut state, &[KeyCode::Esc]);
    // One port is left, so the cursor is on it.
    assert_eq!((state.screen.clone(), state.cursor), (Screen::Ports, 0));
}

#[test]
fn the_fdb_is_asked_for_only_while_it_is_shown() {
    let mut state = running();
    assert!(!state.wants_fdb());
    press(&mut state, &[KeyCode::Tab]);
    assert!(state.wants_fdb());
    let entry = |mac: &str, vlan| FdbView {
        switch: "lan".into(),
        mac: mac.into(),
        port: "web".into(),
        vlan,
        kind: "learned".into(),
        why: "seen in a frame".into(),
        age_ms: 65_000,
    };
    let fdb = vec![entry("52:54:00:00:00:01", None), entry("52:54:00:00:00:02", Some(7))];
    state.take(Ok(Answer { fdb: Some(fdb), ..answer(Instant::now(), 7, vec![port("web", 1, &[])]) }));
    let text = screen(&state, 120, 20);
    assert!(line(&text, "52:54:00:00:00:02").contains("seen in a frame") && text.contains("1m 5s"), "{text}");
    press(&mut state, &[KeyCode::Char('/')]);
    press(&mut state, &"vlan=7".chars().map(KeyCode::Char).collect::<Vec<_>>());
    assert_eq!(state.entries().len(), 1);
    press(&mut state, &[KeyCode::Enter, KeyCode::Tab]);
    assert_eq!(state.screen, Screen::Ports);
}

#[test]
fn disks_stand_below_the_ports_with_their_rates() {
    let text = screen(&with_disks(2), 140, 24);
    assert!(line(&text, "ringway 0.1.0").contains("1 of 1 ports and 2 of 2 disks running"), "{text}");
    assert!(
        line(&text, "drops 0/s").contains("disks 2.00 k IOPS read 4.10 MB/s written 4.10 MB/s"),
        "{text}"
    );
    let root = line(&text, "root ");
    for words in ["running", "2.00 k", "4.10 MB/s", " 3 ", "50.0 µs", "180 µs", "/srv/root.img"] {
        assert!(root.contains(words), "{words:?} in {root}");
    }
    let swap = line(&text, "swap ");
    assert!(swap.contains("2 stuck, errors 15/s"), "{swap}");
    let at = |name: &str| text.find(name).unwrap_or_else(|| panic!("{name}: {text}"));
    assert!(at("web ") < at("DISK ") && at("DISK ") < at("DROPS BY REASON"), "{text}");
    let narrow = screen(&with_disks(2), 80, 24);
    assert!(line(&narrow, "root ").contains("4.10 MB/s") && !narrow.contains("MEAN"), "{narrow}");
}

#[test]
fn many_disks_leave_room_for_the_ports_and_have_a_screen_of_their_own() {
    let mut state = with_disks(30);
    let shown = |text: &str| text.lines().filter(|line| line.contains("/srv/")).count();
    let text = screen(&state, 140, 30);
    assert!(text.contains("web ") && text.contains("DROPS BY REASON"), "{text}");
    assert_eq!(shown(&text), 8);
    assert_eq!(shown(&screen(&state, 140, height(&state))), 30, "as `--once` prints it");
    press(&mut state, &[KeyCode::Tab]);
    assert_eq!(state.screen, Screen::Disks);
    let text = screen(&state, 140, 40);
    assert_eq!(shown(&text), 30);
    assert!(!text.contains("web "), "{text}");
    press(&mut state, &[KeyCode::Char('o')]);
    assert_eq!(state.disks()[0].name, "root");
    press(&mut state, &[KeyCode::Char('d')]);
    assert_eq!(state.disks()[0].name, "swap");
    press(&mut state, &[KeyCode::Char('n'), KeyCode::Char('r')]);
    assert_eq!(state.disks()[0].name, "swap");
    press(&mut state, &[KeyCode::Char('/')]);
    press(&mut state, &"ROOT.img".chars().map(KeyCode::Char).collect::<Vec<_>>());
    assert_eq!(state.disks().len(), 1);
    press(&mut state, &[KeyCode::Enter, KeyCode::Enter]);
    assert_eq!(state.screen, Screen::Disk("root".into()));
    let text = screen(&state, 140, 40);
    assert!(line(&text, "root  running").contains("2.00 k IOPS"), "{text}");
    assert!(line(&text, "image  ").contains("file, /srv/root.img"), "{text}");
    state.take(Ok(answer(Instant::now(), 7, Vec::new())));
    assert!(screen(&state, 100, 20).contains("disk root is gone"));
    press(&mut state, &[KeyCode::Esc, KeyCode::Esc, KeyCode::Tab, KeyCode::BackTab]);
    assert_eq!((state.screen.clone(), state.cursor), (Screen::Ports, 0), "without disks, only ports and FDB");
}

#[test]
fn a_disk_that_counts_from_zero_again_has_no_huge_rate() {
    let start = Instant::now();
    let mut state = State::default();
    for (seconds, reads) in [(0, 1_000_000), (1, 5)] {
        let answer = answer(start + Duration::from_secs(seconds), 7, Vec::new());
        state.take(Ok(Answer { disks: vec![disk("root", reads)], ..answer }));
    }
    let rates = state.rates_of_disk("root");
    assert_eq!((rates.requests, rates.read_bytes, rates.mean_us), (0.0, 0.0, None));
}

#[test]
fn only_quitting_quits() {
    let mut state = running();
    press(&mut state, &[KeyCode::End, KeyCode::PageDown, KeyCode::Home, KeyCode::F(1), KeyCode::Char('x')]);
    assert_eq!(state.key(KeyCode::Char('c'), KeyModifiers::CONTROL), Flow::Quit);
    assert_eq!(state.key(KeyCode::Char('q'), KeyModifiers::NONE), Flow::Quit);
    press(&mut state, &[KeyCode::Char('/'), KeyCode::Char('q')]);
    assert_eq!(state.key(KeyCode::Char('c'), KeyModifiers::CONTROL), Flow::Quit);
}

#[test]
fn any_size_of_terminal_is_drawn() {
    let mut state = with_disks(20);
    for keys in
        [&[][..], &[KeyCode::Enter], &[KeyCode::Esc, KeyCode::Tab], &[KeyCode::Enter], &[KeyCode::Char('f')]]
    {
        press(&mut state, keys);
        for (width, lines) in [(1, 1), (3, 2), (10, 5), (40, 3), (500, 100)] {
            screen(&state, width, lines);
        }
    }
}

#[test]
fn a_thousand_ports_are_drawn_at_once() {
    let start = Instant::now();
    let ports =
        |frames: u64| (0..1000).map(|n| port(&format!("vm{n}"), frames * n, &[("locked", n)])).collect();
    let mut state = State::default();
    state.take(Ok(answer(start, 7, ports(1))));
    state.take(Ok(answer(start + Duration::from_secs(1), 7, ports(2))));
    press(&mut state, &[KeyCode::Char('i'), KeyCode::End]);
    let began = Instant::now();
    let text = screen(&state, 160, 50);
    let took = began.elapsed();
    println!("a screen of 1000 ports took {took:?}");
    assert!(text.contains("vm0 ") && height(&state) > 1000, "{text}");
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[test]
fn figures_have_three_digits() {
    assert_eq!(
        ["0", "<1", "999", "1.00 k", "12.3 k"].map(str::to_owned),
        [0.0, 0.4, 999.0, 999.9, 12_345.0].map(count)
    );
    assert_eq!(bits(125_000_000.0), "1.00 Gb/s");
    assert_eq!(bits(0.0), "0 b/s");
}
