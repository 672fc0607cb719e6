//! One embedded guest: a thread with a network card, a TCP/IP stack and things to do.
//!
//! The thread lets the stack work until nothing happens, then sleeps on one eventfd, which the device writes
//! as its call and the scenario writes when it has a new task.

use super::nic::{Nic, Resolved};
use super::task::{Step, Task};
use crate::embedded::rings::{RingCounters, Rings, Shape};
use crate::embedded::sleeper::Sleeper;
use anyhow::{Context, Result, anyhow};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use vmm_sys_util::eventfd::EventFd;

/// Longest sleep in milliseconds: tasks look at their deadlines this often.
const SLEEP_MAX_MS: u64 = 20;
/// Bits of the guests' network prefix.
const PREFIX_LEN: u8 = 24;

/// Who a guest is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) name: &'static str,
    pub(super) mac: [u8; 6],
    pub(super) address: Ipv4Addr,
}

/// What a guest works with while a task runs.
pub(super) struct Stack {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) nic: Nic,
}

/// What a guest knows at its end.
#[derive(Clone, Debug)]
pub(super) struct Farewell {
    pub(super) counters: RingCounters,
    pub(super) fault: Option<String>,
}

/// What the scenario can ask of a guest.
enum Order {
    Run(Box<dyn Task>),
    Resolved(Ipv4Addr, mpsc::Sender<Option<Resolved>>),
    Stop(mpsc::Sender<Farewell>),
}

/// A running guest, held by the scenario.
pub(super) struct Guest {
    pub(super) identity: Identity,
    orders: mpsc::Sender<Order>,
    bell: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Guest {
    /// Attaches to the port behind `socket` and starts the guest's thread.
    pub(super) fn start(identity: Identity, socket: &Path) -> Result<Self> {
        let bell =
            Arc::new(EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).context("making an eventfd")?);
        let rings = Rings::attach(socket, &bell, Shape::STACK)
            .with_context(|| format!("attaching {}", identity.name))?;
        let (orders, inbox) = mpsc::channel();
        let stack = stack(identity, Nic::new(rings))?;
        let sleeper = Sleeper::new(Arc::clone(&bell))?;
        let thread = std::thread::Builder::new()
            .name(format!("demo-{}", identity.name))
            .spawn(move || live(stack, &inbox, &sleeper))
            .context("starting a guest's thread")?;
        Ok(Self { identity, orders, bell, thread: Some(thread) })
    }

    /// Gives the guest something to do; the task reports in its own way.
    pub(super) fn run(&self, task: impl Task + 'static) -> Result<()> {
        self.order(Order::Run(Box::new(task)))
    }

    /// How the guest came to know `target`'s MAC address, if it asked.
    pub(super) fn resolved(&self, target: Ipv4Addr) -> Result<Option<Resolved>> {
        let (reply, answer) = mpsc::channel();
        self.order(Order::Resolved(target, reply))?;
        answer.recv().map_err(|_| self.gone())
    }

    /// Detaches and ends the thread.
    pub(super) fn stop(mut self) -> Result<Farewell> {
        let (reply, answer) = mpsc::channel();
        self.order(Order::Stop(reply))?;
        let farewell = answer.recv().map_err(|_| self.gone())?;
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| self.gone())?;
        }
        Ok(farewell)
    }

    fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| self.gone())?;
        self.bell.write(1).context("waking a guest")
    }

    fn gone(&self) -> anyhow::Error {
        anyhow!("guest {} has ended", self.identity.name)
    }
}

fn stack(identity: Identity, mut nic: Nic) -> Result<Stack> {
    let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(identity.mac)));
    config.random_seed = u64::from(identity.mac[5]) + 1;
    let mut interface = Interface::new(config, &mut nic, Instant::now());
    let mut added = Ok(());
    interface.update_ip_addrs(|addresses| {
        added = addresses.push(IpCidr::new(identity.address.into(), PREFIX_LEN));
    });
    added.map_err(|_| anyhow!("no room for an address"))?;
    Ok(Stack { interface, sockets: SocketSet::new(Vec::new()), nic })
}

/// The guest's loop.
fn live(mut stack: Stack, inbox: &mpsc::Receiver<Order>, sleeper: &Sleeper) {
    let mut tasks: Vec<Box<dyn Task>> = Vec::new();
    loop {
        loop {
            match inbox.try_recv() {
                Ok(Order::Run(task)) => tasks.push(task),
                Ok(Order::Resolved(target, reply)) => {
                    // The scenario may have stopped listening; that is its affair.
                    let _ = reply.send(stack.nic.resolved(target));
                }
                Ok(Order::Stop(reply)) => {
                    stack.nic.rings_mut().detach();
                    let rings = stack.nic.rings();
                    let _ = reply
                        .send(Farewell { counters: rings.counters, fault: rings.fault().map(str::to_owned) });
                    return;
                }
                Err(mpsc::TryRecvError::Empty) => break,
                Err(mpsc::TryRecvError::Disconnected) => return,
            }
        }
        let mut busy = turn(&mut stack);
        tasks.retain_mut(|task| {
            let step = task.step(&mut stack);
            busy |= step == Step::Moved;
            step != Step::Done
        });
        busy |= turn(&mut stack);
        if !busy {
            sleep(&mut stack, sleeper);
        }
    }
}

/// Lets the stack take and send what it can; true when a socket may have changed.
fn turn(stack: &mut Stack) -> bool {
    let result = stack.interface.poll(Instant::now(), &mut stack.nic, &mut stack.sockets);
    stack.nic.rings_mut().flush();
    result != PollResult::None
}

fn sleep(stack: &mut Stack, sleeper: &Sleeper) {
    let delay = stack.interface.poll_delay(Instant::now(), &stack.sockets);
    let blocked = !stack.nic.rings_mut().has_slot();
    let delay_ms = delay.map_or(SLEEP_MAX_MS, |delay| delay.total_micros().div_ceil(1000));
    let delay_ms = if blocked { SLEEP_MAX_MS } else { delay_ms.min(SLEEP_MAX_MS) };
    if delay_ms > 0 && stack.nic.rings_mut().begin_sleep() {
        sleeper.sleep(delay_ms as i32);
    }
    stack.nic.rings_mut().end_sleep();
}
