//! The three address spaces a front-end speaks of, as types that cannot be mixed up.

use std::fmt;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The address `offset` bytes further, or `None` past the end of the address space.
            #[inline]
            pub fn checked_add(self, offset: u64) -> Option<Self> {
                self.0.checked_add(offset).map(Self)
            }

            /// Whether the address is a multiple of `align` (a power of two).
            #[inline]
            pub fn is_aligned(self, align: u64) -> bool {
                self.0 & (align - 1) == 0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(
    /// A guest-physical address: what a driver without an IOMMU writes into descriptors.
    GuestAddr
);
address!(
    /// An address in the front-end's own process (`userspace_addr` and ring addresses of vhost-user).
    FrontendAddr
);
address!(
    /// An address behind a virtual IOMMU (vfio-user DMA space, vhost-user IOTLB).
    Iova
);
