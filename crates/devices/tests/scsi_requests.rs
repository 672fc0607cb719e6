//! Requests in real rings: a driver's side in ordinary memory, every layout of descriptors, and what comes back in used length,
//! residual and response.

mod scsi_rig;

use devices::scsi::virtio::config::{CDB_SIZE_DEFAULT, SENSE_SIZE_DEFAULT};
use devices::scsi::virtio::features::IMPLEMENTED;
use devices::scsi::virtio::request::{self, Run, ServiceResponse};
use devices::scsi::virtio::{
    Acknowledged, Address, Features, Format, Offered, Request, RequestFault, ScsiConfig,
};
use devices::scsi::{
    Begun, Buffers, Bytes, Cdb, Data, Ending, LogicalUnit, Reservations, SCRATCH_LEN, Sense, Step,
};
use devices::storage::Work;
use guestmem::{GuestAddr, GuestMemory, KeptRuns};
use proptest::prelude::*;
use scsi_rig::{cdb10, disk, nexus, pattern};
use std::sync::Arc;
use virtqueue::{Burst, DeviceQueue, DriverQueue, Endian, QueueSize, RingFeatures, RingState};

const BUFFERS: u64 = 1 << 20;
const UNIT: Address = Address::Unit { target: 3, lun: 5 };

fn format(features: Features, endian: Endian, sense_size: u32, cdb_size: u32) -> Format {
    let acknowledged = Acknowledged::new(Offered::new(Features::all()), features.bits()).unwrap();
    Format::new(acknowledged, endian, &ScsiConfig { sense_size, cdb_size, ..ScsiConfig::new(1, 126) })
}

fn modern(features: Features) -> Format {
    format(features | Features::VERSION_1, Endian::Big, SENSE_SIZE_DEFAULT, CDB_SIZE_DEFAULT)
}

/// A guest with one request queue and one unit with a disk.
struct Guest {
    memory: Arc<GuestMemory>,
    driver: DriverQueue,
    device: DeviceQueue,
    unit: LogicalUnit,
    bytes: Vec<u8>,
    format: Format,
}

/// What came back of a request: used length, and the whole writable part.
struct Returned {
    used: u32,
    bytes: Vec<u8>,
}

impl Returned {
    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(*self.bytes[at..].first_chunk().unwrap())
    }

    /// `sense_len`, `residual`, `status`, `response`.
    fn head(&self) -> (u32, u32, u8, u8) {
        assert_eq!(self.bytes[8..10], [0, 0], "status_qualifier");
        (self.word(0), self.word(4), self.bytes[10], self.bytes[11])
    }
}

impl Guest {
    fn new(format: Format) -> Self {
        let memory = Arc::new(GuestMemory::anonymous(GuestAddr(0), 8 << 20).unwrap());
        let size = QueueSize::try_from(256).unwrap();
        let ring = RingFeatures::default();
        let (driver, setup) = DriverQueue::setup(&memory, GuestAddr(4096), size, ring, None).unwrap();
        let start = RingState { avail: 0, avail_wrap: true, used: 0, used_wrap: true };
        let device = DeviceQueue::new(&memory, &setup, start).unwrap();
        let mut unit = LogicalUnit::new(disk(1024), &Reservations::default()).unwrap();
        unit.attach(nexus(0), devices::scsi::InitiatorId(1));
        unit.take_attention(nexus(0));
        Self { memory, driver, device, unit, bytes: pattern(1, 1024 * 512), format }
    }

    /// Cuts `len` bytes from `at` on into descriptors of the lengths given, the rest in one.
    fn cut(at: u64, len: usize, lens: &[u32]) -> Vec<(GuestAddr, u32)> {
        let (mut left, mut at, mut all) = (len as u32, at, Vec::new());
        for &piece in lens {
            if piece > 0 && piece < left {
                all.push((GuestAddr(at), piece));
                (at, left) = (at + u64::from(piece), left - piece);
            }
        }
        if left > 0 {
            all.push((GuestAddr(at), left));
        }
        all
    }

    /// Sends a request and lets the device serve it, its buffers borrowed or kept.
    fn send(&mut self, readable: &[u8], writable: usize, lens: &[u32], keeps: bool) -> Returned {
        let (to, from) = (GuestAddr(BUFFERS), GuestAddr(BUFFERS + (4 << 20)));
        self.memory.slice(to, readable.len()).unwrap().write(readable);
        self.memory.slice(from, writable).unwrap().fill(0xEE);
        let reads = Self::cut(to.0, readable.len(), lens);
        let writes = Self::cut(from.0, writable, lens);
        self.driver.add(&reads, &writes, 7).unwrap();
        self.driver.publish();
        self.serve(keeps);
        let (token, used) = self.driver.pop_used().unwrap().unwrap();
        assert_eq!(token, 7);
        let mut bytes = vec![0; writable];
        self.memory.slice(from, writable).unwrap().read(&mut bytes);
        assert!(bytes[used as usize..].iter().all(|&byte| byte == 0xEE), "bytes behind the used length");
        Returned { used, bytes }
    }

