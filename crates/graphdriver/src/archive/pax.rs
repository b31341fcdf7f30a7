//! PAX records: `length key=value\n`, read strictly and written for what a ustar header cannot hold.

use crate::Error;

/// What PAX records say about the next entry; each overrides the header.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

const XATTR: &[u8] = b"SCHILY.xattr.";

impl Overrides {
    /// Reads the body of an extended header.
    pub(super) fn parse(mut body: &[u8]) -> Result<Self, Error> {
        let mut all = Self::default();
        while !body.is_empty() {
            let (record, rest) = next(body).ok_or_else(|| bad("a record is malformed"))?;
            body = rest;
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(|| bad("a record has no value"))?;
            all.take(&record[..equals], &record[equals + 1..])?;
        }
        Ok(all)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number(value).ok_or_else(|| bad("size is not a number"))?),
            b"uid" => self.uid = Some(number(value).ok_or_else(|| bad("uid is not a number"))?),
            b"gid" => self.gid = Some(number(value).ok_or_else(|| bad("gid is not a number"))?),
            b"mtime" => self.mtime = Some(time(value).ok_or_else(|| bad("mtime is not a time"))?),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err(bad("sparse files in PAX form are not supported; use plain or GNU sparse entries"));
            }
            key => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|(have, _)| have != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

/// The first record without its length and newline, and what follows it.
fn next(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = body.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(&body[..space])?).ok()?;
    if length < space + 3 || length > body.len() || body[length - 1] != b'\n' {
        return None;
    }
    Some((&body[space + 1..length - 1], &body[length..]))
}

fn number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = seconds.starts_with('-');
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain(std::iter::repeat('0')).take(9).collect();
    let nanoseconds = number(digits.as_bytes()).and_then(|n| u32::try_from(n).ok())?;
    if negative && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

fn bad(why: &str) -> Error {
    Error::Archive(format!("extended header: {why}"))
}

/// Appends one record.
pub(super) fn write(body: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    body.extend_from_slice(length.to_string().as_bytes());
    body.push(b' ');
    body.extend_from_slice(key);
    body.push(b'=');
    body.extend_from_slice(value);
    body.push(b'\n');
}

/// Appends an extended attribute.
pub(crate) fn write_xattr(body: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    write(body, &[XATTR, name].concat(), value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for length in [1, 5, 80, 85, 88, 90, 95, 980, 990, 9985] {
            let mut body = Vec::new();
            let value = vec![b'v'; length];
            write(&mut body, b"path", &value);
            write_xattr(&mut body, b"user.a", b"=\n\0");
            let read = Overrides::parse(&body).unwrap();
            assert_eq!(read.path.unwrap(), value);
            assert_eq!(read.xattrs, [(b"user.a".to_vec(), b"=\n\0".to_vec())]);
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for bad in ["5 a=b", "99 a=b\n", "x a=b\n", "3 \n", "9 size=-1\n", "6 ab\n\n", "-6 a=b\n", "0 a=b\n"] {
            assert!(Overrides::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(Overrides::parse(b"22 GNU.sparse.major=1\n").is_err());
    }

    #[test]
    fn times_have_fractions_and_signs() {
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"7"), Some((7, 0)));
        assert_eq!(time(b"7.x"), None);
    }
}
