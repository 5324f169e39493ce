//! Latch control plane.
