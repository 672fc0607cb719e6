//! What the fuzz target `pci_registers` runs, so that tests can run it too: any accesses to any function, and
//! a host that checks what it is asked.

use std::collections::BTreeSet;
use transport::pci::features::{F_ADMIN_VQ, F_RING_PACKED, F_VERSION_1};
use transport::pci::{Cause, Description, Effect, Function, Interface, Line, NotifyKind, Space, SrIov};
use virtqueue::{Endian, QueueSize};

const QUEUES: u16 = 3;
const CONFIG_LEN: usize = 10;
/// Steps that can wait at most: two for each queue, 32 writes to the configuration, one of each other kind.
const WAITING_MAX: usize = 2 * (QUEUES as usize + 1) + 32 + 8;

/// Bytes of one operation: kind, space, offset (2), value (4).
#[allow(dead_code, reason = "tests make operations")]
pub(crate) const OPERATION_LEN: usize = 8;

fn description(kind: u8) -> Description {
    let legacy = kind & 3 == 2;
    let when = |bit: u8| kind & bit != 0 && !legacy;
    Description {
        device_type: 1,
        class: 0x02_0000,
        interface: [Interface::Modern, Interface::Transitional, Interface::Legacy, Interface::Modern]
            [usize::from(kind & 3)],
        notify: vec![NotifyKind::Mmio, NotifyKind::Pio],
        mapped: when(32),
        notification_data: when(8),
        msix: kind & 4 != 0,
        features: 0x3000_0021 | F_RING_PACKED,
        queue_size_max: vec![QueueSize::try_from(64).expect("64"); usize::from(QUEUES)],
        admin_queue: when(16).then_some(QueueSize::MAX),
        config: vec![7; CONFIG_LEN],
        endian: Endian::Little,
        shared_memory: vec![],
        vendor: None,
        sr_iov: when(64).then_some(SrIov { total_vfs: 7 }),
    }
}

/// The host, and what it believes.
struct Host {
    function: Function,
    offered: u128,
    legacy: bool,
    /// Granted features.
    granted: Option<u128>,
    running: BTreeSet<u16>,
    in_hand: Option<Effect>,
    status: u8,
}

/// `bytes` is the kind of function and a list of operations. Nothing panics, and:
///
/// * rings start with granted features only, once, and no effect names one that does not run;
/// * a granted set is a subset of the offer;
/// * status bits stay until a reset is finished;
/// * what waits for the host is bounded; interrupts go to vectors of the table.
pub(crate) fn pci_registers(bytes: &[u8]) {
    let Some((kind, operations)) = bytes.split_first() else { return };
    let mut host = Host::new(*kind);
    for operation in operations.chunks_exact(OPERATION_LEN) {
        host.operate(operation);
        host.check();
    }
    host.drain();
    host.check();
}

impl Host {
    fn new(kind: u8) -> Self {
        let description = description(kind);
        let legacy = description.interface == Interface::Legacy;
        let mut function = Function::new(description).expect("a sound description");
        let offered = if legacy { 0 } else { offered(&mut function) };
        Self { function, offered, legacy, granted: None, running: BTreeSet::new(), in_hand: None, status: 0 }
    }

    fn operate(&mut self, operation: &[u8]) {
        let &[kind, space, low, high, ref value @ ..] = operation else { return };
        let width = [1, 2, 4, 4][usize::from(kind >> 4 & 3)];
        let bar = Space::Bar(space);
        let offset = u64::from(high) << 12 | u64::from(low);
        let config_offset = u64::from(high & 15) << 8 | u64::from(low);
        let mut out = vec![0xaa; usize::from(kind >> 4)];
        match kind & 15 {
            0..=5 => self.function.write(bar, offset, &value[..width]),
            6 => self.function.read(bar, offset, &mut out[..]),
            7 => self.function.read(bar, offset, &mut [0xaa; 4][..width]),
            8 => self.function.write(Space::Config, config_offset, &value[..width]),
            9 => self.function.read(Space::Config, config_offset, &mut out[..]),
            10 => self.take(),
            11 => self.finish(space & 1 == 0),
            12 => self.drain(),
            13 if space & 4 != 0 => self.admin(value),
            13 => self.device(space, value[0]),
            14 => self.function.reset(),
            _ => self.function.write(bar, offset, &out),
        }
    }

    fn device(&mut self, what: u8, value: u8) {
        let line = match what & 3 {
            0 => self.function.interrupt(Cause::Queue(u16::from(value))),
            1 => self.function.interrupt(Cause::Config),
            2 => self.function.needs_reset(),
            _ => {
                self.function.set_config(&vec![value; usize::from(value)]);
                None
            }
        };
        match line {
            Some(Line::Msix(vector)) => assert!(vector < self.function.msix_vectors()),
            Some(Line::Intx) => assert!(self.function.intx_pending()),
            None => {}
        }
    }

