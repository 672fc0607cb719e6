//! Whole functions over vfio-user with a driver of our own: which queue is which, what the administration queue does, doorbells
//! that carry data.

mod card;
mod station;

use card::{
    ADMIN_VQ, Card, NEEDS_RESET, NOTIF_CONFIG_DATA, NOTIFICATION_DATA, VERSION_1, card_frame, common,
};
use devices::net::Features;
use station::{BROADCAST, Lab, MAC_A, MAC_B, Station, frame, plain};

const POOL: &str = "mode = \"pool\"\nthreads = 1";
const CTRL: Features = Features::CTRL_VQ.union(Features::CTRL_RX).union(Features::CTRL_MAC_ADDR);

/// Two ports: `card` is a function with these further keys, `b` a front-end's.
fn lab(more: &str) -> Lab {
    let card = format!(
        "[port.card]\nswitch = \"lan\"\nprofile = \"open\"\nvfio-user = {{ socket = \"DIR/card.sock\"{more} }}\n"
    );
    Lab::with(POOL, &format!("{card}{}", Lab::port("b", "")))
}

fn bits(features: Features) -> u128 {
    VERSION_1 | u128::from(features.bits())
}

/// Frames both ways between the card's first pair and a station.
fn exchange(card: &mut Card, queues: &mut [card::Queue; 2], station: &mut Station, rounds: u32) {
    let [receive, transmit] = queues;
    for round in 0..rounds {
        let there = card_frame(if round == 0 { BROADCAST } else { MAC_B }, &round.to_be_bytes());
        card.send(transmit, &there);
        assert_eq!(station.receive_from(MAC_A), there, "round {round}");
        let back = frame(MAC_A, MAC_B, &round.to_be_bytes(), 64);
        station.send(&back);
        assert_eq!(card.receive(receive), back, "round {round}");
    }
}

/// The control queue of a device of several pairs is behind those that its driver can use (virtio 1.3 §5.1.2).
#[test]
fn without_mq_the_control_queue_is_the_third() {
    for (pairs, more, index) in
        [(4, Features::empty(), 2), (4, Features::MQ, 8), (1, Features::empty(), 2), (1, Features::MQ, 2)]
    {
        let lab = lab(&format!(", queue-pairs = {pairs}"));
        let mut card = Card::connect(&lab.socket("card"));
        let mut b = Station::connect(&lab.socket("b"), plain());
        card.negotiate(bits(CTRL | Features::MRG_RXBUF | more));
        let mut queues = [0, 1].map(|index| card.start(index));
        let mut control = card.start(index);
        assert_eq!(card.ready(), 15, "{pairs} pairs, {more:?}");
        card.fill(&mut queues[0]);
        exchange(&mut card, &mut queues, &mut b, 5);
        // MAC_ADDR_SET, not promiscuous: only its own frames arrive then.
        let request = [&[1, 1][..], &MAC_A].concat();
        assert_eq!(card.ask(&mut control, &request, 1), [0], "{pairs} pairs, {more:?}");
        assert_eq!(card.ask(&mut control, &[0, 0, 0], 1), [0]);
        card.await_call(&control);
        let several = if more.is_empty() { 1 } else { 0 };
        assert_eq!(card.ask(&mut control, &[4, 0, 1, 0], 1), [several], "a number of pairs needs MQ");
        b.send(&frame([2, 0, 0, 0, 0, 0x99], MAC_B, b"for a stranger", 60));
        lab.until("card", |view| view.counters.drops.get("receiver-filter") == Some(&1));
        exchange(&mut card, &mut queues, &mut b, 5);
    }
}

/// A driver without MQ has no queue where one with it has its control queue; after a reset it can have the other.
#[test]
fn a_queue_that_the_features_do_not_have_is_refused() {
    let lab = lab(", queue-pairs = 4");
    let mut card = Card::connect(&lab.socket("card"));
    for (more, index, status) in [
        (Features::empty(), 8, 11 | NEEDS_RESET),
        (Features::MQ, 8, 11),
        (Features::empty(), 8, 11 | NEEDS_RESET),
        (Features::empty(), 2, 11),
    ] {
        card.negotiate(bits(CTRL | more));
        card.start(index);
        assert_eq!(card.status(), status, "{more:?}, queue {index}");
        assert_eq!(card.read16(common::QUEUE_ENABLE) == 1, status == 11);
    }
}

/// What a driver puts into a queue before it is ready waits for that (virtio 1.4 §3.1.1).
#[test]
fn a_frame_that_is_early_is_sent_when_the_driver_is_ready() {
    let lab = lab("");
    let mut b = Station::connect(&lab.socket("b"), plain());
    let mut card = Card::connect(&lab.socket("card"));
    card.negotiate(bits(Features::MRG_RXBUF));
    let mut queues = [0, 1].map(|index| card.start(index));
    let early = card_frame(BROADCAST, b"early");
    card.send(&mut queues[1], &early);
    card.fill(&mut queues[0]);
    assert!(b.poll().is_none());
    assert_eq!(card.ready(), 15);
    assert_eq!(b.receive_from(MAC_A), early);
    exchange(&mut card, &mut queues, &mut b, 3);
}

