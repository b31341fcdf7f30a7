//! The functions of `include/libcontainer.h`: what is given is checked, what is returned is written, and nothing unwinds
//! into the caller.
#![allow(unsafe_code, reason = "C's pointers are followed and its names are exported here")]

mod last;
mod pointers;

use std::ffi::{CString, c_char, c_int};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use gantry_linux::process;
use libcontainer::oci::Status;

use crate::call::{Kind, Refusal, What};
use crate::handle::{Handle, is_readable};
use last::guarded;
use pointers::{CallerOptions, handle, set, text};

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");

/// `libcontainer_wait`: the process was not made by this handle, so nobody told how it ended.
const EXIT_UNKNOWN: c_int = -1;

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn libcontainer_version() -> *const c_char {
    VERSION.as_ptr().cast()
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn libcontainer_error() -> *const c_char {
    last::error()
}

/// See the header.
#[unsafe(no_mangle)]
pub extern "C" fn libcontainer_warnings() -> *const c_char {
    last::warnings()
}

/// See the header.
///
/// # Safety
/// `root` is null or a string; `opened` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_open(root: *const c_char, opened: *mut *mut Handle) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise, above.
        let (root, opened) = unsafe { (text(root, "root")?, pointers::out(opened, "opened")?) };
        let handle = Handle::open(absolute(root)?)?;
        *opened = Box::into_raw(Box::new(handle));
        Ok(Vec::new())
    })
}

/// See the header.
///
/// # Safety
/// `containers` is null or was returned by [`libcontainer_open`], and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_close(containers: *mut Handle) {
    if !containers.is_null() {
        // SAFETY: the caller's promise, above: it came from a box, which is dropped once.
        drop(unsafe { Box::from_raw(containers) });
    }
}

/// See the header.
///
/// # Safety
/// `containers` is open or null; strings and options are null or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_create(
    containers: *const Handle,
    id: *const c_char,
    bundle: *const c_char,
    options: *const CallerOptions,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise, above.
        let (containers, id, bundle) = unsafe { (handle(containers)?, text(id, "id")?, text(bundle, "bundle")?) };
        // SAFETY: the same.
        let options = unsafe { pointers::options(options)? };
        let streams = options.streams()?;
        let what = What::Create { bundle: absolute(bundle)?, options: options.for_create()? };
        Ok(containers.call(id, what, &streams, None)?.warnings)
    })
}

/// See the header.
///
/// # Safety
/// `containers` is open or null; `id` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_start(containers: *const Handle, id: *const c_char) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise, above.
        let (containers, id) = unsafe { (handle(containers)?, text(id, "id")?) };
        Ok(containers.call(id, What::Start, &[], None)?.warnings)
    })
}

/// See the header.
///
/// # Safety
/// `containers` is open or null; strings and options are null or valid; `pid` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_exec(
    containers: *const Handle,
    id: *const c_char,
    process: *const c_char,
    options: *const CallerOptions,
    pid: *mut i32,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise, above.
        let (containers, id, process) = unsafe { (handle(containers)?, text(id, "id")?, text(process, "process")?) };
        // SAFETY: the same.
        let options = unsafe { pointers::options(options)? };
        let streams = options.streams()?;
        let what = What::Exec { process: process.to_owned(), options: options.for_exec()? };
        let done = containers.call(id, what, &streams, None)?;
        // SAFETY: the same.
        unsafe { set(pid, done.pid) };
        Ok(done.warnings)
    })
}

/// See the header.
///
/// # Safety
/// `containers` is open or null; `id` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_signal(
    containers: *const Handle,
    id: *const c_char,
    signal: c_int,
    all: c_int,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise, above.
        let (containers, id) = unsafe { (handle(containers)?, text(id, "id")?) };
        containers.container(id)?.kill(signal, all != 0).map_err(|error| Refusal::from(error).of(id))?;
        Ok(Vec::new())
    })
}