    /// A command with an opcode, a group, an object's id and one small value wherever some command has one.
    fn admin(&mut self, value: &[u8]) {
        let mut command = [0; 64];
        command[0] = value[0] & 0x1f;
        command[2] = value[1] & 1;
        if command[0] == 1 {
            command[24..32].copy_from_slice(&0x3_ff83u64.to_le_bytes());
        } else {
            command[28] = value[2];
            for at in [32, 33, 40] {
                command[at] = value[3];
            }
            if command[0] == 0x11 {
                command[24] = value[3];
            }
        }
        let writable = usize::from(value[1]);
        assert!(self.function.admin_command(&command, writable).len() <= writable);
    }

    fn take(&mut self) {
        let effect = self.function.next_effect();
        if self.in_hand.is_some() {
            assert!(effect.is_none(), "one at a time");
            return;
        }
        if let Some(effect) = effect {
            self.check_effect(&effect);
            self.in_hand = Some(effect);
        }
    }

    fn check_effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Features { acknowledged } => {
                let modern = acknowledged & F_VERSION_1 != 0;
                assert!(if modern { acknowledged & !self.offered == 0 } else { acknowledged >> 32 == 0 });
            }
            Effect::QueueStart(start) => {
                let granted = self.granted.expect("granted features");
                let setup = &start.setup;
                assert!(self.running.insert(start.index), "once");
                assert_eq!(start.legacy, granted & F_VERSION_1 == 0);
                assert_eq!(setup.features.packed, granted & F_RING_PACKED != 0);
                assert!(setup.features.packed || setup.size.get().is_power_of_two());
                let admin = start.index == QUEUES;
                assert!(start.index < QUEUES || admin && granted & F_ADMIN_VQ != 0);
                assert!(admin || setup.size.get() <= 64);
            }
            Effect::QueueStop { index } => assert!(self.running.contains(index)),
            Effect::DriverOk => assert!(self.granted.is_some()),
            Effect::Reset => assert!(self.running.is_empty()),
            Effect::ConfigWrite { offset, bytes } => {
                assert!(matches!(bytes.len(), 1 | 2 | 4));
                assert!(*offset as usize + bytes.len() <= CONFIG_LEN);
            }
            Effect::Notify { index, .. } => assert!(self.running.contains(index)),
            Effect::CallsChanged => self.check_lines(),
            Effect::DeviceMode { .. } | Effect::Interrupt(_) => {}
        }
    }

    fn check_lines(&self) {
        let causes = (0..=QUEUES + 1).map(Cause::Queue).chain([Cause::Config]);
        for cause in causes {
            if let Some(Line::Msix(vector)) = self.function.call_line(cause) {
                assert!(vector < self.function.msix_vectors());
            }
        }
    }

    fn finish(&mut self, accepted: bool) {
        self.function.finish(accepted);
        match self.in_hand.take() {
            Some(Effect::Features { acknowledged }) if accepted => self.granted = Some(acknowledged),
            Some(Effect::QueueStart(start)) if !accepted => assert!(self.running.remove(&start.index)),
            Some(Effect::QueueStop { index }) => assert!(self.running.remove(&index)),
            Some(Effect::Reset) => {
                self.granted = None;
                if self.status() == 0 {
                    self.status = 0;
                }
            }
            _ => {}
        }
    }

    fn drain(&mut self) {
        for _ in 0..WAITING_MAX {
            self.finish(true);
            self.take();
            if self.in_hand.is_none() {
                return;
            }
        }
        panic!("more than {WAITING_MAX} effects");
    }

    fn status(&mut self) -> u8 {
        let mut status = [0];
        let (bar, offset) = if self.legacy { (0, 18) } else { (4, 0x14) };
        self.function.read(Space::Bar(bar), offset, &mut status);
        status[0]
    }

    fn check(&mut self) {
        let status = self.status();
        assert_eq!(status & (16 | 32), 0);
        assert_eq!(self.status & !status, 0, "bits only go by a reset");
        self.status = status;
        if self.function.is_driver_ok() {
            assert!(status & 4 != 0);
        }
        let mut id = [0; 4];
        self.function.read(Space::Config, 0, &mut id);
        assert_eq!(id[..2], [0xf4, 0x1a]);
    }
}

/// What a modern driver is offered, read as it would.
fn offered(function: &mut Function) -> u128 {
    let mut offered = 0;
    for select in 0..4u32 {
        let mut word = [0; 4];
        function.write(Space::Bar(4), 0, &select.to_le_bytes());
        function.read(Space::Bar(4), 4, &mut word);
        offered |= u128::from(u32::from_le_bytes(word)) << (32 * select);
    }
    offered
}
