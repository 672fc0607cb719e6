//! Ringway: switch.
