//! The calling program's own file, kept from whoever it runs programs for: a process that becomes a container's must not
//! hold a way to write to it (CVE-2019-5736).
#![allow(unsafe_code, reason = "execveat has no safe wrapper")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;

use crate::mount::{Attributes, bind_fd, set_attributes};
use crate::{Error, Result, ResultExt};

const OWN: &str = "/proc/self/exe";
const READ_ONLY: i64 = 1;
const TMPFS: i64 = 0x0102_1994;
const SEALS: SealFlags = SealFlags::SEAL.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::WRITE);

/// Whether nobody can write to the running program's file through `/proc/<pid>/exe`: it was executed through a read-only
/// mount, or from a sealed memory file.
pub fn is_protected() -> Result<bool> {
    let mount = rustix::fs::statfs(OWN).during("stat file system of", OWN)?;
    if mount.f_flags & READ_ONLY != 0 {
        return Ok(true);
    }
    // Memory files are on a tmpfs; other file systems do not know seals.
    if mount.f_type != TMPFS {
        return Ok(false);
    }
    let own = open()?;
    Ok(rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SEALS)))
}

/// The program's file through a mount of its own that is read-only and attached nowhere. Needs CAP_SYS_ADMIN in the mount
/// namespace's user namespace, and Linux 5.12.
pub fn read_only_clone() -> Result<OwnedFd> {
    let own = rustix::fs::openat(CWD, OWN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).during("open", OWN)?;
    let clone = bind_fd(&own, false, OWN)?;
    set_attributes(&clone, false, &Attributes::set(Attributes::READ_ONLY))?;
    Ok(clone)
}

/// A copy of the program's file in memory that nobody can change. Costs its size.
pub fn sealed_copy() -> Result<OwnedFd> {
    let own = open()?;
    let copy = memory_file("program")?;
    loop {
        match rustix::fs::sendfile(&copy, &own, None, 1 << 30) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(Error::new("copy", OWN, error)),
        }
    }
    crate::socket::add_seals(&copy, SEALS).during("seal memory file", "program")?;
    Ok(copy)
}

/// A program as a file in memory that nobody can change, for a library that carries one.
pub fn sealed(name: &str, program: &[u8]) -> Result<OwnedFd> {
    let file = memory_file(name)?;
    crate::socket::write_all(&file, program).during("write memory file", name)?;
    crate::socket::add_seals(&file, SEALS).during("seal memory file", name)?;
    Ok(file)
}

fn memory_file(name: &str) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know EXEC; later ones may demand it.
    rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(name, flags))
        .during("make memory file", name)
}

fn open() -> Result<OwnedFd> {
    rustix::fs::openat(CWD, OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).during("open", OWN)
}

/// Replaces the calling process by the program behind a descriptor, with the environment that the process was started
/// with; returns only when the kernel refuses.
#[must_use]
pub fn execute(program: impl AsFd, arguments: &[CString]) -> std::io::Error {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let argv: Vec<*const libc::c_char> = arguments.iter().map(|a| a.as_ptr()).chain([std::ptr::null()]).collect();
    // SAFETY: argv ends with a null pointer and its strings outlive the call; the C library keeps `environ` valid, and
    // nothing in this product changes the environment.
    unsafe {
        libc::execveat(
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr().cast(),
            environ.cast(),
            libc::AT_EMPTY_PATH,
        );
    }
    std::io::Error::last_os_error()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests open files plainly")]
mod tests {
    use super::*;

    fn reopened_for_writing(fd: &OwnedFd) -> i32 {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        std::fs::OpenOptions::new().write(true).open(path).unwrap_err().raw_os_error().unwrap()
    }

    #[test]
    fn neither_form_of_the_program_can_be_written_to() {
        let clone = read_only_clone().unwrap();
        assert!(matches!(reopened_for_writing(&clone), libc::EROFS | libc::ETXTBSY));
        let copy = sealed_copy().unwrap();
        assert_eq!(rustix::fs::ftruncate(&copy, 0).unwrap_err(), Errno::PERM);
        assert_eq!(rustix::io::pwrite(&copy, b"x", 0).unwrap_err(), Errno::PERM);
        assert_eq!(rustix::fs::fstat(&copy).unwrap().st_size, std::fs::metadata(OWN).unwrap().len().cast_signed());
    }

    #[test]
    fn the_test_itself_is_not_protected() {
        assert!(!is_protected().unwrap());
    }
}
