//! Ringway: guestmem.