/// See the header.
///
/// # Safety
/// `containers` is open or null; `id` is null or a string; `status` and `json` are null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_state(
    containers: *const Handle,
    id: *const c_char,
    status: *mut c_int,
    json: *mut *mut c_char,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise, above.
        let (containers, id) = unsafe { (handle(containers)?, text(id, "id")?) };
        let state = containers.container(id)?.state()?;
        let encoded = serde_json::to_string(&state).map_err(|error| Refusal::invalid(error.to_string()))?;
        let encoded = CString::new(encoded).map_err(|error| Refusal::invalid(error.to_string()))?;
        // SAFETY: the same.
        unsafe {
            set(status, number(state.status));
            if !json.is_null() {
                set(json, encoded.into_raw());
            }
        }
        Ok(Vec::new())
    })
}

/// See the header.
///
/// # Safety
/// `containers` is open or null; `id` is null or a string; `code` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_wait(
    containers: *const Handle,
    id: *const c_char,
    pid: i32,
    milliseconds: c_int,
    code: *mut c_int,
) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise, above.
        let (containers, id) = unsafe { (handle(containers)?, text(id, "id")?) };
        let limit = u64::try_from(milliseconds).ok().map(Duration::from_millis);
        let ended = match containers.call(id, What::Wait { pid }, &[], limit)?.code {
            Some(ended) => ended,
            None => wait_for_anothers(containers, id, pid, limit)?,
        };
        // SAFETY: the same.
        unsafe { set(code, ended) };
        Ok(Vec::new())
    })
}

/// See the header.
///
/// # Safety
/// `containers` is open or null; `id` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_delete(containers: *const Handle, id: *const c_char, force: c_int) -> c_int {
    guarded(|| {
        // SAFETY: the caller's promise, above.
        let (containers, id) = unsafe { (handle(containers)?, text(id, "id")?) };
        Ok(containers.call(id, What::Delete { force: force != 0 }, &[], None)?.warnings)
    })
}

/// See the header.
///
/// # Safety
/// `text` is null or was returned by [`libcontainer_state`], and is not used any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn libcontainer_free(text: *mut c_char) {
    if !text.is_null() {
        // SAFETY: the caller's promise, above: it came from `CString::into_raw`.
        drop(unsafe { CString::from_raw(text) });
    }
}

/// A container that another handle, or another program, made.
fn wait_for_anothers(containers: &Handle, id: &str, pid: i32, limit: Option<Duration>) -> Result<c_int, Refusal> {
    let container = containers.container(id)?;
    if pid != 0 && pid != container.pid() {
        let why = "this handle did not start it, or has told how it ended already";
        return Err(Refusal::invalid(format!("wait for process {pid} of {id}: {why}")));
    }
    match container.process() {
        Some(process) if !is_readable(&process, limit)? => {
            Err(Refusal::new(Kind::Timeout, format!("wait for {id}: it has not ended in time")))
        }
        _ => Ok(EXIT_UNKNOWN),
    }
}

/// As the header numbers them.
fn number(status: Status) -> c_int {
    match status {
        Status::Creating => 0,
        Status::Created => 1,
        Status::Running => 2,
        Status::Paused => 3,
        Status::Stopped => 4,
    }
}

/// The keeper has another working directory.
fn absolute(path: &str) -> Result<String, Refusal> {
    let absolute = std::path::absolute(Path::new(path))
        .map_err(|error| Refusal::invalid(format!("make {path:?} an absolute path: {error}")))?;
    let text = absolute.to_str().map(str::to_owned);
    text.ok_or_else(|| Refusal::invalid(format!("the working directory of {path:?} is no UTF-8")))
}

impl pointers::Given {
    /// What the program gets as its standard streams; nothing with a terminal.
    fn streams(&self) -> Result<Vec<OwnedFd>, Refusal> {
        if self.options.console_socket.is_some() {
            return Ok(Vec::new());
        }
        let numbers = self.streams.iter().zip(0..).map(|(given, own)| if *given < 0 { own } else { *given });
        Ok(numbers.map(process::inherited_fd).collect::<Result<_, _>>()?)
    }
}
