//! Ringway: virtqueue.
