//! The last step: find the program inside the root and become it, or say precisely why not.

use std::ffi::CString;
use std::io::{BufRead, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD};

use super::environment::c_string;
use crate::error::{Error, Result};

/// Replaces this process; returns only with the reason why that failed.
pub fn execute(arguments: &[String], environment: &[CString], search_path: &str) -> Error {
    match try_execute(arguments, environment, search_path) {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

enum Never {}

fn try_execute(arguments: &[String], environment: &[CString], search_path: &str) -> Result<Never> {
    let name = arguments.first().map_or("", String::as_str);
    if name.is_empty() {
        return Err(Error::Invalid("no command specified".into()));
    }
    let argv = arguments.iter().map(|argument| c_string(argument, "argument")).collect::<Result<Vec<_>>>()?;
    if name.contains('/') {
        let path = PathBuf::from(name);
        let error = gantry_linux::process::execve(&c_string(name, "program")?, &argv, environment);
        return Err(explain(name, &path, &error));
    }
    let mut denied = None;
    for directory in search_path.split(':') {
        let path = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        let Some(text) = path.to_str() else { continue };
        let error = gantry_linux::process::execve(&c_string(text, "program")?, &argv, environment);
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG) if !path.is_file() => {}
            // As the shells do: another directory may have one that can be executed.
            Some(libc::EACCES) => denied = denied.or(Some((path, error))),
            _ => return Err(explain(name, &path, &error)),
        }
    }
    match denied {
        Some((path, error)) if path.is_file() => Err(explain(name, &path, &error)),
        _ => Err(Error::CommandNotFound(format!("exec: \"{name}\": executable file not found in $PATH"))),
    }
}

/// Makes sure that there is a program to become, as far as that can be known before.
pub fn find(arguments: &[String], search_path: &str) -> Result<()> {
    let name = arguments.first().map_or("", String::as_str);
    if name.is_empty() {
        return Err(Error::Invalid("no command specified".into()));
    }
    if name.contains('/') {
        let path = Path::new(name);
        return executable(path).map_err(|error| explain(name, path, &error));
    }
    let mut denied = None;
    for directory in search_path.split(':') {
        let path = Path::new(if directory.is_empty() { "." } else { directory }).join(name);
        match executable(&path) {
            Ok(()) => return Ok(()),
            Err(error) if path.is_file() => denied = denied.or(Some((path, error))),
            Err(_) => {}
        }
    }
    match denied {
        Some((path, error)) => Err(explain(name, &path, &error)),
        None => Err(Error::CommandNotFound(format!("exec: \"{name}\": executable file not found in $PATH"))),
    }
}

/// Whether this user may execute this file.
fn executable(path: &Path) -> std::io::Result<()> {
    rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS)?;
    if path.is_file() { Ok(()) } else { Err(std::io::Error::from_raw_os_error(libc::EACCES)) }
}

/// What the errno of a refused `execve` means for this file.
fn explain(name: &str, path: &Path, error: &std::io::Error) -> Error {
    let shown = path.display();
    let refused = |why: String| Error::NotExecutable(format!("exec: \"{name}\": {why}"));
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) if path.exists() => match interpreter(path) {
            Some(interpreter) => Error::CommandNotFound(format!(
                "exec: \"{name}\": {shown} needs the interpreter {interpreter}: no such file or directory in the \
                 container"
            )),
            None => Error::CommandNotFound(format!("exec: \"{name}\": the interpreter of {shown} is missing")),
        },
        Some(libc::ENOENT) => {
            Error::CommandNotFound(format!("exec: \"{name}\": stat {shown}: no such file or directory"))
        }
        Some(libc::ENOTDIR) => Error::CommandNotFound(format!("exec: \"{name}\": stat {shown}: not a directory")),
        Some(libc::ELOOP) => Error::CommandNotFound(format!("exec: \"{name}\": stat {shown}: too many symbolic links")),
        Some(libc::EACCES) => refused(why_denied(path)),
        Some(libc::ENOEXEC) => refused(format!("exec format error{}", wrong_format(path))),
        Some(libc::ETXTBSY) => refused("text file busy: somebody has it open for writing".into()),
        Some(libc::E2BIG) => Error::Invalid(format!("exec: \"{name}\": argument list too long")),
        Some(libc::EPERM) => refused("operation not permitted".into()),
        _ => gantry_linux::Error::new(
            "execute",
            shown.to_string(),
            std::io::Error::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO)),
        )
        .into(),
    }
}

fn why_denied(path: &Path) -> String {
    let Ok(metadata) = gantry_linux::fs::metadata(path) else { return "permission denied".into() };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return "is a directory: permission denied".into();
    }
    if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() || kind.is_socket() {
        return "permission denied: not a regular file".into();
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return format!(
            "permission denied: no execute bit (mode {:o}); chmod +x it in the image",
            metadata.mode() & 0o7777
        );
    }
    "permission denied".into()
}

/// The first bytes of a regular file.
fn head(path: &Path) -> Option<Vec<u8>> {
    if !gantry_linux::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    gantry_linux::fs::open(path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// The interpreter that a script or a dynamic executable names.
fn interpreter(path: &Path) -> Option<String> {
    let bytes = head(path)?;
    if let Some(script) = bytes.strip_prefix(b"#!") {
        let mut line = String::new();
        script.take(256).read_line(&mut line).ok()?;
        let mut name = line.trim_start().split([' ', '\t', '\n']).next()?.to_owned();
        if name.ends_with('\r') {
            name.push_str(" (the line ends with a carriage return: the file has Windows line ends)");
        }
        return Some(name.replace('\r', "\\r"));
    }
    elf_interpreter(&bytes)
}

/// `PT_INTERP` of a 64-bit little-endian ELF file whose program headers are in its first page, as they always are.
fn elf_interpreter(bytes: &[u8]) -> Option<String> {
    if bytes.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let number = |at: usize, length: usize| -> Option<usize> {
        let field = bytes.get(at..at.checked_add(length)?)?;
        usize::try_from(field.iter().rev().fold(0u64, |value, byte| value << 8 | u64::from(*byte))).ok()
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).find_map(|index| {
        let entry = table.checked_add(index.checked_mul(size)?)?;
        if number(entry, 4)? != 3 {
            return None;
        }
        let (offset, length) = (number(entry + 8, 8)?, number(entry + 32, 8)?);
        let text = bytes.get(offset..offset.checked_add(length)?)?;
        Some(String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
    })
}

/// Why the kernel does not know the format: another processor, an empty file, a script without its first line.
fn wrong_format(path: &Path) -> String {
    let Some(bytes) = head(path) else { return String::new() };
    if bytes.is_empty() {
        return ": the file is empty".into();
    }
    if !bytes.starts_with(b"\x7fELF") {
        return ": neither an ELF executable nor a script that begins with #!".into();
    }
    let host = std::env::consts::ARCH;
    match bytes.get(18..20).map(|field| if bytes[5] == 2 { [field[1], field[0]] } else { [field[0], field[1]] }) {
        Some(machine) => {
            format!(": the file is for {}, this host is {host}", machine_name(u16::from_le_bytes(machine)))
        }
        None => ": the file is cut short".into(),
    }
}

fn machine_name(machine: u16) -> String {
    let name = match machine {
        3 => "x86",
        8 => "mips",
        20 => "powerpc",
        21 => "powerpc64",
        22 => "s390x",
        40 => "arm",
        62 => "x86_64",
        183 => "aarch64",
        243 => "riscv64",
        258 => "loongarch64",
        other => return format!("machine type {other}"),
    };
    name.to_owned()
}
