//! Who captures what: the capture points of the ports, the captures that run, and the end that the reader holds.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::expression::FilterError;
use super::filter::Filter;
use super::queue::{Interface, Queue, Record};

/// Most captures at once; each may hold [`super::QUEUE_BYTES_MAX`].
pub const CAPTURES_MAX: usize = 8;
/// Most bytes kept of a frame: what Wireshark takes, and more than a frame has.
const SNAP_LEN_MAX: u32 = 262_144;

/// What to capture.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureRequest {
    /// Names of ports; empty: all.
    pub ports: Vec<String>,
    /// Bytes kept of each frame; 0: all.
    pub snap_len: u32,
    /// Expression that frames must match, see [`Filter`]; empty: all.
    pub filter: String,
    /// Only frames that are dropped.
    pub drops_only: bool,
    /// Frames a second that are taken from the queue at most; 0: as many as the reader can. What a reader takes costs
    /// processor time that the workers may need.
    pub rate_max: u32,
}

/// Which way a frame goes, seen from the switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the port into the switch.
    Ingress,
    /// From the switch to the port.
    Egress,
}

/// Why a capture was not started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaptureError {
    /// A port that the request names does not exist.
    #[error("there is no port {0:?}")]
    UnknownPort(String),
    /// The filter expression makes no sense.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// [`CAPTURES_MAX`] captures run.
    #[error("{CAPTURES_MAX} captures are running, and that is the most at once")]
    TooMany,
}

/// A frame as a port sees it.
#[derive(Clone, Copy, Debug)]
pub struct Sighting<'a> {
    /// When, in nanoseconds since 1970-01-01 00:00 UTC.
    pub at_ns: u64,
    /// Which way it goes.
    pub direction: Direction,
    /// Why it is dropped, by the name that counters use; `None` if it is not.
    pub reason: Option<&'static str>,
    /// The frame's first bytes, from its Ethernet header on, in private memory. The filter looks at these alone, and the
    /// capture shows these, so a guest that changes its memory meanwhile is shown as it was judged.
    pub head: &'a [u8],
    /// Length of the whole frame in bytes.
    pub frame_len: u32,
}

/// The place where a port's frames can be captured.
#[derive(Debug)]
pub struct CapturePoint {
    name: String,
    description: String,
    on: AtomicBool,
    sinks: ArcSwap<Vec<Sink>>,
}

impl CapturePoint {
    /// Whether anything is captured here. One relaxed load; ask once a burst.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Relaxed)
    }

    /// Gives the frame to every capture that wants it. `copy` fills its argument with the frame's first bytes; it is
    /// called at most once for each capture, and only if more is wanted than [`Sighting::head`] has. Never waits.
    pub fn offer(&self, sighting: &Sighting<'_>, copy: impl Fn(&mut [u8])) {
        for sink in self.sinks.load().iter() {
            sink.offer(sighting, &copy);
        }
    }

    fn set_sinks(&self, sinks: Vec<Sink>) {
        let on = !sinks.is_empty();
        self.sinks.store(Arc::new(sinks));
        self.on.store(on, Relaxed);
    }
}

/// Where a port's frames go within one capture.
#[derive(Clone, Debug)]
struct Sink {
    capture: Arc<Capture>,
    interface: Arc<Interface>,
    index: u32,
}

impl Sink {
    fn offer(&self, sighting: &Sighting<'_>, copy: impl Fn(&mut [u8])) {
        let capture = &*self.capture;
        if capture.drops_only && sighting.reason.is_none() {
            return;
        }
        let head = sighting.head;
        if !capture.filter.matches(head, sighting.frame_len) {
            return;
        }
        let len = sighting.frame_len.min(capture.snap_len) as usize;
        let Some(room) = capture.queue.room(len) else { return self.interface.miss() };
        let mut data = room.buffer(len);
        if len > head.len() {
            copy(&mut data);
        }
        data.iter_mut().zip(head).for_each(|(byte, seen)| *byte = *seen);
        let pushed = room.push(Record {
            at_ns: sighting.at_ns,
            interface: self.index,
            direction: sighting.direction,
            reason: sighting.reason,
            frame_len: sighting.frame_len,
            missed: self.interface.missed(),
            data,
        });
        if !pushed {
            self.interface.miss();
        }
    }
}

/// What the sinks and the reader of a capture share.
#[derive(Debug)]
struct Capture {
    /// Names of ports; empty: all.
    ports: Vec<String>,
    filter: Filter,
    snap_len: u32,
    drops_only: bool,
    rate_max: u32,
    queue: Queue,
    /// Only ever grows: a record names its interface by its place.
    interfaces: Mutex<Vec<Arc<Interface>>>,
}

impl Capture {
    fn wants(&self, port: &str) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|name| name == port)
    }

    /// A sink for the port in front of the point, as another interface of this capture.
    fn sink(self: &Arc<Self>, point: &CapturePoint) -> Sink {
        let interface = Arc::new(Interface::new(&point.name, &point.description));
        let mut interfaces = self.interfaces.lock();
        let index = interfaces.len() as u32;
        interfaces.push(Arc::clone(&interface));
        Sink { capture: Arc::clone(self), interface, index }
    }
}

