//! The environment of a program: as configured, with `HOME` added.

use std::ffi::CString;

use super::user::User;
use crate::error::{Error, Result};

/// A string for the kernel; one with a zero byte is refused.
pub fn c_string(text: &str, what: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::Invalid(format!("{what} {text:?} contains a zero byte")))
}

/// The variables, later ones winning over earlier ones of the same name.
pub fn variables(configured: &[String], user: &User) -> Result<Vec<CString>> {
    let mut kept: Vec<&str> = Vec::with_capacity(configured.len() + 1);
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    for variable in configured {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::Invalid(format!("environment variable {variable:?} has no name")));
        }
        match kept.iter_mut().find(|earlier| name(earlier) == name(variable)) {
            Some(earlier) => *earlier = variable,
            None => kept.push(variable),
        }
    }
    let home = format!("HOME={}", user.home);
    match kept.iter_mut().find(|variable| name(variable) == "HOME") {
        Some(variable) if *variable == "HOME=" => *variable = &home,
        Some(_) => {}
        None => kept.push(&home),
    }
    kept.iter().map(|variable| c_string(variable, "environment variable")).collect()
}

/// The value of `PATH` that programs are looked up in.
#[must_use]
pub fn search_path(variables: &[CString]) -> String {
    let found = variables.iter().find_map(|variable| variable.to_str().ok()?.strip_prefix("PATH="));
    found.unwrap_or_default().to_owned()
}
