//! The ring's own structures as values, for whoever carries rings from one memory to another and has no memory to map.

pub use crate::descriptor::{AVAIL, DESCRIPTOR_SIZE, Descriptor, INDIRECT, NEXT, USED, WRITE};
pub use crate::event::{DESC, DISABLE, ENABLE, NO_INTERRUPT, NO_NOTIFY, PackedEvent, passes};
pub use crate::packed::{Position, used_word};
