//! On the real kernel.
