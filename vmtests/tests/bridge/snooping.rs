//! IGMP and MLD: who hears a group, next to the kernel's snooping with the same querier and the same hosts.

use crate::frames::{Mac, group4, igmp, igmp3, mld, numbered, udp4, udp6};
use crate::twins::Twins;
use anyhow::ensure;
use std::time::Duration;
use vmtests::harness::Scene;

const ROUTER: [u8; 4] = [10, 0, 0, 9];
const ALL_HOSTS: [u8; 4] = [224, 0, 0, 1];
const ALL_ROUTERS: [u8; 4] = [224, 0, 0, 2];
const G1: [u8; 4] = [239, 1, 2, 3];
const G2: [u8; 4] = [239, 1, 2, 4];
const NOBODY: [u8; 4] = [239, 9, 9, 9];

const QUERY: u8 = 0x11;
const REPORT: u8 = 0x16;
const LEAVE: u8 = 0x17;

fn station(port: u8) -> Mac {
    [2, 4, 0, 0, 0, port]
}

fn address(port: usize) -> [u8; 4] {
    [10, 0, 0, port as u8 + 1]
}

/// A test's scene with the numbers of its frames.
struct Game<'a> {
    twins: Twins,
    scene: &'a Scene<'a>,
    number: u32,
    /// What the two do not do the same.
    found: Vec<String>,
}

impl<'a> Game<'a> {
    fn new(scene: &'a Scene<'a>) -> anyhow::Result<Self> {
        let mut twins = Twins::start(scene, "mcast_snooping 1 mcast_querier 0", "snooping = true", "")?;
        // The Linux bridge is a host itself: it answers queries for the groups that it listens to.
        twins.linux_says(|frame| frame[6..8] == [2, 4]);
        Ok(Self { twins, scene, number: 0, found: Vec::new() })
    }

    /// Where both must send a datagram from `p0` to a group.
    fn goes(&mut self, what: &str, group: [u8; 4], ports: &[usize]) -> anyhow::Result<()> {
        self.number += 1;
        let frame = udp4(group4(group), station(0), address(0), group, self.number);
        self.expect(what, 0, &frame, ports, ports)
    }

    fn goes6(&mut self, what: &str, group: [u8; 16], ports: &[usize]) -> anyhow::Result<()> {
        self.number += 1;
        self.expect(what, 0, &udp6(station(0), link(0), group, self.number), ports, ports)
    }

    fn expect(
        &mut self,
        what: &str,
        port: usize,
        frame: &[u8],
        linux: &[usize],
        ours: &[usize],
    ) -> anyhow::Result<()> {
        // Linux takes the padding off the packets that it snoops; there is none here that could differ.
        let length = match frame[12..14] {
            [8, 0] => 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]])),
            _ => frame.len(),
        };
        let outcome = self.twins.send(port, &frame[..length])?;
        self.number += 1;
        if outcome.ports() != (linux.to_vec(), ours.to_vec()) || (linux == ours && !outcome.is_same()) {
            let (theirs, own) = outcome.ports();
            let line = format!(
                "{what}: Linux {theirs:?}, Ringway {own:?}; wanted {linux:?}, {ours:?}: {}",
                outcome.trace
            );
            self.found.push(line);
        }
        Ok(())
    }

    /// Lets the times run out that a query began.
    fn wait(&self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn end(self) -> anyhow::Result<()> {
        self.scene.note(&format!("{} frames and messages compared", self.number));
        ensure!(self.found.is_empty(), "{}", self.found.join("\n"));
        Ok(())
    }
}

