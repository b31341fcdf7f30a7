//! The calling program's file is out of reach of its containers (CVE-2019-5736).

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;

use gantry_linux::executable;

use crate::error::Result;
use crate::protection::intact;

/// Makes sure that a container cannot write to the calling program through `/proc/<pid>/exe`: executes it again, with
/// `args` (all of the process's), through a read-only mount of its own, or, where that may not be made, from a sealed copy
/// in memory. To be called first of all, by a program that creates containers or executes in them.
///
/// Returns when the process is protected; does not return when it had to execute itself again.
pub fn protect(args: &[OsString]) -> Result<()> {
    if !intact("exe-protected") || executable::is_protected()? {
        return Ok(());
    }
    let program = match executable::read_only_clone() {
        Ok(clone) => clone,
        Err(_) => executable::sealed_copy()?,
    };
    // Arguments came from the kernel: there is no zero byte in them.
    let args: Vec<CString> = args.iter().filter_map(|arg| CString::new(arg.as_bytes()).ok()).collect();
    let error = executable::execute(&program, &args);
    Err(gantry_linux::Error::new("execute the protected copy of", "/proc/self/exe", error).into())
}
