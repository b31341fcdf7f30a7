//! A container's life: start, end, restart, removal, recovery. Each change is made under the container's own lock.

pub mod exit;
pub mod make;
pub mod recover;
pub mod remove;
pub mod restart;
pub mod start;
pub mod stop;