/// All capture points of a plane, and the captures that run. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Captures {
    registry: Arc<Mutex<Registry>>,
}

#[derive(Debug, Default)]
struct Registry {
    points: Vec<Weak<CapturePoint>>,
    running: Vec<Weak<Capture>>,
}

impl Registry {
    fn points(&mut self) -> Vec<Arc<CapturePoint>> {
        self.points.retain(|point| point.strong_count() > 0);
        self.points.iter().filter_map(Weak::upgrade).collect()
    }

    fn running(&mut self) -> Vec<Arc<Capture>> {
        self.running.retain(|capture| capture.strong_count() > 0);
        self.running.iter().filter_map(Weak::upgrade).collect()
    }
}

impl Captures {
    /// A capture point for a port; `description` says what the port is, such as `vhost-user /run/ringway/web.sock`.
    /// Captures that run and name this port, or all ports, go on here. Dropping the point takes it out.
    pub fn point(&self, name: &str, description: &str) -> Arc<CapturePoint> {
        let point = Arc::new(CapturePoint {
            name: name.into(),
            description: description.into(),
            on: AtomicBool::new(false),
            sinks: ArcSwap::default(),
        });
        let mut registry = self.registry.lock();
        let running = registry.running();
        point.set_sinks(
            running
                .iter()
                .filter(|capture| capture.wants(name))
                .map(|capture| capture.sink(&point))
                .collect(),
        );
        registry.points.push(Arc::downgrade(&point));
        point
    }

    /// Starts a capture. It runs until what is returned is dropped.
    pub fn start(&self, request: &CaptureRequest) -> Result<CaptureStream, CaptureError> {
        let filter: Filter = request.filter.parse()?;
        let mut registry = self.registry.lock();
        if registry.running().len() >= CAPTURES_MAX {
            return Err(CaptureError::TooMany);
        }
        let points = registry.points();
        let known = |name: &String| points.iter().any(|point| point.name == *name);
        if let Some(name) = request.ports.iter().find(|name| !known(name)) {
            return Err(CaptureError::UnknownPort(name.clone()));
        }
        let snap_len = match request.snap_len {
            0 => SNAP_LEN_MAX,
            some => some.min(SNAP_LEN_MAX),
        };
        let capture = Arc::new(Capture {
            ports: request.ports.clone(),
            filter,
            snap_len,
            drops_only: request.drops_only,
            rate_max: request.rate_max,
            queue: Queue::new(),
            interfaces: Mutex::default(),
        });
        for point in points.iter().filter(|point| capture.wants(&point.name)) {
            let mut sinks = point.sinks.load().as_ref().clone();
            sinks.push(capture.sink(point));
            point.set_sinks(sinks);
        }
        registry.running.push(Arc::downgrade(&capture));
        Ok(CaptureStream { capture, captures: self.clone() })
    }
}

/// A running capture, as its reader holds it. Dropping it ends the capture.
#[derive(Debug)]
pub struct CaptureStream {
    capture: Arc<Capture>,
    captures: Captures,
}

impl CaptureStream {
    /// Frames that matched and did not fit the queue because the reader was too slow, or above its rate.
    pub fn missed(&self) -> u64 {
        self.capture.interfaces.lock().iter().fold(0, |sum, interface| sum.saturating_add(interface.missed()))
    }

    /// Waits until there are records: at once if some wait, else some hundredths of a second after the first. For one
    /// reader only; needs a tokio runtime with time enabled. Dropping the future loses nothing.
    pub async fn ready(&self) {
        self.capture.queue.ready().await;
    }

    /// The record that has waited longest, if one waits.
    pub fn take(&self) -> Option<Record> {
        self.capture.queue.pop()
    }

    /// Gives back the bytes of a record that was taken, so that workers need no fresh memory. Need not be called.
    pub fn recycle(&self, data: Vec<u8>) {
        self.capture.queue.recycle(data);
    }

    /// Expression that frames must match; empty: all.
    pub fn filter(&self) -> &Filter {
        &self.capture.filter
    }

    /// Most bytes kept of a frame.
    pub fn snap_len(&self) -> u32 {
        self.capture.snap_len
    }

    /// The time that so many frames are worth, as [`CaptureRequest::rate_max`] says.
    pub(super) fn time_of(&self, frames: u32) -> Duration {
        match self.capture.rate_max {
            0 => Duration::ZERO,
            rate => Duration::from_secs(1) * frames / rate,
        }
    }

    /// Interfaces from number `first` on.
    pub(super) fn interfaces_from(&self, first: usize) -> Vec<Arc<Interface>> {
        self.capture.interfaces.lock().iter().skip(first).cloned().collect()
    }

    #[cfg(test)]
    pub(super) fn load(&self) -> (usize, usize) {
        self.capture.queue.load()
    }
}

impl Drop for CaptureStream {
    fn drop(&mut self) {
        let mut registry = self.captures.registry.lock();
        for point in registry.points() {
            let mut sinks = point.sinks.load().as_ref().clone();
            sinks.retain(|sink| !Arc::ptr_eq(&sink.capture, &self.capture));
            point.set_sinks(sinks);
        }
        registry.running.retain(|running| !std::ptr::eq(running.as_ptr(), Arc::as_ptr(&self.capture)));
    }
}
