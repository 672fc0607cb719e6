//! When the other side asked to be told (virtio 1.3 §2.7.10, §2.8.14).

/// Split ring without EVENT_IDX, `used.flags`: `VIRTQ_USED_F_NO_NOTIFY`.
pub const NO_NOTIFY: u16 = 1;
/// Split ring without EVENT_IDX, `avail.flags`: `VIRTQ_AVAIL_F_NO_INTERRUPT`.
pub const NO_INTERRUPT: u16 = 1;

/// Packed ring: `RING_EVENT_FLAGS_ENABLE`.
pub const ENABLE: u16 = 0;
/// Packed ring: `RING_EVENT_FLAGS_DISABLE`.
pub const DISABLE: u16 = 1;
/// Packed ring with EVENT_IDX: `RING_EVENT_FLAGS_DESC`.
pub const DESC: u16 = 2;

/// Whether the step from `old` to `new` passes `event`: the other side wants to hear when the entry with
/// index `event` is there. All free-running.
#[inline(always)]
pub fn passes(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// The packed ring's event suppression structure as one word: offset, wrap counter, flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedEvent {
    /// Of the descriptor that is asked for.
    pub offset: u16,
    /// The wrap counter of that lap.
    pub wrap: bool,
    /// [`ENABLE`], [`DISABLE`] or [`DESC`].
    pub flags: u16,
}

impl PackedEvent {
    /// From the word as it lies in memory.
    #[inline(always)]
    pub fn from_word(word: u32) -> Self {
        let word = u32::from_le(word);
        Self { offset: word as u16 & 0x7fff, wrap: word & 0x8000 != 0, flags: (word >> 16) as u16 & 3 }
    }

    /// The word as it lies in memory.
    #[inline(always)]
    pub fn to_word(self) -> u32 {
        let off_wrap = u32::from(self.offset & 0x7fff) | u32::from(self.wrap) << 15;
        (off_wrap | u32::from(self.flags) << 16).to_le()
    }

    /// Whether the other side wants to hear that `added` descriptors now end before `next`, the position
    /// with wrap counter `wrap` in a ring of `size`.
    #[inline(always)]
    pub fn wants(self, event_idx: bool, next: u16, wrap: bool, added: u16, size: u16) -> bool {
        if self.flags == DISABLE {
            return false;
        }
        if self.flags != DESC || !event_idx {
            return true;
        }
        // Positions of the lap before count below zero, so that all of them are on one line.
        let event = if self.wrap == wrap { self.offset } else { self.offset.wrapping_sub(size) };
        passes(event, next, next.wrapping_sub(added))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_is_counted_modulo_the_index() {
        assert!(passes(0, 1, 0));
        assert!(!passes(1, 1, 0));
        assert!(passes(65535, 2, 65534));
        assert!(!passes(5, 5, 5));
        assert!(!passes(9, 5, 0));
    }

    #[test]
    fn packed_events_agree_with_a_count_of_descriptors() {
        for size in [1u16, 2, 5, 8] {
            // `total` descriptors were used since the ring began; `added` of them just now; the event asks
            // for descriptor number `event`, which lies in this lap or the one before.
            for total in u32::from(size)..u32::from(size) * 4 {
                for added in 1..=u32::from(size) {
                    for event in total - u32::from(size)..=total {
                        let place = |count: u32| {
                            let (index, lap) = (count % u32::from(size), count / u32::from(size));
                            (index as u16, lap % 2 == 0)
                        };
                        let ((next, wrap), (offset, event_wrap)) = (place(total), place(event));
                        let word = PackedEvent { offset, wrap: event_wrap, flags: DESC };
                        let expected = event >= total - added && event < total;
                        let got = word.wants(true, next, wrap, added as u16, size);
                        assert_eq!(got, expected, "size {size} total {total} added {added} event {event}");
                    }
                }
            }
        }
    }

    #[test]
    fn the_word_survives_the_round_trip() {
        let event = PackedEvent { offset: 0x7ffe, wrap: true, flags: DESC };
        assert_eq!(PackedEvent::from_word(event.to_word()), event);
    }
}
