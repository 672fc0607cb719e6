//! Tests of links; each runs in a network namespace of its own.
