//! Waiting for something outside to become true, with a deadline.

use std::time::{Duration, Instant};

/// Looks every few milliseconds until `look` finds something; `None` at the deadline.
pub fn until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Panics unless `is` becomes true within ten seconds.
#[track_caller]
pub fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    assert!(until(Duration::from_secs(10), || is().then_some(())).is_some(), "not seen within 10 s: {what}");
}