const LIST_QUERY: u16 = 0x0;
const LIST_USE: u16 = 0x1;
const CAP_ID_LIST_QUERY: u16 = 0x7;
const DEVICE_CAP_GET: u16 = 0x8;
const DRIVER_CAP_SET: u16 = 0x9;
const RESOURCE_OBJ_CREATE: u16 = 0xa;
const DEV_PARTS_METADATA_GET: u16 = 0xe;
const DEV_PARTS_GET: u16 = 0xf;
const DEV_PARTS_SET: u16 = 0x10;
const DEV_MODE_SET: u16 = 0x11;

/// A command for the device itself, `struct virtio_admin_cmd` (virtio 1.4 §2.13); status, qualifier and result.
fn admin(card: &mut Card, queue: &mut card::Queue, opcode: u16, data: &[u8]) -> ((u16, u16), Vec<u8>) {
    let request = [&opcode.to_le_bytes()[..], &[0; 22], data].concat();
    let answer = card.ask(queue, &request, 4096);
    let word = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
    ((word(0), word(2)), answer[8..].to_vec())
}

/// As [`admin`], of a command that is carried out.
fn carried_out(card: &mut Card, queue: &mut card::Queue, opcode: u16, data: &[u8]) -> Vec<u8> {
    let (status, result) = admin(card, queue, opcode, data);
    assert_eq!(status, (0, 0), "command {opcode:#x}");
    result
}

/// A modern function of `pairs` pairs with its administration queue, and the first pair up.
fn administered(lab: &Lab, more: u128) -> (Card, [card::Queue; 2], card::Queue) {
    let mut card = Card::connect(&lab.socket("card"));
    card.negotiate(bits(CTRL | Features::MRG_RXBUF) | ADMIN_VQ | more);
    let index = card.read16(common::ADMIN_QUEUE_INDEX);
    assert_eq!((index, card.read16(common::ADMIN_QUEUE_NUM)), (card.read16(common::NUM_QUEUES), 1));
    let mut queues = [0, 1].map(|index| card.start(index));
    let queue = card.start(index);
    assert_eq!(card.ready(), 15);
    card.fill(&mut queues[0]);
    (card, queues, queue)
}

#[test]
fn the_administration_queue_lists_gets_and_sets() {
    for more in ["", ", queue-pairs = 3, interface = \"transitional\"", ", doorbells = \"mapped\""] {
        let lab = lab(&format!(", admin-queue = true{more}"));
        let (mut card, _, mut queue) = administered(&lab, 0);
        let supported = carried_out(&mut card, &mut queue, LIST_QUERY, &[]);
        card.await_call(&queue);
        assert_eq!(admin(&mut card, &mut queue, CAP_ID_LIST_QUERY, &[]).0, (22, 2), "not in use yet");
        carried_out(&mut card, &mut queue, LIST_USE, &supported);
        assert_eq!(carried_out(&mut card, &mut queue, CAP_ID_LIST_QUERY, &[])[0], 1, "device parts");
        let limits = carried_out(&mut card, &mut queue, DEVICE_CAP_GET, &[0; 8]);
        carried_out(&mut card, &mut queue, DRIVER_CAP_SET, &[&[0; 8][..], &limits].concat());
        // An object for getting, number 0; then all parts by it.
        carried_out(&mut card, &mut queue, RESOURCE_OBJ_CREATE, &[0; 24]);
        let size = carried_out(&mut card, &mut queue, DEV_PARTS_METADATA_GET, &[0; 16]);
        let parts = carried_out(&mut card, &mut queue, DEV_PARTS_GET, &[&[0; 8][..], &[1], &[0; 7]].concat());
        assert_eq!(size, (parts.len() as u64).to_le_bytes(), "{more}");
        // The first part are the features that are offered.
        assert_eq!(parts[..2], 0x100u16.to_le_bytes());
        assert_eq!(parts[16..32], card.offered().to_le_bytes());
        // A reset forgets it all.
        drop(card);
        let (mut card, _, mut queue) = administered(&lab, 0);
        assert_eq!(admin(&mut card, &mut queue, DEVICE_CAP_GET, &[0; 8]).0, (22, 2), "{more}");
    }
}

#[test]
fn a_driver_that_does_not_take_it_finds_no_administration_queue() {
    let lab = lab(", interface = \"transitional\", queue-pairs = 2, admin-queue = true");
    let mut card = Card::connect(&lab.socket("card"));
    assert_eq!((card.offered() & ADMIN_VQ, card.vectors()), (ADMIN_VQ, 7));
    card.negotiate(VERSION_1);
    assert_eq!(card.read::<4>(common::ADMIN_QUEUE_INDEX), [0; 4], "not acknowledged");
    card.write(common::QUEUE_SELECT, &5u16.to_le_bytes());
    card.write(common::QUEUE_ENABLE, &1u16.to_le_bytes());
    assert_eq!(
        (card.read16(common::QUEUE_SIZE), card.read16(common::QUEUE_ENABLE), card.status()),
        (0, 0, 11)
    );
}

