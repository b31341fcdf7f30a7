//! What C gives: pointers that may be null, strings that may be anything, structures of another version.
#![allow(unsafe_code, reason = "C's pointers are followed here")]

use std::ffi::{CStr, c_char, c_int, c_uint};

use super::absolute;
use crate::call::{Options, Refusal};
use crate::handle::Handle;

type Result<T> = std::result::Result<T, Refusal>;

const NO_PIVOT: c_uint = 1;
const NO_NEW_KEYRING: c_uint = 2;
const IGNORE_PAUSED: c_uint = 4;

/// `struct libcontainer_options`.
#[repr(C)]
#[derive(Debug)]
pub struct CallerOptions {
    size: usize,
    streams: [c_int; 3],
    flags: c_uint,
    console_socket: *const c_char,
    pid_file: *const c_char,
}

/// The options as they were given, checked.
#[derive(Debug)]
pub struct Given {
    pub streams: [c_int; 3],
    flags: c_uint,
    pub options: Options,
}

impl Given {
    pub fn for_create(self) -> Result<Options> {
        self.allow(NO_PIVOT | NO_NEW_KEYRING, "create")
    }

    pub fn for_exec(self) -> Result<Options> {
        self.allow(IGNORE_PAUSED, "exec")
    }

    fn allow(self, known: c_uint, call: &str) -> Result<Options> {
        match self.flags & !known {
            0 => Ok(self.options),
            other => Err(Refusal::invalid(format!("options.flags: {other:#x} is of no use for {call}"))),
        }
    }
}

fn null(name: &str) -> Refusal {
    Refusal::invalid(format!("{name} is NULL"))
}

/// The handle.
///
/// # Safety
/// It is null, or was opened and is not closed.
pub unsafe fn handle<'a>(containers: *const Handle) -> Result<&'a Handle> {
    // SAFETY: the caller's promise.
    unsafe { containers.as_ref() }.ok_or_else(|| null("containers"))
}

/// A string that must be there.
///
/// # Safety
/// It is null, or ends with a zero byte and stays as it is.
pub unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a str> {
    // SAFETY: the caller's promise.
    unsafe { optional(pointer, name)? }.ok_or_else(|| null(name))
}

/// A string that may be left out.
unsafe fn optional<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise, and it is not null.
    let text = unsafe { CStr::from_ptr(pointer) }.to_str();
    text.map(Some).map_err(|_| Refusal::invalid(format!("{name} is no UTF-8")))
}

/// Where an answer must be put.
///
/// # Safety
/// It is null or may be written, by nobody else meanwhile.
pub unsafe fn out<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut T> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_mut() }.ok_or_else(|| null(name))
}

/// Puts an answer where it is wanted.
///
/// # Safety
/// It is null or may be written.
pub unsafe fn set<T>(pointer: *mut T, value: T) {
    if !pointer.is_null() {
        // SAFETY: the caller's promise; what was there needs no drop.
        unsafe { pointer.write(value) };
    }
}

/// The options, or what they are when there are none.
///
/// # Safety
/// It is null or valid, with its strings.
pub unsafe fn options(pointer: *const CallerOptions) -> Result<Given> {
    if pointer.is_null() {
        return Ok(Given { streams: [-1; 3], flags: 0, options: Options::default() });
    }
    // SAFETY: the caller's promise; the size comes first in every version, and alone is looked at first.
    let size = unsafe { (&raw const (*pointer).size).read() };
    if size != size_of::<CallerOptions>() {
        let known = size_of::<CallerOptions>();
        return Err(Refusal::invalid(format!(
            "options.size is {size}, this library's options have {known}: begin with LIBCONTAINER_OPTIONS_INIT, and \
             use the library's own header"
        )));
    }
    // SAFETY: the caller's promise, and it has this size.
    let given = unsafe { &*pointer };
    // SAFETY: the same.
    let (console_socket, pid_file) = unsafe {
        (optional(given.console_socket, "options.console_socket")?, optional(given.pid_file, "options.pid_file")?)
    };
    Ok(Given {
        streams: given.streams,
        flags: given.flags,
        options: Options {
            console_socket: console_socket.map(absolute).transpose()?,
            pid_file: pid_file.map(absolute).transpose()?,
            no_pivot: given.flags & NO_PIVOT != 0,
            no_new_keyring: given.flags & NO_NEW_KEYRING != 0,
            ignore_paused: given.flags & IGNORE_PAUSED != 0,
        },
    })
}
