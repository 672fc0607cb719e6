//! What a command came to.

use super::nexus::NexusSet;
use super::sense::{Asc, Sense};
use super::status::{Refusal, Status};

/// The answer to a command. Bytes that were made for the initiator are in the answer buffer that came with the command.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The status; `None`: the buffers are shorter than what the CDB asks to move ([`Refusal::Overrun`]).
    pub status: Option<Status>,
    /// Sense data of CHECK CONDITION.
    pub sense: Option<Sense>,
    /// Whether sense data is in descriptor format (D_SENSE of the control mode page).
    pub descriptor_sense: bool,
    /// Bytes of the data-out buffer that were used.
    pub data_out: u64,
    /// Bytes that the data-in buffer holds, from its first on.
    pub data_in: u64,
    /// The persistent reservations changed: they have to be on stable storage before this is sent.
    pub save: bool,
    /// Nexuses whose tasks this command aborts (PREEMPT AND ABORT): they have to be gone before this is sent.
    pub aborts: NexusSet,
    /// The command changed the unit for everybody: the unit attention that the other initiators have got, which their transports
    /// may report too.
    pub changed: Option<Asc>,
}

impl Reply {
    /// GOOD, with nothing moved.
    pub(super) fn good(descriptor_sense: bool) -> Self {
        Self {
            status: Some(Status::Good),
            sense: None,
            descriptor_sense,
            data_out: 0,
            data_in: 0,
            save: false,
            aborts: NexusSet::EMPTY,
            changed: None,
        }
    }

    pub(super) fn of_refusal(refusal: Refusal, descriptor_sense: bool) -> Self {
        let nothing = Self::good(descriptor_sense);
        match refusal {
            Refusal::Sense(sense) => nothing.refused(sense),
            Refusal::Conflict => Self { status: Some(Status::ReservationConflict), ..nothing },
            Refusal::Overrun => Self { status: None, ..nothing },
        }
    }

    /// CHECK CONDITION instead, with nothing moved.
    pub(super) fn refused(self, sense: Sense) -> Self {
        Self {
            status: Some(Status::CheckCondition),
            sense: Some(sense),
            data_out: 0,
            data_in: 0,
            save: false,
            aborts: NexusSet::EMPTY,
            ..self
        }
    }

    /// The bytes of the sense data and how many of them are meant: none without sense data.
    pub fn sense_bytes(&self) -> ([u8; super::sense::SENSE_LEN_MAX], usize) {
        match &self.sense {
            Some(sense) => sense.bytes(self.descriptor_sense),
            None => ([0; super::sense::SENSE_LEN_MAX], 0),
        }
    }
}