/// `DEV_MODE_SET` stops the device at once: what its driver sends waits, what comes for it is not put into its buffers, and all goes
/// on where it stood.
#[test]
fn a_device_that_is_stopped_touches_no_ring_until_it_is_resumed() {
    let lab = lab(", admin-queue = true");
    let mut b = Station::connect(&lab.socket("b"), plain());
    let (mut card, mut queues, mut queue) = administered(&lab, 0);
    let mut control = card.start(2);
    exchange(&mut card, &mut queues, &mut b, 3);
    let supported = carried_out(&mut card, &mut queue, LIST_QUERY, &[]);
    carried_out(&mut card, &mut queue, LIST_USE, &supported);
    for round in 0u32..3 {
        carried_out(&mut card, &mut queue, DEV_MODE_SET, &[1]);
        let sent = card_frame(MAC_B, &[b"late"[..].to_vec(), round.to_be_bytes().to_vec()].concat());
        let before = lab.view("card").counters.from_guest.frames;
        card.send(&mut queues[1], &sent);
        b.send(&frame(MAC_A, MAC_B, b"unwanted", 64));
        // Its own commands are answered all the while.
        carried_out(&mut card, &mut queue, LIST_QUERY, &[]);
        lab.until("card", |view| view.counters.drops.get("receiver-down") == Some(&u64::from(round + 1)));
        assert_eq!(lab.view("card").counters.from_guest.frames, before, "round {round}");
        assert!(queues[0].used().is_none() && b.poll().is_none());
        carried_out(&mut card, &mut queue, DEV_MODE_SET, &[0]);
        assert_eq!(b.receive_from(MAC_A), sent, "round {round}");
        assert_eq!(card.ask(&mut control, &[0, 0, 1], 1), [0]);
    }
}

/// A queue that was not set up yet is set up by its part while the device is stopped, and runs when it is resumed.
#[test]
fn a_queue_is_set_up_by_its_part() {
    let lab = lab(", queue-pairs = 2, admin-queue = true");
    let (mut card, _, mut queue) = administered(&lab, 0);
    for (opcode, data) in [
        (LIST_USE, 0x3_ff83u64.to_le_bytes().to_vec()),
        (DRIVER_CAP_SET, [0, 0, 0, 0, 0, 0, 0, 0, 4, 4].to_vec()),
    ] {
        carried_out(&mut card, &mut queue, opcode, &data);
    }
    // An object for setting, number 0.
    carried_out(&mut card, &mut queue, RESOURCE_OBJ_CREATE, &[&[0; 16][..], &[1], &[0; 7]].concat());
    // `struct virtio_dev_part_vq_cfg` of queue 3: 16 entries, no vector, enabled, its areas.
    let words = [16u16, 0xffff, 1, 0].map(u16::to_le_bytes).concat();
    let areas = [0x180_0000u64, 0x180_1000, 0x180_2000].map(u64::to_le_bytes).concat();
    let header = [&0x104u16.to_le_bytes()[..], &[0, 0], &3u64.to_le_bytes(), &32u32.to_le_bytes()].concat();
    let parts = [&[0; 8][..], &header, &words, &areas].concat();
    assert_eq!(admin(&mut card, &mut queue, DEV_PARTS_SET, &parts).0, (22, 1), "not stopped");
    carried_out(&mut card, &mut queue, DEV_MODE_SET, &[1]);
    carried_out(&mut card, &mut queue, DEV_PARTS_SET, &parts);
    assert_eq!(lab.view("card").queues.len(), 2, "it starts with the device");
    carried_out(&mut card, &mut queue, DEV_MODE_SET, &[0]);
    lab.until("card", |view| view.queues.iter().any(|queue| (queue.index, queue.size) == (3, 16)));
}

/// Where doorbells are messages in memory they carry data: which queue, by the number that the device gave it, and where the driver
/// is.
#[test]
fn doorbells_carry_data_where_somebody_reads_them() {
    for (more, offered) in [
        ("", true),
        (", interface = \"transitional\"", true),
        (", doorbells = \"mapped\"", false),
        (", notify = [\"pio\"]", false),
        (", notify = [\"mmio\", \"pio\"]", false),
    ] {
        let lab = lab(more);
        let mut card = Card::connect(&lab.socket("card"));
        let data = NOTIFICATION_DATA | NOTIF_CONFIG_DATA;
        assert_eq!(card.offered() & data, if offered { data } else { 0 }, "{more}");
        assert_eq!(card.offered() & ADMIN_VQ, 0, "only where it is asked for");
    }
    for data in [0, NOTIFICATION_DATA, NOTIF_CONFIG_DATA, NOTIFICATION_DATA | NOTIF_CONFIG_DATA] {
        let lab = lab(", admin-queue = true");
        let mut b = Station::connect(&lab.socket("b"), plain());
        let (mut card, mut queues, mut queue) = administered(&lab, data);
        exchange(&mut card, &mut queues, &mut b, 200);
        // Nobody looks at this queue without its doorbell.
        for _ in 0..5 {
            carried_out(&mut card, &mut queue, LIST_QUERY, &[]);
        }
    }
}
