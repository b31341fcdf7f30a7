//! seccomp: profiles as Docker and OCI write them, and the BPF program that the kernel runs on every system call.
//!
//! Pure: text in, bytes out. A caller caches programs by the profile and the [`Target`], which holds only what the
//! profile asks about.

mod aarch64;
mod arm;
mod assembler;
#[cfg(test)]
mod comparison;
mod compile;
mod default;
mod i386;
mod listener;
#[cfg(any(test, fuzzing))]
pub mod meaning;
mod profile;
mod syscalls;
#[cfg(test)]
mod tests;
mod x32;
mod x86_64;

pub use compile::compile;
pub use default::{REFUSED_FAMILIES, beside_module, default_profile};
pub use gantry_linux::seccomp::flags;
pub use listener::hand_over;
pub(crate) use profile::parse_kernel;
pub use profile::{Action, Argument, Condition, Operator, Profile, Rule, Target};
pub use syscalls::Arch;

/// Why a profile cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`Profile::MAX_SIZE`].
    #[error("seccomp profile is larger than 1 MiB; remove what it does not need")]
    TooLarge,
    /// Not JSON of the known form.
    #[error("seccomp profile cannot be read: {0}")]
    Json(String),
    /// A word that we do not know, or a value out of range.
    #[error("seccomp profile: {0}")]
    Invalid(String),
    /// The kernel takes 4096 instructions.
    #[error("seccomp profile compiles to {0} instructions, the kernel takes 4096; use fewer rules with arguments")]
    TooManyInstructions(usize),
}
