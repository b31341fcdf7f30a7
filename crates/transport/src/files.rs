//! Reading small files of `/etc` and of certificates, with the path in every error.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// As much of a file as is read.
const FILE_LIMIT: u64 = 1 << 20;

/// The beginning of a file, up to a mebibyte.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::new();
    File::from(file).take(FILE_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}
