//! SCSI: a target of logical units (SAM-5, SPC-4, SBC-3 and a little of SBC-4), and virtio-scsi, which carries it (virtio 1.3 §5.6).
//!
//! **A command's way.** [`virtio::request::open`] copies the request's header out of its chain, once, and says whom it addresses.
//! [`LogicalUnit::begin`] decodes the CDB by the one [table of opcodes](opcode::OPCODES), checks it, and answers it at once or
//! returns a [`Task`]. The host takes the task into the unit's [`TaskSet`], gives its [`Step`]s to the disk until there is a
//! [`Reply`], and [`virtio::request::Request::respond`] writes that into the chain.
//!
//! **Two layers.** Everything but [`virtio`] knows no virtio: it speaks of nexuses, CDBs and buffers. What a disk does is
//! [`storage::Work`](crate::storage::Work). Neither layer knows files, threads or clocks.
//!
//! **Every refusal is exact**: sense key, additional sense code, and a pointer to the field that is not accepted.

mod block;
pub mod data;
pub mod disk;
pub mod identity;
mod inquiry;
pub mod log;
pub mod mode;
pub mod nexus;
pub mod opcode;
mod persistent;
pub mod placeholder;
pub mod reply;
mod report;
pub mod reservation;
pub mod sense;
pub mod status;
pub mod task;
pub mod task_set;
pub mod unit;
pub mod virtio;

pub use data::{Bytes, DataOut};
pub use disk::{Disk, ShapeFault};
pub use identity::Identity;
pub use mode::Mode;
pub use nexus::{InitiatorId, Nexus, NexusSet};
pub use opcode::{Cdb, Op, Opcode};
pub use placeholder::{missing_unit, report_luns_unit};
pub use reply::Reply;
pub use reservation::{Registration, Reservation, ReservationType, Reservations};
pub use sense::{Asc, FieldPointer, Sense, SenseKey};
pub use status::{Refusal, Status};
pub use task::{Buffers, Data, Provisioning, SCRATCH_LEN, Step, Task};
pub use task_set::{Ending, Entry, Function, Managed, Response, TaskId, TaskSet};
pub use unit::{Begun, Command, LogicalUnit};
