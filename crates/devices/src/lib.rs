//! Ringway: devices.
