//! Reading small files of `/etc` and of certificates, with the path in every error.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// The largest file that is read: lists of revoked certificates can be long.
const FILE_LIMIT: u64 = 16 << 20;

/// A whole file. A part of one would be worse than none: what it no longer says could be who is shut out.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file).take(FILE_LIMIT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {FILE_LIMIT} bytes")));
    }
    Ok(bytes)
}