    fn serve(&mut self, keeps: bool) {
        let memory = Arc::clone(&self.memory);
        let mut burst = Burst::new();
        assert_eq!(self.device.pop(&memory, &mut burst, 1).unwrap(), 1);
        let chain = burst.take().unwrap();
        let (readable, writable) = (burst.readable(&chain), burst.writable(&chain));
        let written = match request::open(self.format, &burst, &chain) {
            Err(fault) => fault.respond(self.format, writable.into()),
            Ok(request) if keeps => {
                let mut runs = KeptRuns::new();
                let parts = request.keep(&memory, &burst, &chain, &mut runs).unwrap();
                assert_eq!(runs.len(parts.data_in), request.data_in.len as usize);
                assert_eq!(runs.len(parts.data_out), request.data_out.len as usize);
                let (readable, writable) =
                    (Bytes::Kept(&runs, parts.readable), Bytes::Kept(&runs, parts.writable));
                self.carry_out(&request, readable, writable)
            }
            Ok(request) => self.carry_out(&request, readable.into(), writable.into()),
        };
        self.device.complete(&burst, chain, written);
        self.device.flush();
    }

    fn carry_out(&mut self, request: &Request, readable: Bytes<'_>, writable: Bytes<'_>) -> u32 {
        if request.address != Some(UNIT) {
            return request.fail(writable, ServiceResponse::BadTarget);
        }
        let mut answer = Vec::new();
        let data_out = request.data_out(readable);
        let command = devices::scsi::Command {
            nexus: nexus(0),
            cdb: request.cdb,
            data_out,
            data_in_len: request.data_in.len.into(),
            luns: &[5],
        };
        let mut task = match self.unit.begin(&command, &mut answer) {
            Begun::Done(reply) => return request.respond(writable, &reply, &answer),
            Begun::Task(task) => task,
        };
        let mut scratch = vec![0; SCRATCH_LEN];
        let mut buffers = Buffers { data_out, scratch: &mut scratch, answer: &mut answer };
        let mut step = task.start(&mut buffers);
        loop {
            let (work, data) = match step {
                Step::Done(reply) => return request.respond(writable, &reply, &answer),
                Step::Work { work, data } => (work, data),
                Step::Provisioning(extent) => panic!("{extent:?}"),
            };
            match (&work, data) {
                (Work::Read(extent), Data::In) => {
                    let bytes = &self.bytes[extent.offset as usize..extent.end() as usize];
                    let place = request.data_in.offset as usize;
                    assert_eq!(writable.write(place, bytes), bytes.len());
                }
                (Work::Write { extent, .. }, Data::Out { offset }) => {
                    let bytes = &mut self.bytes[extent.offset as usize..extent.end() as usize];
                    assert_eq!(data_out.read(offset, bytes), bytes.len());
                }
                other => panic!("{other:?}"),
            }
            step = task.resume(Ok(()), &mut buffers);
        }
    }
}

/// The readable part of a request without protection information.
fn header(cdb: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = UNIT.bytes().to_vec();
    bytes.extend_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0]);
    bytes.extend_from_slice(cdb);
    bytes.resize(19 + CDB_SIZE_DEFAULT as usize, 0);
    bytes.extend_from_slice(data);
    bytes
}

