//! Which names an archive may use.

use crate::Error;

/// The longest path, and the longest of its names.
const PATH_LIMIT: usize = 4096;
const NAME_LIMIT: usize = 255;

/// The path without leading slashes, empty names and `.`; empty for the root itself. Whatever it says it stays inside
/// the root: `..` is refused, wherever it would lead.
pub(crate) fn clean(raw: &[u8]) -> Result<Vec<u8>, Error> {
    if raw.len() > PATH_LIMIT {
        return Err(refuse(raw, &format!("{} bytes long, at most {PATH_LIMIT}", raw.len())));
    }
    if raw.contains(&0) {
        return Err(refuse(raw, "contains a zero byte"));
    }
    let mut path = Vec::with_capacity(raw.len());
    for name in raw.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => continue,
            b".." => return Err(refuse(raw, "contains \"..\"")),
            name if name.len() > NAME_LIMIT => {
                return Err(refuse(raw, &format!("a name is {} bytes long, at most {NAME_LIMIT}", name.len())));
            }
            name => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
        }
    }
    Ok(path)
}

/// Directory and last name of a cleaned path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// The refusal of an entry.
pub(crate) fn refuse(path: &[u8], why: &str) -> Error {
    let shown = String::from_utf8_lossy(&path[..path.len().min(120)]).into_owned();
    Error::Archive(format!("entry {shown:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_relative_and_plain() {
        assert_eq!(clean(b"./a//b/./c/").unwrap(), b"a/b/c");
        assert_eq!(clean(b"/etc/passwd").unwrap(), b"etc/passwd");
        assert_eq!(clean(b"./").unwrap(), b"");
    }

    #[test]
    fn what_leads_up_or_is_too_long_is_refused() {
        for bad in [&b".."[..], b"../x", b"a/../../x", b"a/..", b"a\0b", &[b'x'; 256], &[b'/'; 4097]] {
            assert!(matches!(clean(bad), Err(Error::Archive(_))), "{bad:?}");
        }
        assert_eq!(clean(&[b'x'; 255]).unwrap().len(), 255);
    }
}
