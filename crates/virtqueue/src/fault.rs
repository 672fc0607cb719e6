//! What the other side of a ring can do wrong, by name.

use std::fmt;

macro_rules! faults {
    ($(#[$doc:meta])* $fault:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $fault {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $fault {
            /// Every fault, in the order of [`Self::index`].
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
            /// How many kinds there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The name that counters and messages carry, in kebab case.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// Position in [`Self::ALL`], to index counters.
            pub fn index(self) -> usize {
                self as usize
            }
        }

        impl fmt::Display for $fault {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $text,)*
                })
            }
        }

        impl std::error::Error for $fault {}
    };
}

faults! {
    /// A rule of the ring that the driver broke. It retires the queue.
    DriverFault {
        /// The available index is further ahead than the ring has entries (virtio 1.3 §2.7.13.3).
        AvailIndexJump = "avail-index-jump", "the available index is ahead by more than the queue size";
        /// A head or `next` field is no index of the descriptor table.
        DescriptorIndex = "descriptor-index", "a descriptor index is outside the table";
        /// More descriptors than the queue has or [`CHAIN_DESCRIPTORS_MAX`](crate::CHAIN_DESCRIPTORS_MAX), a loop
        /// among them (virtio 1.3 §2.7.5.2).
        ChainTooLong = "chain-too-long", "a descriptor chain is longer than allowed, or loops";
        /// The packed ring holds more descriptors in flight than it has.
        RingOverrun = "ring-overrun", "descriptors were made available again before they were used";
        /// A chain lies in more pieces of memory than [`SEGMENTS_MAX`](crate::SEGMENTS_MAX).
        TooManySegments = "too-many-segments", "a descriptor chain is scattered over too many regions";
        /// A buffer is not, or not entirely, in the guest's memory.
        AddressRange = "address-range", "a buffer lies outside the guest's memory";
        /// A descriptor without bytes.
        ZeroLength = "zero-length", "a descriptor has length zero";
        /// The buffers of one chain add up to 4 GiB or more (virtio 1.3 §2.7.5.2).
        TotalLength = "total-length", "the buffers of a chain add up to 4 GiB or more";
        /// A readable descriptor after a writable one (virtio 1.3 §2.7.4.2).
        WritableBeforeReadable = "writable-before-readable", "a readable descriptor follows a writable one";
        /// An indirect descriptor, and the feature was not negotiated (virtio 1.3 §2.7.5.3.1).
        IndirectNotNegotiated = "indirect-not-negotiated", "an indirect descriptor without the feature";
        /// An indirect descriptor inside an indirect table (virtio 1.3 §2.7.5.3.1).
        IndirectInIndirect = "indirect-in-indirect", "an indirect descriptor inside an indirect table";
        /// A descriptor both indirect and continued (virtio 1.3 §2.7.5.3.1).
        IndirectWithNext = "indirect-with-next", "an indirect descriptor that has a next one";
        /// An indirect table's size is zero or no multiple of 16.
        IndirectTableSize = "indirect-table-size", "an indirect table has an impossible size";
        /// An indirect table is not, or not entirely, in the guest's memory.
        IndirectTableRange = "indirect-table-range", "an indirect table lies outside the guest's memory";
        /// A `next` field inside an indirect table is no index of that table.
        IndirectIndex = "indirect-index", "an index inside an indirect table is outside that table";
    }
}

faults! {
    /// A rule of the ring that the device broke, as seen from the driver side.
    DeviceFault {
        /// The used index is further ahead than buffers are in flight.
        UsedIndexJump = "used-index-jump", "the used index is ahead by more than is in flight";
        /// A used entry names a buffer that is not in flight.
        UsedId = "used-id", "a used entry names a buffer that is not in flight";
        /// A used entry claims more bytes than the buffer has.
        WrittenLength = "written-length", "a used entry claims more bytes than the buffer has";
        /// With IN_ORDER: an entry out of order, or a batch that never ends.
        Order = "order", "buffers were used out of order";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_indexes_match() {
        for (index, fault) in DriverFault::ALL.iter().enumerate() {
            assert_eq!(fault.index(), index);
            assert_eq!(DriverFault::ALL.iter().filter(|other| other.name() == fault.name()).count(), 1);
            assert!(fault.name().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'));
        }
        assert_eq!(DriverFault::COUNT, DriverFault::ALL.len());
    }
}
