//! How a command ends: its status, or why the target could not even say one.

use super::sense::Sense;

/// The status byte (SAM-5 §5.3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// There is sense data.
    CheckCondition = 0x02,
    /// Not now.
    Busy = 0x08,
    /// Another initiator holds a reservation.
    ReservationConflict = 0x18,
    /// No more tasks are accepted now.
    TaskSetFull = 0x28,
    /// Another initiator ended the task, and the control mode page has TAS set.
    TaskAborted = 0x40,
}

/// Why a command is not carried out.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// CHECK CONDITION with this sense data.
    Sense(Sense),
    /// RESERVATION CONFLICT.
    Conflict,
    /// The buffers of the request are shorter than what the CDB asks to move. No SCSI status says so: it is the transport's to
    /// report.
    Overrun,
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}
