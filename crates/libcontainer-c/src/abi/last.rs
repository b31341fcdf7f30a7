//! How the last call of this thread ended, in words.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::call::{Kind, Refusal};

#[derive(Default)]
struct Last {
    error: CString,
    warnings: CString,
}

thread_local! {
    static LAST: RefCell<Last> = RefCell::default();
}

/// Runs a call. A defect of ours that panics is an error like others.
pub fn guarded(body: impl FnOnce() -> Result<Vec<String>, Refusal>) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(defect(&*panic)));
    let (code, last) = match outcome {
        Ok(warnings) => (0, Last { warnings: c_string(&warnings.join("\n")), ..Last::default() }),
        Err(refusal) => (refusal.kind as c_int, Last { error: c_string(&refusal.text), ..Last::default() }),
    };
    // A thread that ends has nobody to read it.
    let _ = LAST.try_with(|slot| *slot.borrow_mut() = last);
    code
}

/// Valid until the next call of this thread.
pub fn error() -> *const c_char {
    LAST.try_with(|last| last.borrow().error.as_ptr()).unwrap_or(c"".as_ptr())
}

/// As [`error`].
pub fn warnings() -> *const c_char {
    LAST.try_with(|last| last.borrow().warnings.as_ptr()).unwrap_or(c"".as_ptr())
}

fn defect(panic: &(dyn Any + Send)) -> Refusal {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Refusal::new(Kind::Internal, format!("a defect of libcontainer: {}", said.unwrap_or("it panicked")))
}

fn c_string(text: &str) -> CString {
    CString::new(text.replace('\0', "\\0")).unwrap_or_default()
}

#[cfg(test)]
#[allow(unsafe_code, reason = "reads what C would read")]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn read(pointer: *const c_char) -> String {
        // SAFETY: the functions above return C strings, valid until the next call.
        unsafe { CStr::from_ptr(pointer) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_an_error_of_this_thread_alone() {
        assert_eq!(guarded(|| panic!("what now")), Kind::Internal as c_int);
        assert!(read(error()).contains("what now"));
        std::thread::spawn(|| assert_eq!(read(error()), "")).join().unwrap();
        assert_eq!(guarded(|| Ok(vec!["a".into(), "b\0".into()])), 0);
        assert_eq!((read(error()), read(warnings())), (String::new(), "a\nb\\0".into()));
    }
}
