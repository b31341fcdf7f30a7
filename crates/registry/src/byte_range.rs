//! Parts of a blob, in HTTP's words: `Range` asks for one, `Content-Range` is with the one that comes, be it an answer or a chunk of
//! an upload.

use http::HeaderMap;
use http::header::CONTENT_RANGE;

/// Bytes that come, as `Content-Range` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The first one.
    pub offset: u64,
    /// How many; not 0.
    pub length: u64,
}

impl Chunk {
    /// Reads `bytes 0-99/1000` and `bytes 0-99/*`, and what clients write before a chunk: `0-99`, `bytes=0-99`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches([' ', '=']));
        let (first, last) = text.split('/').next()?.split_once('-')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u64>().ok()).flatten()
        };
        let (offset, last) = (number(first)?, number(last)?);
        let length = last.checked_sub(offset)?.checked_add(1)?;
        offset.checked_add(length)?;
        Some(Self { offset, length })
    }
}

/// The byte that an answer begins with, which says that it is a part.
#[must_use]
pub fn first_byte(headers: &HeaderMap) -> Option<u64> {
    Some(Chunk::parse(headers.get(CONTENT_RANGE)?.to_str().ok()?)?.offset)
}

/// What a `Range` header comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Nothing that has to be understood: all is sent.
    Whole,
    /// Offset and length, which is not 0.
    Part(u64, u64),
    /// Beyond the end.
    Outside,
}

impl Range {
    /// Reads `bytes=a-b`, `bytes=a-` and `bytes=-n` of something of `size` bytes. Several ranges at once, other units and nonsense
    /// may be ignored, says RFC 9110, and are.
    #[must_use]
    pub fn parse(text: &str, size: u64) -> Self {
        let Some((first, last)) = text.trim().strip_prefix("bytes=").and_then(|range| range.trim().split_once('-'))
        else {
            return Self::Whole;
        };
        let number = |text: &str| match text {
            "" => Some(None),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => Some(Some(text.parse().unwrap_or(u64::MAX))),
            _ => None,
        };
        match (number(first.trim()), number(last.trim())) {
            (Some(Some(first)), Some(last)) => {
                let last: u64 = last.unwrap_or(u64::MAX);
                // RFC 9110 lets a server ignore or refuse a range that ends before it begins.
                if first > last || first >= size {
                    return Self::Outside;
                }
                Self::Part(first, last.min(size - 1) - first + 1)
            }
            (Some(None), Some(Some(0))) => Self::Outside,
            (Some(None), Some(Some(_))) if size == 0 => Self::Outside,
            (Some(None), Some(Some(suffix))) => {
                let length = suffix.min(size);
                Self::Part(size - length, length)
            }
            _ => Self::Whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (text, range) in [
            ("bytes=0-0", Range::Part(0, 1)),
            ("bytes=2-", Range::Part(2, 8)),
            ("bytes=2-100", Range::Part(2, 8)),
            ("bytes=-3", Range::Part(7, 3)),
            ("bytes=-30", Range::Part(0, 10)),
            ("bytes=10-", Range::Outside),
            ("bytes=-0", Range::Outside),
            ("bytes=5-3", Range::Outside),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=a-", Range::Whole),
            ("bytes=-", Range::Whole),
            ("lines=1-2", Range::Whole),
            ("bytes=0-99999999999999999999999999", Range::Part(0, 10)),
            ("bytes=99999999999999999999999999-", Range::Outside),
        ] {
            assert_eq!(Range::parse(text, 10), range, "{text}");
        }
        assert_eq!(Range::parse("bytes=0-", 0), Range::Outside);
    }

    #[test]
    fn a_content_range_is_read_as_servers_and_clients_write_it() {
        for text in ["bytes 5-9/*", "bytes 5-9/100", "5-9", " bytes=5-9", "bytes 5-9/x"] {
            assert_eq!(Chunk::parse(text), Some(Chunk { offset: 5, length: 5 }), "{text}");
        }
        for text in
            ["", "5", "9-5", "bytes */100", "bytes 5-/9", "-5", "5--9", "+5-9", "0-18446744073709551615", "5-9-11"]
        {
            assert_eq!(Chunk::parse(text), None, "{text}");
        }
        let headers = |text: &str| HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]);
        assert_eq!(first_byte(&headers("bytes 5-9/100")), Some(5));
        assert_eq!((first_byte(&headers("bytes */100")), first_byte(&HeaderMap::new())), (None, None));
    }

    proptest! {
        #[test]
        fn a_part_is_never_outside(text in "(bytes=)?[0-9]{0,21}-[0-9]{0,21}", size in 0_u64..100) {
            if let Range::Part(offset, length) = Range::parse(&text, size) {
                prop_assert!(length > 0 && offset.checked_add(length).is_some_and(|end| end <= size));
            }
        }
    }
}