/// Bytes in front of data-in.
const HEAD: usize = 12 + SENSE_SIZE_DEFAULT as usize;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_layout_reads_and_writes(
        lens in prop::collection::vec(1u32..200, 0..60),
        (lba, count) in (0u32..1000, 0u16..20),
        keeps in any::<bool>(),
        spare in 0usize..100,
    ) {
        let mut guest = Guest::new(modern(IMPLEMENTED - Features::T10_PI));
        let len = usize::from(count) * 512;
        let data = pattern(lba as u8, len);
        let write = guest.send(&header(&cdb10(0x2A, 0, lba, count), &data), HEAD, &lens, keeps);
        prop_assert_eq!((write.used as usize, write.head()), (HEAD, (0, 0, 0, 0)));
        let place = lba as usize * 512;
        prop_assert!(guest.bytes[place..place + len] == data);
        let read = guest.send(&header(&cdb10(0x28, 0, lba, count), &[]), HEAD + len + spare, &lens, keeps);
        prop_assert_eq!(read.used as usize, HEAD + len);
        // More room than the command fills is left over.
        prop_assert_eq!(read.head(), (0, spare as u32, 0, 0));
        prop_assert!(read.bytes[HEAD..HEAD + len] == data);
        prop_assert!(read.bytes[12..HEAD].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn sense_data_and_answers() {
    let mut guest = Guest::new(modern(IMPLEMENTED - Features::T10_PI));
    let refused = guest.send(&header(&cdb10(0x28, 0, 5000, 1), &[]), HEAD + 512, &[], false);
    assert_eq!((refused.used as usize, refused.head()), (HEAD, (18, 512, 2, 0)));
    assert_eq!((refused.bytes[12], refused.bytes[14], refused.bytes[24]), (0x70, 5, 0x21));
    let inquiry = guest.send(&header(&[0x12, 0, 0, 0, 36, 0], &[]), HEAD + 40, &[3], false);
    assert_eq!((inquiry.used as usize, inquiry.head()), (HEAD + 36, (0, 4, 0, 0)));
    assert_eq!(&inquiry.bytes[HEAD + 8..HEAD + 16], b"RINGWAY ");
    let overrun = guest.send(&header(&[0x12, 0, 0, 0, 36, 0], &[]), HEAD + 35, &[], false);
    assert_eq!((overrun.used as usize, overrun.head()), (HEAD, (0, 35, 0, 1)));
    let mut stray = header(&[0; 6], &[]);
    stray[0] = 2;
    assert_eq!(guest.send(&stray, HEAD, &[], false).head(), (0, 0, 0, 3));
    // A reservation of another initiator.
    guest.unit.attach(nexus(1), devices::scsi::InitiatorId(2));
    guest.unit.take_attention(nexus(1));
    let reserve = devices::scsi::Command {
        nexus: nexus(1),
        cdb: Cdb::new(&[0x16]),
        data_out: devices::scsi::DataOut::new(Bytes::EMPTY, 0, 0),
        data_in_len: 0,
        luns: &[5],
    };
    assert!(matches!(guest.unit.begin(&reserve, &mut Vec::new()), Begun::Done(_)));
    assert_eq!(guest.send(&header(&[0; 6], &[]), HEAD, &[], false).head(), (0, 0, 0x18, 0));
}

#[test]
fn data_in_both_directions_needs_inout() {
    let both = |features| {
        let mut guest = Guest::new(modern(features));
        let returned = guest.send(&header(&cdb10(0x28, 0, 0, 1), &[0; 100]), HEAD + 512, &[], false);
        (returned.used as usize, returned.head())
    };
    // The data-out that a READ has no use for is left over.
    assert_eq!(both(Features::INOUT), (HEAD + 512, (0, 100, 0, 0)));
    assert_eq!(both(Features::empty()), (HEAD, (0, 0, 0, 9)));
}

#[test]
fn chains_that_are_no_request() {
    let mut guest = Guest::new(modern(Features::empty()));
    let whole = header(&[0; 6], &[]);
    for len in [1, 8, 18, 19, 24, whole.len() - 1] {
        let returned = guest.send(&whole[..len], HEAD, &[], false);
        assert_eq!((returned.used as usize, returned.head()), (HEAD, (0, 0, 0, 9)), "{len} bytes");
    }
    // Room for a response, not for sense data; then not even that.
    let short = guest.send(&whole, HEAD - 1, &[], false);
    assert_eq!((short.used as usize, short.head()), (HEAD - 1, (0, 0, 0, 9)));
    assert_eq!(guest.send(&whole, 12, &[], false).head(), (0, 0, 0, 9));
    assert_eq!(guest.send(&whole, 11, &[], false).used, 0);
    assert_eq!(guest.send(&whole, 0, &[], false).used, 0);
    // And the ring goes on.
    assert_eq!(guest.send(&whole, HEAD, &[], false).head(), (0, 0, 0, 0));
}

#[test]
fn protection_information_is_set_apart() {
    let mut guest = Guest::new(modern(Features::T10_PI));
    let with_pi = |cdb: &[u8], out: u32, in_: u32, rest: &[u8]| {
        let mut bytes = header(&[], &[])[..19].to_vec();
        bytes.extend_from_slice(&out.to_le_bytes());
        bytes.extend_from_slice(&in_.to_le_bytes());
        bytes.extend_from_slice(cdb);
        bytes.resize(27 + 32, 0);
        bytes.extend_from_slice(rest);
        bytes
    };
    let data = pattern(9, 512);
    let sent = [&[0xAB; 8][..], &data].concat();
    let write = guest.send(&with_pi(&cdb10(0x2A, 0, 4, 1), 8, 0, &sent), HEAD, &[5], true);
    assert_eq!(write.head(), (0, 0, 0, 0));
    let read = guest.send(&with_pi(&cdb10(0x28, 0, 4, 1), 0, 8, &[]), HEAD + 8 + 512, &[5], true);
    assert_eq!((read.used as usize, read.head()), (HEAD + 8 + 512, (0, 0, 0, 0)));
    assert_eq!((&read.bytes[HEAD..HEAD + 8], &read.bytes[HEAD + 8..]), (&[0xFF; 8][..], &data[..]));
    // More than there is.
    for (out, in_) in [(1, 0), (u32::MAX, 0), (0, 9), (0, u32::MAX)] {
        let returned = guest.send(&with_pi(&[0; 6], out, in_, &[]), HEAD + 8, &[], false);
        assert_eq!(returned.head(), (0, 0, 0, 9), "{out} {in_}");
    }
}

#[test]
fn sizes_that_the_driver_chose() {
    // A CDB of exactly six bytes, sense data cut to eight.
    let mut guest = Guest::new(format(Features::VERSION_1, Endian::Little, 8, 6));
    let mut request = header(&[], &[])[..19].to_vec();
    request.extend_from_slice(&[0x08, 0x1F, 0xFF, 0xFF, 1, 0]);
    let returned = guest.send(&request, 20 + 512, &[], false);
    assert_eq!((returned.used, returned.head()), (20, (8, 512, 2, 0)));
    request[20..24].copy_from_slice(&[0, 0, 2, 1]);
    let returned = guest.send(&request, 20 + 512, &[], false);
    assert_eq!((returned.used, returned.head()), (532, (0, 0, 0, 0)));
    // No sense data at all, and more room than any has.
    let mut guest = Guest::new(format(Features::VERSION_1, Endian::Little, 0, 6));
    request[19] = 0xFF;
    assert_eq!(guest.send(&request, 12, &[], false).head(), (0, 0, 2, 0));
    let mut guest = Guest::new(format(Features::VERSION_1, Endian::Little, 300, 6));
    let returned = guest.send(&request, 312, &[50, 50], false);
    assert_eq!((returned.used, returned.head().0), (312, 18));
    // Numbers that no chain can have.
    for (sense_size, cdb_size) in [(u32::MAX, 6), (96, u32::MAX), (u32::MAX, u32::MAX)] {
        let mut guest = Guest::new(format(Features::VERSION_1, Endian::Little, sense_size, cdb_size));
        assert_eq!(guest.send(&request, HEAD, &[], false).head(), (0, 0, 0, 9));
    }
}

#[test]
fn a_legacy_driver_of_big_endian() {
    let format = format(Features::empty(), Endian::Big, SENSE_SIZE_DEFAULT, CDB_SIZE_DEFAULT);
    let mut bytes = header(&cdb10(0x28, 0, 5000, 1), &[]);
    let part = guestmem::MemSlice::from_mut(&mut bytes);
    let len = part.len() as u32;
    let parts = [part];
    let request = request::open_parts(format, Bytes::Slices(&parts), len, 108 + 512).unwrap();
    assert_eq!((request.tag, request.address), (0x0102_0304_0506_0708, Some(UNIT)));
    assert_eq!(request.data_in, Run { offset: 108, len: 512 });
    let mut room = [0xEE; 108 + 512];
    let reply = devices::scsi::missing_unit(&request.cdb, 512, &[], &mut Vec::new());
    let part = [guestmem::MemSlice::from_mut(&mut room)];
    assert_eq!(request.respond(Bytes::Slices(&part), &reply, &[]), 108);
    assert_eq!(room[..12], [0, 0, 0, 18, 0, 0, 2, 0, 0, 0, 2, 0]);
    assert_eq!(reply.sense, Some(Sense::illegal(devices::scsi::Asc::LOGICAL_UNIT_NOT_SUPPORTED)));
    for (ending, status, response) in
        [(Ending::Aborted, 0, 2), (Ending::TaskAborted, 0x40, 0), (Ending::Reset, 0, 4)]
    {
        let part = [guestmem::MemSlice::from_mut(&mut room)];
        assert_eq!(request.respond_ended(Bytes::Slices(&part), ending), 108);
        assert_eq!(room[..12], [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, status, response]);
    }
}

#[test]
fn faults_say_what_is_accepted() {
    assert_eq!(RequestFault::BothDirections.to_string(), "data in both directions; accepted with INOUT");
}