pub(crate) fn snooping4(scene: &Scene) -> anyhow::Result<()> {
    let mut game = Game::new(scene)?;
    let report = |port: usize, group| igmp(station(port as u8), address(port), group, REPORT, 0, group);
    let query = |group: Option<[u8; 4]>| {
        igmp(station(9), ROUTER, group.unwrap_or(ALL_HOSTS), QUERY, 1, group.unwrap_or_default())
    };
    game.goes("without a querier groups flood", G1, &[1, 2, 3])?;
    game.expect("a report without a querier", 1, &report(1, G1), &[0, 2, 3], &[0, 2, 3])?;
    game.goes("still without a querier", G1, &[1, 2, 3])?;
    game.expect("a query reaches all", 3, &query(None), &[0, 1, 2], &[0, 1, 2])?;
    // Both wait for the answers before they believe that they know all listeners.
    game.wait(400);
    game.expect("a report goes to the router alone", 1, &report(1, G1), &[3], &[3])?;
    game.goes("one listener, and the router", G1, &[1, 3])?;
    game.expect("another report", 2, &report(2, G1), &[3], &[3])?;
    game.goes("two listeners, and the router", G1, &[1, 2, 3])?;
    game.goes("local groups always flood", [224, 0, 0, 251], &[1, 2, 3])?;
    let other = numbered([1, 0x0c, 0xcd, 1, 2, 3], station(0), 7);
    game.expect("groups that are not IP flood", 0, &other, &[1, 2, 3], &[1, 2, 3])?;
    game.goes("a group without listeners", NOBODY, &[3])?;
    // Reports that other hosts need not hear, and leaves, are for routers alone (RFC 4541 §2.1.1); Linux floods them.
    game.expect("version 3 joins", 1, &igmp3(station(1), address(1), 4, G2), &[0, 2, 3], &[3])?;
    game.goes("by version 3", G2, &[1, 3])?;
    let leave = |port: usize, group| igmp(station(port as u8), address(port), ALL_ROUTERS, LEAVE, 0, group);
    game.expect("a leave goes to the router", 1, &leave(1, G1), &[0, 2, 3], &[3])?;
    game.goes("another host may still listen there", G1, &[1, 2, 3])?;
    game.expect("the router asks for the group", 3, &query(Some(G1)), &[0, 1, 2], &[0, 1, 2])?;
    game.expect("one host answers", 2, &report(2, G1), &[3], &[3])?;
    // Linux takes the time that the query says, Ringway two seconds from the leave on, whoever asks.
    game.wait(2300);
    game.goes("nobody answered there", G1, &[2, 3])?;
    game.twins.set(2, "multicast-fast-leave=true", "fastleave on")?;
    game.expect("a leave from a port with one host", 2, &leave(2, G1), &[0, 1, 3], &[3])?;
    game.goes("is believed at once", G1, &[3])?;
    game.twins.set(2, "multicast-flood=false", "mcast_flood off")?;
    game.goes("local groups and a port without groups", [224, 0, 0, 251], &[1, 3])?;
    game.expect("a listener there", 2, &report(2, G1), &[3], &[3])?;
    game.goes("is heard all the same", G1, &[2, 3])?;
    game.end()
}

fn link(port: u8) -> [u8; 16] {
    [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, port + 1]
}

pub(crate) fn snooping6(scene: &Scene) -> anyhow::Result<()> {
    const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    const ALL_ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    const G: [u8; 16] = [0xff, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3];
    let mut game = Game::new(scene)?;
    let report = |port: u8| mld(station(port), link(port), G, 131, 0, G);
    game.goes6("without a querier groups flood", G, &[1, 2, 3])?;
    let query = mld(station(9), link(9), ALL_NODES, 130, 100, [0; 16]);
    game.expect("a query reaches all", 3, &query, &[0, 1, 2], &[0, 1, 2])?;
    game.wait(400);
    game.expect("a report goes to the router alone", 1, &report(1), &[3], &[3])?;
    game.goes6("one listener, and the router", G, &[1, 3])?;
    game.goes6("all nodes always", ALL_NODES, &[1, 2, 3])?;
    let done = mld(station(1), link(1), ALL_ROUTERS, 132, 0, G);
    game.twins.set(1, "multicast-fast-leave=true", "fastleave on")?;
    game.expect("a host is done", 1, &done, &[0, 2, 3], &[3])?;
    game.goes6("and believed at once", G, &[3])?;
    game.end()
}
