//! Protections that a test build can switch off by name, so that each escape test is seen to fail without the protection
//! that it is about.

/// Whether the protection of this name does its work; guards the very line that protects. Names are short, in kebab case.
///
/// Always true, and known when compiling, unless the crate is built with the feature `broken`: then the names in the
/// environment variable `GANTRY_BREAK` (separated by commas or blanks) are off.
#[cfg(not(feature = "broken"))]
#[must_use]
#[inline(always)]
pub const fn intact(_name: &str) -> bool {
    true
}

/// Whether the protection of this name does its work: not, when `GANTRY_BREAK` names it.
#[cfg(feature = "broken")]
#[must_use]
pub fn intact(name: &str) -> bool {
    let broken = std::env::var("GANTRY_BREAK").unwrap_or_default();
    !broken.split([',', ' ']).any(|listed| listed == name)
}

/// The variable that a process with an environment of its own has to be given for protections to be off in it too; none
/// unless the crate is built with the feature `broken`.
#[must_use]
pub fn passed_on() -> Option<(&'static str, std::ffi::OsString)> {
    if cfg!(feature = "broken") { std::env::var_os("GANTRY_BREAK").map(|names| ("GANTRY_BREAK", names)) } else { None }
}
