//! `Range` and `Content-Range` of anybody: what was read of them lies within what there is, and is read the same when it is
//! written properly. First byte: how large the blob is.
#![no_main]

use byte_range::{Chunk, Range, first_byte};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;

// One file of the registry without its client: HTTP, TLS and DNS would take most of an hour to build with a sanitizer.
#[path = "../../crates/registry/src/byte_range.rs"]
mod byte_range;

fn range(text: &str, size: u64) {
    let read = Range::parse(text, size);
    let again = match read {
        Range::Whole => return assert!(!text.contains("bytes=0-0") || text.trim() != "bytes=0-0", "{text}"),
        Range::Outside => return,
        Range::Part(offset, length) => {
            assert!(length > 0 && offset.checked_add(length).is_some_and(|end| end <= size), "{text} of {size}: {read:?}");
            format!("bytes={offset}-{}", offset + length - 1)
        }
    };
    assert_eq!(Range::parse(&again, size), read, "{text}");
}

fn content_range(text: &str) {
    let read = Chunk::parse(text);
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(http::header::CONTENT_RANGE, value);
        if text.is_ascii() {
            assert_eq!(first_byte(&headers), read.map(|chunk| chunk.offset), "{text}");
        }
    }
    let Some(Chunk { offset, length }) = read else { return };
    let last = offset + (length - 1);
    assert!(last >= offset);
    for written in [format!("{offset}-{last}"), format!("bytes {offset}-{last}/*"), format!("bytes {offset}-{last}/{last}")] {
        assert_eq!(Chunk::parse(&written), read, "{text}");
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((size, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    range(text, u64::from(*size));
    range(text, u64::MAX - u64::from(*size));
    content_range(text);
});
