//! Decisions for a burst: frames of one sender and of one flow come in runs, and the same question at the same time has the same
//! answer.

use crate::frame::{ETHERNET_HEADER_SIZE, Head, is_vlan_tag};
use crate::table::Flags;
use crate::trace::Nobody;
use crate::types::{DropReason, Verdict};
use crate::view::{Admitted, Decision, Ingress, View};

/// The first 14 bytes of a frame, as two words that share two bytes: frames that agree in them have the same addresses, and the
/// same tag if that is none.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Start([u64; 2]);

impl Start {
    /// What no frame starts with: the shared bytes differ.
    const NONE: Self = Self([0, u64::MAX]);
    /// Of what is no frame.
    const SHORT: Self = Self([1, u64::MAX]);

    #[inline(always)]
    fn of(head: &Head<'_>) -> Self {
        let Some(bytes) = head.bytes.first_chunk::<ETHERNET_HEADER_SIZE>() else { return Self::SHORT };
        match (bytes.first_chunk(), bytes.last_chunk()) {
            (Some(first), Some(last)) => Self([u64::from_le_bytes(*first), u64::from_le_bytes(*last)]),
            _ => Self::SHORT,
        }
    }

    #[inline]
    fn ethertype(self) -> u16 {
        ((self.0[1] >> 48) as u16).swap_bytes()
    }
}

impl View<'_> {
    #[inline(never)]
    pub(crate) fn judge_burst<const PLAIN: bool>(
        &self,
        ingress: Ingress<'_, PLAIN>,
        frames: &[Head<'_>],
        out: &mut [Decision],
    ) {
        // Frames of one sender and of one flow come in runs, and the same question at the same time has the same
        // answer. Not remembered: a source that was refused, and whatever depends on more than addresses and tag.
        const NONE: u64 = u64::MAX;
        let judges_bytes = ingress.has(Flags::SOURCES);
        let (mut last_src, mut last_dst) = (NONE, NONE);
        let (mut last_tag, mut last_type) = (None, 0);
        let mut admitted = Admitted { vlan: None, is_known_here: false, is_link_local: false };
        let mut decision = Decision::drop(DropReason::InvalidSource);
        let mut usual = Start::NONE;
        for (head, out) in frames.iter().zip(out) {
            let start = Start::of(head);
            if start == usual {
                *out = decision;
                continue;
            }
            let ethernet = &head.ethernet;
            let (src, dst) = (ethernet.src.to_u64(), ethernet.dst.to_u64());
            let is_run = src == last_src
                && ethernet.tag == last_tag
                && ethernet.ethertype == last_type
                && !ethernet.dst.is_multicast();
            if !(is_run && dst == last_dst) {
                let admission = if is_run { Ok(admitted) } else { self.admit(&ingress, head, &mut Nobody) };
                decision = match admission {
                    Ok(admission) => {
                        admitted = admission;
                        last_src = if judges_bytes { NONE } else { src };
                        (last_tag, last_type) = (ethernet.tag, ethernet.ethertype);
                        self.route(&ingress, head, admitted, &mut Nobody)
                    }
                    Err(refused) => {
                        last_src = NONE;
                        refused
                    }
                };
                // A flood is charged each time.
                last_dst = if matches!(decision.verdict, Verdict::Unicast(_)) { dst } else { NONE };
            }
            let is_again = last_dst == dst
                && last_src == src
                && !is_vlan_tag(start.ethertype())
                && start != Start::SHORT;
            usual = if is_again { start } else { Start::NONE };
            *out = decision;
        }
    }
}
