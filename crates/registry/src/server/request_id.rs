//! What a request is called, in the log, in the answer, and where a proxy before us named it already.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderName};

/// The header.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The longest name that is taken from a client.
const LIMIT: usize = 64;

/// The client's name for it, if it is one, or a new one.
pub fn request_id(headers: &HeaderMap) -> String {
    let is_plain = |text: &&str| {
        (1..=LIMIT).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok()).filter(is_plain);
    given.map_or_else(new, str::to_owned)
}

/// Unlike those of this process, and of the one before.
fn new() -> String {
    static START: LazyLock<u64> = LazyLock::new(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_micros()).unwrap_or_default()
    });
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{:014x}-{:x}", *START, NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_name_is_kept_when_it_is_plain_and_others_get_their_own() {
        let of = |text: &str| {
            request_id(&HeaderMap::from_iter([(REQUEST_ID, http::HeaderValue::from_bytes(text.as_bytes()).unwrap())]))
        };
        assert_eq!(of("ab-1.x_Z"), "ab-1.x_Z");
        for bad in ["", "a b", "a\"b", &"x".repeat(65), "é"] {
            assert_ne!(of(bad), bad);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
